//! D-Bus and desktop portals for a virtual machine.
