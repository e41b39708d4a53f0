//! The service that tests call: it says where it is.

use std::fs::File;
use std::io::{Read, Seek, Write};

use futures_lite::StreamExt;
use testbed::{Lines, Process, World, run_program, within};
use zbus::connection::Builder;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, Message, MessageStream, OwnedFd, OwnedMatchRule, fdo, interface};

/// The name of the service on the host.
pub const OUTSIDE: &str = "org.example.Outside";
/// The name of the service in the container.
pub const INSIDE: &str = "org.example.Inside";
/// Its object.
pub const PATH: &str = "/org/example/Place";
/// Its interface.
pub const INTERFACE: &str = "org.example.Place1";

/// A service that says where it is.
pub struct Place {
    whereabouts: String,
    mood: String,
}

#[interface(name = "org.example.Place1")]
impl Place {
    /// `outside` or `inside`.
    #[zbus(name = "Where")]
    fn whereabouts(&self) -> String {
        self.whereabouts.clone()
    }

    /// The unique name of who asks, as the service sees it.
    fn who_am_i(&self, #[zbus(header)] header: Header<'_>) -> fdo::Result<String> {
        header
            .sender()
            .map(ToString::to_string)
            .ok_or_else(|| fdo::Error::Failed("a call without a sender".to_owned()))
    }

    /// Emits `Announced`.
    async fn announce(
        &self,
        text: &str,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> fdo::Result<()> {
        Self::announced(&emitter, text).await?;
        Ok(())
    }

    /// A file with `text` in it, open for reading.
    fn open(&self, text: &str) -> fdo::Result<OwnedFd> {
        let failed = |error: std::io::Error| fdo::Error::Failed(error.to_string());
        let mut file = tempfile::tempfile().map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.rewind().map_err(failed)?;
        Ok(std::os::fd::OwnedFd::from(file).into())
    }

    /// What is in the file.
    fn read(&self, file: OwnedFd) -> fdo::Result<String> {
        let mut text = String::new();
        File::from(std::os::fd::OwnedFd::from(file))
            .read_to_string(&mut text)
            .map_err(|error| fdo::Error::Failed(error.to_string()))?;
        Ok(text)
    }

    #[zbus(property)]
    fn mood(&self) -> String {
        self.mood.clone()
    }

    #[zbus(property)]
    fn set_mood(&mut self, mood: String) {
        self.mood = mood;
    }

    #[zbus(signal)]
    async fn announced(emitter: &SignalEmitter<'_>, text: &str) -> zbus::Result<()>;
}

/// Connects to the bus at `address`.
#[track_caller]
pub fn connect(address: &str) -> Connection {
    within("a connection", Builder::address(address).build())
        .unwrap_or_else(|error| panic!("connecting to {address}: {error}"))
}

/// Starts the service under `name` at `address`; it runs until the connection goes.
#[track_caller]
pub fn serve(address: &str, name: &str, whereabouts: &str) -> Connection {
    let place = Place {
        whereabouts: whereabouts.to_owned(),
        mood: "calm".to_owned(),
    };
    let service = Builder::address(address)
        .serve_at(PATH, place)
        .name(name)
        .build();
    within("a service", service).unwrap_or_else(|error| panic!("serving {name}: {error}"))
}

/// Runs a program inside `world` to its end, and gives back what it wrote to stdout.
#[track_caller]
pub fn run(world: &World, program: &str, arguments: &[&str]) -> String {
    run_at(world, &world.inside(), program, arguments)
}

/// Runs a program in `world` with `address` as its bus to its end, and gives back what it wrote to stdout.
#[track_caller]
pub fn run_at(world: &World, address: &str, program: &str, arguments: &[&str]) -> String {
    let mut command = world.command(program, address);
    command.args(arguments);
    run_program(command, address).success()
}

/// Starts a program inside `world` that goes on, and reads what it writes to stdout.
#[track_caller]
pub fn start(world: &World, program: &str, arguments: &[&str]) -> (Process, Lines) {
    start_at(world, &world.inside(), program, arguments)
}

/// Starts a program in `world` with `address` as its bus, and reads what it writes to stdout.
#[track_caller]
pub fn start_at(
    world: &World,
    address: &str,
    program: &str,
    arguments: &[&str],
) -> (Process, Lines) {
    let mut command = world.command(program, address);
    command.args(arguments);
    let name = program.rsplit('/').next().unwrap_or(program);
    Process::start_reading(command, name, &world.dir.join("logs"))
        .unwrap_or_else(|failure| panic!("{failure}"))
}

/// Subscribes to what matches `rule`. It is in force when this returns.
#[track_caller]
pub fn subscribe(connection: &Connection, rule: &str) -> MessageStream {
    let rule: OwnedMatchRule = rule.try_into().expect("a match rule");
    within(
        "a subscription",
        MessageStream::for_match_rule(rule, connection, None),
    )
    .unwrap_or_else(|error| panic!("subscribing: {error}"))
}

/// The next message of a subscription.
#[track_caller]
pub fn next(stream: &mut MessageStream, awaited: &str) -> Message {
    within(awaited, stream.next())
        .unwrap_or_else(|| panic!("awaited {awaited}: the connection ended"))
        .unwrap_or_else(|error| panic!("awaited {awaited}: {error}"))
}

/// The services of a world: one inside, and one outside if there is a host.
pub struct Services {
    _inside: Connection,
    _outside: Option<Connection>,
}

impl Services {
    /// Starts them.
    #[track_caller]
    pub fn start(world: &World) -> Services {
        Services {
            _inside: serve(&world.inside(), INSIDE, "inside"),
            _outside: world
                .host
                .is_some()
                .then(|| serve(&world.outside(), OUTSIDE, "outside")),
        }
    }

    /// The names that there are, with what [`Place`] answers there.
    pub fn names(&self) -> Vec<(&'static str, &'static str)> {
        let mut names = vec![(INSIDE, "inside")];
        if self._outside.is_some() {
            names.push((OUTSIDE, "outside"));
        }
        names
    }
}
