//! Lines 11 to 14: names.
