//! What a blocked packet says about where it wanted to go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;

/// A destination: an address, a protocol, and a port (0 for protocols that have none).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// The address.
    pub address: IpAddr,
    /// The protocol's number: 6 for TCP, 17 for UDP.
    pub proto: u8,
    /// The port, or 0.
    pub port: u16,
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = protocol_name(self.proto);
        match (self.address, has_ports(self.proto)) {
            (IpAddr::V4(a), true) => write!(f, "{a}:{} ({name})", self.port),
            (IpAddr::V6(a), true) => write!(f, "[{a}]:{} ({name})", self.port),
            (a, false) => write!(f, "{a} ({name})"),
        }
    }
}

/// The protocol's name as `nft` and people write it, or its number.
pub fn protocol_name(proto: u8) -> String {
    match proto {
        1 => "icmp".into(),
        TCP => "tcp".into(),
        UDP => "udp".into(),
        33 => "dccp".into(),
        58 => "icmpv6".into(),
        132 => "sctp".into(),
        136 => "udplite".into(),
        other => other.to_string(),
    }
}

/// The number of a protocol that was written by [`protocol_name`].
pub fn protocol_number(name: &str) -> Option<u8> {
    Some(match name {
        "icmp" => 1,
        "tcp" => TCP,
        "udp" => UDP,
        "dccp" => 33,
        "icmpv6" => 58,
        "sctp" => 132,
        "udplite" => 136,
        other => other.parse().ok()?,
    })
}

/// Whether the protocol's header begins with a source and a destination port.
pub fn has_ports(proto: u8) -> bool {
    matches!(proto, TCP | UDP | 33 | 132 | 136)
}

/// Reads the destination from the first bytes of an IP packet; `None` if they do not hold it.
pub fn destination(packet: &[u8]) -> Option<Destination> {
    match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            if header < 20 {
                return None;
            }
            let proto = *packet.get(9)?;
            let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some(Destination {
                address: IpAddr::V4(Ipv4Addr::from(octets)),
                proto,
                port: port(proto, packet.get(header..).unwrap_or_default())?,
            })
        }
        6 => {
            let octets: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            let (proto, header) = last_header(packet)?;
            Some(Destination {
                address: IpAddr::V6(Ipv6Addr::from(octets)),
                proto,
                port: port(proto, packet.get(header..).unwrap_or_default())?,
            })
        }
        _ => None,
    }
}

/// Follows IPv6's extension headers (RFC 8200 §4) to the transport header: its protocol and place.
fn last_header(packet: &[u8]) -> Option<(u8, usize)> {
    let mut next = *packet.get(6)?;
    let mut at = 40;
    // Each round moves on by at least eight bytes, so the packet's length bounds the loop.
    loop {
        let length = match next {
            // Hop-by-hop, routing, destination options.
            0 | 43 | 60 => (usize::from(*packet.get(at + 1)?) + 1) * 8,
            // Fragment.
            44 => 8,
            // Authentication header, counted in four bytes.
            51 => (usize::from(*packet.get(at + 1)?) + 2) * 4,
            proto => return Some((proto, at)),
        };
        next = *packet.get(at)?;
        at += length;
    }
}

fn port(proto: u8, transport: &[u8]) -> Option<u16> {
    if !has_ports(proto) {
        return Some(0);
    }
    Some(u16::from_be_bytes(transport.get(2..4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(proto: u8, options: usize, rest: &[u8]) -> Vec<u8> {
        let mut p = vec![0u8; 20 + options];
        p[0] = 0x40 | ((20 + options) / 4) as u8;
        p[9] = proto;
        p[16..20].copy_from_slice(&[203, 0, 113, 1]);
        p.extend_from_slice(rest);
        p
    }

    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut p = vec![0u8; 40];
        p[0] = 0x60;
        p[6] = next;
        p[24..40].copy_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        p.extend_from_slice(rest);
        p
    }

    #[test]
    fn ipv4_with_and_without_options() {
        for options in [0, 4, 40] {
            let d = destination(&v4(TCP, options, &[1, 2, 1, 187])).unwrap();
            assert_eq!(d.to_string(), "203.0.113.1:443 (tcp)");
        }
        assert_eq!(destination(&v4(1, 0, &[])).unwrap().port, 0);
    }

    #[test]
    fn ipv6_through_extension_headers() {
        let d = destination(&v6(UDP, &[1, 2, 0, 53])).unwrap();
        assert_eq!(d.to_string(), "[2001:db8::1]:53 (udp)");
        let mut rest = vec![60, 0, 0, 0, 0, 0, 0, 0];
        rest.extend_from_slice(&[TCP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        rest.extend_from_slice(&[9, 9, 0, 80]);
        assert_eq!(destination(&v6(0, &rest)).unwrap().port, 80);
    }

    #[test]
    fn every_cut_is_refused_or_right() {
        let mut rest = vec![TCP, 0, 0, 0, 0, 0, 0, 0];
        rest.extend_from_slice(&[9, 9, 0, 80]);
        for whole in [v4(TCP, 8, &[1, 2, 0, 80]), v6(60, &rest)] {
            for cut in 0..whole.len() {
                assert_eq!(destination(&whole[..cut]), None);
            }
            assert_eq!(destination(&whole).unwrap().port, 80);
        }
        assert_eq!(destination(&[0x41; 60]), None);
        assert_eq!(destination(&[0x10; 60]), None);
    }

    #[test]
    fn protocol_names_are_read_back() {
        for n in 0..=255 {
            assert_eq!(protocol_number(&protocol_name(n)), Some(n));
        }
    }
}
