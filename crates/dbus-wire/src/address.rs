//! Server addresses (specification: Server Addresses).

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use thiserror::Error;

use crate::guid::{Guid, hex_digit};

/// An address of a server. To connect, the addresses of a list are tried in order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// `unix`: a socket of this machine.
    Unix(UnixTarget),
    /// `unixexec`: a program that speaks D-Bus on its standard input and output.
    UnixExec {
        /// The program, looked up in `PATH` if it has no slash.
        path: PathBuf,
        /// What the program sees as its own name; its path if absent.
        argv0: Option<String>,
        /// Its arguments.
        args: Vec<String>,
    },
    /// A transport that is not known here; the next address of the list may be.
    Unsupported {
        /// The transport.
        transport: String,
    },
}

/// Which socket a `unix` address means. `Dir`, `Tmpdir` and `Runtime` are for servers that listen; what
/// they then tell clients is one of the other two.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum UnixTarget {
    /// `path`: a socket in the file system.
    Path(PathBuf),
    /// `abstract`: a name without a file, its leading NUL not included.
    Abstract(Vec<u8>),
    /// `dir`: any name in this directory.
    Dir(PathBuf),
    /// `tmpdir`: any name in this directory, or abstract below it.
    Tmpdir(PathBuf),
    /// `runtime=yes`: `bus` in `XDG_RUNTIME_DIR`.
    Runtime,
}

/// An address together with what the list says of the server there.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ListedAddress {
    /// The address.
    pub address: Address,
    /// `guid`: the identity that the server there has.
    pub guid: Option<Guid>,
}

/// Why text is not a list of addresses.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("cannot read the D-Bus address '{address}': {what} (at byte {at})")]
pub struct AddressError {
    /// The whole text.
    pub address: String,
    /// Where the fault is in it, in bytes.
    pub at: usize,
    /// What is wrong there, and what would be right.
    pub what: String,
}

/// Reads a list of addresses separated by `;`.
///
/// # Errors
///
/// If there is no address in it, or one is malformed. A transport that is not known is no error.
pub fn parse_addresses(text: &str) -> Result<Vec<Address>, AddressError> {
    let listed = parse_address_list(text)?;
    Ok(listed.into_iter().map(|listed| listed.address).collect())
}

/// Reads a list of addresses separated by `;`, with the identities of the servers.
///
/// # Errors
///
/// As for [`parse_addresses`].
pub fn parse_address_list(text: &str) -> Result<Vec<ListedAddress>, AddressError> {
    let mut list = Vec::new();
    let mut at = 0;
    for entry in text.split(';') {
        // A semicolon after the last address is no address.
        let is_last = at + entry.len() == text.len();
        if !(entry.is_empty() && is_last && !list.is_empty()) {
            let fault = |(offset, what): Fault| AddressError {
                address: text.to_owned(),
                at: at + offset,
                what,
            };
            list.push(parse_entry(entry).map_err(fault)?);
        }
        at += entry.len() + 1;
    }
    Ok(list)
}

/// What is wrong, and where in the entry.
type Fault = (usize, String);

struct Pair<'a> {
    key: &'a str,
    value: Vec<u8>,
    at: usize,
}

fn parse_entry(entry: &str) -> Result<ListedAddress, Fault> {
    let Some((transport, rest)) = entry.split_once(':') else {
        let what = if entry.is_empty() {
            "there is no address".to_owned()
        } else {
            "there is no ':' after the transport, as in 'unix:path=/run/user/1000/bus'".to_owned()
        };
        return Err((0, what));
    };
    if transport.is_empty() {
        return Err((0, "there is no transport before ':'".to_owned()));
    }
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    let mut at = transport.len() + 1;
    if !rest.is_empty() {
        for text in rest.split(',') {
            let Some((key, value)) = text.split_once('=') else {
                return Err((at, format!("'{text}' is not of the form key=value")));
            };
            if key.is_empty() {
                return Err((at, "there is no key before '='".to_owned()));
            }
            if pairs.iter().any(|pair| pair.key == key) {
                return Err((at, format!("'{key}' is given twice")));
            }
            let value = unescape(value, at + key.len() + 1)?;
            pairs.push(Pair { key, value, at });
            at += text.len() + 1;
        }
    }
    let guid = match pairs.iter().find(|pair| pair.key == "guid") {
        None => None,
        Some(pair) => {
            let guid = std::str::from_utf8(&pair.value).ok().and_then(Guid::parse);
            Some(guid.ok_or((pair.at, "a guid is 32 hexadecimal digits".to_owned()))?)
        }
    };
    let address = match transport {
        "unix" => Address::Unix(unix(&pairs)?),
        "unixexec" => unix_exec(&pairs)?,
        other => Address::Unsupported {
            transport: other.to_owned(),
        },
    };
    Ok(ListedAddress { address, guid })
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn unix(pairs: &[Pair<'_>]) -> Result<UnixTarget, Fault> {
    let mut target = None;
    for Pair { key, value, at } in pairs {
        let this = match *key {
            "path" => UnixTarget::Path(path(value)),
            "abstract" => UnixTarget::Abstract(value.clone()),
            "dir" => UnixTarget::Dir(path(value)),
            "tmpdir" => UnixTarget::Tmpdir(path(value)),
            "runtime" if value == b"yes" => UnixTarget::Runtime,
            "runtime" => return Err((*at, "'runtime' can only be 'yes'".to_owned())),
            _ => continue,
        };
        if value.is_empty() {
            return Err((*at, format!("'{key}' is empty")));
        }
        if target.replace(this).is_some() {
            let what = "only one of path, abstract, dir, tmpdir and runtime can be given";
            return Err((*at, what.to_owned()));
        }
    }
    target.ok_or((
        0,
        "a unix address needs path, abstract, dir, tmpdir or runtime".to_owned(),
    ))
}

fn unix_exec(pairs: &[Pair<'_>]) -> Result<Address, Fault> {
    let text = |pair: &Pair<'_>| {
        String::from_utf8(pair.value.clone())
            .map_err(|_| (pair.at, format!("'{}' is not UTF-8", pair.key)))
    };
    let find = |key: &str| pairs.iter().find(|pair| pair.key == key);
    let program = find("path").filter(|pair| !pair.value.is_empty());
    let program = program.ok_or((0, "a unixexec address needs path".to_owned()))?;
    let mut args = Vec::new();
    while let Some(pair) = find(&format!("argv{}", args.len() + 1)) {
        args.push(text(pair)?);
    }
    for pair in pairs {
        let number = pair.key.strip_prefix("argv").map(str::parse::<usize>);
        if let Some(Ok(number)) = number
            && number > args.len()
        {
            let missing = args.len() + 1;
            return Err((
                pair.at,
                format!("'argv{number}' is given and 'argv{missing}' is not"),
            ));
        }
    }
    Ok(Address::UnixExec {
        path: path(&program.value),
        argv0: find("argv0").map(text).transpose()?,
        args,
    })
}

/// Bytes that may stand in a value as they are.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'/' | b'\\' | b'*' | b'.')
}

/// Replaces `%XX` by the byte; `at` is where the value stands.
fn unescape(value: &str, at: usize) -> Result<Vec<u8>, Fault> {
    let bytes = value.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut n = 0;
    while let Some(&byte) = bytes.get(n) {
        if byte == b'%' {
            let digit = |n: usize| bytes.get(n).copied().and_then(hex_digit);
            let (Some(high), Some(low)) = (digit(n + 1), digit(n + 2)) else {
                return Err((at + n, "'%' needs two hexadecimal digits".to_owned()));
            };
            out.push(high << 4 | low);
            n += 3;
        } else if is_plain(byte) {
            out.push(byte);
            n += 1;
        } else {
            let what = match char::from(byte) {
                c if c.is_ascii_graphic() => format!("'{c}' has to be written as %{byte:02x}"),
                _ => format!("the byte has to be written as %{byte:02x}"),
            };
            return Err((at + n, what));
        }
    }
    Ok(out)
}

/// Writes bytes as the value of an address, with `%XX` for what cannot stand there as it is.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        if is_plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = |path: &PathBuf| escape(path.as_os_str().as_bytes());
        match self {
            Address::Unix(UnixTarget::Path(p)) => write!(f, "unix:path={}", path(p)),
            Address::Unix(UnixTarget::Abstract(name)) => {
                write!(f, "unix:abstract={}", escape(name))
            }
            Address::Unix(UnixTarget::Dir(p)) => write!(f, "unix:dir={}", path(p)),
            Address::Unix(UnixTarget::Tmpdir(p)) => write!(f, "unix:tmpdir={}", path(p)),
            Address::Unix(UnixTarget::Runtime) => f.write_str("unix:runtime=yes"),
            Address::UnixExec {
                path: p,
                argv0,
                args,
            } => {
                write!(f, "unixexec:path={}", path(p))?;
                if let Some(argv0) = argv0 {
                    write!(f, ",argv0={}", escape(argv0.as_bytes()))?;
                }
                for (n, arg) in args.iter().enumerate() {
                    write!(f, ",argv{}={}", n + 1, escape(arg.as_bytes()))?;
                }
                Ok(())
            }
            Address::Unsupported { transport } => write!(f, "{transport}:"),
        }
    }
}

impl fmt::Display for ListedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        match (&self.guid, &self.address) {
            (Some(guid), Address::Unsupported { .. }) => write!(f, "guid={guid}"),
            (Some(guid), _) => write!(f, ",guid={guid}"),
            (None, _) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_in_order() {
        let list = parse_address_list(
            "unix:path=/run/user/1000/bus,guid=00112233445566778899aabbccddeeff;unix:abstract=/tmp/dbus-x;tcp:host=localhost,port=1;unix:runtime=yes;",
        )
        .unwrap();
        assert_eq!(
            list[0].address,
            Address::Unix(UnixTarget::Path("/run/user/1000/bus".into()))
        );
        assert!(list[0].guid.is_some());
        assert_eq!(
            list[1].address,
            Address::Unix(UnixTarget::Abstract(b"/tmp/dbus-x".to_vec()))
        );
        assert_eq!(
            list[2].address,
            Address::Unsupported {
                transport: "tcp".into()
            }
        );
        assert_eq!(list[3].address, Address::Unix(UnixTarget::Runtime));
        assert_eq!(list.len(), 4);
    }

    #[test]
    fn escapes_are_undone_and_made() {
        let addresses = parse_addresses("unix:path=/tmp/a%20b%2Cc%ff").unwrap();
        let path = PathBuf::from(OsStr::from_bytes(b"/tmp/a b,c\xff"));
        assert_eq!(addresses, [Address::Unix(UnixTarget::Path(path))]);
        assert_eq!(addresses[0].to_string(), "unix:path=/tmp/a%20b%2cc%ff");
    }

    #[test]
    fn faults_say_what_and_where() {
        for (bad, at, what) in [
            ("", 0, "no address"),
            (";unix:path=/a", 0, "no address"),
            ("unix:path=/a;;unix:path=/b", 13, "no address"),
            ("/run/user/1000/bus", 0, "no ':'"),
            (":path=/a", 0, "no transport"),
            ("unix:", 0, "needs path"),
            ("unix:foo=bar", 0, "needs path"),
            ("unix:path", 5, "key=value"),
            ("unix:=x", 5, "no key"),
            ("unix:path=", 5, "empty"),
            ("unix:path=/a,path=/b", 13, "twice"),
            ("unix:path=/a,abstract=b", 13, "only one"),
            ("unix:path=/a b", 12, "%20"),
            ("unix:path=/a%2", 12, "two hexadecimal"),
            ("unix:path=/a%zz", 12, "two hexadecimal"),
            ("unix:path=/a,guid=12", 13, "32"),
            ("unix:runtime=no", 5, "yes"),
            ("unix:path=/a;unix:path=/ö", 24, "%c3"),
            ("unixexec:argv1=a", 0, "needs path"),
            ("unixexec:path=a,argv2=b", 16, "argv1"),
        ] {
            let error = parse_addresses(bad).unwrap_err();
            assert_eq!(error.at, at, "{error}");
            assert!(error.what.contains(what), "{error}");
        }
    }

    #[test]
    fn a_program_has_its_arguments_in_order() {
        let text = "unixexec:path=ssh,argv0=x,argv2=b,argv1=a%20a";
        let addresses = parse_addresses(text).unwrap();
        assert_eq!(
            addresses,
            [Address::UnixExec {
                path: "ssh".into(),
                argv0: Some("x".into()),
                args: vec!["a a".into(), "b".into()],
            }]
        );
        assert_eq!(
            parse_addresses(&addresses[0].to_string()).unwrap(),
            addresses
        );
    }
}
