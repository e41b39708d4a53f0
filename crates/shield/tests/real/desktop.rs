//! On the desktop: a real notification server under a real X server, and a real click.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use zbus::OwnedVariant;

use crate::skip;
use crate::support::*;

/// An X server of our own; ends with its value.
struct Screen {
    _server: Process,
    display: String,
}

impl Screen {
    fn new() -> Option<Self> {
        let mut child = command("Xvfb")
            .args([
                "-displayfd",
                "1",
                "-screen",
                "0",
                "1024x768x24",
                "-nolisten",
                "tcp",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let out = child.stdout.take()?;
        let server = Process(child);
        let _ = BufReader::new(out).read_line(&mut line);
        let number: u32 = line.trim().parse().ok()?;
        Some(Self {
            _server: server,
            display: format!(":{number}"),
        })
    }
}

/// What is missing for these tests.
fn cannot_show() -> Option<String> {
    cannot().or_else(|| {
        [
            ("dunst", "--version"),
            ("xdotool", "--version"),
            ("Xvfb", "-help"),
        ]
        .into_iter()
        .find(|(program, argument)| !runs(program, &[argument]))
        .map(|(program, _)| format!("{program} does not run"))
    })
}

/// dunst with a menu that picks the action whose words the file `choice` holds, as a person would.
fn dunst(dir: &Path, screen: &Screen, bus: &Bus) -> Process {
    let menu = dir.join("menu");
    // The menu's lines are like "#Allow (build was blocked) [1,allow]".
    std::fs::write(
        &menu,
        format!(
            "#!/bin/sh\ntee {0}/menu.lines | grep -F -- \"#$(cat {0}/choice) (\" | head -n 1\n",
            dir.display()
        ),
    )
    .unwrap();
    std::fs::set_permissions(&menu, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = dir.join("dunstrc");
    std::fs::write(&config, format!(
        "[global]\norigin = top-left\noffset = 0x0\nwidth = 500\nheight = 300\nnotification_limit = 0\n\
         mouse_left_click = do_action\ndmenu = {}\nmarkup = full\nformat = \"%s\\n%b\"\nidle_threshold = 0\n\
         [urgency_critical]\ntimeout = 0\n",
        menu.display()
    ))
    .unwrap();
    Process(
        command("dunst")
            .arg("-config")
            .arg(&config)
            .env("DISPLAY", &screen.display)
            .env("DBUS_SESSION_BUS_ADDRESS", bus.plain_address())
            .env("HOME", dir)
            .env("XDG_RUNTIME_DIR", dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    )
}

/// Clicks on the notification, as soon as it is on the screen.
async fn click(screen: &Screen) {
    let find = || {
        let output = command("xdotool")
            .args(["search", "--onlyvisible", "--class", "Dunst"])
            .env("DISPLAY", &screen.display)
            .stderr(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .next()
            .map(str::to_owned)
    };
    let mut window = None;
    until("a notification is on the screen", async || {
        window = find();
        window.is_some()
    })
    .await;
    run(command("xdotool")
        .args([
            "mousemove",
            "--window",
            &window.unwrap(),
            "20",
            "10",
            "click",
            "1",
        ])
        .env("DISPLAY", &screen.display));
}

fn notify(bus: &Bus) -> Process {
    Process(
        shield()
            .args(["notify", "--bus", &bus.plain_address()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap(),
    )
}

/// What the notification server shows: summary and body of each.
async fn shown(client: &Client) -> Vec<(String, String)> {
    let listed: zbus::Result<Vec<std::collections::HashMap<String, OwnedVariant>>> = client
        .call(
            "org.freedesktop.Notifications",
            "/org/freedesktop/Notifications",
            "org.dunstproject.cmd0",
            "NotificationListHistory",
            &(),
        )
        .await;
    listed
        .unwrap_or_default()
        .into_iter()
        .map(|n| {
            let text = |key: &str| String::try_from(n[key].try_clone().unwrap()).unwrap();
            (text("summary"), text("body"))
        })
        .collect()
}

#[tokio::test]
async fn a_click_on_a_notification_becomes_a_verdict_and_the_connection_passes() {
    if let Some(why) = cannot_show() {
        skip!("{why}");
    }
    let Some(screen) = Screen::new() else {
        skip!("Xvfb does not start");
    };
    let dir = tempfile::tempdir().unwrap();
    let bus = Bus::new();
    let shielded = Shielded::new("build");
    for port in [80, 443, 8080] {
        shielded.net.serve_tcp(port);
    }
    let (_bridge, client) = shielded.bridge(&bus, &[]).await;
    let _dunst = dunst(dir.path(), &screen, &bus);
    client.wait_for_name("org.freedesktop.Notifications").await;
    // What waits already when `notify` begins is shown, too.
    assert!(!shielded.net.tcp(V4, 443));
    client.blocked_at(V4, 443).await;
    let _notify = notify(&bus);
    for (port, choice, action, passes) in [
        (443, "Allow", "accept", true),
        (80, "Deny", "deny", false),
        (8080, "Allow 5 minutes", "accept", true),
    ] {
        std::fs::write(dir.path().join("choice"), choice).unwrap();
        if port != 443 {
            assert!(!shielded.net.tcp(V4, port));
        }
        click(&screen).await;
        let applied = client.applied().await;
        assert_eq!(
            (applied.1.as_str(), applied.3.as_str(), applied.4),
            (V4, action, true)
        );
        assert_eq!(shielded.net.tcp(V4, port), passes, "{choice}");
    }
    let lines = std::fs::read_to_string(dir.path().join("menu.lines")).unwrap();
    for word in ["#Allow (", "#Allow 5 minutes (", "#Deny ("] {
        assert!(lines.contains(word), "{lines}");
    }
    let decisions = shielded.decisions().join("\n");
    assert!(
        decisions.contains("203.0.113.1 . tcp . 8080 timeout 5m"),
        "{decisions}"
    );
    let history = shown(&client).await;
    assert!(
        history.contains(&(
            "build was blocked".into(),
            "Container build wants to reach 203.0.113.1:443 tcp".into()
        )),
        "{history:?}"
    );
}

/// Summary, body, actions and timeout of a notification.
type Note = (String, String, Vec<String>, i32);

/// A notification server that keeps what it is given, with markup, and invokes what it is told to.
#[derive(Clone, Default)]
struct Server {
    notes: std::sync::Arc<std::sync::Mutex<Vec<Note>>>,
    closed: std::sync::Arc<std::sync::Mutex<Vec<u32>>>,
}

#[zbus::interface(name = "org.freedesktop.Notifications")]
impl Server {
    fn get_capabilities(&self) -> Vec<String> {
        vec!["actions".into(), "body".into(), "body-markup".into()]
    }

    #[allow(clippy::too_many_arguments)]
    fn notify(
        &self,
        _app: String,
        _replaces: u32,
        _icon: String,
        summary: String,
        body: String,
        actions: Vec<String>,
        _hints: std::collections::HashMap<String, OwnedVariant>,
        timeout: i32,
    ) -> u32 {
        let mut notes = self.notes.lock().unwrap();
        notes.push((summary, body, actions, timeout));
        notes.len() as u32
    }

    fn close_notification(&self, id: u32) {
        self.closed.lock().unwrap().push(id);
    }
}

async fn server(bus: &Bus) -> (Server, zbus::Connection) {
    let server = Server::default();
    let connection = bus.connect().await;
    connection
        .object_server()
        .at("/org/freedesktop/Notifications", server.clone())
        .await
        .unwrap();
    connection
        .request_name("org.freedesktop.Notifications")
        .await
        .unwrap();
    (server, connection)
}

async fn emit<B: serde::Serialize + zbus::DynamicType>(
    connection: &zbus::Connection,
    member: &str,
    body: &B,
) {
    connection
        .emit_signal(
            None::<()>,
            "/org/freedesktop/Notifications",
            "org.freedesktop.Notifications",
            member,
            body,
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn strings_from_a_container_reach_neither_markup_nor_terminal() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let bus = Bus::new();
    let (server, connection) = server(&bus).await;
    let _notify = notify(&bus);
    // A bridge that passes on whatever a container gives it: ours would not.
    let evil = "<b>bold</b><img src='http://evil'>\u{1b}]0;title\u{7}\u{202e}";
    let row = (
        evil.to_owned(),
        V4.to_owned(),
        443u16,
        6u16,
        evil.repeat(20),
        format!("{evil}:1"),
    );
    until("it is shown", async || {
        connection
            .emit_signal(
                None::<()>,
                PATH,
                "org.terok.Shield1",
                "ConnectionBlocked",
                &row,
            )
            .await
            .unwrap();
        !server.notes.lock().unwrap().is_empty()
    })
    .await;
    let (summary, body, actions, timeout) = server.notes.lock().unwrap()[0].clone();
    assert!(!body.contains('<') && !body.contains('>'), "{body}");
    assert!(
        body.contains("&lt;b&gt;bold"),
        "it is shown as it is written: {body}"
    );
    for text in [&summary, &body] {
        assert!(text.chars().all(|c| (' '..='~').contains(&c)), "{text:?}");
    }
    assert!(body.len() < 2000);
    assert_eq!(timeout, 0, "it waits");
    assert_eq!(
        actions.iter().step_by(2).collect::<Vec<_>>(),
        ["allow", "allow-minutes", "deny"]
    );
    assert!(
        !actions.contains(&"default".to_owned()),
        "a click on the body allows nothing"
    );

    // The terminal.
    let mut child = shield()
        .args(["watch", "--bus", &bus.plain_address()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let _watch = Process(child);
    let (send, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = reader.read_line(&mut line);
        let _ = send.send(line);
    });
    let mut line = String::new();
    until("it is printed", async || {
        connection
            .emit_signal(
                None::<()>,
                PATH,
                "org.terok.Shield1",
                "ConnectionBlocked",
                &row,
            )
            .await
            .unwrap();
        line = said.try_recv().unwrap_or_default();
        !line.is_empty()
    })
    .await;
    let text = line.trim_end_matches('\n');
    assert!(text.chars().all(|c| (' '..='~').contains(&c)), "{text:?}");
}

#[tokio::test]
async fn a_notification_that_is_put_away_decides_nothing_and_one_answered_elsewhere_goes() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let bus = Bus::new();
    let shielded = Shielded::new("build");
    shielded.net.serve_tcp(443);
    let (_bridge, client) = shielded.bridge(&bus, &[]).await;
    let (server, connection) = server(&bus).await;
    let _notify = notify(&bus);
    let notes = || server.notes.lock().unwrap().len();
    let name = shielded.bus_name();
    let rules = shielded.decisions();

    // Put away: nothing is decided, and it still waits for an answer at the terminal.
    assert!(!shielded.net.tcp(V4, 443));
    until("it is shown", async || notes() == 1).await;
    emit(&connection, "NotificationClosed", &(1u32, 2u32)).await;
    // An action that is none, and one of a notification that is not ours.
    emit(&connection, "ActionInvoked", &(1u32, "default")).await;
    emit(&connection, "ActionInvoked", &(77u32, "allow")).await;
    // Answered elsewhere: it goes.
    assert!(!shielded.net.tcp(V4, 80));
    until("the next is shown", async || notes() == 2).await;
    assert_eq!(shielded.decisions(), rules);
    assert_eq!(client.pending(&name).await.len(), 2);
    let second = client.blocked_at(V4, 80).await.5;
    assert!(client.verdict(&name, &second, "deny").await);
    until("it is closed", async || {
        server.closed.lock().unwrap().contains(&2)
    })
    .await;
    // A server may say that it is closed before it says what was clicked.
    assert!(!shielded.net.tcp(V6, 443));
    until("the third is shown", async || notes() == 3).await;
    emit(&connection, "NotificationClosed", &(3u32, 2u32)).await;
    emit(&connection, "ActionInvoked", &(3u32, "allow")).await;
    until("the click counts", async || shielded.net.tcp(V6, 443)).await;
    // The first was put away; its bridge still has it.
    assert!(shielded.says(&bus, &["allow", "build:1"]).status.success());
    assert!(shielded.net.tcp(V4, 443));
}

#[tokio::test]
async fn a_storm_is_a_few_notifications_and_a_number() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let bus = Bus::new();
    let shielded = Shielded::new("build");
    let (_bridge, client) = shielded.bridge(&bus, &[]).await;
    for port in 1..=40 {
        assert!(!shielded.net.tcp(V4, port));
        client.blocked_at(V4, port).await;
    }
    let (server, _connection) = server(&bus).await;
    let _notify = notify(&bus);
    until("the number is shown", async || {
        server
            .notes
            .lock()
            .unwrap()
            .iter()
            .any(|n| n.1.contains("35 more"))
    })
    .await;
    assert_eq!(server.notes.lock().unwrap().len(), 6);
}

#[tokio::test]
async fn without_a_notification_server_it_says_what_is_missing() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let bus = Bus::new();
    let output = shield()
        .args(["notify", "--bus", &bus.plain_address()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("hint: is one running"), "{said}");
}

#[test]
fn terminal_commands_print_json_that_programs_can_read() {
    if let Some(why) = cannot() {
        skip!("{why}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let bus = Bus::new();
        let shielded = Shielded::new("build");
        shielded.net.serve_tcp(443);
        let (_bridge, client) = shielded.bridge(&bus, &[]).await;
        assert!(!shielded.net.tcp(V6, 443));
        client.blocked_at(V6, 443).await;
        let json = |arguments: &[&str]| -> serde_json::Value {
            let output = shielded.says(&bus, arguments);
            serde_json::from_slice(&output.stdout).expect("it is JSON")
        };
        let pending = json(&["pending", "--json"]);
        assert_eq!(pending[0]["dest"], V6);
        assert_eq!(pending[0]["request_id"], "build:1");
        assert_eq!(json(&["allow", "1", "--for", "1m", "--json"])["ok"], true);
        assert!(shielded.net.tcp(V6, 443));
        assert_eq!(json(&["pending", "--json"]), serde_json::json!([]));
        let again = shielded.says(&bus, &["allow", "1"]);
        assert_eq!(again.status.code(), Some(2));
        let state = shielded.state().display().to_string();
        let log = shielded.says(&bus, &["log", "build", "--json", "--state-dir", &state]);
        let actions: Vec<_> = String::from_utf8_lossy(&log.stdout)
            .lines()
            .map(|l| {
                serde_json::from_str::<serde_json::Value>(l).unwrap()["action"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(actions[..3], ["up", "blocked", "allowed"]);
        let words = shielded.says(&bus, &["log", "build", "--state-dir", &state]);
        assert!(
            String::from_utf8_lossy(&words.stdout)
                .contains("2001:db8::1  verdict id 1 tcp/443 for 60s")
        );
    });
}
