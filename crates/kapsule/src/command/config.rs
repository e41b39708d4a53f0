//! `kapsule config`

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use toml_edit::{Array, DocumentMut, Item, value};

use crate::cli::Config;
use crate::command::table::table;
use crate::command::{print, print_json};
use crate::error::{Error, Result};
use crate::export;
use crate::manager::Manager;
use crate::text::plain;

/// The keys that a person can set, and whether they are lists.
pub(crate) const KEYS: [(&str, bool); 4] = [
    ("default_container", false),
    ("default_image", false),
    ("with", true),
    ("without", true),
];

/// Shows the configuration, or changes the person's own.
pub async fn config(bus: &str, options: &Config) -> Result<ExitCode> {
    if let Some(key) = &options.key {
        if options.unset {
            return set(key, None);
        }
        if !options.value.is_empty() {
            return set(key, Some(&options.value));
        }
    }
    let config = Manager::connect(bus).await?.config().await?;
    let config: BTreeMap<_, _> = config.into_iter().collect();
    match &options.key {
        None if options.json => print_json(&json!(config)),
        None => print(&table(
            ["KEY", "VALUE"],
            config.into_iter().map(|(k, v)| [k, v]),
        )),
        Some(key) => {
            let value = config.get(key).ok_or_else(|| unknown(key))?;
            match options.json {
                true => print_json(&json!(value)),
                false => print(&format!("{}\n", plain(value))),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn unknown(key: &str) -> Error {
    let known = KEYS.map(|(key, _)| key).join(", ");
    Error::Usage(format!(
        "there is no key {} in the configuration\n  hint: {known}",
        plain(key)
    ))
}

/// The person's own configuration. The daemon looks for it in the home, whatever our environment says.
fn path() -> Result<PathBuf> {
    Ok(export::home()?.join(".config/kapsule/config.toml"))
}

fn set(key: &str, values: Option<&[String]>) -> Result<ExitCode> {
    let is_list = KEYS
        .iter()
        .find(|(known, _)| *known == key)
        .map(|(_, is_list)| *is_list)
        .ok_or_else(|| unknown(key))?;
    let path = path()?;
    let shown = path.display();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Error::doing(format!("reading {shown}"))(error)),
    };
    let mut document: DocumentMut = text.parse().map_err(|error| {
        Error::Usage(format!(
            "{shown} cannot be changed, for it is no TOML:\n{error}"
        ))
    })?;
    match values {
        None => {
            document.remove(key);
        }
        Some(values) if is_list => {
            let list: Array = values.iter().flat_map(|value| value.split(',')).collect();
            put(&mut document, key, value(list));
        }
        Some([one]) => put(&mut document, key, value(one)),
        Some(_) => {
            return Err(Error::Usage(format!("{key} has one value")));
        }
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .map_err(Error::doing(format!("making {}", directory.display())))?;
    }
    let new = path.with_extension("toml.new");
    fs::write(&new, document.to_string())
        .and_then(|()| fs::rename(&new, &path))
        .map_err(Error::doing(format!("writing {shown}")))?;
    Ok(ExitCode::SUCCESS)
}

/// Keeps the comments that stand around it.
fn put(document: &mut DocumentMut, key: &str, value: Item) {
    match document.get_mut(key) {
        Some(item) => *item = value,
        None => {
            document.insert(key, value);
        }
    }
}
