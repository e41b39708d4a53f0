//! The examples of docs/dbus-router.md for media players, tray icons and menus, with real programs inside and the
//! desktop's side outside.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;

use dbus_wire::body::{BodyError, Reader};
use dbus_wire::message::Builder;
use dbus_wire::{Body, MessageType};
use testbed::tools::{
    DBUS_DAEMON, MPV, PERMISSION_STORE, PLAYERCTL, PORTAL, PYTHON_QT, Tool, XVFB,
};
use testbed::{
    Arrival, DaemonOptions, DbusDaemon, Deadline, Lines, Process, RawClient, TestDir, XDisplay,
    needs, run_to_end, skip,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_dbus-router");

/// A host, a router with rules, and programs on both sides.
struct Desktop {
    dir: TestDir,
    _router: Process,
    daemon: DbusDaemon,
}

impl Desktop {
    fn new(rules: &str) -> Desktop {
        Desktop::with(TestDir::new(), rules, &DaemonOptions::default())
    }

    fn with(dir: TestDir, rules: &str, host: &DaemonOptions) -> Desktop {
        let daemon = DbusDaemon::start(&dir, host).unwrap();
        let rules = dir.write("rules.toml", rules);
        let mut command = Command::new(PROGRAM);
        command
            .arg("--listen")
            .arg(dir.join("bus"))
            .args(["-v", "--host", daemon.address(), "--config"])
            .arg(rules);
        let (router, mut says) =
            Process::start_reading_both(command, "dbus-router", &dir.join("logs")).unwrap();
        says.expect_line("that it is ready", |line| line.contains("ready address"));
        Desktop {
            dir,
            _router: router,
            daemon,
        }
    }

    fn command(&self, program: &str, address: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(self.dir.environment())
            .env("DBUS_SESSION_BUS_ADDRESS", address);
        command
    }

    fn inside(&self, program: &str) -> Command {
        let address = format!("unix:path={}", self.dir.join("bus").display());
        self.command(program, &address)
    }

    fn outside(&self, program: &str) -> Command {
        self.command(program, self.daemon.address())
    }

    fn client(&self) -> RawClient {
        RawClient::open(self.daemon.address())
    }
}

// ── A media player ──

const PLAYER: &str = r#"
container = "box"

[[export]]
name = "org.mpris.MediaPlayer2.*"
rename = "org.mpris.MediaPlayer2.{rest}.{container}"
signals = true
"#;

/// A minute of silence.
fn silence() -> Vec<u8> {
    let (rate, seconds) = (8_000u32, 60);
    let length = rate * seconds;
    let mut wav = Vec::new();
    for part in [&b"RIFF"[..], &(length + 36).to_le_bytes(), b"WAVEfmt "] {
        wav.extend_from_slice(part);
    }
    // PCM, one channel, one byte for each sample.
    for number in [16, 1 | (1 << 16), rate, rate, 1 | (8 << 16)] {
        wav.extend_from_slice(&u32::to_le_bytes(number));
    }
    wav.extend_from_slice(b"data");
    wav.extend_from_slice(&length.to_le_bytes());
    wav.resize(wav.len() + length as usize, 0x80);
    wav
}

#[test]
fn the_host_s_controls_find_and_stop_a_player_inside() {
    needs!(DBUS_DAEMON, MPV, PLAYERCTL);
    let plugin = [
        "/usr/lib/mpv-mpris/mpris.so",
        "/etc/mpv/scripts/mpris.so",
        "/usr/share/mpv/scripts/mpris.so",
        "/usr/lib64/mpv/mpris.so",
    ];
    let Some(plugin) = plugin.map(PathBuf::from).into_iter().find(|it| it.exists()) else {
        skip!("mpv is here, and its plugin for MPRIS is not (Debian: mpv-mpris)");
    };
    let desktop = Desktop::new(PLAYER);
    let mut watcher = desktop.client();
    watcher.add_match("member='NameOwnerChanged',arg0namespace='org.mpris'");
    let mut player = desktop.inside("mpv");
    player
        .args(["--no-config", "--no-video", "--ao=null", "--no-terminal"])
        .arg(format!("--script={}", plugin.display()))
        .arg(desktop.dir.write("silence.wav", silence()));
    let mut player = Process::start(player, "mpv", &desktop.dir.join("logs")).unwrap();
    let name = "org.mpris.MediaPlayer2.mpv.box";
    watcher.expect("the player's name on the host", |it| {
        it.is_signal("org.freedesktop.DBus", "NameOwnerChanged") && it.text() == name
    });
    let playerctl = |arguments: &[&str]| {
        let mut command = desktop.outside("playerctl");
        command.args(arguments);
        run_to_end(command, testbed::deadline::LIMIT).unwrap()
    };
    assert_eq!(playerctl(&["--list-all"]).success().trim(), "mpv.box");
    let mut follow = desktop.outside("playerctl");
    follow.args(["--player=mpv.box", "--follow", "status"]);
    let (mut follow, mut states) =
        Process::start_reading(follow, "playerctl", &desktop.dir.join("logs")).unwrap();
    states.expect_line("that it plays", |line| line == "Playing");
    playerctl(&["--player=mpv.box", "pause"]).success();
    states.expect_line("that it was stopped", |line| line == "Paused");
    playerctl(&["--player=mpv.box", "play"]).success();
    states.expect_line("that it goes on", |line| line == "Playing");
    let length = playerctl(&["--player=mpv.box", "metadata", "mpris:length"]);
    assert_eq!(length.success().trim(), "60000000");
    player.end();
    watcher.expect("the end of the player's name", |it| {
        it.is_signal("org.freedesktop.DBus", "NameOwnerChanged")
            && it.strings()[0] == name
            && it.strings()[2].is_empty()
    });
    follow.end();
}

// ── A tray icon and menus ──

const TRAY: &str = r#"
[[host_routes]]
destination = "org.kde.StatusNotifierWatcher"

[[host_routes]]
destination = "com.canonical.AppMenu.Registrar"

[[export]]
name = "org.kde.StatusNotifierItem-*"
signals = true

[[export_interface]]
interface = "com.canonical.dbusmenu"
signals = true
calls = true
"#;

const PROGRAM_WITH_ICON: &str = r#"
import sys
from PyQt5.QtGui import QIcon, QPixmap
from PyQt5.QtWidgets import QApplication, QMainWindow, QMenu, QSystemTrayIcon

def say(text):
    print(text, flush=True)

application = QApplication(sys.argv)
pixmap = QPixmap(16, 16)
pixmap.fill()
window = QMainWindow()
window.menuBar().addMenu("&File").addAction("&Open").triggered.connect(lambda: say("opened"))
menu = QMenu()
menu.addAction("Pause").triggered.connect(lambda: say("paused"))
icon = QSystemTrayIcon(QIcon(pixmap))
icon.setToolTip("An icon from inside")
icon.setContextMenu(menu)
icon.activated.connect(lambda reason: say("activated"))
window.show()
icon.show()
say("here")
application.exec_()
"#;

/// What programs tell the desktop of.
enum Told {
    /// RegisterStatusNotifierItem: by whom, and which name.
    Icon { name: String },
    /// RegisterWindow: by whom, and which object.
    Menu { sender: String, path: String },
}

/// A desktop's watcher of tray icons and its registrar of menus.
fn panel(mut client: RawClient) -> mpsc::Receiver<Told> {
    const XML: &str = "<node><interface name=\"org.kde.StatusNotifierWatcher\">\
        <method name=\"RegisterStatusNotifierItem\"><arg type=\"s\" direction=\"in\"/></method>\
        <property name=\"IsStatusNotifierHostRegistered\" type=\"b\" access=\"read\"/>\
        </interface></node>";
    for name in [
        "org.kde.StatusNotifierWatcher",
        "com.canonical.AppMenu.Registrar",
    ] {
        assert_eq!(client.request_name(name, 0), 1);
    }
    let (sender, told) = mpsc::channel();
    std::thread::spawn(move || {
        let hour = std::time::Duration::from_secs(3600);
        while let Arrival::Message(message) = client.next_until(Deadline::after(hour)) {
            let header = message.header();
            if header.kind != MessageType::MethodCall {
                continue;
            }
            let body = match header.member {
                Some("Introspect") => Body::new().str(XML),
                Some("Get") => Body::new().variant(|it| it.boolean(true)),
                Some("RegisterStatusNotifierItem") => {
                    let name = message.text().to_owned();
                    let _ = sender.send(Told::Icon { name });
                    Body::new()
                }
                Some("RegisterWindow") => {
                    let mut reader = message.reader();
                    let _window = reader.u32().unwrap();
                    let path = reader.object_path().unwrap().to_owned();
                    let sender_name = header.sender.unwrap().to_owned();
                    let _ = sender.send(Told::Menu {
                        sender: sender_name,
                        path,
                    });
                    Body::new()
                }
                _ => Body::new(),
            };
            client.answer(&message, &body);
        }
    });
    told
}

/// Collects the entries of a menu's layout, `(ia{sv}av)`: their labels, without marks of keys, and their numbers.
fn entries(reader: &mut Reader<'_>, found: &mut BTreeMap<String, i32>) -> Result<(), BodyError> {
    reader.struct_(|entry| {
        let id = entry.i32()?;
        entry.array(|property| {
            property.struct_(|pair| {
                let key = pair.str()?;
                let mut value = pair.variant()?;
                if key == "label" {
                    found.insert(value.str()?.replace('_', ""), id);
                }
                Ok(())
            })
        })?;
        entry.array(|child| entries(&mut child.variant()?, found))
    })
}

/// Chooses an entry of a menu, as a panel does.
fn choose(host: &mut RawClient, destination: &str, path: &str, label: &str) {
    let call = |member| {
        Builder::method_call(path, member)
            .interface("com.canonical.dbusmenu")
            .destination(destination)
    };
    // Of the children to any depth, every property.
    let whole = Body::new().i32(0).i32(-1).strs([""; 0]);
    let layout = host.call(call("GetLayout").body(&whole)).returned();
    let mut reader = layout.reader();
    reader.u32().unwrap();
    let mut found = BTreeMap::new();
    entries(&mut reader, &mut found).unwrap();
    let id = found
        .get(label)
        .unwrap_or_else(|| panic!("no {label} in the menu: {found:?}"));
    let event = Body::new()
        .i32(*id)
        .str("clicked")
        .variant(|it| it.i32(0))
        .u32(0);
    host.call(call("Event").body(&event)).returned();
}

fn property(host: &mut RawClient, destination: &str, name: &str) -> testbed::Received {
    let body = Body::new().str("org.kde.StatusNotifierItem").str(name);
    let get = Builder::method_call("/StatusNotifierItem", "Get")
        .interface("org.freedesktop.DBus.Properties")
        .destination(destination);
    host.call(get.body(&body)).returned()
}

#[test]
fn a_tray_icon_and_menus_of_a_program_inside_work_on_the_host() {
    needs!(DBUS_DAEMON, XVFB, PYTHON_QT);
    let display = XDisplay::start().unwrap();
    let desktop = Desktop::new(TRAY);
    let told = panel(desktop.client());
    let mut host = desktop.client();
    let script = desktop.dir.write("icon.py", PROGRAM_WITH_ICON);
    let python = PYTHON_QT.find().unwrap();
    let mut program = desktop.inside(python.to_str().unwrap());
    program
        .arg(script)
        .env("DISPLAY", display.name())
        .env("QT_QPA_PLATFORM", "xcb");
    let (mut program, mut says): (Process, Lines) =
        Process::start_reading(program, "icon.py", &desktop.dir.join("logs")).unwrap();
    says.expect_line("that it is there", |line| line == "here");
    let (mut icon, mut menu) = (None, None);
    while icon.is_none() || menu.is_none() {
        match told.recv_timeout(testbed::deadline::LIMIT) {
            Ok(Told::Icon { name }) => icon = Some(name),
            Ok(Told::Menu { sender, path }) => menu = Some((sender, path)),
            Err(_) => panic!("{}", program.failure("no icon, or no menu, was introduced")),
        }
    }
    let (icon, (sender, path)) = (icon.unwrap(), menu.unwrap());
    // The name has the program's process id in it, and is there on the host.
    assert_eq!(
        icon,
        format!("org.kde.StatusNotifierItem-{}-1", program.id())
    );
    let owner = host
        .name_owner(&icon)
        .expect("the icon's name has an owner");
    // Qt has a connection of its own for each icon: that of the window's menu has no name, so that the rule about the
    // interface lets it in.
    assert_ne!(owner, sender);
    let title = property(&mut host, &icon, "ToolTip");
    assert!(
        String::from_utf8_lossy(title.message.body()).contains("An icon from inside"),
        "{title}"
    );
    let activate = Builder::method_call("/StatusNotifierItem", "Activate")
        .interface("org.kde.StatusNotifierItem")
        .destination(&icon);
    host.call(activate.body(&Body::new().i32(1).i32(1)))
        .returned();
    says.expect_line("that the icon was chosen", |line| line == "activated");
    let menu = property(&mut host, &icon, "Menu");
    let object = menu
        .reader()
        .variant()
        .unwrap()
        .object_path()
        .unwrap()
        .to_owned();
    choose(&mut host, &icon, &object, "Pause");
    says.expect_line("that the icon's menu was used", |line| line == "paused");
    choose(&mut host, &sender, &path, "Open");
    says.expect_line("that the window's menu was used", |line| line == "opened");
    host.add_match(&format!("member='NameOwnerChanged',arg0='{icon}'"));
    program.end();
    host.expect_signal("org.freedesktop.DBus", "NameOwnerChanged");
}

// ── Portals ──

const PORTALS: &str = r#"
app_id = "org.example.App"

[[host_routes]]
destination = "org.freedesktop.portal.*"
"#;

const BACKEND: &str = "org.freedesktop.impl.portal.desktop.test";
const DESKTOP: &str = "/org/freedesktop/portal/desktop";

/// The host's side of the portal: a person who chooses one file, and keeps one secret.
fn backend(mut client: RawClient) {
    assert_eq!(client.request_name(BACKEND, 0), 1);
    std::thread::spawn(move || {
        let hour = std::time::Duration::from_secs(3600);
        while let Arrival::Message(mut message) = client.next_until(Deadline::after(hour)) {
            if message.header().kind != MessageType::MethodCall {
                continue;
            }
            let done = |results: Body| Body::new().u32(0).append(&results);
            let member = message.header().member.map(str::to_owned);
            let body = match member.as_deref() {
                Some("OpenFile") => done(Body::new().dict_sv(|results| {
                    results.entry("uris", |it| it.strs(["file:///chosen/by/a/person"]));
                })),
                Some("RetrieveSecret") => {
                    use std::io::Write;
                    let mut into = std::fs::File::from(message.fds.remove(0));
                    into.write_all(b"a host's secret").unwrap();
                    done(Body::new().dict_sv(|_| {}))
                }
                // Properties of the backend.
                _ => Body::new().dict_sv(|_| {}),
            };
            client.answer(&message, &body);
        }
    });
}

/// What the portal's Response to the request of this token says.
fn response(client: &mut RawClient, token: &str) -> testbed::Received {
    let sender = client
        .unique_name()
        .trim_start_matches(':')
        .replace('.', "_");
    let path = format!("{DESKTOP}/request/{sender}/{token}");
    let response = client.expect(&format!("the Response of {path}"), |it| {
        it.is_signal("org.freedesktop.portal.Request", "Response")
            && it.header().path == Some(&path)
    });
    assert_eq!(response.number(), 0);
    response
}

#[test]
fn a_portal_of_the_host_serves_a_program_inside_and_its_backend_is_out_of_reach() {
    needs!(DBUS_DAEMON, PORTAL, PERMISSION_STORE);
    let dir = TestDir::new();
    dir.write(
        "portals/test.portal",
        format!(
            "[portal]\nDBusName={BACKEND}\nUseIn=test\nInterfaces=\
             org.freedesktop.impl.portal.FileChooser;org.freedesktop.impl.portal.Secret\n"
        ),
    );
    for (name, tool) in [
        ("org.freedesktop.portal.Desktop", &PORTAL),
        (
            "org.freedesktop.impl.portal.PermissionStore",
            &PERMISSION_STORE,
        ),
    ] {
        let program = |tool: &Tool| tool.find().unwrap().display().to_string();
        let text = format!("[D-BUS Service]\nName={name}\nExec={}\n", program(tool));
        dir.write(format!("services/{name}.service"), text);
    }
    let host = DaemonOptions {
        service_dirs: vec![dir.join("services")],
        environment: vec![
            (
                "XDG_DESKTOP_PORTAL_DIR".to_owned(),
                dir.join("portals").display().to_string(),
            ),
            ("XDG_CURRENT_DESKTOP".to_owned(), "test".to_owned()),
        ],
        ..DaemonOptions::default()
    };
    let desktop = Desktop::with(dir, PORTALS, &host);
    backend(desktop.client());
    let mut client = RawClient::open(&format!("unix:path={}", desktop.dir.join("bus").display()));
    client.add_match("type='signal',interface='org.freedesktop.portal.Request'");
    let call = |interface, member| {
        Builder::method_call(DESKTOP, member)
            .interface(interface)
            .destination("org.freedesktop.portal.Desktop")
    };
    let options = |token: &str| {
        Body::new().dict_sv(|options| {
            options.entry("handle_token", |it| it.str(token));
        })
    };
    // The first call starts the portal on the host; its Response comes from there, to this client alone.
    let open = Body::new().str("").str("Choose").append(&options("choose"));
    let chooser = "org.freedesktop.portal.FileChooser";
    client
        .call(call(chooser, "OpenFile").body(&open))
        .returned();
    let chosen = response(&mut client, "choose");
    assert!(
        String::from_utf8_lossy(chosen.message.body()).contains("file:///chosen/by/a/person"),
        "{chosen}"
    );
    let (mut reader, writer) = std::io::pipe().unwrap();
    let retrieve = Body::new().unix_fd(0).append(&options("secret"));
    let secret = call("org.freedesktop.portal.Secret", "RetrieveSecret").body(&retrieve);
    client
        .call_with_fds(secret, &[std::os::fd::AsFd::as_fd(&writer)])
        .returned();
    drop(writer);
    response(&mut client, "secret");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    assert_eq!(text, "a host's secret");
    let direct = Builder::method_call(DESKTOP, "OpenFile")
        .interface("org.freedesktop.impl.portal.FileChooser")
        .destination(BACKEND);
    assert_eq!(
        client.call(direct.body(&open)).failed(),
        "org.freedesktop.DBus.Error.AccessDenied"
    );
}
