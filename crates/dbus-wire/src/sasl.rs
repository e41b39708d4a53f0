//! Authentication before the first message (specification: Authentication Protocol).
//!
//! Both sides are machines over bytes. Who the peer really is (`SO_PEERCRED`) is for the caller to
//! find out; the [`Server`] compares it with what the peer claims. Give it a time limit from outside:
//! a machine has no clock.

use thiserror::Error;

use crate::guid::{Guid, hex_digit};

/// The longest line, its end included. dbus-daemon has the same limit.
pub const MAX_LINE_LEN: usize = 16 * 1024;

/// How many times a client may be rejected. dbus-daemon has the same limit.
pub const MAX_REJECTIONS: u32 = 6;

/// How many commands a client may send. Real clients need fewer than ten; the limit bounds what a
/// client that sends nonsense can have us answer.
pub const MAX_COMMANDS: u32 = 128;

/// Why authentication failed. The connection has to be closed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum SaslError {
    /// A client's first byte is not NUL.
    #[error("the first byte of the connection is {0:#04x}, not NUL")]
    NoNul(u8),
    /// A line is longer than [`MAX_LINE_LEN`].
    #[error("a line of the authentication is longer than 16 KiB")]
    LineTooLong,
    /// BEGIN before the server has said OK.
    #[error("the client sent BEGIN before it was authenticated")]
    EarlyBegin,
    /// The client was rejected [`MAX_REJECTIONS`] times.
    #[error("the client was rejected 6 times")]
    TooManyRejections,
    /// The client sent more than [`MAX_COMMANDS`] commands.
    #[error("the client sent more than 128 commands")]
    TooManyCommands,
    /// The server rejected us.
    #[error(
        "the server rejected EXTERNAL authentication{}; it may not accept this user, or see another uid through a user namespace (it offers: {mechanisms})",
        .uid.map(|uid| format!(" as uid {uid}")).unwrap_or_default()
    )]
    Rejected {
        /// The uid that was claimed.
        uid: Option<u32>,
        /// The mechanisms that the server offers.
        mechanisms: String,
    },
    /// The server answered something that fits nothing we sent.
    #[error("the server answered '{0}' during authentication")]
    Unexpected(String),
}

/// What a [`Server`] has to know.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ServerConfig {
    /// The identity of the server, sent with OK.
    pub guid: Guid,
    /// The peer's uid, by `SO_PEERCRED`.
    pub uid: u32,
    /// Another uid that the peer may claim: the one that it has in its own user namespace.
    pub accept_uid: Option<u32>,
    /// Whether file descriptors can be passed on this connection.
    pub allow_fds: bool,
    /// Whether ANONYMOUS is a mechanism.
    pub allow_anonymous: bool,
}

impl ServerConfig {
    /// For a peer with this uid: file descriptors, no ANONYMOUS, no second uid.
    #[must_use]
    pub fn new(guid: impl Into<Guid>, uid: u32) -> Self {
        ServerConfig {
            guid: guid.into(),
            uid,
            accept_uid: None,
            allow_fds: true,
            allow_anonymous: false,
        }
    }
}

/// A client that has authenticated itself.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Authenticated {
    /// Whether file descriptors were agreed on.
    pub unix_fds: bool,
    /// Whether it came in by ANONYMOUS, so that its uid means nothing.
    pub anonymous: bool,
}

/// What [`Server::feed`] did.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// How many bytes of the input belong to the authentication. All, until it is done; the rest is
    /// the beginning of the message stream.
    pub consumed: usize,
    /// Set when the client has sent BEGIN.
    pub done: Option<Authenticated>,
}

/// Collects lines that end with CR LF.
#[derive(Clone, Debug, Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes input up to the end of the first line. Returns how much was taken, and whether
    /// `self.partial` is now a whole line, without its end.
    fn take(&mut self, input: &[u8]) -> Result<(usize, bool), SaslError> {
        let mut taken = 0;
        // A carriage return that came last time, and a line feed now.
        let split_end = self.partial.last() == Some(&b'\r') && input.first() == Some(&b'\n');
        let end = if split_end {
            Some(1)
        } else {
            input
                .windows(2)
                .position(|two| two == b"\r\n")
                .map(|at| at + 2)
        };
        taken += end.unwrap_or(input.len());
        if self.partial.len() + taken > MAX_LINE_LEN {
            return Err(SaslError::LineTooLong);
        }
        self.partial.extend_from_slice(&input[..taken]);
        if end.is_some() {
            self.partial.truncate(self.partial.len() - 2);
        }
        Ok((taken, end.is_some()))
    }
}

/// A line's command and its arguments, separated by blanks.
fn split_command(line: &str) -> (&str, &str) {
    let blank = [' ', '\t'];
    match line.split_once(blank) {
        Some((command, args)) => (command, args.trim_start_matches(blank)),
        None => (line, ""),
    }
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Mechanism {
    External,
    Anonymous,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum State {
    Nul,
    Auth,
    /// EXTERNAL without an identity; the client was asked for it.
    Data,
    Begin(Mechanism),
}

/// The server's side.
///
/// Feed it what the client sends, send what it puts into `out`, and stop when it is done or has
/// failed. What is in `out` when it fails is still worth sending.
#[derive(Clone, Debug)]
pub struct Server {
    config: ServerConfig,
    state: State,
    lines: Lines,
    unix_fds: bool,
    rejections: u32,
    commands: u32,
}

impl Server {
    /// A server that waits for the client's first byte.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        Server {
            config,
            state: State::Nul,
            lines: Lines::default(),
            unix_fds: false,
            rejections: 0,
            commands: 0,
        }
    }

    /// Takes bytes from the client, in pieces of any size, and appends answers to `out`. A line that
    /// is not whole is kept inside; so all input is consumed until BEGIN, and nothing after it.
    ///
    /// # Errors
    ///
    /// When the connection has to be closed. Do not feed more after that.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, SaslError> {
        let mut consumed = 0;
        if self.state == State::Nul {
            match input.first() {
                None => {
                    return Ok(Progress {
                        consumed: 0,
                        done: None,
                    });
                }
                Some(0) => {
                    self.state = State::Auth;
                    consumed = 1;
                }
                Some(&other) => return Err(SaslError::NoNul(other)),
            }
        }
        while consumed < input.len() {
            let (taken, whole) = self.lines.take(&input[consumed..])?;
            consumed += taken;
            if !whole {
                break;
            }
            let line = std::mem::take(&mut self.lines.partial);
            if let Some(done) = self.command(&line, out)? {
                return Ok(Progress {
                    consumed,
                    done: Some(done),
                });
            }
        }
        Ok(Progress {
            consumed,
            done: None,
        })
    }

    fn command(
        &mut self,
        line: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Authenticated>, SaslError> {
        self.commands += 1;
        if self.commands > MAX_COMMANDS {
            return Err(SaslError::TooManyCommands);
        }
        let Some(line) = ascii(line) else {
            error("Command contained non-ASCII", out);
            return Ok(None);
        };
        let (command, args) = split_command(line);
        match (self.state, command) {
            (State::Begin(mechanism), "BEGIN") => {
                return Ok(Some(Authenticated {
                    unix_fds: self.unix_fds,
                    anonymous: mechanism == Mechanism::Anonymous,
                }));
            }
            (_, "BEGIN") => return Err(SaslError::EarlyBegin),
            (State::Nul | State::Auth, "AUTH") => self.auth(args, out)?,
            (State::Data, "AUTH") => error("AUTH while another AUTH is in progress", out),
            (State::Begin(_), "AUTH") => error("AUTH while BEGIN is expected", out),
            (State::Data, "DATA") => self.external(args, true, out)?,
            (_, "DATA") => error("DATA while no authentication is in progress", out),
            (State::Data | State::Begin(_), "CANCEL") | (_, "ERROR") => self.reject(out)?,
            (_, "CANCEL") => error("CANCEL while no authentication is in progress", out),
            (State::Begin(_), "NEGOTIATE_UNIX_FD") if self.config.allow_fds => {
                self.unix_fds = true;
                out.extend_from_slice(b"AGREE_UNIX_FD\r\n");
            }
            (State::Begin(_), "NEGOTIATE_UNIX_FD") => {
                error("File descriptors cannot be passed here", out);
            }
            (_, "NEGOTIATE_UNIX_FD") => error("Authenticate first", out),
            _ => error("Unknown command", out),
        }
        Ok(None)
    }

    fn auth(&mut self, args: &str, out: &mut Vec<u8>) -> Result<(), SaslError> {
        let (mechanism, response) = split_command(args);
        match mechanism {
            "EXTERNAL" => self.external(response, false, out),
            "ANONYMOUS" if self.config.allow_anonymous => match decode_hex(response) {
                None => {
                    error("Invalid hex encoding", out);
                    Ok(())
                }
                // A trace of who it is, for a person; any text will do.
                Some(trace) if std::str::from_utf8(&trace).is_ok() => {
                    self.ok(Mechanism::Anonymous, out);
                    Ok(())
                }
                Some(_) => self.reject(out),
            },
            _ => self.reject(out),
        }
    }

    /// EXTERNAL: the peer's uid is known; what it claims has to be the same. `asked` is whether it was
    /// asked for its identity before. An empty answer then means whoever it is by its credentials.
    fn external(
        &mut self,
        response: &str,
        asked: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), SaslError> {
        let Some(identity) = decode_hex(response) else {
            error("Invalid hex encoding", out);
            return Ok(());
        };
        if identity.is_empty() {
            if asked {
                self.ok(Mechanism::External, out);
            } else {
                self.state = State::Data;
                out.extend_from_slice(b"DATA\r\n");
            }
            return Ok(());
        }
        let claimed = std::str::from_utf8(&identity)
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse::<u32>().ok());
        match claimed {
            Some(uid) if uid == self.config.uid || Some(uid) == self.config.accept_uid => {
                self.ok(Mechanism::External, out);
                Ok(())
            }
            _ => self.reject(out),
        }
    }

    fn ok(&mut self, mechanism: Mechanism, out: &mut Vec<u8>) {
        self.state = State::Begin(mechanism);
        out.extend_from_slice(format!("OK {}\r\n", self.config.guid).as_bytes());
    }

    fn reject(&mut self, out: &mut Vec<u8>) -> Result<(), SaslError> {
        self.state = State::Auth;
        self.unix_fds = false;
        self.rejections += 1;
        out.extend_from_slice(if self.config.allow_anonymous {
            b"REJECTED EXTERNAL ANONYMOUS\r\n"
        } else {
            b"REJECTED EXTERNAL\r\n"
        });
        if self.rejections >= MAX_REJECTIONS {
            return Err(SaslError::TooManyRejections);
        }
        Ok(())
    }
}

fn error(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"ERROR \"");
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\"\r\n");
}

/// A line as text, if it is ASCII without NUL.
fn ascii(line: &[u8]) -> Option<&str> {
    if line.is_ascii() && !line.contains(&0) {
        std::str::from_utf8(line).ok()
    } else {
        None
    }
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks_exact(2)
        .map(|pair| Some(hex_digit(pair[0])? << 4 | hex_digit(pair[1])?))
        .collect()
}

/// What a [`Client`] has to know.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ClientConfig {
    /// The uid to claim. Without one the server takes what its credentials say, which is also right
    /// from inside a user namespace.
    pub uid: Option<u32>,
    /// Whether to ask for the passing of file descriptors.
    pub want_fds: bool,
}

/// What the server said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientDone {
    /// The server's identity, in hexadecimal digits.
    pub guid: String,
    /// Whether file descriptors were agreed on.
    pub unix_fds: bool,
}

/// What [`Client::feed`] did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientProgress {
    /// How many bytes of the input belong to the authentication. All, until it is done; the rest is
    /// the beginning of the message stream.
    pub consumed: usize,
    /// Set when the server has answered everything.
    pub done: Option<ClientDone>,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Expecting {
    /// DATA, the server asking for the identity that we do not claim.
    Data,
    Ok,
    Agreement,
}

/// The client's side. It sends everything at once, BEGIN included, so messages may follow without
/// waiting for the server: one round trip less, and the server's answers come before its first
/// message.
#[derive(Clone, Debug)]
pub struct Client {
    config: ClientConfig,
    expecting: Expecting,
    lines: Lines,
    guid: String,
}

impl Client {
    /// A client that has not sent anything.
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        Client {
            config,
            expecting: if config.uid.is_some() {
                Expecting::Ok
            } else {
                Expecting::Data
            },
            lines: Lines::default(),
            guid: String::new(),
        }
    }

    /// Appends to `out` all that the client has to send.
    pub fn start(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\0AUTH EXTERNAL");
        match self.config.uid {
            Some(uid) => {
                out.push(b' ');
                for digit in uid.to_string().bytes() {
                    // The digits 0 to 9 are 0x30 to 0x39.
                    out.extend_from_slice(&[b'3', digit]);
                }
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(b"\r\nDATA\r\n"),
        }
        if self.config.want_fds {
            out.extend_from_slice(b"NEGOTIATE_UNIX_FD\r\n");
        }
        out.extend_from_slice(b"BEGIN\r\n");
    }

    /// Takes bytes from the server, in pieces of any size. A line that is not whole is kept inside; so
    /// all input is consumed until the last answer, and nothing after it.
    ///
    /// # Errors
    ///
    /// If the server rejects us or answers something that fits nothing.
    pub fn feed(&mut self, input: &[u8]) -> Result<ClientProgress, SaslError> {
        let mut consumed = 0;
        while consumed < input.len() {
            let (taken, whole) = self.lines.take(&input[consumed..])?;
            consumed += taken;
            if !whole {
                break;
            }
            let line = std::mem::take(&mut self.lines.partial);
            if let Some(done) = self.answer(&line)? {
                return Ok(ClientProgress {
                    consumed,
                    done: Some(done),
                });
            }
        }
        Ok(ClientProgress {
            consumed,
            done: None,
        })
    }

    fn answer(&mut self, line: &[u8]) -> Result<Option<ClientDone>, SaslError> {
        let unexpected = || SaslError::Unexpected(String::from_utf8_lossy(line).into_owned());
        let (command, args) = split_command(ascii(line).ok_or_else(unexpected)?);
        match (self.expecting, command) {
            (Expecting::Data | Expecting::Ok, "REJECTED") => Err(SaslError::Rejected {
                uid: self.config.uid,
                mechanisms: args.to_owned(),
            }),
            (Expecting::Data, "DATA") => {
                self.expecting = Expecting::Ok;
                Ok(None)
            }
            (Expecting::Ok, "OK") => {
                if decode_hex(args).is_none() {
                    return Err(unexpected());
                }
                self.guid = args.to_owned();
                self.expecting = Expecting::Agreement;
                Ok((!self.config.want_fds).then(|| self.done(false)))
            }
            (Expecting::Agreement, "AGREE_UNIX_FD") => Ok(Some(self.done(true))),
            (Expecting::Agreement, "ERROR") => Ok(Some(self.done(false))),
            _ => Err(unexpected()),
        }
    }

    fn done(&mut self, unix_fds: bool) -> ClientDone {
        ClientDone {
            guid: std::mem::take(&mut self.guid),
            unix_fds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: &str = "00112233445566778899aabbccddeeff";

    fn config() -> ServerConfig {
        ServerConfig::new(Guid::parse(GUID).unwrap(), 1000)
    }

    /// What the server answers to all of the input, and how it ends.
    fn talk(config: ServerConfig, input: &[u8]) -> (String, Result<Progress, SaslError>) {
        let mut out = Vec::new();
        let result = Server::new(config).feed(input, &mut out);
        (String::from_utf8(out).unwrap(), result)
    }

    fn answers(input: &[u8]) -> String {
        talk(config(), input).0
    }

    #[test]
    fn everything_in_one_packet_leaves_the_first_message() {
        let input = b"\0AUTH EXTERNAL 31303030\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\nl\x01\0\x01";
        let (out, result) = talk(config(), input);
        assert_eq!(out, format!("OK {GUID}\r\nAGREE_UNIX_FD\r\n"));
        let progress = result.unwrap();
        assert_eq!(progress.consumed, input.len() - 4);
        assert_eq!(
            progress.done,
            Some(Authenticated {
                unix_fds: true,
                anonymous: false
            })
        );
    }

    #[test]
    fn a_false_uid_is_rejected() {
        assert_eq!(answers(b"\0AUTH EXTERNAL 30\r\n"), "REJECTED EXTERNAL\r\n");
        let mut with_namespace = config();
        with_namespace.accept_uid = Some(0);
        let (out, _) = talk(with_namespace, b"\0AUTH EXTERNAL 30\r\n");
        assert_eq!(out, format!("OK {GUID}\r\n"));
    }

    #[test]
    fn no_uid_at_all_means_the_credentials() {
        assert_eq!(
            answers(b"\0AUTH EXTERNAL\r\nDATA\r\n"),
            format!("DATA\r\nOK {GUID}\r\n")
        );
        assert_eq!(
            answers(b"\0AUTH EXTERNAL\r\nDATA 31303030\r\n"),
            format!("DATA\r\nOK {GUID}\r\n")
        );
    }

    #[test]
    fn the_first_byte_is_nul() {
        let (_, result) = talk(config(), b"AUTH EXTERNAL 31303030\r\n");
        assert_eq!(result, Err(SaslError::NoNul(b'A')));
    }

    #[test]
    fn begin_before_ok_ends_the_connection() {
        for early in [
            &b"\0BEGIN\r\n"[..],
            b"\0AUTH EXTERNAL\r\nBEGIN\r\n",
            b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n",
            b"\0AUTH EXTERNAL 31303030\r\nCANCEL\r\nBEGIN\r\n",
        ] {
            assert_eq!(talk(config(), early).1, Err(SaslError::EarlyBegin));
        }
    }

    #[test]
    fn a_rejected_client_may_try_again_five_times() {
        let mut server = Server::new(config());
        let mut out = Vec::new();
        server.feed(b"\0", &mut out).unwrap();
        for _ in 0..5 {
            server.feed(b"AUTH EXTERNAL 30\r\n", &mut out).unwrap();
        }
        let mut lucky = server.clone();
        let end = b"AUTH EXTERNAL 31303030\r\nBEGIN\r\n";
        assert!(lucky.feed(end, &mut Vec::new()).unwrap().done.is_some());

        out.clear();
        assert_eq!(
            server.feed(b"AUTH EXTERNAL 30\r\n", &mut out),
            Err(SaslError::TooManyRejections)
        );
        assert_eq!(out, b"REJECTED EXTERNAL\r\n");
    }

    #[test]
    fn a_line_is_at_most_16_kib() {
        let mut server = Server::new(config());
        let mut out = Vec::new();
        let line = [b"\0", &[b'x'; MAX_LINE_LEN - 2][..], b"\r\n"].concat();
        assert!(server.feed(&line, &mut out).is_ok());
        let line = [&[b'x'; MAX_LINE_LEN - 1][..], b"\r\n"].concat();
        let whole = server.clone().feed(&line, &mut out);
        assert_eq!(whole, Err(SaslError::LineTooLong));
        // It is refused before it ends, and what is kept of it stays small.
        let mut fed = 0;
        let result = loop {
            match server.feed(b"xxxxxxxx", &mut out) {
                Ok(_) => fed += 8,
                Err(error) => break error,
            }
        };
        assert_eq!((result, fed), (SaslError::LineTooLong, MAX_LINE_LEN));
    }

    #[test]
    fn nonsense_is_answered_only_so_often() {
        let mut server = Server::new(config());
        let mut out = Vec::new();
        let nonsense = [&b"\0"[..], &b"\r\n".repeat(100_000)].concat();
        assert_eq!(
            server.feed(&nonsense, &mut out),
            Err(SaslError::TooManyCommands)
        );
        assert!(out.len() < 8192);
    }

    #[test]
    fn commands_out_of_place_are_errors_and_change_nothing() {
        let input = b"\0DATA\r\nCANCEL\r\nNEGOTIATE_UNIX_FD\r\nFOO\r\n\xff\r\nAUTH EXTERNAL 3z\r\nAUTH EXTERNAL 31303030\r\nAUTH\r\nDATA\r\nBEGIN\r\n";
        let (out, result) = talk(config(), input);
        let commands: Vec<&str> = out.lines().map(|line| split_command(line).0).collect();
        assert_eq!(
            commands,
            [
                "ERROR", "ERROR", "ERROR", "ERROR", "ERROR", "ERROR", "OK", "ERROR", "ERROR"
            ]
        );
        assert!(result.unwrap().done.is_some());
    }

    #[test]
    fn auth_without_a_mechanism_or_with_an_unknown_one_lists_the_mechanisms() {
        for auth in [
            &b"\0AUTH\r\n"[..],
            b"\0AUTH KERBEROS_V4 00\r\n",
            b"\0AUTH ANONYMOUS\r\n",
        ] {
            assert_eq!(answers(auth), "REJECTED EXTERNAL\r\n");
        }
    }

    #[test]
    fn anonymous_is_for_those_who_configured_it() {
        let mut anonymous = config();
        anonymous.allow_anonymous = true;
        for auth in [
            &b"\0AUTH ANONYMOUS\r\nBEGIN\r\n"[..],
            b"\0AUTH ANONYMOUS 6869\r\nBEGIN\r\n",
        ] {
            let done = talk(anonymous, auth).1.unwrap().done.unwrap();
            assert!(done.anonymous && !done.unix_fds);
        }
        assert_eq!(
            talk(anonymous, b"\0AUTH\r\n").0,
            "REJECTED EXTERNAL ANONYMOUS\r\n"
        );
    }

    #[test]
    fn descriptors_are_agreed_on_only_where_they_can_pass() {
        let mut without = config();
        without.allow_fds = false;
        let input = b"\0AUTH EXTERNAL 31303030\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n";
        let (out, result) = talk(without, input);
        assert!(out.contains("ERROR") && !out.contains("AGREE"));
        assert!(!result.unwrap().done.unwrap().unix_fds);
        // An agreement does not outlive a cancelled authentication.
        let input = b"\0AUTH EXTERNAL 31303030\r\nNEGOTIATE_UNIX_FD\r\nCANCEL\r\nAUTH EXTERNAL 31303030\r\nBEGIN\r\n";
        assert!(!talk(config(), input).1.unwrap().done.unwrap().unix_fds);
    }

    #[test]
    fn an_identity_is_a_decimal_number() {
        // "+1000", "1000 ", "root", 2^32 + 1000, and bytes that are no text.
        for hex in [
            "2b31303030",
            "3130303020",
            "726f6f74",
            "34323934393638323936",
            "ff",
        ] {
            let input = format!("\0AUTH EXTERNAL {hex}\r\n");
            assert_eq!(answers(input.as_bytes()), "REJECTED EXTERNAL\r\n", "{hex}");
        }
    }

    #[test]
    fn a_rejected_client_is_told_what_the_server_offers() {
        for uid in [Some(1000), None] {
            let mut client = Client::new(ClientConfig {
                uid,
                want_fds: true,
            });
            let answer = b"REJECTED EXTERNAL DBUS_COOKIE_SHA1\r\nERROR\r\n";
            let error = client.feed(answer).unwrap_err();
            assert!(error.to_string().contains("EXTERNAL DBUS_COOKIE_SHA1"));
            assert_eq!(
                error,
                SaslError::Rejected {
                    uid,
                    mechanisms: "EXTERNAL DBUS_COOKIE_SHA1".into()
                }
            );
        }
    }

    #[test]
    fn a_client_refuses_answers_that_fit_nothing() {
        for answer in [
            &b"HELLO\r\n"[..],
            b"AGREE_UNIX_FD\r\n",
            b"DATA\r\n",
            b"OK xyz\r\n",
            b"\xff\r\n",
        ] {
            let mut client = Client::new(ClientConfig {
                uid: Some(0),
                want_fds: true,
            });
            assert!(matches!(client.feed(answer), Err(SaslError::Unexpected(_))));
        }
    }

    #[test]
    fn client_and_server_understand_each_other() {
        for uid in [Some(1000), None] {
            for want_fds in [true, false] {
                let mut client = Client::new(ClientConfig { uid, want_fds });
                let mut to_server = Vec::new();
                client.start(&mut to_server);
                let mut to_client = Vec::new();
                let progress = Server::new(config())
                    .feed(&to_server, &mut to_client)
                    .unwrap();
                assert_eq!(progress.consumed, to_server.len());
                assert_eq!(progress.done.unwrap().unix_fds, want_fds);
                to_client.extend_from_slice(b"l\x04");
                let progress = client.feed(&to_client).unwrap();
                assert_eq!(progress.consumed, to_client.len() - 2);
                let done = progress.done.unwrap();
                assert_eq!((done.guid.as_str(), done.unix_fds), (GUID, want_fds));
            }
        }
    }
}
