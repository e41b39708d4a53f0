//! The kernel's log of packets: how a blocked connection becomes known.
//!
//! Three settings matter (see `docs/shield.md`): the queue threshold is 1, or the kernel holds each event
//! for up to a second; events carry a sequence number, so that lost ones are counted exactly; and only the
//! beginning of a packet is copied.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::netlink::{self, Socket};
use crate::packet::{self, Destination};

/// The group that the rules log to.
pub(crate) const GROUP: u16 = 100;

const SUBSYSTEM: u16 = 4;
const MESSAGE_PACKET: u16 = 0;
const MESSAGE_CONFIG: u16 = 1;
const CONFIG: u16 = SUBSYSTEM << 8 | MESSAGE_CONFIG;

const CONFIG_COMMAND: u16 = 1;
const CONFIG_MODE: u16 = 2;
const CONFIG_BUFFER: u16 = 3;
const CONFIG_THRESHOLD: u16 = 5;
const CONFIG_FLAGS: u16 = 6;

const COMMAND_BIND: u8 = 1;
const COMMAND_UNBIND: u8 = 2;
const COPY_PACKET: u8 = 2;
const FLAG_SEQUENCE: u16 = 1;

const PACKET_PAYLOAD: u16 = 9;
const PACKET_PREFIX: u16 = 10;
const PACKET_SEQUENCE: u16 = 12;

/// Room for an IPv6 header, extension headers and ports.
const COPY: u32 = 128;

/// Why a packet was logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Nobody has decided: ask.
    Ask,
    /// Refused by a decision.
    Denied,
    /// Refused because it goes to a private network.
    Private,
    /// Let through.
    Allowed,
}

impl Reason {
    /// From the rule's log prefix; also those of the original's rules.
    fn from_prefix(prefix: &str) -> Option<Self> {
        let word = prefix
            .strip_prefix("TEROK_SHIELD_")?
            .trim_end_matches([' ', ':']);
        Some(match word {
            "BLOCKED" | "QUEUED" => Self::Ask,
            "DENIED" => Self::Denied,
            "PRIVATE" => Self::Private,
            "ALLOWED" => Self::Allowed,
            _ => return None,
        })
    }
}

/// One reading of the log.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// What was logged, in order.
    pub(crate) packets: Vec<(Reason, Destination)>,
    /// How many events the kernel could not hand over.
    pub(crate) lost: u32,
    /// There may be more: read again.
    pub(crate) more: bool,
}

/// A bound log group.
#[derive(Debug)]
pub(crate) struct Log {
    socket: Socket,
    next: u32,
    buffer: Vec<u8>,
}

impl AsFd for Log {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Log {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // A child that was forked a moment ago may still have a copy of the descriptor; the next reader must
        // not have to wait for its end.
        let _ = self.socket.request(CONFIG, 0, GROUP, |m| {
            m.attribute(CONFIG_COMMAND, &[COMMAND_UNBIND]);
        });
    }
}

impl Log {
    /// Binds the group on a socket that was opened in the container's network namespace.
    ///
    /// # Errors
    /// `EPERM` or `EBUSY` if another reader has the group, or without `CAP_NET_ADMIN`.
    pub(crate) fn bind(socket: &mut Socket) -> io::Result<()> {
        socket.request(CONFIG, 0, GROUP, |m| {
            m.attribute(CONFIG_COMMAND, &[COMMAND_BIND]);
        })
    }

    /// Begins to read from a socket that has bound the group.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(crate) fn begin(mut socket: Socket) -> io::Result<Self> {
        socket.enlarge_buffer();
        socket.request(CONFIG, 0, GROUP, |m| {
            let mut mode = COPY.to_be_bytes().to_vec();
            mode.extend_from_slice(&[COPY_PACKET, 0]);
            m.attribute(CONFIG_MODE, &mode);
            m.attribute(CONFIG_BUFFER, &(64 * 1024u32).to_be_bytes());
            m.attribute(CONFIG_THRESHOLD, &1u32.to_be_bytes());
            m.attribute(CONFIG_FLAGS, &FLAG_SEQUENCE.to_be_bytes());
        })?;
        Ok(Self {
            socket,
            next: 0,
            buffer: vec![0; 128 * 1024],
        })
    }

    /// Reads what there is, up to a bound, so that a flood does not keep everything else waiting.
    ///
    /// # Errors
    /// What `recv` gives, except that an overrun is no error: the sequence numbers count what it cost.
    pub(crate) fn read(&mut self) -> io::Result<Reading> {
        let mut reading = Reading {
            more: true,
            ..Reading::default()
        };
        for _ in 0..64 {
            let length = match self.socket.receive(&mut self.buffer) {
                Ok(Some(length)) => length,
                Ok(None) => {
                    reading.more = false;
                    break;
                }
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => continue,
                Err(e) => return Err(e),
            };
            for message in netlink::messages(&self.buffer[..length]) {
                if message.kind != SUBSYSTEM << 8 | MESSAGE_PACKET {
                    continue;
                }
                let (mut payload, mut prefix, mut sequence) = (None, None, None);
                for (kind, value) in netlink::attributes(message.payload()) {
                    match kind {
                        PACKET_PAYLOAD => payload = Some(value),
                        PACKET_PREFIX => prefix = Some(netlink::text(value)),
                        PACKET_SEQUENCE => sequence = value.try_into().ok().map(u32::from_be_bytes),
                        _ => {}
                    }
                }
                if let Some(sequence) = sequence {
                    reading.lost = reading
                        .lost
                        .saturating_add(sequence.wrapping_sub(self.next));
                    self.next = sequence.wrapping_add(1);
                }
                let reason = prefix.as_deref().and_then(Reason::from_prefix);
                let destination = payload.and_then(packet::destination);
                if let (Some(reason), Some(destination)) = (reason, destination) {
                    reading.packets.push((reason, destination));
                }
            }
        }
        Ok(reading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_generations_of_prefixes_are_understood() {
        assert_eq!(
            Reason::from_prefix("TEROK_SHIELD_QUEUED: "),
            Some(Reason::Ask)
        );
        assert_eq!(
            Reason::from_prefix("TEROK_SHIELD_BLOCKED: "),
            Some(Reason::Ask)
        );
        assert_eq!(
            Reason::from_prefix("TEROK_SHIELD_DENIED: "),
            Some(Reason::Denied)
        );
        assert_eq!(Reason::from_prefix("somebody else's: "), None);
    }
}
