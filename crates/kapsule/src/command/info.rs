//! `kapsule info`

use std::process::ExitCode;

use zbus::Variant;

use crate::cli::Info;
use crate::command::table::moment;
use crate::command::{print, print_json};
use crate::error::Result;
use crate::export::autostart;
use crate::inside;
use crate::manager::{Dictionary, Manager};
use crate::text::plain;

/// Shows what is known of a container.
pub async fn info(manager: &Manager, options: &Info) -> Result<ExitCode> {
    let name = inside::name(manager, &options.name).await?;
    let container = manager.container(&name).await?;
    if options.json {
        print_json(&as_json(&container));
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = Vec::new();
    let mut line = |key: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("{key:<12}{}\n", plain(&value)));
        }
    };
    line("Name", text_of(&container, "name"));
    line("Status", text_of(&container, "status"));
    line("Image", text_of(&container, "image"));
    line("Created", moment(&text_of(&container, "created")));
    line("Mode", text_of(&container, "mode"));
    line(
        "Owner",
        match (bool_of(&container, "managed"), bool_of(&container, "owned")) {
            (false, _) => "not made by kapsule".to_owned(),
            (true, true) => "you".to_owned(),
            (true, false) => format!("uid {}", u32_of(&container, "owner")),
        },
    );
    line("Home", text_of(&container, "home"));
    line("Features", list_of(&container, "features").join(", "));
    for left_out in list_of(&container, "left_out") {
        line("Left out", left_out);
    }
    if bool_of(&container, "privileged") {
        line("Privileged", "yes: root inside is root outside".to_owned());
    }
    if bool_of(&container, "ephemeral") {
        line("Ephemeral", "yes: it goes when it stops".to_owned());
    }
    if autostart::is_on(&name) {
        line("Autostart", "when you log in".to_owned());
    }
    line("Addresses", list_of(&container, "addresses").join(", "));
    line("Snapshots", u32_of(&container, "snapshots").to_string());
    print(&lines.concat());
    Ok(ExitCode::SUCCESS)
}

/// A key that is text; empty if it is not there.
pub fn text_of(container: &Dictionary, key: &str) -> String {
    match container.get(key).map(|value| &**value) {
        Some(Variant::Str(text)) => text.to_string(),
        _ => String::new(),
    }
}

/// A key that says yes or no; no if it is not there.
pub fn bool_of(container: &Dictionary, key: &str) -> bool {
    matches!(
        container.get(key).map(|value| &**value),
        Some(Variant::Bool(true))
    )
}

/// A key that is a number; 0 if it is not there.
pub fn u32_of(container: &Dictionary, key: &str) -> u32 {
    match container.get(key).map(|value| &**value) {
        Some(Variant::U32(number)) => *number,
        _ => 0,
    }
}

/// A key that is a list of texts; empty if it is not there.
pub fn list_of(container: &Dictionary, key: &str) -> Vec<String> {
    match container.get(key).map(|value| &**value) {
        Some(Variant::Array(list)) => list
            .iter()
            .filter_map(|element| match element {
                Variant::Str(text) => Some(text.to_string()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// All of it, for a program.
pub fn as_json(container: &Dictionary) -> serde_json::Value {
    let sorted: std::collections::BTreeMap<_, _> = container.iter().collect();
    sorted
        .into_iter()
        .map(|(key, value)| (key.clone(), value_as_json(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn value_as_json(value: &Variant<'_>) -> serde_json::Value {
    match value {
        Variant::Bool(value) => (*value).into(),
        Variant::U8(value) => (*value).into(),
        Variant::I16(value) => (*value).into(),
        Variant::U16(value) => (*value).into(),
        Variant::I32(value) => (*value).into(),
        Variant::U32(value) => (*value).into(),
        Variant::I64(value) => (*value).into(),
        Variant::U64(value) => (*value).into(),
        Variant::F64(value) => (*value).into(),
        Variant::Str(text) => text.as_str().into(),
        Variant::ObjectPath(path) => path.as_str().into(),
        Variant::Array(list) => list.iter().map(value_as_json).collect(),
        Variant::Variant(value) => value_as_json(value),
        other => other.to_string().into(),
    }
}
