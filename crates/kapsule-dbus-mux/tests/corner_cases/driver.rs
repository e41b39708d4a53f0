//! Lines 27 to 30: the driver.
