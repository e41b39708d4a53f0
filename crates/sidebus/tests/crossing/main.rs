//! Agent and broker as processes, over unix sockets: what crosses between them, and what happens when one of them goes.
//! Without a machine, and without portals.

mod bus;
mod descriptors;
mod faults;
mod quotas;
mod rig;
mod status;
