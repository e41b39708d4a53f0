//! Lines 1 to 6: the wire.
