//! The interfaces as they are, beside the files that say how they have to be.

use std::collections::BTreeSet;

use super::rig::{Person, repository};

/// The object at `path` has all that the file of this interface says, and nothing else.
pub async fn is_as_written(person: &Person, path: &str, interface: &str) {
    let file = repository(&format!("data/dbus-1/interfaces/{interface}.xml"));
    let written = std::fs::read_to_string(&file).expect("the file is there");
    let object = zbus::fdo::IntrospectableProxy::builder(&person.connection)
        .destination("org.kde.kapsule")
        .path(path.to_owned())
        .build()
        .await
        .expect("a proxy");
    let served = object.introspect().await.expect("it can be introspected");
    let (written, served) = (members(&written, interface), members(&served, interface));
    assert!(!written.is_empty());
    let missing: Vec<&String> = written.difference(&served).collect();
    let more: Vec<&String> = served.difference(&written).collect();
    assert!(
        missing.is_empty() && more.is_empty(),
        "{interface} at {path}\nwritten, and not served: {missing:#?}\nserved, and not written: {more:#?}"
    );
}

/// Each method, signal and property of an interface, in a line: `method Cancel -> accepted b`.
fn members(xml: &str, interface: &str) -> BTreeSet<String> {
    let mut members = BTreeSet::new();
    let (mut inside, mut member) = (false, String::new());
    for tag in tags(xml) {
        let name = tag.split_whitespace().next().unwrap_or_default();
        let attribute = |name: &str| attribute(&tag, name).unwrap_or_default();
        match name.trim_end_matches('/') {
            "interface" => inside = attribute("name") == interface,
            "/interface" => inside = false,
            "method" | "signal" if inside => {
                member = format!("{name} {}", attribute("name"));
                if tag.ends_with('/') {
                    members.insert(std::mem::take(&mut member));
                }
            }
            "property" if inside => {
                member = format!(
                    "property {} {} {}",
                    attribute("name"),
                    attribute("type"),
                    attribute("access")
                );
                if tag.ends_with('/') {
                    members.insert(std::mem::take(&mut member));
                }
            }
            "arg" if inside => {
                let arrow = if attribute("direction") == "out" {
                    " ->"
                } else {
                    ""
                };
                member += &format!("{arrow} {} {}", attribute("name"), attribute("type"));
            }
            "annotation" if inside && attribute("name").ends_with("EmitsChangedSignal") => {
                member += &format!(" changes:{}", attribute("value"));
            }
            "/method" | "/signal" | "/property" if inside => {
                members.insert(std::mem::take(&mut member));
            }
            _ => {}
        }
    }
    members
}

/// What stands between `<` and `>`, without comments.
fn tags(xml: &str) -> Vec<String> {
    let mut tags = Vec::new();
    let mut rest = xml;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let (end, skip) = match rest.strip_prefix("!--") {
            Some(_) => ("-->", true),
            None => (">", rest.starts_with(['!', '?'])),
        };
        let Some(length) = rest.find(end) else {
            return tags;
        };
        if !skip {
            tags.push(rest[..length].trim().to_owned());
        }
        rest = &rest[length + end.len()..];
    }
    tags
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let rest = tag.split_once(&format!(" {name}=\""))?.1;
    Some(rest.split_once('"')?.0.to_owned())
}

#[test]
fn introspection_data_is_read_as_it_is_written() {
    let xml = r#"<!-- <method name="No"/> --><node><interface name="a"><method name="M"><arg name="x" type="s"
        direction="in"/><arg name="y" type="as" direction="out"/></method><signal name="S"/></interface>
        <interface name="b"><method name="Other"/></interface></node>"#;
    let members: Vec<String> = members(&xml.replace("\n", " "), "a").into_iter().collect();
    assert_eq!(members, ["method M x s -> y as", "signal S"]);
}
