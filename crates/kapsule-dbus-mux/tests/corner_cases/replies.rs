//! Lines 7 to 10: replies and flags.
