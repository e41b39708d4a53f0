//! Lines 20 to 26: who owns what, and who is told.
