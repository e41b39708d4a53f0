//! Names and DNS messages (RFC 1035), as far as a forwarder that learns addresses needs them.
//!
//! What comes from the container and from the network is read with every length checked; compression
//! pointers only ever lead backwards, so reading a name ends.

use std::collections::HashSet;
use std::net::IpAddr;

/// `A`.
pub const TYPE_A: u16 = 1;
/// `AAAA`.
pub const TYPE_AAAA: u16 = 28;
const TYPE_CNAME: u16 = 5;
const TYPE_DNAME: u16 = 39;
const CLASS_IN: u16 = 1;

/// The longest message that is accepted.
pub const MESSAGE_MAX: usize = 65_535;

/// A host's name: lower case, without the final dot, letters, digits, `-` and `_` only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// Reads a name as people write it.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let fits = !text.is_empty()
            && text.len() <= 253
            && text.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && !label.starts_with('-')
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            });
        // A last label of digits is an address that went wrong, and never a name (RFC 3696 §2).
        let last = text.rsplit('.').next().unwrap_or_default();
        (fits && !last.bytes().all(|b| b.is_ascii_digit())).then(|| Self(text.to_ascii_lowercase()))
    }

    /// Whether `self` is `other` or stands above it.
    pub fn covers(&self, other: &Name) -> bool {
        other
            .0
            .strip_suffix(&self.0)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// The name, and each name above it.
    pub fn and_parents(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(Some(self.0.as_str()), |name| {
            name.split_once('.').map(|(_, rest)| rest)
        })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a client asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The message's id.
    pub id: u16,
    /// The name; `None` if it is no host name (it is then forwarded without learning from it).
    pub name: Option<Name>,
    /// The record type.
    pub kind: u16,
    /// Where the question ends in the message.
    end: usize,
}

/// Reads a query with exactly one question of class IN.
pub fn question(message: &[u8]) -> Option<Question> {
    let (id, flags, counts) = header(message)?;
    // A query (QR 0), opcode 0.
    if flags & 0xf800 != 0 || counts[0] != 1 {
        return None;
    }
    let (name, at) = name(message, 12)?;
    let kind = word(message, at)?;
    let class = word(message, at + 2)?;
    (class == CLASS_IN).then(|| Question {
        id,
        name: Name::parse(&name),
        kind,
        end: at + 4,
    })
}

/// Whether `reply` answers `query`: a response to the same question.
pub fn answers(query: &[u8], question: &Question, reply: &[u8]) -> bool {
    let Some((_, flags, counts)) = header(reply) else {
        return false;
    };
    flags & 0x8000 != 0
        && counts[0] == 1
        && match (query.get(12..question.end), reply.get(12..question.end)) {
            (Some(asked), Some(answered)) => asked.eq_ignore_ascii_case(answered),
            _ => false,
        }
}

/// How many addresses are learned from one reply: each costs work, and a reply could hold thousands.
pub const ADDRESSES_MAX: usize = 64;

/// The addresses that a reply gives for the name it was asked for, through its aliases; the first
/// [`ADDRESSES_MAX`].
pub fn addresses(reply: &[u8]) -> Vec<IpAddr> {
    read_addresses(reply).unwrap_or_default()
}

fn read_addresses(reply: &[u8]) -> Option<Vec<IpAddr>> {
    let (_, flags, counts) = header(reply)?;
    if flags & 0x000f != 0 {
        return Some(Vec::new());
    }
    let (asked, at) = name(reply, 12)?;
    let mut at = at + 4;
    let mut names = HashSet::from([asked.to_ascii_lowercase()]);
    let mut found = Vec::new();
    for _ in 0..counts[1] {
        if found.len() == ADDRESSES_MAX {
            break;
        }
        let (owner, next) = name(reply, at)?;
        let owner = owner.to_ascii_lowercase();
        let kind = word(reply, next)?;
        let class = word(reply, next + 2)?;
        let length = usize::from(word(reply, next + 8)?);
        let data = next + 10;
        let value = reply.get(data..data + length)?;
        at = data + length;
        if class != CLASS_IN {
            continue;
        }
        match kind {
            // Aliases stand before what they lead to (RFC 1034 §4.3.2), as every resolver sends them.
            TYPE_CNAME if names.contains(&owner) => {
                names.insert(name(reply, data)?.0.to_ascii_lowercase());
            }
            TYPE_DNAME => {}
            TYPE_A if names.contains(&owner) => {
                found.push(IpAddr::from(<[u8; 4]>::try_from(value).ok()?));
            }
            TYPE_AAAA if names.contains(&owner) => {
                found.push(IpAddr::from(<[u8; 16]>::try_from(value).ok()?));
            }
            _ => {}
        }
    }
    Some(found)
}

/// A reply to `query` that says this response code and nothing else.
pub fn refusal(query: &[u8], question: &Question, code: u8) -> Vec<u8> {
    let mut reply = query[..question.end].to_vec();
    // A response, with the query's RD, and RA.
    reply[2] = 0x80 | (query[2] & 0x01);
    reply[3] = 0x80 | (code & 0x0f);
    reply[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    reply
}

/// "The server failed" (RFC 1035 §4.1.1).
pub const SERVER_FAILURE: u8 = 2;
/// "The name does not exist".
pub const NAME_ERROR: u8 = 3;

fn header(message: &[u8]) -> Option<(u16, u16, [u16; 4])> {
    let mut counts = [0; 4];
    for (i, count) in counts.iter_mut().enumerate() {
        *count = word(message, 4 + i * 2)?;
    }
    Some((word(message, 0)?, word(message, 2)?, counts))
}

fn word(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(
        message.get(at..at + 2)?.try_into().ok()?,
    ))
}

/// Reads the name at `at`; gives it, and where what follows begins.
fn name(message: &[u8], at: usize) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut place = at;
    let mut end = None;
    let mut lowest = at;
    loop {
        let length = usize::from(*message.get(place)?);
        match length {
            0 => return Some((text, end.unwrap_or(place + 1))),
            1..=63 => {
                let label = message.get(place + 1..place + 1 + length)?;
                if !text.is_empty() {
                    text.push('.');
                }
                // Labels may hold any byte; only those that make a host name are of use here.
                for byte in label {
                    text.push(if byte.is_ascii_graphic() && *byte != b'.' {
                        char::from(*byte)
                    } else {
                        '?'
                    });
                }
                if text.len() > 255 {
                    return None;
                }
                place += 1 + length;
            }
            192.. => {
                let target = (length & 0x3f) << 8 | usize::from(*message.get(place + 1)?);
                end.get_or_insert(place + 2);
                if target >= lowest {
                    return None;
                }
                lowest = target;
                place = target;
            }
            _ => return None,
        }
    }
}

/// Builds messages for tests and for measuring.
#[doc(hidden)]
pub mod build {
    use super::*;

    fn push_name(out: &mut Vec<u8>, name: &str) {
        for label in name.split('.').filter(|l| !l.is_empty()) {
            out.push(label.len() as u8);
            out.extend_from_slice(label.as_bytes());
        }
        out.push(0);
    }

    /// A query for `name`.
    pub fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
        let mut out = id.to_be_bytes().to_vec();
        out.extend_from_slice(&[0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
        push_name(&mut out, name);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&CLASS_IN.to_be_bytes());
        out
    }

    /// A reply to `query` with these records: owner, and an address or the name that it is an alias of.
    pub fn reply(query: &[u8], records: &[(&str, Result<IpAddr, &str>)]) -> Vec<u8> {
        let mut out = query.to_vec();
        out[2] |= 0x80;
        out[3] |= 0x80;
        out[7] = records.len() as u8;
        for (owner, value) in records {
            push_name(&mut out, owner);
            let (kind, data) = match value {
                Ok(IpAddr::V4(a)) => (TYPE_A, a.octets().to_vec()),
                Ok(IpAddr::V6(a)) => (TYPE_AAAA, a.octets().to_vec()),
                Err(alias) => {
                    let mut data = Vec::new();
                    push_name(&mut data, alias);
                    (TYPE_CNAME, data)
                }
            };
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(&CLASS_IN.to_be_bytes());
            out.extend_from_slice(&60u32.to_be_bytes());
            out.extend_from_slice(&(data.len() as u16).to_be_bytes());
            out.extend_from_slice(&data);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn a_name_covers_itself_and_what_is_below_it() {
        assert!(n("example.org").covers(&n("example.org")));
        assert!(n("example.org").covers(&n("WWW.Example.org.")));
        assert!(!n("example.org").covers(&n("badexample.org")));
        assert!(!n("www.example.org").covers(&n("example.org")));
        let parents: Vec<_> = Name::parse("a.b.c")
            .unwrap()
            .and_parents()
            .map(str::to_owned)
            .collect();
        assert_eq!(parents, ["a.b.c", "b.c", "c"]);
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        for bad in [
            "",
            ".",
            "a..b",
            "1.2.3.4",
            "a b",
            "a\u{1b}[1mb",
            "<b>x</b>",
            "-a.b",
            &"x".repeat(64),
            &"a.".repeat(200),
        ] {
            assert!(Name::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn addresses_are_taken_through_aliases_and_only_for_the_name_asked() {
        let query = build::query(7, "www.example.org", TYPE_A);
        let good: IpAddr = "203.0.113.5".parse().unwrap();
        let bad: IpAddr = "203.0.113.6".parse().unwrap();
        let reply = build::reply(
            &query,
            &[
                ("www.example.org", Err("edge.cdn.example")),
                ("edge.cdn.example", Ok(good)),
                ("unrelated.example", Ok(bad)),
            ],
        );
        let q = question(&query).unwrap();
        assert_eq!(q.name, Name::parse("www.example.org"));
        assert!(answers(&query, &q, &reply));
        assert_eq!(addresses(&reply), [good]);
        let other = build::query(7, "www.example.com", TYPE_A);
        assert!(!answers(&other, &question(&other).unwrap(), &reply));
    }

    #[test]
    fn compression_pointers_lead_backwards_or_nowhere() {
        let mut query = build::query(1, "example.org", TYPE_A);
        query[2] = 0x81;
        query[7] = 1;
        let at = query.len();
        query.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 9]);
        assert_eq!(addresses(&query).len(), 1);
        query[at + 1] = at as u8;
        assert_eq!(addresses(&query).len(), 0, "a pointer to itself");
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_read_without_a_panic() {
        let query = build::query(1, "www.example.org", TYPE_AAAA);
        let reply = build::reply(
            &query,
            &[
                ("www.example.org", Err("a.b")),
                ("a.b", Ok("2001:db8::1".parse().unwrap())),
            ],
        );
        for cut in 0..reply.len() {
            addresses(&reply[..cut]);
            question(&reply[..cut]);
        }
        for at in 0..reply.len() {
            for value in [0, 1, 0x3f, 0x40, 0xc0, 0xff] {
                let mut changed = reply.clone();
                changed[at] = value;
                addresses(&changed);
                question(&changed);
            }
        }
    }

    #[test]
    fn a_refusal_repeats_the_question() {
        let query = build::query(0x1234, "example.org", TYPE_A);
        let q = question(&query).unwrap();
        let reply = refusal(&query, &q, NAME_ERROR);
        assert!(answers(&query, &q, &reply));
        assert_eq!(reply[3] & 0x0f, NAME_ERROR);
        assert_eq!(reply[..2], query[..2]);
    }
}
