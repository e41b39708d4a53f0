//! What the program says and does when a daemon says this or that: with a daemon in the test, on a bus of its
//! own, because the real one cannot be made to tell lies, or to die at the right moment.
//!
//! With the real daemon: `end_to_end`.

use std::collections::HashMap;
use std::pin::Pin;
use std::process::Command;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use testbed::{
    DaemonOptions, DbusDaemon, Deadline, Output, Process, Terminal, TestDir, run_to_end,
};
use zbus::object_server::SignalEmitter;
use zbus::{Connection, ObjectPath, OwnedObjectPath, OwnedVariant, interface};

const OPERATION: &str = "/org/kde/kapsule/operations/1";

/// What the daemon does once an operation was begun.
///
/// With its connection, and the address of the bus.
type Play = fn(Connection, String) -> Work;
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Manager {
    connection: Arc<Mutex<Option<Connection>>>,
    address: String,
    play: Play,
}

#[interface(name = "org.kde.kapsule.Manager")]
impl Manager {
    async fn list_containers(&self) -> Vec<(String, String, String, String, String)> {
        let row = |name: &str, status: &str, image: &str| {
            let text = [name, status, image, "2026-11-20T10:13:58Z", "DbusMux"].map(str::to_owned);
            let [name, status, image, created, mode] = text;
            (name, status, image, created, mode)
        };
        vec![
            row("work", "Running", "images:debian/13"),
            row("bad\u{1b}[2J\u{9b}31m", "Stopped", "a|b\nc"),
        ]
    }

    async fn list_snapshots(&self, name: String) -> Vec<(String, u64, bool)> {
        let of = |snapshot: &str| (format!("{name}-{snapshot}"), 0, false);
        vec![of("monday"), of("tuesday"), of("$(reboot)")]
    }

    async fn create_container(
        &self,
        _name: String,
        _image: String,
        _options: HashMap<String, OwnedVariant>,
    ) -> OwnedObjectPath {
        let connection = self.connection.lock().expect("not poisoned").clone();
        let connection = connection.expect("we are served");
        tokio::spawn((self.play)(connection, self.address.clone()));
        ObjectPath::from_static_str_unchecked(OPERATION).into()
    }

    async fn delete_container(
        &self,
        name: String,
        _force: bool,
    ) -> zbus::fdo::Result<OwnedObjectPath> {
        Err(zbus::fdo::Error::Failed(format!(
            "container {name}\u{1b}]0;title\u{7}\n  hint: look at it"
        )))
    }
}

struct Operation {
    status: &'static str,
    cancelled: mpsc::Sender<()>,
}

#[interface(name = "org.kde.kapsule.Operation")]
impl Operation {
    #[zbus(property)]
    async fn status(&self) -> &str {
        self.status
    }

    #[zbus(property)]
    async fn error_message(&self) -> &str {
        "it was over before you looked"
    }

    async fn cancel(&self, #[zbus(connection)] connection: &Connection) -> bool {
        let _ = self.cancelled.send(());
        let emitter = emitter(connection);
        let _ = emitter.completed(false, "cancelled").await;
        true
    }

    #[zbus(signal)]
    async fn message(
        emitter: &SignalEmitter<'_>,
        kind: i32,
        text: &str,
        indent: i32,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn progress_started(
        emitter: &SignalEmitter<'_>,
        id: &str,
        description: &str,
        total: i32,
        indent: i32,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn progress_update(
        emitter: &SignalEmitter<'_>,
        id: &str,
        current: i32,
        rate: f64,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn progress_completed(
        emitter: &SignalEmitter<'_>,
        id: &str,
        success: bool,
        message: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn completed(
        emitter: &SignalEmitter<'_>,
        success: bool,
        message: &str,
    ) -> zbus::Result<()>;
}

fn emitter(connection: &Connection) -> SignalEmitter<'static> {
    SignalEmitter::new(connection, OPERATION).expect("a path")
}

/// A bus with such a daemon.
struct Scene {
    dir: TestDir,
    bus: DbusDaemon,
    cancelled: mpsc::Receiver<()>,
}

impl Scene {
    /// `status`: what the operation says of itself when it is looked at.
    fn start(status: &'static str, play: Play) -> Scene {
        let dir = TestDir::new();
        let bus = DbusDaemon::start(&dir, &DaemonOptions::default())
            .unwrap_or_else(|failure| panic!("{failure}"));
        let address = bus.address().to_owned();
        let (tell, cancelled) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let slot = Arc::new(Mutex::new(None));
                let manager = Manager {
                    connection: slot.clone(),
                    address: address.clone(),
                    play,
                };
                let operation = Operation {
                    status,
                    cancelled: tell,
                };
                let connection = zbus::connection::Builder::address(address.as_str())
                    .serve_at("/org/kde/kapsule", manager)
                    .serve_at(OPERATION, operation)
                    .name("org.kde.kapsule")
                    .build()
                    .await
                    .expect("it is served");
                *slot.lock().expect("not poisoned") = Some(connection.clone());
                ready.send(()).expect("the test waits");
                connection.closed().await;
            });
        });
        is_ready.recv().expect("the daemon is served");
        Scene {
            dir,
            bus,
            cancelled,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kapsule"));
        command
            .args(arguments)
            .env_clear()
            .envs(self.dir.environment())
            .env("KAPSULE_BUS", self.bus.address());
        command
    }

    #[track_caller]
    fn kapsule(&self, arguments: &[&str]) -> Output {
        run_to_end(self.command(arguments), testbed::deadline::LIMIT)
            .unwrap_or_else(|failure| panic!("{failure}"))
    }
}

fn work_that_succeeds(connection: Connection, _: String) -> Work {
    Box::pin(async move {
        let emitter = emitter(&connection);
        let _ = emitter.message(0, "Fetching \u{1b}[31mthe image", 0).await;
        let _ = emitter.progress_started("p", "Downloading", 100, 1).await;
        let _ = emitter.progress_update("p", 42, 0.0).await;
        let _ = emitter.progress_completed("p", true, "Downloaded").await;
        let _ = emitter.message(2, "no GPU here", 1).await;
        let _ = emitter.message(5, "it is left out", 1).await;
        let _ = emitter.completed(true, "").await;
    })
}

fn work_that_goes_on(connection: Connection, _: String) -> Work {
    Box::pin(async move {
        let emitter = emitter(&connection);
        let _ = emitter.message(0, "working", 0).await;
    })
}

#[test]
fn progress_is_lines_where_there_is_no_terminal() {
    let scene = Scene::start("running", work_that_succeeds);
    let out = scene.kapsule(&["create", "work"]);
    assert_eq!(
        out.stderr,
        "Fetching \\u{1b}[31mthe image\n  Downloading\nDownloaded\n  warning: no GPU here\n  hint: it is left out\n"
    );
    assert_eq!(out.success(), "work is there\nnext: kapsule enter work\n");
}

#[test]
fn progress_is_a_bar_on_a_terminal_and_colours_are_there_only() {
    let scene = Scene::start("running", work_that_succeeds);
    let command = scene.command(&["create", "work"]);
    let mut terminal = Terminal::start(&command, &scene.dir.join("logs"))
        .unwrap_or_else(|failure| panic!("{failure}"));
    let (status, seen) = terminal.wait();
    assert!(status.success(), "{seen}");
    assert!(seen.contains("Fetching \\u{1b}[31mthe image"), "{seen:?}");
    assert!(
        seen.contains("\u{1b}[33mwarning: \u{1b}[0mno GPU here"),
        "{seen:?}"
    );
    assert!(seen.contains("next: kapsule enter work"), "{seen:?}");
}

#[test]
fn an_operation_that_was_over_at_once_is_not_waited_for() {
    let scene = Scene::start("failed", |_, _| Box::pin(async {}));
    let out = scene.kapsule(&["create", "work"]);
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(out.stderr, "error: it was over before you looked\n");
}

#[test]
fn a_signal_of_somebody_else_is_not_believed() {
    let scene = Scene::start("running", |connection, address| {
        Box::pin(async move {
            let stranger = zbus::connection::Builder::address(address.as_str())
                .build()
                .await
                .expect("the bus takes us");
            let lie = emitter(&stranger);
            let _ = lie.completed(true, "").await;
            // By the answer everything before has gone through the bus.
            let _ = stranger
                .call_method(
                    Some("org.freedesktop.DBus"),
                    "/",
                    Some("org.freedesktop.DBus"),
                    "GetId",
                    &(),
                )
                .await;
            let _ = emitter(&connection)
                .completed(false, "the disk is full")
                .await;
        })
    });
    let out = scene.kapsule(&["create", "work"]);
    assert_eq!(out.status.code(), Some(1), "{}", out.both());
    assert_eq!(out.stderr, "error: the disk is full\n");
}

#[test]
fn ctrl_c_cancels_the_operation() {
    let scene = Scene::start("running", work_that_goes_on);
    let (mut process, mut lines) = Process::start_reading_both(
        scene.command(&["create", "work"]),
        "kapsule",
        &scene.dir.join("logs"),
    )
    .unwrap_or_else(|failure| panic!("{failure}"));
    lines.expect_line("the operation's beginning", |line| line == "working");
    process.signal(Signal::INT);
    lines.expect_line("that it is cancelled", |line| {
        line == "error: creating container work: cancelled"
    });
    let status = process.wait(Deadline::usual()).expect("it ends");
    assert_eq!(status.code(), Some(130));
    assert!(scene.cancelled.try_recv().is_ok(), "the daemon was asked");
}

#[test]
fn a_daemon_that_goes_away_is_told_of() {
    let scene = Scene::start("running", |connection, _| {
        Box::pin(async move {
            let _ = emitter(&connection).message(0, "working", 0).await;
            let _ = connection.release_name("org.kde.kapsule").await;
        })
    });
    let out = scene.kapsule(&["create", "work"]);
    assert_eq!(out.status.code(), Some(1), "{}", out.both());
    assert!(
        out.stderr
            .contains("error: the Kapsule daemon ended while it was creating container work"),
        "{}",
        out.stderr
    );
}

#[test]
fn no_daemon_and_no_bus_are_told_apart() {
    let dir = TestDir::new();
    let bus = DbusDaemon::start(&dir, &DaemonOptions::default())
        .unwrap_or_else(|failure| panic!("{failure}"));
    let kapsule = |bus: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kapsule"));
        command
            .args(arguments)
            .env_clear()
            .envs(dir.environment())
            .env("KAPSULE_BUS", bus);
        run_to_end(command, testbed::deadline::LIMIT).unwrap_or_else(|failure| panic!("{failure}"))
    };
    let out = kapsule(bus.address(), &["list"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        out.stderr
            .starts_with("error: the Kapsule daemon does not run"),
        "{}",
        out.stderr
    );
    let out = kapsule(bus.address(), &["run", "work", "true"]);
    assert_eq!(out.status.code(), Some(125), "{}", out.stderr);
    let out = kapsule("unix:path=/nonexistent/bus", &["list"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        out.stderr.starts_with("error: connecting to the bus"),
        "{}",
        out.stderr
    );
    let out = kapsule(bus.address(), &["lisst"]);
    assert_eq!(out.status.code(), Some(2), "{}", out.stderr);
}

#[test]
fn names_and_errors_from_elsewhere_move_no_cursor() {
    let scene = Scene::start("running", work_that_goes_on);
    let table = scene.kapsule(&["list"]).success();
    assert_eq!(
        table,
        "NAME                   STATUS   IMAGE             MODE     CREATED\n\
         bad\\u{1b}[2J\\u{9b}31m  Stopped  a|b\\u{a}c         DbusMux  2026-11-20 10:13\n\
         work                   Running  images:debian/13  DbusMux  2026-11-20 10:13\n"
    );
    let json = scene.kapsule(&["list", "--json"]).success();
    assert!(
        !json.chars().any(|c| c != '\n' && c.is_control()),
        "{json:?}"
    );
    let list: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(list[0]["name"], "bad\u{1b}[2J\u{9b}31m");
    let rows = scene
        .kapsule(&["distrobox", "list", "--no-color"])
        .success();
    assert!(
        rows.lines().all(|line| line.split('|').count() == 4),
        "{rows}"
    );

    let out = scene.kapsule(&["rm", "work"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        !out.stderr.contains('\u{1b}') && !out.stderr.contains('\u{7}'),
        "{:?}",
        out.stderr
    );
    assert!(
        out.stderr.ends_with("\n  hint: look at it\n"),
        "{:?}",
        out.stderr
    );
}

#[test]
fn a_shell_completes_names_of_containers_and_says_nothing_without_a_daemon() {
    let scene = Scene::start("running", work_that_goes_on);
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_kapsule"));
    let directory = program.parent().expect("it is in one");
    let at_bash = |bus: &str| {
        let mut bash = Command::new("bash");
        bash.args(["--noprofile", "--norc", "-i"])
            .env_clear()
            .envs(scene.dir.environment())
            .env("PATH", format!("{}:/usr/bin:/bin", directory.display()))
            .env("INPUTRC", "/dev/null")
            .env("PS1", "ready> ")
            .env("KAPSULE_BUS", bus);
        let mut terminal = Terminal::start(&bash, &scene.dir.join("logs"))
            .unwrap_or_else(|failure| panic!("{failure}"));
        terminal.expect("ready> ");
        terminal.send("source <(kapsule completions bash); echo sour''ced\n");
        terminal.expect("sourced");
        terminal.expect("ready> ");
        terminal
    };
    let mut terminal = at_bash(scene.bus.address());
    // Ctrl-U takes the line away, and what comes next is seen to be another.
    for (typed, completed) in [
        ("kapsule ent", "er "),
        ("kapsule enter w", "ork "),
        ("kapsule run --root w", "ork "),
        ("kapsule stop ", "work "),
        ("kapsule restore work work-m", "onday "),
        ("kapsule config default_c", "ontainer "),
        ("kapsule stop work --fo", "rce "),
        ("kapsule create --image trixie --he", "lp "),
    ] {
        terminal.send(&format!("{typed}\t"));
        terminal.expect(&format!("{typed}{completed}"));
        terminal.send("\x15");
    }
    // All that there is, and nothing that a shell or a terminal would obey.
    terminal.send("kapsule restore work work-\t\t");
    let offered = terminal.expect("work-tuesday");
    assert!(offered.contains("work-monday"), "{offered:?}");
    terminal.send("\x15");
    assert!(!terminal.seen().contains("reboot"), "{:?}", terminal.seen());
    assert!(!terminal.seen().contains("\u{9b}"), "{:?}", terminal.seen());
    drop(terminal);

    let mut terminal = at_bash("unix:path=/nonexistent/bus");
    terminal.send("kapsule enter w\t\x15echo no''thing\n");
    let said = terminal.expect("nothing");
    assert!(!said.contains("error") && !said.contains("bus"), "{said:?}");
}
