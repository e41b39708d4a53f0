//! A unix socket on which D-Bus messages travel with their descriptors.
