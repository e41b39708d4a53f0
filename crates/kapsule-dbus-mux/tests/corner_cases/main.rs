//! The corner cases of a router between two buses, one after the other, on real buses.
//!
//! The doc comment of each test begins with the number of the line that it proves; docs/corner-cases.md is the
//! list of all. A test that makes sense there runs in the plain control too, where there is one dbus-daemon
//! and no multiplexer: it shows that the test asks for what a bus does.

mod applications;
mod cast;
mod driver;
mod every_line;
mod exchange;
mod flow;
mod hostile;
mod match_rules;
mod names;
mod ownership;
mod replies;
mod wire;
