//! `kapsule-dbus-mux status PATH`: ask a running router how it is.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use dbus_router::{NamePlace, Status};
use dbus_wire::frame::{MessageType, Scan, scan};
use dbus_wire::message::{Builder, Message};
use dbus_wire::sasl;

use crate::program::Failure;

/// How long a router may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn status(path: &Path, json: bool) -> Result<(), Failure> {
    let text = ask(path)?;
    let status = Status::from_json(&text).map_err(|error| {
        Failure(format!(
            "{}: this router is of another version: {error}",
            path.display()
        ))
    })?;
    let shown = if json {
        format!("{}\n", status.to_json())
    } else {
        table(&status)
    };
    match std::io::stdout().write_all(shown.as_bytes()) {
        // `… | head` has seen enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Asks before Hello, so that the answer comes even if the host bus does not.
fn ask(path: &Path) -> Result<String, Failure> {
    let at = path.display();
    let mut socket = UnixStream::connect(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure(format!(
            "{at}: there is no such socket; is the router running?"
        )),
        ErrorKind::ConnectionRefused => {
            Failure(format!("{at}: nobody listens there; the router has ended"))
        }
        _ => Failure(format!("{at}: {error}")),
    })?;
    let io = |error: std::io::Error| match error.kind() {
        ErrorKind::WouldBlock => Failure(format!(
            "{at}: no answer within {} seconds",
            PATIENCE.as_secs()
        )),
        _ => Failure(format!("{at}: {error}")),
    };
    socket.set_read_timeout(Some(PATIENCE)).map_err(io)?;
    let uid = rustix::process::geteuid().as_raw();
    let mut client = sasl::Client::new(sasl::ClientConfig {
        uid: Some(uid),
        want_fds: false,
    });
    let mut out = Vec::new();
    client.start(&mut out);
    out.extend_from_slice(
        &Builder::method_call("/org/freedesktop/DBus", "GetStatus")
            .interface("org.kde.kapsule.Router1")
            .destination("org.freedesktop.DBus")
            .serial(1)
            .build(),
    );
    socket.write_all(&out).map_err(io)?;
    let mut bytes = Vec::new();
    let mut authenticated = false;
    loop {
        let mut buffer = [0; 16 * 1024];
        let count = socket.read(&mut buffer).map_err(io)?;
        if count == 0 {
            return Err(Failure(format!(
                "{at}: the connection was closed; is this a router?"
            )));
        }
        let mut new = &buffer[..count];
        if !authenticated {
            let progress = client
                .feed(new)
                .map_err(|error| Failure(format!("{at}: authentication: {error}")))?;
            authenticated = progress.done.is_some();
            new = &new[progress.consumed..];
        }
        bytes.extend_from_slice(new);
        let Scan::Message(prologue) = scan(&bytes)? else {
            continue;
        };
        if bytes.len() < prologue.message_len() {
            continue;
        }
        bytes.truncate(prologue.message_len());
        let message = Message::parse(bytes)?;
        let text = message.reader().str().unwrap_or_default().to_owned();
        return match message.header().kind {
            MessageType::MethodReturn => Ok(text),
            _ => Err(Failure(format!(
                "{at}: {text}; this is a bus, but not one of ours"
            ))),
        };
    }
}

/// The status for a person.
fn table(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |columns: std::fmt::Arguments<'_>| {
        text.write_fmt(columns).expect("a String takes everything");
        text.push('\n');
    };
    line(format_args!("Host bus       {}", status.host_bus));
    line(format_args!("Container bus  {}", status.container_bus));
    let counters = &status.counters;
    line(format_args!(
        "Messages       {} to the host, {} from the host, {} inside",
        counters.to_host, counters.from_host, counters.inside
    ));
    line(format_args!(
        "Refused        {} by the policy; {} calls were answered with an error of the router",
        counters.refused, counters.errors
    ));
    line(format_args!(
        "Since start    {} connections, {} services started",
        counters.connections, counters.activations
    ));
    line(format_args!("\nClients ({})", status.clients.len()));
    if !status.clients.is_empty() {
        line(format_args!(
            "  {:<12} {:>8} {:>6} {:>9}  OWNS",
            "NAME", "PID", "RULES", "UNREAD"
        ));
    }
    for client in &status.clients {
        let name = client.name.as_deref().unwrap_or("-");
        let pid = client.pid.map_or("-".to_owned(), |pid| pid.to_string());
        let owns = if client.monitor {
            "(monitor)".to_owned()
        } else {
            client.names.join(" ")
        };
        line(format_args!(
            "  {name:<12} {pid:>8} {:>6} {:>9}  {}",
            client.rules,
            bytes(client.queued_bytes),
            printable(&owns)
        ));
    }
    line(format_args!("\nNames ({})", status.names.len()));
    let width = status
        .names
        .iter()
        .map(|it| it.name.len())
        .max()
        .unwrap_or(0)
        .min(60);
    for name in &status.names {
        let place = match (name.place, name.hides_host) {
            (NamePlace::Inside, true) => "inside (the host's is hidden)",
            (NamePlace::Inside, false) => "inside",
            (NamePlace::Host, _) => "host",
        };
        line(format_args!(
            "  {:<width$}  {:<12} {place}",
            printable(&name.name),
            name.owner
        ));
    }
    if !status.activatable.is_empty() {
        line(format_args!(
            "\nCan be started inside ({})",
            status.activatable.len()
        ));
        for name in &status.activatable {
            line(format_args!("  {}", printable(name)));
        }
    }
    text
}

fn bytes(count: usize) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{} KiB", count / 1024),
        _ => format!("{} MiB", count / 1024 / 1024),
    }
}

/// Names come from programs inside; none may reach the terminal as anything but text.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dbus_router::{ClientStatus, Counters, NameStatus};

    #[test]
    fn the_table_says_where_names_live() {
        let status = Status {
            guid: String::new(),
            host_bus: "connected".into(),
            container_bus: "local".into(),
            clients: vec![ClientStatus {
                name: Some(":1.7".into()),
                pid: Some(42),
                uid: 1000,
                names: vec!["org.example.A".into()],
                rules: 3,
                queued_bytes: 20_000,
                monitor: false,
            }],
            names: vec![NameStatus {
                name: "org.example.A".into(),
                owner: ":1.7".into(),
                place: NamePlace::Inside,
                hides_host: true,
            }],
            activatable: Vec::new(),
            counters: Counters::default(),
        };
        let text = table(&status);
        assert!(
            text.contains("org.example.A  :1.7         inside (the host's is hidden)"),
            "{text}"
        );
        assert!(text.contains("19 KiB"), "{text}");
    }
}
