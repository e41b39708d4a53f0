//! What a container may reach from the beginning: a file that a person writes.
//!
//! One entry a line, `#` begins a comment. An entry is an address (`203.0.113.1`, `2001:db8::1`), a network
//! (`203.0.113.0/24`), either of them with protocol and port (`203.0.113.1 tcp/443`), or a name
//! (`example.org`, which includes the names below it).

use std::net::IpAddr;
use std::str::FromStr;

use crate::dns;
use crate::packet::{self, Destination};

/// An address, or a network of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// The address, or the network's first one.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether it is one address.
    pub fn is_single(&self) -> bool {
        self.prefix == if self.address.is_ipv6() { 128 } else { 32 }
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self {
            address,
            prefix: if address.is_ipv6() { 128 } else { 32 },
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_single() {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.prefix)
        }
    }
}

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = match text.split_once('/') {
            Some((a, p)) => (a, Some(p)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| "not an address")?;
        let mut network = Self::from(address);
        if let Some(prefix) = prefix {
            let given: u8 = prefix.parse().map_err(|_| "not a prefix length")?;
            if given > network.prefix {
                return Err("a prefix longer than the address");
            }
            network.prefix = given;
            network.address = match address {
                IpAddr::V4(a) => {
                    let mask = u32::MAX.checked_shl(32 - u32::from(given)).unwrap_or(0);
                    IpAddr::V4((u32::from(a) & mask).into())
                }
                IpAddr::V6(a) => {
                    let mask = u128::MAX.checked_shl(128 - u32::from(given)).unwrap_or(0);
                    IpAddr::V6((u128::from(a) & mask).into())
                }
            };
        }
        Ok(network)
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// An address or network, on every port.
    Network(Network),
    /// An address with protocol and port.
    Destination(Destination),
    /// A name, and those below it.
    Name(String),
}

impl FromStr for Entry {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let mut words = line.split_whitespace();
        let first = words.next().ok_or("an empty line")?;
        let entry = match (first.parse::<Network>(), words.next()) {
            (Ok(network), None) => Self::Network(network),
            (Ok(network), Some(port)) if network.is_single() => {
                Self::Destination(destination(network.address(), port)?)
            }
            (Ok(_), Some(_)) => return Err("a port can be given for one address only".into()),
            (Err(_), Some(_)) => return Err("a port can be given for an address only".into()),
            (Err(why), None) => {
                if first.contains(':') || first.contains('/') {
                    return Err(format!("{why}: {first:?}"));
                }
                Self::Name(
                    dns::Name::parse(first)
                        .ok_or_else(|| format!("{first:?} is neither an address nor a name"))?
                        .to_string(),
                )
            }
        };
        match words.next() {
            None => Ok(entry),
            Some(_) => Err("more than an address and a port".into()),
        }
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Network(n) => write!(f, "{n}"),
            Self::Destination(d) => f.write_str(&destination_line(*d)),
            Self::Name(n) => f.write_str(n),
        }
    }
}

/// A destination as it stands in files: `203.0.113.1 tcp/443`, or `203.0.113.1 icmp`.
pub fn destination_line(d: Destination) -> String {
    let name = packet::protocol_name(d.proto);
    if packet::has_ports(d.proto) {
        format!("{} {name}/{}", d.address, d.port)
    } else {
        format!("{} {name}", d.address)
    }
}

fn destination(address: IpAddr, port: &str) -> Result<Destination, String> {
    let (name, number) = match port.split_once('/') {
        Some((name, number)) => (name, Some(number)),
        None => (port, None),
    };
    let proto = packet::protocol_number(name).ok_or_else(|| format!("{name:?} is no protocol"))?;
    let port = match number {
        Some(n) if packet::has_ports(proto) => {
            n.parse().map_err(|_| format!("{n:?} is no port"))?
        }
        None if !packet::has_ports(proto) => 0,
        _ => return Err("write a port as tcp/443, or a protocol without ports alone".into()),
    };
    Ok(Destination {
        address,
        proto,
        port,
    })
}

/// Reads a profile.
///
/// # Errors
/// The first line that says nothing we know: its number, and what is wrong with it.
pub fn read(text: &str) -> Result<Vec<Entry>, (usize, String)> {
    let mut entries = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            entries.push(line.parse().map_err(|e| (i + 1, e))?);
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_entry_is_read_and_written() {
        let text = "# mine\n203.0.113.1\n203.0.113.77/24 # the net\n2001:db8::1 tcp/443\n203.0.113.9 icmp\nExample.ORG.\n";
        let written: Vec<_> = read(text)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            written,
            [
                "203.0.113.1",
                "203.0.113.0/24",
                "2001:db8::1 tcp/443",
                "203.0.113.9 icmp",
                "example.org"
            ]
        );
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        for bad in [
            "1.2.3.4/33",
            "1.2.3.4 tcp",
            "1.2.3.4 icmp/3",
            "a b",
            "1.2.3.0/24 tcp/1",
            "ex ample",
            "x}; flush ruleset",
            "-",
            "1.2.3.4 tcp/1 x",
        ] {
            let text = format!("\n{bad}\n");
            assert_eq!(read(&text).unwrap_err().0, 2, "{bad}");
        }
    }
}
