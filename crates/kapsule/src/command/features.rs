//! `kapsule features`

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::Json;
use crate::command::table::table;
use crate::command::{print, print_json};
use crate::error::Result;
use crate::manager::Manager;

/// Lists the features that a container can have.
pub async fn features(manager: &Manager, options: &Json) -> Result<ExitCode> {
    let names = manager.features().await?;
    let schema = manager.create_schema().await?;
    let schema: Value = serde_json::from_str(&schema).unwrap_or_default();
    let features: Vec<(String, String)> = names
        .into_iter()
        .map(|name| {
            let description = description(&schema, &name).unwrap_or_default();
            (name, description)
        })
        .collect();
    if options.json {
        let features: Vec<_> = features
            .iter()
            .map(|(name, description)| json!({"name": name, "description": description}))
            .collect();
        print_json(&json!(features));
    } else {
        let rows = features
            .into_iter()
            .map(|(name, description)| [name, description]);
        print(&table(["FEATURE", "WHAT IT GIVES"], rows));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the schema says of a feature: the description of the object whose key, name or value it is.
fn description(schema: &Value, feature: &str) -> Option<String> {
    match schema {
        Value::Object(object) => {
            let is_it = ["key", "name", "value", "const"]
                .iter()
                .any(|key| object.get(*key).and_then(Value::as_str) == Some(feature));
            let text = object.get("description").and_then(Value::as_str);
            match (is_it, text) {
                (true, Some(text)) => Some(text.to_owned()),
                _ => object
                    .values()
                    .find_map(|value| description(value, feature)),
            }
        }
        Value::Array(list) => list.iter().find_map(|value| description(value, feature)),
        _ => None,
    }
}
