//! The `org.kde.kapsule` service: the life of containers, authorised by polkit.
//!
//! A call comes in at [`Manager`](manager::Manager), the object that the bus sees. It learns who calls
//! ([`Caller`]), checks what was said ([`names`], [`options`]), asks polkit ([`polkit`]), and either answers from what
//! Incus says ([`Container`]) or starts an [operation](operations::Operations), which runs by itself and reports.

pub mod account;
pub mod caller;
pub mod config;
pub mod container;
pub mod error;
pub mod features;
pub mod identity;
pub mod manager;
pub mod names;
pub mod operations;
pub mod options;
pub mod polkit;
pub mod profile;
pub mod shell;

pub use caller::Caller;
pub use config::Config;
pub use container::Container;
pub use error::{Error, Result};
