//! dbus-broker without systemd: the broker alone, and the two calls of its controller that give it a socket to listen on
//! and a policy that allows everything. Its own launcher wants systemd.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use dbus_wire::body::Body;
use dbus_wire::frame::Endian;
use dbus_wire::message::Builder;

use crate::peer::Peer;
use crate::process::Process;

/// What the broker reads as a policy: for users, for groups, the labels of SELinux, whether AppArmor is asked, and the
/// kind of the bus.
const POLICY: &str = concat!(
    "(a(u(bta(btbs)a(btssssuutt)a(btssssuutt)))",
    "a(buu(bta(btbs)a(btssssuutt)a(btssssuutt)))a(ss)bs)"
);
/// The user for whom a policy holds that is for everybody.
const EVERYBODY: u32 = u32::MAX;

/// The broker, and the connection over which it is controlled: it ends with that.
pub struct Controlled {
    /// The broker.
    pub process: Process,
    /// Kept, because the broker ends with it.
    pub controller: Peer,
}

/// Starts one that listens at `socket`.
pub fn start(socket: &Path) -> Result<Controlled, String> {
    let io = |error: std::io::Error| format!("cannot start dbus-broker: {error}");
    let (ours, theirs) = UnixStream::pair().map_err(io)?;
    let listener = UnixListener::bind(socket).map_err(io)?;
    listener.set_nonblocking(true).map_err(io)?;
    let many = u32::MAX.to_string();
    let mut command = Command::new("dbus-broker");
    command
        .args(["--controller", "0", "--machine-id", &"0".repeat(32)])
        .args(["--max-bytes", &many, "--max-fds", &many])
        .args(["--max-matches", &many, "--max-objects", &many])
        .stdin(Stdio::from(OwnedFd::from(theirs)));
    let process = Process::spawn(command)?;
    let mut controller = Peer::over(ours)?;
    let serial = controller.next_serial();
    let body = Body::from_parts(Endian::Little, "ohv", add_listener());
    let call = Builder::method_call("/org/bus1/DBus/Broker", "AddListener")
        .interface("org.bus1.DBus.Broker")
        .serial(serial)
        .unix_fds(1)
        .body(&body)
        .build();
    controller.send_fd(&call, &OwnedFd::from(listener))?;
    controller
        .reply_to(serial)
        .map_err(|error| format!("dbus-broker: AddListener: {error}"))?;
    Ok(Controlled {
        process,
        controller,
    })
}

/// The arguments: a path for the listener, its descriptor, and the policy.
fn add_listener() -> Vec<u8> {
    let mut out = Marshalled::default();
    out.string("/org/bus1/DBus/Listener/0");
    out.u32(0);
    out.signature(POLICY);
    out.align(8);
    out.array(|users| {
        users.align(8);
        users.u32(EVERYBODY);
        users.align(8);
        // It may connect, own every name, and send and receive everything; 1 is the priority.
        users.verdict();
        users.array(|own| {
            own.align(8);
            own.verdict();
            own.bool(true);
            own.string("");
        });
        for _ in ["send", "receive"] {
            users.array(|message| {
                message.align(8);
                message.verdict();
                for _ in ["name", "path", "interface", "member"] {
                    message.string("");
                }
                message.u32(0);
                message.u32(0);
                message.u64(0);
                message.u64(u64::MAX);
            });
        }
    });
    out.array(|_| {});
    out.array(|_| {});
    out.bool(false);
    out.string("session");
    out.bytes
}

/// Arguments in little endian, for a signature that nothing else here needs.
#[derive(Default)]
struct Marshalled {
    bytes: Vec<u8>,
}

impl Marshalled {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.align(8);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn bool(&mut self, value: bool) {
        self.u32(value.into());
    }

    fn verdict(&mut self) {
        self.bool(true);
        self.u64(1);
    }

    fn string(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.bytes.push(text.len() as u8);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    /// An array of structs.
    fn array(&mut self, elements: impl FnOnce(&mut Marshalled)) {
        self.u32(0);
        let length = self.bytes.len() - 4;
        self.align(8);
        let begin = self.bytes.len();
        elements(self);
        let count = (self.bytes.len() - begin) as u32;
        self.bytes[length..length + 4].copy_from_slice(&count.to_le_bytes());
    }
}
