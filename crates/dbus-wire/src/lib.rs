//! The D-Bus wire without I/O: frames, header fields, names, match rules, SASL, addresses.
