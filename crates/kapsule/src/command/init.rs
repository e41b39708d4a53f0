//! `kapsule init`

use std::process::ExitCode;

use crate::cli::Init;
use crate::command::print;
use crate::error::Result;
use crate::manager::{Manager, Options};
use crate::operation;

/// Sets up Incus.
pub async fn init(manager: &Manager, options: &Init) -> Result<ExitCode> {
    let mut wishes = Options::new();
    if let Some(storage) = &options.storage {
        wishes.insert("storage", storage.as_str().into());
    }
    if let Some(size) = &options.size {
        wishes.insert("size", size.as_str().into());
    }
    if options.no_network {
        wishes.insert("network", false.into());
    }
    operation::follow(manager, "setting up Incus", manager.initialize(&wishes)).await?;
    print("Incus is set up\nnext: kapsule create NAME\n");
    Ok(ExitCode::SUCCESS)
}
