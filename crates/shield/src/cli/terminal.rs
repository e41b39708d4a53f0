//! What a person does at the terminal: look at what waits, answer, watch, read the log.
//!
//! All text that comes over the bus or from files is made plain before it is printed: what a container
//! looked up, or what another program on the bus calls itself, must not reach the terminal as it is.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use zbus::{Connection, MatchRule, MessageStream};

use super::{AllowAll, Answer, Log, Pending, Watch, connect};
use crate::audit;
use crate::bridge::{BUS_NAME_PREFIX, INTERFACE, INTERFACE2, PATHS, PendingRow};
use crate::error::{Error, Result};
use crate::packet;
use crate::session::{Action, Scope};
use crate::state::StateDir;
use crate::text::plain;

/// How many signals may wait to be read.
pub(crate) const QUEUE: std::num::NonZeroUsize =
    std::num::NonZeroUsize::new(8192).expect("not zero");

/// The bridges on a bus.
pub(crate) async fn bridges(connection: &Connection) -> Result<Vec<String>> {
    let failed = |e| Error::bus("listing the names on the bus", e);
    let reply = connection
        .call_method(
            Some("org.freedesktop.DBus"),
            "/org/freedesktop/DBus",
            Some("org.freedesktop.DBus"),
            "ListNames",
            &(),
        )
        .await
        .map_err(failed)?;
    let names: Vec<String> = reply.body().deserialize().map_err(failed)?;
    let mut names: Vec<_> = names
        .into_iter()
        .filter(|n| n.starts_with(BUS_NAME_PREFIX))
        .collect();
    names.sort();
    Ok(names)
}

/// What waits at one bridge.
pub(crate) async fn list_pending(connection: &Connection, bridge: &str) -> Result<Vec<PendingRow>> {
    let failed = |e| Error::bus(format!("asking {bridge} what waits"), e);
    let reply = connection
        .call_method(Some(bridge), PATHS[0], Some(INTERFACE2), "ListPending", &())
        .await
        .map_err(failed)?;
    reply.body().deserialize().map_err(failed)
}

/// What waits at all bridges, with the bridge.
async fn all_pending(connection: &Connection) -> Result<Vec<(String, PendingRow)>> {
    let mut rows = Vec::new();
    for bridge in bridges(connection).await? {
        let listed = list_pending(connection, &bridge).await?;
        rows.extend(listed.into_iter().map(|r| (bridge.clone(), r)));
    }
    Ok(rows)
}

pub(super) async fn pending(options: Pending) -> Result<ExitCode> {
    let connection = connect(&options.bus.bus).await?;
    if bridges(&connection).await?.is_empty() {
        eprintln!(
            "shield-bridge: no bridge is on this bus\n  hint: shield-bridge bridge CONTAINER"
        );
    }
    let mut rows: Vec<_> = all_pending(&connection)
        .await?
        .into_iter()
        .map(|(_, r)| r)
        .collect();
    if let Some(container) = &options.container {
        rows.retain(|r| r.0 == *container);
    }
    if options.json {
        let list: Vec<_> = rows
            .iter()
            .map(|(container, dest, port, proto, domain, id)| {
                json!({"container": plain(container), "dest": plain(dest), "port": port, "proto": proto, "domain": plain(domain), "request_id": plain(id)})
            })
            .collect();
        print(&format!("{}\n", json!(list)));
        return Ok(ExitCode::SUCCESS);
    }
    let width = rows.iter().map(|r| r.5.len()).max().unwrap_or(0);
    for (_, dest, port, proto, domain, id) in &rows {
        print(&format!(
            "{:width$}  {}\n",
            plain(id),
            destination(dest, *port, *proto, domain)
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// A destination for a person: the name first, if there is one.
pub(crate) fn destination(dest: &str, port: u16, proto: u16, domain: &str) -> String {
    let name = u8::try_from(proto).map_or_else(|_| proto.to_string(), packet::protocol_name);
    let has_ports = u8::try_from(proto).is_ok_and(packet::has_ports);
    let dest = plain(dest);
    let address = match (dest.contains(':'), has_ports) {
        (true, true) => format!("[{dest}]:{port}"),
        (false, true) => format!("{dest}:{port}"),
        (_, false) => dest,
    };
    match plain(domain).as_str() {
        "" => format!("{address} {name}"),
        domain if has_ports => format!("{domain}:{port} {name} ({dest_only})", dest_only = address),
        domain => format!("{domain} {name} ({address})"),
    }
}

pub(super) async fn answer(options: Answer, action: Action) -> Result<ExitCode> {
    let connection = connect(&options.bus.bus).await?;
    let rows = all_pending(&connection).await?;
    let wanted: Vec<_> = rows
        .iter()
        .filter(|(_, r)| {
            r.5 == options.id || r.5.rsplit_once(':').is_some_and(|(_, n)| n == options.id)
        })
        .collect();
    let (bridge, row) = match wanted[..] {
        [one] => one,
        [] => {
            return Err(Error::Usage(format!(
                "nothing with the id {:?} waits for an answer\n  hint: shield-bridge pending",
                options.id
            )));
        }
        _ => {
            let ids: Vec<_> = wanted.iter().map(|(_, r)| plain(&r.5)).collect();
            return Err(Error::Usage(format!(
                "several questions have the number {}: {}",
                options.id,
                ids.join(", ")
            )));
        }
    };
    let scope = match (options.address, options.domain) {
        (true, _) => Scope::Address,
        (_, true) => Scope::Domain,
        _ => Scope::Port,
    };
    let seconds = options
        .time
        .map_or(0, |t| u32::try_from(t.as_secs()).unwrap_or(u32::MAX));
    if options.time.is_some() && seconds == 0 {
        return Err(Error::Usage("--for: no time at all".into()));
    }
    let body = (row.5.as_str(), action.as_str(), scope.as_str(), seconds);
    let failed = |e| Error::bus(format!("answering {bridge}"), e);
    let reply = connection
        .call_method(
            Some(bridge.as_str()),
            PATHS[0],
            Some(INTERFACE2),
            "VerdictScoped",
            &body,
        )
        .await
        .map_err(failed)?;
    let ok: bool = reply.body().deserialize().map_err(failed)?;
    let (_, dest, port, proto, domain, id) = row;
    if options.json {
        print(&format!(
            "{}\n",
            json!({"request_id": plain(id), "action": action.as_str(), "ok": ok})
        ));
    } else if ok {
        let word = if action == Action::Accept {
            "allowed"
        } else {
            "denied"
        };
        let time = options
            .time
            .map_or(String::new(), |t| format!(" for {} s", t.as_secs()));
        print(&format!(
            "{word}{time}: {}\n",
            destination(dest, *port, *proto, domain)
        ));
    }
    if ok {
        return Ok(ExitCode::SUCCESS);
    }
    if !options.json {
        eprintln!("shield-bridge: the verdict was not applied (shield-bridge log says why)");
    }
    Ok(ExitCode::from(1))
}

pub(super) async fn allow_all(options: AllowAll) -> Result<ExitCode> {
    let connection = connect(&options.bus.bus).await?;
    let seconds = u32::try_from(options.time.as_secs()).unwrap_or(u32::MAX);
    for bridge in bridges(&connection).await? {
        let failed = |e| Error::bus(format!("telling {bridge}"), e);
        let reply = connection
            .call_method(
                Some(bridge.as_str()),
                PATHS[0],
                Some(INTERFACE2),
                "AllowAll",
                &(options.container.as_str(), seconds),
            )
            .await
            .map_err(failed)?;
        if reply.body().deserialize().map_err(failed)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err(Error::Usage(format!(
        "no bridge on this bus serves container {:?}, or it could not do so",
        options.container
    )))
}

pub(super) async fn watch(options: Watch) -> Result<ExitCode> {
    let connection = connect(&options.bus.bus).await?;
    let rule = format!("type='signal',path='{}'", PATHS[0]);
    let failed = |e| Error::bus("watching the bus", e);
    let rule = MatchRule::try_from(rule.as_str()).map_err(failed)?;
    let mut signals = MessageStream::for_match_rule(rule, &connection, Some(QUEUE))
        .await
        .map_err(failed)?;
    for (_, row) in all_pending(&connection).await? {
        print(&line(&blocked(&row), options.json));
    }
    while let Some(message) = next(&mut signals).await {
        let Ok(message) = message else {
            continue;
        };
        let header = message.header();
        let (Some(interface), Some(member)) = (header.interface(), header.member()) else {
            continue;
        };
        let body = message.body();
        let said = match (interface.as_str(), member.as_str()) {
            (INTERFACE, "ConnectionBlocked") => body
                .deserialize::<PendingRow>()
                .map(|row| blocked(&row))
                .ok(),
            (INTERFACE, "VerdictApplied") => body
                .deserialize::<(String, String, String, String, bool)>()
                .map(|(container, dest, id, action, ok)| {
                    json!({"type": "verdict_applied", "container": plain(&container), "dest": plain(&dest), "request_id": plain(&id), "action": plain(&action), "ok": ok})
                })
                .ok(),
            (INTERFACE2, "EventsLost") => body
                .deserialize::<(String, u32)>()
                .map(|(container, count)| {
                    json!({"type": "events_lost", "container": plain(&container), "count": count})
                })
                .ok(),
            _ => None,
        };
        if let Some(said) = said {
            print(&line(&said, options.json));
        }
    }
    Err(Error::bus(
        "watching the bus",
        zbus::Error::Failure("the connection is closed".into()),
    ))
}

/// The next message of a stream.
pub(crate) async fn next(stream: &mut MessageStream) -> Option<zbus::Result<zbus::Message>> {
    use zbus::export::futures_core::Stream;
    let mut stream = std::pin::Pin::new(stream);
    std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await
}

fn blocked(row: &PendingRow) -> serde_json::Value {
    let (container, dest, port, proto, domain, id) = row;
    json!({"type": "blocked", "container": plain(container), "dest": plain(dest), "port": port, "proto": proto, "domain": plain(domain), "request_id": plain(id)})
}

fn line(said: &serde_json::Value, json: bool) -> String {
    if json {
        return format!("{said}\n");
    }
    let text = |key: &str| said[key].as_str().unwrap_or_default();
    let number = |key: &str| said[key].as_u64().unwrap_or_default();
    match text("type") {
        "blocked" => format!(
            "blocked   {}  {}\n",
            text("request_id"),
            destination(
                text("dest"),
                number("port") as u16,
                number("proto") as u16,
                text("domain")
            )
        ),
        "verdict_applied" => format!(
            "{}  {}  {}\n",
            match (said["ok"].as_bool(), text("action")) {
                (Some(true), "accept") => "allowed ",
                (Some(true), _) => "denied  ",
                _ => "failed  ",
            },
            text("request_id"),
            text("dest")
        ),
        _ => format!(
            "lost      {}  {} events\n",
            text("container"),
            number("count")
        ),
    }
}

pub(super) fn log(options: Log) -> Result<ExitCode> {
    let states = match (&options.container, options.state_dir) {
        (Some(_), Some(dir)) => vec![StateDir::new(dir)],
        (Some(container), None) => {
            vec![StateDir::of_container(&StateDir::default_root(), container)]
        }
        (None, dir) => {
            let root: PathBuf = dir.unwrap_or_else(StateDir::default_root);
            let mut states: Vec<_> = std::fs::read_dir(&root)
                .map_err(|e| Error::system(format!("reading {}", root.display()), e))?
                .flatten()
                .map(|e| StateDir::new(e.path()))
                .filter(|s| s.file("audit.jsonl").is_file())
                .collect();
            states.sort_by(|a, b| a.path().cmp(b.path()));
            states
        }
    };
    let mut lines: Vec<audit::Line> = Vec::new();
    for state in states {
        for name in ["audit.jsonl.1", "audit.jsonl"] {
            let path = state.file(name);
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound && name == "audit.jsonl.1" => {
                    continue;
                }
                Err(e) => return Err(Error::system(format!("reading {}", path.display()), e)),
            };
            lines.extend(text.lines().filter_map(|l| serde_json::from_str(l).ok()));
        }
    }
    // The sort is stable: lines of one second keep their order.
    lines.sort_by(|a, b| a.ts.cmp(&b.ts));
    for l in lines {
        let printed = if options.json {
            serde_json::to_string(&l).unwrap_or_default()
        } else {
            [
                l.ts,
                l.container,
                format!("{:8}", l.action),
                l.dest,
                l.detail,
            ]
            .map(|t| plain(&t))
            .join("  ")
        };
        print(&format!("{}\n", printed.trim_end()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints, and ends quietly when nobody reads any more (`| head`).
fn print(text: &str) {
    let mut out = std::io::stdout();
    if out
        .write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(0);
    }
}
