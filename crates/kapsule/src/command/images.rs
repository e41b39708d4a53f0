//! `kapsule images`

use std::process::ExitCode;

use serde_json::Value;

use crate::cli::ImagesCommand;
use crate::command::create::absolute;
use crate::command::table::{size, table};
use crate::command::{print, print_json};
use crate::error::{Error, Result};
use crate::manager::Manager;
use crate::operation;
use crate::text::plain;

/// Lists the images of the local store.
pub async fn list(manager: &Manager, json: bool) -> Result<ExitCode> {
    let text = manager.images().await?;
    let images: Value = serde_json::from_str(&text).map_err(|error| {
        Error::Failed(format!(
            "listing the images: the daemon's answer is no JSON: {error}"
        ))
    })?;
    if json {
        print_json(&images);
        return Ok(ExitCode::SUCCESS);
    }
    let empty = Vec::new();
    let rows = images
        .as_array()
        .unwrap_or(&empty)
        .iter()
        .map(|image| {
            let mut names: Vec<&str> = image["aliases"]
                .as_array()
                .map(|aliases| {
                    // A name, or as Incus has it an object with one.
                    aliases
                        .iter()
                        .filter_map(|alias| alias.as_str().or_else(|| alias["name"].as_str()))
                        .collect()
                })
                .unwrap_or_default();
            names.extend(image["name_from_server"].as_str());
            let fingerprint = image["fingerprint"].as_str().unwrap_or_default();
            [
                names.join(", "),
                fingerprint.chars().take(12).collect(),
                image["description"].as_str().unwrap_or_default().to_owned(),
                image["size"].as_u64().map(size).unwrap_or_default(),
            ]
        })
        .collect::<Vec<_>>();
    print(&table(
        ["IMAGE", "FINGERPRINT", "DESCRIPTION", "SIZE"],
        rows,
    ));
    Ok(ExitCode::SUCCESS)
}

/// Imports, deletes or refreshes images.
pub async fn change(manager: &Manager, change: ImagesCommand) -> Result<ExitCode> {
    let said = match change {
        ImagesCommand::List(json) => return list(manager, json.json).await,
        ImagesCommand::Import { directory, alias } => {
            let directory = absolute(&directory)?;
            let alias = alias.unwrap_or_default();
            let doing = format!("importing the image {directory}");
            operation::follow(manager, &doing, manager.import_image(&directory, &alias)).await?;
            format!("{directory}: imported")
        }
        ImagesCommand::Rm { image } => {
            let doing = format!("deleting image {image}");
            operation::follow(manager, &doing, manager.delete_image(&image)).await?;
            format!("{image}: deleted")
        }
        ImagesCommand::Refresh { image } => {
            let image = image.unwrap_or_default();
            operation::follow(manager, "refreshing images", manager.refresh_images(&image)).await?;
            match image.as_str() {
                "" => "the images are as new as their servers have them".to_owned(),
                image => format!("{image} is as new as its server has it"),
            }
        }
    };
    print(&format!("{}\n", plain(&said)));
    Ok(ExitCode::SUCCESS)
}
