//! The manager.
/// Where it is.
pub const PATH: &str = "/org/kde/kapsule";
/// Its interface.
pub const INTERFACE: &str = "org.kde.kapsule.Manager";
