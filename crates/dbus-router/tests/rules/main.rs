//! Rules between real buses: what clients see, reach and own, and what reaches them.

mod decisions;
mod export;
mod host_names;
mod hostpass;
mod in_process;
mod inside;
mod no_way_round;
mod place;
mod registration;
mod reload;
mod remote;
mod table;
mod ways;
