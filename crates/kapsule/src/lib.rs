//! What the program `kapsule` is made of: containers as a second home.
//!
//! All that is done to containers is done by the daemon; this is its client for a person at a terminal.
//! The types that matter: [`manager::Manager`] is the daemon's interface, [`operation::follow`] shows work
//! that takes time, [`inside::run`] is a program inside a container with our terminal or streams,
//! [`export`] puts applications of a container into the menu, [`manifest`] reads what `kapsule assemble`
//! is given. [`cli`] is the command line, [`command`] what each command does, [`distrobox`] the same under
//! the names of distrobox.
//!
//! Principles:
//! - Text from elsewhere (containers, images, the daemon's errors) goes to the terminal through [`text`]
//!   only. The one exception is what a program inside writes to its own terminal.
//! - A program inside never holds our terminal: it gets one of its own, or pipes.
//! - The terminal is as it was before, however we end.
//! - stdout has what was asked for; progress, notes and errors are on stderr.

pub mod agent;
pub mod cli;
pub mod command;
pub mod completion;
pub mod distrobox;
pub mod error;
pub mod export;
pub mod inside;
pub mod manager;
pub mod manifest;
pub mod operation;
pub mod progress;
pub mod relay;
pub mod terminal;
pub mod text;

pub use error::{Error, Result};
