//! Tests on real network namespaces, real nftables, a real kernel log and a real dbus-daemon.
//!
//! They need root (or a user namespace in which they are root) and the packages that `PACKAGES` lists. What
//! cannot be done here is skipped, and said loudly. Traffic stays within namespaces that a test has made.

mod support;

mod containers;
mod crash;
mod desktop;
mod domains;
mod flood;
mod lines;
mod many;
mod refusals;
mod rootless;
mod verdicts;
