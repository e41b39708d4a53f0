//! Clients that mean harm, or are many.
