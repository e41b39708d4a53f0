//! The daemon with real Incus, a real polkitd and a real dbus-daemon, in a private machine.
//!
//! Each test has a machine of its own, for a few seconds; so there are few of them, with many sentences each.

mod authority;
mod faults;
mod homes;
mod image_server;
mod images;
mod initialize;
mod inside;
mod interface;
mod life;
mod nested;
mod rig;
mod tiny;
mod without_systemd;
