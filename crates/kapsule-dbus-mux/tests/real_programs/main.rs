//! Programs that people use, in a container behind the multiplexer: they work as they do on a plain bus.
//!
//! Every test runs in the plain control too, where there is one dbus-daemon and no multiplexer: it shows
//! that the test is right before it says anything about the multiplexer.

mod busctl;
mod gdbus;
mod notifications;
mod place;
mod portal;
mod python;
mod reference_tools;
mod settings;
mod zbus_programs;
