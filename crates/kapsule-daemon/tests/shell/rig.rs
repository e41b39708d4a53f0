//! The daemon in a machine of its own, and its clients.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::thread::{CapabilitySet, CapabilitySets};
use testbed::machine::{Machine, User};
use testbed::polkit::SystemBus;
use testbed::{Deadline, Incus, Process, within};
use zbus::{Connection, MessageStream, OwnedObjectPath, Proxy, Variant};

const SERVICE: &str = "org.kde.kapsule";
const MANAGER: &str = "org.kde.kapsule.Manager";
const SESSION: &str = "org.kde.kapsule.Session";
const OPERATION: &str = "org.kde.kapsule.Operation";

/// A file of `data/`.
pub fn data(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../data")
        .join(below)
}

/// The daemon, and where it runs. Fields end in their order.
pub struct Rig<'machine> {
    pub daemon: Process,
    pub runtime: tokio::runtime::Runtime,
    pub machine: &'machine Machine,
    pub bus: &'machine SystemBus<'machine>,
}

impl<'machine> Rig<'machine> {
    pub fn start(
        machine: &'machine Machine,
        bus: &'machine SystemBus<'machine>,
        incus: &'machine Incus<'machine>,
        log: &str,
    ) -> Self {
        let mux = testbed::mux_program().unwrap_or_else(|failure| panic!("{failure}"));
        let mux = machine.program("kapsule-dbus-mux").unwrap_or(mux);
        let config = machine.outside("/etc/kapsule-test.toml");
        let text = format!(
            "default_image = \"trixie\"\nprofile_directories = [{:?}]\nsubid_files = []\nmux_program = {mux:?}\nremember_seconds = 2\n",
            data("profiles")
        );
        std::fs::write(&config, text).expect("the machine's own directory");
        let program = machine
            .program("kapsuled")
            .unwrap_or_else(|failure| panic!("{failure}"));
        let mut command = machine.command(program);
        command
            .args(["--bus", "system", "--config", "/etc/kapsule-test.toml"])
            .args(["--data-dir", "/run/kapsule-data"])
            .arg("--incus-socket")
            .arg(incus.socket_inside())
            .env("RUST_LOG", log)
            .env("KAPSULE_TEST_SECRET", "of the daemon's environment");
        let daemon = Process::start(command, "kapsuled", &machine.logs())
            .unwrap_or_else(|failure| panic!("{failure}"));
        let rig = Self {
            daemon,
            runtime: tokio::runtime::Runtime::new().expect("a runtime"),
            machine,
            bus,
        };
        let connection = rig.connect(0);
        within("that the daemon has its name", async {
            let bus = zbus::fdo::DBusProxy::new(&connection)
                .await
                .expect("it is on the bus");
            let mut names = bus
                .receive_name_owner_changed_with_args(&[(0, SERVICE)])
                .await
                .expect("a match");
            use futures_util::StreamExt;
            if !bus
                .name_has_owner(SERVICE.try_into().expect("a name"))
                .await
                .expect("an answer")
            {
                names.next().await;
            }
        });
        rig
    }

    /// A connection to the bus of this user. The way to the socket is root's; the bus sees who connects.
    fn connect(&self, uid: u32) -> Connection {
        let socket = self.bus.socket();
        let stream = std::thread::spawn(move || {
            let uid = rustix::process::Uid::from_raw(uid);
            rustix::thread::set_thread_res_uid(None, uid, None).expect("root may");
            let capabilities = rustix::thread::capabilities(None).expect("our own");
            let effective = CapabilitySet::DAC_OVERRIDE & capabilities.permitted;
            rustix::thread::set_capabilities(
                None,
                CapabilitySets {
                    effective,
                    ..capabilities
                },
            )
            .expect("they are permitted");
            UnixStream::connect(socket).expect("the bus listens")
        })
        .join()
        .expect("it connects");
        let _runtime = self.runtime.enter();
        within("a connection to the bus", async {
            zbus::connection::Builder::unix_stream(stream)
                .user_id(uid)
                .build()
                .await
                .expect("the bus takes it")
        })
    }

    /// A client of this user.
    pub fn client(&self, user: &User) -> Client<'_> {
        Client {
            connection: self.connect(user.uid),
            runtime: &self.runtime,
        }
    }

    /// Makes a container of the image `trixie`, with nothing of the screen, and starts it.
    pub fn create(&self, client: &Client<'_>, name: &str) {
        let options: HashMap<&str, Variant<'_>> =
            HashMap::from([("without", Variant::from(vec!["graphics", "audio", "gpu"]))]);
        client.operation("CreateContainer", &(name, "trixie", options));
        client.start(name);
    }
}

/// Somebody who calls.
pub struct Client<'rig> {
    pub connection: Connection,
    runtime: &'rig tokio::runtime::Runtime,
}

/// Options of a call.
pub type Options<'a> = HashMap<&'a str, Variant<'a>>;

impl Client<'_> {
    pub fn run<T>(&self, awaited: &str, future: impl Future<Output = T>) -> T {
        let _runtime = self.runtime.enter();
        within(awaited, future)
    }

    async fn manager(&self) -> Proxy<'static> {
        Proxy::new(&self.connection, SERVICE, "/org/kde/kapsule", MANAGER)
            .await
            .expect("names that are right")
    }

    /// Somebody's session, as this one reaches it.
    pub fn session_of(&self, shell: &Shell) -> Proxy<'static> {
        let path = shell.session.path().to_owned();
        self.run(
            "a proxy",
            Proxy::new(&self.connection, SERVICE, path, SESSION),
        )
        .expect("names that are right")
    }

    /// A method of the manager that starts an operation, to its end.
    pub fn operation<B: serde::Serialize + zbus::Type>(&self, method: &str, body: &B) {
        self.run(method, async {
            use futures_util::StreamExt;
            let mut signals = MessageStream::for_match_rule(
                zbus::MatchRule::builder()
                    .msg_type(zbus::message::Type::Signal)
                    .interface(OPERATION)
                    .member("Completed")
                    .build()
                    .expect("names"),
                &self.connection,
                None,
            )
            .await
            .expect("a match");
            let path: OwnedObjectPath = self
                .manager()
                .await
                .call(method, body)
                .await
                .unwrap_or_else(|error| panic!("{method}: {error}"));
            loop {
                let message = signals
                    .next()
                    .await
                    .expect("the bus goes on")
                    .expect("a signal");
                if message.header().path().map(|p| p.as_str()) == Some(path.as_str()) {
                    let (done, text): (bool, String) =
                        message.body().deserialize().expect("its signature");
                    assert!(done, "{method}: {text}");
                    return;
                }
            }
        });
    }

    /// Starts a container, unless it runs.
    pub fn start(&self, name: &str) {
        let state: (String, String, String, String, String) =
            self.run("the container's state", async {
                self.manager()
                    .await
                    .call("GetContainerInfo", &(name,))
                    .await
                    .expect("it is there")
            });
        if state.1 != "Running" {
            self.operation("StartContainer", &(name,));
        }
    }

    /// How many containers are listed.
    #[allow(dead_code)]
    pub fn list(&self) -> usize {
        self.run("the list", async {
            let rows: Vec<(String, String, String, String, String)> = self
                .manager()
                .await
                .call("ListContainers", &())
                .await
                .expect("the daemon answers");
            rows.len()
        })
    }

    /// A shell, or a program at a terminal.
    pub fn try_shell(
        &self,
        name: &str,
        argv: &[&str],
        options: Options<'_>,
    ) -> Result<Shell, zbus::Error> {
        self.run("a shell", async {
            let (pty, path): (zbus::OwnedFd, OwnedObjectPath) = self
                .manager()
                .await
                .call("OpenShell", &(name, argv, options))
                .await?;
            let session = Proxy::new(&self.connection, SERVICE, path, SESSION).await?;
            Ok(Shell {
                master: File::from(OwnedFd::from(pty)),
                seen: String::new(),
                session,
            })
        })
    }

    pub fn shell(&self, name: &str, argv: &[&str], options: Options<'_>) -> Shell {
        self.try_shell(name, argv, options)
            .unwrap_or_else(|error| panic!("OpenShell: {error}"))
    }

    /// Starts a command with these descriptors.
    pub fn try_command(
        &self,
        name: &str,
        argv: &[&str],
        options: Options<'_>,
        stdio: [OwnedFd; 3],
    ) -> Result<Proxy<'static>, zbus::Error> {
        let [stdin, stdout, stderr] = stdio.map(zbus::Fd::from);
        self.run("a command", async {
            let path: OwnedObjectPath = self
                .manager()
                .await
                .call("RunCommand", &(name, argv, options, stdin, stdout, stderr))
                .await?;
            Proxy::new(&self.connection, SERVICE, path, SESSION).await
        })
    }

    /// Runs a command in `box` to its end: its status, what it said on stdout, and on stderr.
    pub fn command(
        &self,
        argv: &[&str],
        options: Options<'_>,
        input: &str,
    ) -> (i32, String, String) {
        self.command_in("box", argv, options, input)
    }

    pub fn command_in(
        &self,
        name: &str,
        argv: &[&str],
        options: Options<'_>,
        input: &str,
    ) -> (i32, String, String) {
        use std::io::Write;
        let (stdin, mut feed) = std::io::pipe().expect("a pipe");
        let (stdout, out) = std::io::pipe().expect("a pipe");
        let (stderr, err) = std::io::pipe().expect("a pipe");
        feed.write_all(input.as_bytes()).expect("it has room");
        drop(feed);
        let session = self
            .try_command(name, argv, options, [stdin.into(), out.into(), err.into()])
            .unwrap_or_else(|error| panic!("RunCommand: {error}"));
        let errors = std::thread::spawn(move || read_all(stderr));
        let said = read_all(stdout);
        let status = self.wait(&session);
        (status, said, errors.join().expect("it reads"))
    }

    /// A shell script's standard output; it has to end well.
    #[track_caller]
    pub fn script(&self, script: &str) -> String {
        let (status, said, errors) = self.command(&["sh", "-c", script], Options::new(), "");
        assert_eq!(status, 0, "{script}\n{said}\n{errors}");
        said
    }

    pub fn wait(&self, session: &Proxy<'_>) -> i32 {
        self.run("the end of a program", async {
            session.call("Wait", &()).await.expect("it is our session")
        })
    }

    pub fn call<B: serde::Serialize + zbus::Type>(
        &self,
        session: &Proxy<'_>,
        method: &str,
        body: &B,
    ) -> Result<(), zbus::Error> {
        self.run(method, async { session.call(method, body).await })
    }
}

/// A terminal with something at its other end.
pub struct Shell {
    pub master: File,
    seen: String,
    pub session: Proxy<'static>,
}

impl Shell {
    /// Types.
    pub fn send(&mut self, text: &str) {
        use std::io::Write;
        self.master
            .write_all(text.as_bytes())
            .expect("somebody is there");
    }

    /// Reads until this has come after all that was looked at before; gives what came up to it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let deadline = Deadline::usual();
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(
                deadline.wait_readable(&[self.master.as_fd()]).is_some(),
                "'{text}' did not come: {}",
                self.seen
            );
            match self.master.read(&mut buffer) {
                Ok(count) if count > 0 => self
                    .seen
                    .push_str(&String::from_utf8_lossy(&buffer[..count])),
                other => panic!("'{text}' did not come ({other:?}): {}", self.seen),
            }
        }
    }
}

/// What comes, to the end, which has to come in time.
#[track_caller]
pub fn read_all(mut pipe: std::io::PipeReader) -> String {
    let deadline = Deadline::usual();
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        assert!(
            deadline.wait_readable(&[pipe.as_fd()]).is_some(),
            "no end after: {}",
            String::from_utf8_lossy(&text)
        );
        match pipe.read(&mut buffer) {
            Ok(0) => return String::from_utf8_lossy(&text).into_owned(),
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(error) => panic!("reading a pipe: {error}"),
        }
    }
}
