//! Lines 15 to 19: match rules.
