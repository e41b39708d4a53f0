//! Changes to the table's sets, as the kernel's own transactions.
//!
//! The rules themselves are text ([`crate::ruleset`]) and are loaded once by `nft`, so that people can read
//! what stands between the container and the network. What a verdict changes are elements of sets, and
//! those go straight to the kernel: some 30 µs, where starting `nft` takes 6 ms.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::netlink::{self, Fill, Messages, Socket};
use crate::packet::{self, Destination};
use crate::ruleset::TABLE;

const SUBSYSTEM: u16 = 10;
const FAMILY_INET: u8 = 1;

const DELETE_TABLE: u16 = 2;
const GET_SET: u16 = 10;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;
const GET_OBJECT: u16 = 19;

const TABLE_NAME: u16 = 1;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_TIMEOUT: u16 = 11;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_TIMEOUT: u16 = 4;
const ELEMENT_INTERVAL_END: u32 = 1;
const FLAG_INTERVAL: u32 = 4;
const DATA_VALUE: u16 = 1;
const OBJECT_TABLE: u16 = 1;
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
const OBJECT_COUNTER: u32 = 1;
const COUNTER_PACKETS: u16 = 2;

/// A set of the table, for one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Set {
    /// Addresses that are let through.
    Allow,
    /// Addresses that are refused.
    Deny,
    /// Address, protocol and port, let through.
    AllowPort,
    /// Address, protocol and port, refused.
    DenyPort,
    /// Addresses of allowed names.
    Named,
    /// Destinations that were asked about a moment ago.
    Seen,
    /// Everything is let through.
    Open,
}

impl Set {
    fn name(self, key: &Key) -> String {
        let base = match (self, key) {
            (Self::Allow, _) => "allow",
            (Self::Deny, _) => "deny",
            (Self::AllowPort, Key::Protocol(..)) => "allow_proto",
            (Self::AllowPort, _) => "allow_port",
            (Self::DenyPort, Key::Protocol(..)) => "deny_proto",
            (Self::DenyPort, _) => "deny_port",
            (Self::Named, _) => "named",
            (Self::Seen, Key::Protocol(..)) => "seen_proto",
            (Self::Seen, _) => "seen",
            (Self::Open, _) => return "open".into(),
        };
        match key.address() {
            Some(IpAddr::V6(_)) => format!("{base}_v6"),
            _ => format!("{base}_v4"),
        }
    }
}

/// The sets of destinations that were refused within the last window.
const SEEN: [&str; 4] = ["seen_v4", "seen_v6", "seen_proto_v4", "seen_proto_v6"];

/// What a set holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// An address.
    Address(IpAddr),
    /// An address, a protocol with ports, and the port.
    Port(IpAddr, u8, u16),
    /// An address and a protocol without ports.
    Protocol(IpAddr, u8),
    /// An address family (`NFPROTO_IPV4` or `NFPROTO_IPV6`).
    Family(u8),
}

/// Both families, for the set [`Set::Open`].
pub(crate) const FAMILIES: [Key; 2] = [Key::Family(2), Key::Family(10)];

impl Key {
    /// The narrowest key for a destination.
    pub(crate) fn of(destination: Destination) -> Self {
        if packet::has_ports(destination.proto) {
            Self::Port(destination.address, destination.proto, destination.port)
        } else {
            Self::Protocol(destination.address, destination.proto)
        }
    }

    fn address(&self) -> Option<IpAddr> {
        match *self {
            Self::Address(a) | Self::Port(a, ..) | Self::Protocol(a, _) => Some(a),
            Self::Family(_) => None,
        }
    }

    /// As the kernel keeps it: each part padded to four bytes.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = match self.address() {
            Some(IpAddr::V4(a)) => a.octets().to_vec(),
            Some(IpAddr::V6(a)) => a.octets().to_vec(),
            None => Vec::new(),
        };
        match *self {
            Self::Address(_) => {}
            Self::Port(_, proto, port) => {
                bytes.extend_from_slice(&[proto, 0, 0, 0]);
                bytes.extend_from_slice(&port.to_be_bytes());
                bytes.extend_from_slice(&[0, 0]);
            }
            Self::Protocol(_, proto) => bytes.extend_from_slice(&[proto, 0, 0, 0]),
            Self::Family(family) => bytes.push(family),
        }
        bytes
    }
}

/// What is to be in a set afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is in the set, for this long or for good.
    Put(Set, Key, Option<Duration>),
    /// It is not.
    Take(Set, Key),
}

/// The table of one container, reached through a socket opened in its network namespace.
#[derive(Debug)]
pub(crate) struct Table {
    socket: Socket,
    sets: HashMap<String, Kind>,
}

/// How a set keeps its elements. Ours keep single ones; the original's may keep intervals, and may have a
/// timeout that an element gets if it is not told otherwise.
#[derive(Debug, Clone, Copy, Default)]
struct Kind {
    interval: bool,
    default_timeout: bool,
}

impl Table {
    /// Looks at the table; `None` if the namespace has none.
    ///
    /// # Errors
    /// What the kernel answers, `EPERM` without `CAP_NET_ADMIN`.
    pub(crate) fn open(fd: OwnedFd) -> io::Result<Option<Self>> {
        let mut table = Self {
            socket: Socket::new(fd),
            sets: HashMap::new(),
        };
        Ok(table.refresh()?.then_some(table))
    }

    /// Reads which sets the table has; false if there is no table.
    fn refresh(&mut self) -> io::Result<bool> {
        let mut sets = HashMap::new();
        let answer = self.socket.query(
            SUBSYSTEM << 8 | GET_SET,
            FAMILY_INET,
            true,
            |m| m.string(SET_TABLE, TABLE),
            |message| {
                let payload = message.payload();
                let table = netlink::attribute(payload, SET_TABLE).map(netlink::text);
                if table.as_deref() == Some(TABLE)
                    && let Some(name) = netlink::attribute(payload, SET_NAME)
                {
                    let number = |kind: u16| {
                        let value = netlink::attribute(payload, kind)?;
                        value.try_into().ok().map(u32::from_be_bytes)
                    };
                    let flags = number(SET_FLAGS).unwrap_or(0);
                    let kind = Kind {
                        interval: flags & FLAG_INTERVAL != 0,
                        default_timeout: netlink::attribute(payload, SET_TIMEOUT).is_some(),
                    };
                    sets.insert(netlink::text(name), kind);
                }
            },
        );
        match answer {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            other => other?,
        }
        self.sets = sets;
        Ok(!self.sets.is_empty())
    }

    /// Whether the table knows verdicts by port: the original's rules know addresses only.
    pub(crate) fn has_ports(&self) -> bool {
        self.sets.contains_key("allow_port_v4")
    }

    /// Whether the table can let everything through for a time.
    pub(crate) fn has_open(&self) -> bool {
        self.sets.contains_key("open")
    }

    /// Whether the table has a set for the addresses of names.
    pub(crate) fn has_names(&self) -> bool {
        self.sets.contains_key("named_v4")
    }

    /// Whether a set holds this key now.
    pub(crate) fn holds(&mut self, set: Set, key: Key) -> io::Result<bool> {
        let name = set.name(&key);
        if !self.sets.contains_key(&name) {
            return Ok(false);
        }
        let answer = self.socket.query(
            SUBSYSTEM << 8 | GET_ELEMENT,
            FAMILY_INET,
            false,
            |m| element(m, &name, Kind::default(), key, None),
            |_| {},
        );
        match answer {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Makes all changes, or none; returns when the kernel has acknowledged them.
    ///
    /// # Errors
    /// What the kernel answers. The rules are then as they were.
    pub(crate) fn change(&mut self, changes: &[Change]) -> io::Result<()> {
        // An element that exists keeps its timeout when it is added again, and one that does not exist
        // cannot be deleted: so look first. Only time takes elements away behind our back; then look again.
        let mut attempts = 0;
        loop {
            match self.try_change(changes) {
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) && attempts < 3 => attempts += 1,
                other => return other,
            }
        }
    }

    fn try_change(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut parts: Vec<(u16, bool, Fill<'_>)> = Vec::new();
        for change in changes {
            let (set, key) = match *change {
                Change::Put(set, key, _) | Change::Take(set, key) => (set, key),
            };
            let name = set.name(&key);
            let kind = self.sets.get(&name).copied().unwrap_or_default();
            if self.holds(set, key)? {
                let name = name.clone();
                parts.push((
                    DELETE_ELEMENT,
                    false,
                    Box::new(move |m| element(m, &name, kind, key, None)),
                ));
            }
            if let Change::Put(_, _, timeout) = *change {
                // For good is for good, also where a set says otherwise; only names live by the set's time.
                let timeout = match timeout {
                    None if kind.default_timeout && set != Set::Named => Some(Duration::ZERO),
                    Some(time) => Some(time.max(Duration::from_millis(1))),
                    None => None,
                };
                parts.push((
                    NEW_ELEMENT,
                    true,
                    Box::new(move |m| element(m, &name, kind, key, timeout)),
                ));
            }
        }
        self.socket.transaction(SUBSYSTEM, FAMILY_INET, &mut parts)
    }

    /// Which destinations were refused, and logged or not, within the last window.
    pub(crate) fn seen(&mut self) -> io::Result<Vec<Destination>> {
        let mut found = Vec::new();
        for name in SEEN {
            if !self.sets.contains_key(name) {
                continue;
            }
            let ports = !name.contains("proto");
            let v6 = name.ends_with("v6");
            self.socket.query(
                SUBSYSTEM << 8 | GET_ELEMENT,
                FAMILY_INET,
                true,
                |m| {
                    m.string(LIST_TABLE, TABLE);
                    m.string(LIST_SET, name);
                },
                |message| {
                    let Some(list) = netlink::attribute(message.payload(), LIST_ELEMENTS) else {
                        return;
                    };
                    found.extend(
                        netlink::attributes(list)
                            .filter_map(|(_, element)| netlink::attribute(element, ELEMENT_KEY))
                            .filter_map(|key| netlink::attribute(key, DATA_VALUE))
                            .filter_map(|bytes| destination(bytes, v6, ports)),
                    );
                },
            )?;
        }
        Ok(found)
    }

    /// Forgets them: what is tried next is logged.
    pub(crate) fn forget_seen(&mut self) -> io::Result<()> {
        let mut parts: Vec<(u16, bool, Fill<'_>)> = Vec::new();
        for name in SEEN {
            if self.sets.contains_key(name) {
                // Without elements, all of them are meant.
                let fill = move |m: &mut Messages| {
                    m.string(LIST_TABLE, TABLE);
                    m.string(LIST_SET, name);
                };
                parts.push((DELETE_ELEMENT, false, Box::new(fill)));
            }
        }
        self.socket.transaction(SUBSYSTEM, FAMILY_INET, &mut parts)
    }

    /// How many refused packets were not logged because the set of seen destinations was full.
    pub(crate) fn unasked(&mut self) -> io::Result<u64> {
        let mut packets = 0;
        self.socket.query(
            SUBSYSTEM << 8 | GET_OBJECT,
            FAMILY_INET,
            false,
            |m| {
                m.string(OBJECT_TABLE, TABLE);
                m.string(OBJECT_NAME, "unasked");
                m.attribute(OBJECT_TYPE, &OBJECT_COUNTER.to_be_bytes());
            },
            |message| {
                packets = netlink::attribute(message.payload(), OBJECT_DATA)
                    .and_then(|data| netlink::attribute(data, COUNTER_PACKETS))
                    .and_then(|value| value.try_into().ok())
                    .map_or(packets, u64::from_be_bytes);
            },
        )?;
        Ok(packets)
    }

    /// Removes the table: the container's traffic passes unhindered afterwards.
    pub(crate) fn delete(&mut self) -> io::Result<()> {
        self.socket.transaction(
            SUBSYSTEM,
            FAMILY_INET,
            &mut [(
                DELETE_TABLE,
                false,
                Box::new(|m| m.string(TABLE_NAME, TABLE)),
            )],
        )
    }
}

/// The attributes that name a set and one element of it. A timeout of 0 is for good.
fn element(m: &mut Messages, set: &str, kind: Kind, key: Key, timeout: Option<Duration>) {
    m.string(LIST_TABLE, TABLE);
    m.string(LIST_SET, set);
    let list = m.nest(LIST_ELEMENTS);
    let bytes = key.bytes();
    let mut put = |bytes: &[u8], end: bool| {
        let element = m.nest(LIST_ELEMENT);
        let nest = m.nest(ELEMENT_KEY);
        m.attribute(DATA_VALUE, bytes);
        m.close(nest);
        if end {
            m.attribute(ELEMENT_FLAGS, &ELEMENT_INTERVAL_END.to_be_bytes());
        } else if let Some(timeout) = timeout {
            let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            m.attribute(ELEMENT_TIMEOUT, &milliseconds.to_be_bytes());
        }
        m.close(element);
    };
    put(&bytes, false);
    if let (true, Some(end)) = (kind.interval, after(&bytes)) {
        put(&end, true);
    }
    m.close(list);
}

/// The number after this one, where an interval of one ends; none after the last.
fn after(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut next = bytes.to_vec();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(next);
        }
    }
    None
}

/// Reads a key of a `seen` set.
fn destination(bytes: &[u8], v6: bool, ports: bool) -> Option<Destination> {
    let (address, rest): (IpAddr, _) = if v6 {
        let octets: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
        (octets.into(), &bytes[16..])
    } else {
        let octets: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        (octets.into(), &bytes[4..])
    };
    let proto = *rest.first()?;
    let port = if ports {
        u16::from_be_bytes(rest.get(4..6)?.try_into().ok()?)
    } else {
        0
    };
    Some(Destination {
        address,
        proto,
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back_as_the_kernel_keeps_them() {
        for (address, proto, port) in [
            ("203.0.113.1", 6, 443),
            ("2001:db8::1", 17, 53),
            ("203.0.113.9", 1, 0),
        ] {
            let d = Destination {
                address: address.parse().unwrap(),
                proto,
                port,
            };
            let key = Key::of(d);
            let v6 = d.address.is_ipv6();
            assert_eq!(
                destination(&key.bytes(), v6, packet::has_ports(proto)),
                Some(d)
            );
        }
    }

    #[test]
    fn an_interval_of_one_ends_at_the_next_address() {
        assert_eq!(after(&[203, 0, 113, 255]), Some(vec![203, 0, 114, 0]));
        assert_eq!(after(&[255; 4]), None);
    }

    #[test]
    fn sets_are_named_after_what_they_hold() {
        let v6 = "2001:db8::1".parse().unwrap();
        assert_eq!(Set::AllowPort.name(&Key::Port(v6, 6, 1)), "allow_port_v6");
        assert_eq!(Set::DenyPort.name(&Key::Protocol(v6, 58)), "deny_proto_v6");
        assert_eq!(Set::Open.name(&FAMILIES[0]), "open");
    }
}
