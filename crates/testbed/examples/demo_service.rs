//! The services of `cargo xtask demo`: `demo_service notifications` and `demo_service weather REPORT`, on
//! the session bus. They write `ready` when they serve, and a line for each call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use zbus::connection::Builder;
use zbus::message::Header;
use zbus::{OwnedVariant, interface};

/// Who called, for the line that tells of it.
fn caller(header: &Header<'_>) -> String {
    header
        .sender()
        .map_or_else(|| "somebody".to_owned(), ToString::to_string)
}

/// The smallest service that notification clients are content with.
#[derive(Default)]
struct Notifications {
    last: AtomicU32,
}

#[interface(name = "org.freedesktop.Notifications")]
impl Notifications {
    #[expect(
        clippy::too_many_arguments,
        reason = "the specification of notifications has them"
    )]
    fn notify(
        &self,
        _app_name: &str,
        _replaces: u32,
        _icon: &str,
        summary: &str,
        body: &str,
        _actions: Vec<String>,
        _hints: HashMap<String, OwnedVariant>,
        _timeout: i32,
        #[zbus(header)] header: Header<'_>,
    ) -> u32 {
        println!("Notify by {}: {summary} {body}", caller(&header));
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn close_notification(&self, _id: u32) {}

    fn get_capabilities(&self) -> Vec<String> {
        vec!["body".to_owned()]
    }

    fn get_server_information(&self) -> (&str, &str, &str, &str) {
        ("demo", "kapsule", env!("CARGO_PKG_VERSION"), "1.2")
    }
}

/// Says what the weather is where it runs.
struct Weather {
    report: String,
}

#[interface(name = "org.example.Weather1")]
impl Weather {
    fn today(&self, #[zbus(header)] header: Header<'_>) -> String {
        println!("Today by {}", caller(&header));
        self.report.clone()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let service = match arguments.as_slice() {
        ["notifications"] => Builder::session()
            .serve_at("/org/freedesktop/Notifications", Notifications::default())
            .name("org.freedesktop.Notifications"),
        ["weather", report] => Builder::session()
            .serve_at(
                "/org/example/Weather",
                Weather {
                    report: (*report).to_owned(),
                },
            )
            .name("org.example.Weather"),
        _ => return Err("demo_service notifications | demo_service weather REPORT".into()),
    };
    zbus::block_on(async {
        let connection = service.build().await?;
        println!("ready");
        connection.closed().await;
        Ok(())
    })
}
