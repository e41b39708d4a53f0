//! Lines 31 to 36: order, slow readers, restarts, large messages.
