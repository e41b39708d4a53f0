//! The program in the guest.
