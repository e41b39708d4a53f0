//! `kapsule list`

use std::io::IsTerminal;
use std::process::ExitCode;

use serde_json::json;

use crate::cli::List;
use crate::command::info::{bool_of, text_of, u32_of};
use crate::command::table::{moment, table};
use crate::command::{print, print_json};
use crate::error::Result;
use crate::export::autostart;
use crate::manager::{Manager, Row};
use crate::progress::{Kind, note};
use crate::text::plain;

/// Lists containers.
pub async fn list(manager: &Manager, options: &List) -> Result<ExitCode> {
    if options.all {
        return list_all(manager, options).await;
    }
    let mut rows = manager.list_containers().await?;
    rows.retain(|row| !options.running || row.status == "Running");
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    if options.json {
        let rows: Vec<_> = rows.iter().map(as_json).collect();
        print_json(&json!(rows));
    } else if options.quiet {
        print_names(rows.iter().map(|row| row.name.as_str()));
    } else if rows.is_empty() {
        none(options.running);
    } else {
        print(&as_table(rows));
    }
    Ok(ExitCode::SUCCESS)
}

fn as_table(rows: Vec<Row>) -> String {
    const HEADINGS: [&str; 5] = ["NAME", "STATUS", "IMAGE", "MODE", "CREATED"];
    let at_login: Vec<bool> = rows.iter().map(|row| autostart::is_on(&row.name)).collect();
    let rows = rows.into_iter().map(|row| {
        let created = moment(&row.created);
        [row.name, row.status, row.image, row.mode, created]
    });
    // For most people there is none, and their tables need no column that is empty.
    if !at_login.contains(&true) {
        return table(HEADINGS, rows);
    }
    let [name, status, image, mode, created] = HEADINGS;
    let rows = rows.zip(at_login).map(|(row, at_login)| {
        let [name, status, image, mode, created] = row;
        let at_login = if at_login { "yes" } else { "" }.to_owned();
        [name, status, image, mode, created, at_login]
    });
    table([name, status, image, mode, created, "AT LOGIN"], rows)
}

fn as_json(row: &Row) -> serde_json::Value {
    json!({
        "name": row.name,
        "status": row.status,
        "image": row.image,
        "created": row.created,
        "mode": row.mode,
        "autostart": autostart::is_on(&row.name),
    })
}

fn print_names<'n>(names: impl Iterator<Item = &'n str>) {
    let names: Vec<String> = names.map(|name| format!("{}\n", plain(name))).collect();
    print(&names.concat());
}

/// An empty table says nothing to a person; a program wants nothing said.
fn none(running: bool) {
    if std::io::stderr().is_terminal() {
        let which = if running {
            "container runs"
        } else {
            "container is there"
        };
        note(
            Kind::Information,
            &format!(
                "no {which}; kapsule create NAME makes one, kapsule list --all shows those of others"
            ),
        );
    }
}

async fn list_all(manager: &Manager, options: &List) -> Result<ExitCode> {
    let mut containers = manager.list_all_containers().await?;
    containers.retain(|container| !options.running || text_of(container, "status") == "Running");
    containers.sort_by_key(|container| text_of(container, "name"));
    if options.json {
        let all: Vec<_> = containers.iter().map(super::info::as_json).collect();
        print_json(&json!(all));
    } else if options.quiet {
        let names: Vec<_> = containers.iter().map(|c| text_of(c, "name")).collect();
        print_names(names.iter().map(String::as_str));
    } else {
        print(&table(
            ["NAME", "STATUS", "IMAGE", "OWNER", "CREATED"],
            containers.iter().map(|container| {
                let owner = match (bool_of(container, "managed"), bool_of(container, "owned")) {
                    (false, _) => "-".to_owned(),
                    (true, true) => "you".to_owned(),
                    (true, false) => format!("uid {}", u32_of(container, "owner")),
                };
                [
                    text_of(container, "name"),
                    text_of(container, "status"),
                    text_of(container, "image"),
                    owner,
                    moment(&text_of(container, "created")),
                ]
            }),
        ));
    }
    Ok(ExitCode::SUCCESS)
}
