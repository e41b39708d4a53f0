//! The `org.kde.kapsule` service: the life of containers, authorised by polkit.
//!
//! A call comes in at [`Manager`](manager::Manager), the object that the bus sees. It learns who calls
//! ([`Caller`]), checks what was said ([`names`], [`options`]), asks polkit ([`polkit`]), and either answers from what
//! Incus says ([`Container`]) or starts an [operation](operations::Operations), which runs by itself and reports.

pub mod account;
pub mod authority;
pub mod backup;
pub mod caller;
pub mod config;
pub mod container;
pub mod daemon;
pub mod error;
pub mod features;
pub mod identity;
pub mod image_server;
pub mod images;
pub mod incus;
pub mod initialize;
pub mod lifecycle;
pub mod manager;
mod mux;
pub mod names;
pub mod operations;
pub mod options;
pub mod permission;
pub mod plan;
pub mod polkit;
pub mod profile;
pub mod program;
pub mod shell;
pub mod snapshots;
pub mod subid;
mod unpacking;
pub mod watch;

pub use caller::Caller;
pub use config::Config;
pub use container::Container;
pub use daemon::Daemon;
pub use error::{Error, Result};
