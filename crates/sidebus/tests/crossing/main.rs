//! Agent and broker as processes, over unix sockets: what crosses between them, and what happens when one of them goes.
//! Without a machine; with its document portal where documents are what crosses.

mod bus;
mod descriptors;
mod documents;
mod faults;
mod quotas;
mod rig;
mod status;
