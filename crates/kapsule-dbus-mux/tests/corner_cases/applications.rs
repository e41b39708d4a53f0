//! Applications that break when any of it is wrong.
