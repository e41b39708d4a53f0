//! A broker with real portals whose daemons are killed: what it started itself, and what the host has.

#[allow(dead_code, reason = "shared by tests, of which each needs a part")]
#[path = "../portals/backend.rs"]
mod backend;
#[allow(dead_code, reason = "shared by tests, of which each needs a part")]
#[path = "../rig/broker.rs"]
mod broker;
#[allow(dead_code, reason = "shared by tests, of which each needs a part")]
#[path = "../portals/desktop.rs"]
mod desktop;
#[allow(dead_code, reason = "shared by tests, of which each needs a part")]
#[path = "../rig/raw_guest.rs"]
mod raw_guest;

use std::path::{Path, PathBuf};
use std::time::Duration;

use backend::Value;
use broker::{Broker, BrokerOptions};
use dbus_wire::Body;
use desktop::Desktop;
use raw_guest::{Method, RawGuest};
use rustix::process::{Pid, Signal, kill_process};
use sidebus::wire::Token;
use testbed::{Deadline, Received, tools};

/// A host with a desktop, the broker on it, and an agent's session.
struct Bed {
    broker: Broker,
    desktop: Desktop,
    runtime: tokio::runtime::Runtime,
    port: PathBuf,
    session: Token,
    _control: RawGuest,
}

/// Skips a test where the host's portals cannot be had.
macro_rules! needs_portals {
    () => {
        testbed::needs!(
            tools::DBUS_DAEMON,
            tools::PORTAL,
            tools::PERMISSION_STORE,
            tools::DOCUMENT_PORTAL,
        );
        if let Err(error) = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
        {
            testbed::skip!("/dev/fuse cannot be opened ({error}), so nothing can be mounted");
        }
    };
}

impl Bed {
    fn start() -> Bed {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let desktop = runtime.block_on(Desktop::start());
        let options = BrokerOptions {
            host_bus: Some(desktop.bus.address().to_owned()),
            ..BrokerOptions::default()
        };
        let broker = Broker::start(&desktop.dir, &options);
        let port = broker.port_path();
        let (control, session) = RawGuest::control(&port);
        Bed {
            broker,
            desktop,
            runtime,
            port,
            session,
            _control: control,
        }
    }

    fn client(&self) -> RawGuest {
        RawGuest::on_the_bus(&self.port, self.session).0
    }

    /// A daemon's process, once it runs and is another than `before`.
    fn daemon(&self, name: &str, before: Option<u64>) -> u64 {
        let deadline = Deadline::after(Duration::from_secs(30));
        loop {
            let status = self.broker.status();
            let daemons = status["daemons"].as_array().cloned().unwrap_or_default();
            let pid = daemons
                .iter()
                .find(|daemon| daemon["name"] == name)
                .and_then(|daemon| daemon["pid"].as_u64());
            match pid {
                Some(pid) if Some(pid) != before => return pid,
                _ => assert!(!deadline.left().is_zero(), "{name} runs: {status}"),
            }
        }
    }

    /// Kills a daemon, and waits until there is another.
    fn kill(&self, name: &str) {
        let pid = self.daemon(name, None);
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        kill_process(number.expect("a process"), Signal::KILL).expect("it runs");
        self.daemon(name, Some(pid));
    }

    /// Chooses `file`, as a guest and the person do; gives back the Response.
    fn choose(&self, client: &mut RawGuest, file: &Path) -> Received {
        let uri = format!("file://{}", file.display());
        self.desktop
            .backend
            .succeed("FileChooser.OpenFile", [("uris", Value::from(vec![uri]))]);
        client.call(open_file(), &choose_what()).returned();
        loop {
            let message = client.message();
            if message.header().member == Some("Response") {
                return message;
            }
        }
    }

    /// Chooses until it works: what was killed a moment ago is being started again.
    #[track_caller]
    fn a_file_can_be_chosen(&self, file: &Path) {
        let deadline = Deadline::after(Duration::from_secs(30));
        loop {
            let mut client = self.client();
            let response = self.choose(&mut client, file);
            let code = response
                .reader()
                .u32()
                .expect("a Response begins with its code");
            let body = String::from_utf8_lossy(response.message.body()).into_owned();
            if code == 0 && body.contains("/run/sidebus/documents/") {
                let view = self.broker.runtime_dir().join("doc/by-app/vm.test");
                let (_, rest) = body
                    .split_once("/run/sidebus/documents/")
                    .expect("it is there");
                let path: String = rest.chars().take_while(|letter| *letter != '\0').collect();
                let text = std::fs::read_to_string(view.join(&path)).expect("the document");
                assert_eq!(text, "the person's");
                return;
            }
            assert!(!deadline.left().is_zero(), "{code}: {body}");
        }
    }
}

fn open_file() -> Method<'static> {
    Method::of_portal("org.freedesktop.portal.FileChooser", "OpenFile")
}

fn choose_what() -> Body {
    Body::new().str("").str("Choose").dict_sv(|_| {})
}

#[test]
fn files_can_be_chosen_again_after_each_daemon_was_killed() {
    needs_portals!();
    let bed = Bed::start();
    let file = bed.desktop.file("chosen.txt", "the person's");
    bed.a_file_can_be_chosen(&file);
    for daemon in ["xdg-permission-store", "xdg-document-portal"] {
        bed.kill(daemon);
        bed.a_file_can_be_chosen(&file);
    }
    if tools::VIRTIOFSD.find().is_some() {
        bed.kill("virtiofsd");
        bed.a_file_can_be_chosen(&file);
    }
}

#[test]
fn a_request_is_answered_when_the_document_portal_died_while_the_person_chose() {
    needs_portals!();
    let bed = Bed::start();
    let file = bed.desktop.file("chosen.txt", "the person's");
    let uri = format!("file://{}", file.display());
    bed.desktop.backend.answer("FileChooser.OpenFile", |_| None);
    let mut client = bed.client();
    client.call(open_file(), &choose_what()).returned();
    bed.runtime
        .block_on(bed.desktop.backend.called("FileChooser.OpenFile"));
    // The person still looks at the dialog; it cannot be answered any more by this test's backend, so another client asks,
    // and is answered in the moment in which the daemon is gone.
    let pid = bed.daemon("xdg-document-portal", None);
    let number = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process");
    bed.desktop
        .backend
        .answer("FileChooser.OpenFile", move |_| {
            // It may have been killed by the call before.
            let _ = kill_process(number, Signal::KILL);
            let uris = [("uris", Value::from(vec![uri.clone()]))];
            Some(vec![Value::from(0u32), backend::dictionary(uris)])
        });
    let mut other = bed.client();
    other.call(open_file(), &choose_what()).returned();
    // A file or none, but an answer.
    loop {
        let message = other.message();
        if message.header().member == Some("Response") {
            break;
        }
    }
    bed.daemon("xdg-document-portal", Some(pid));
    bed.a_file_can_be_chosen(&file);
}

#[test]
fn the_hosts_portal_dies_and_the_next_call_finds_the_next_one() {
    needs_portals!();
    let bed = Bed::start();
    let file = bed.desktop.file("chosen.txt", "the person's");
    bed.a_file_can_be_chosen(&file);
    bed.desktop.backend.answer("FileChooser.OpenFile", |_| None);
    let mut client = bed.client();
    client.call(open_file(), &choose_what()).returned();
    bed.runtime
        .block_on(bed.desktop.backend.called("FileChooser.OpenFile"));
    let pid: u32 = bed.runtime.block_on(async {
        let answer = bed
            .desktop
            .backend
            .connection
            .call_method(
                Some("org.freedesktop.DBus"),
                "/org/freedesktop/DBus",
                Some("org.freedesktop.DBus"),
                "GetConnectionUnixProcessID",
                &"org.freedesktop.portal.Desktop",
            )
            .await
            .expect("the portal runs");
        answer.body().deserialize().expect("a number")
    });
    let number = Pid::from_raw(pid.cast_signed()).expect("a process");
    kill_process(number, Signal::KILL).expect("it runs");
    // The request that was open is told that it has ended, not that the person chose nothing.
    loop {
        let message = client.message();
        if message.header().member == Some("Response") {
            assert_eq!(message.reader().u32(), Ok(2), "{message}");
            break;
        }
    }
    bed.a_file_can_be_chosen(&file);
}

#[test]
fn a_broker_that_is_killed_leaves_no_daemon_no_mount_and_no_request() {
    needs_portals!();
    let mut bed = Bed::start();
    bed.desktop.backend.answer("FileChooser.OpenFile", |_| None);
    let mut client = bed.client();
    client.call(open_file(), &choose_what()).returned();
    bed.runtime
        .block_on(bed.desktop.backend.called("FileChooser.OpenFile"));
    let portal = bed.daemon("xdg-document-portal", None);
    let mount = bed.broker.runtime_dir().join("doc").display().to_string();
    bed.broker.process.signal(Signal::KILL);
    bed.broker
        .process
        .wait(Deadline::usual())
        .expect("it is killed");
    bed.runtime.block_on(async {
        let closed = bed.desktop.backend.called("Request.Close");
        tokio::time::timeout(Duration::from_secs(20), closed)
            .await
            .expect("the host closes what the broker had open");
    });
    let deadline = Deadline::usual();
    let is_left = || {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the table of mounts");
        mounts.contains(&mount) || Path::new(&format!("/proc/{portal}")).exists()
    };
    while is_left() {
        assert!(!deadline.left().is_zero(), "the daemon and its mount go");
        std::thread::yield_now();
    }
}
