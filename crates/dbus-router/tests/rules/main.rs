//! Rules between real buses: what clients see, reach and own, and what reaches them.

mod host_names;
mod place;
