//! The command line of xdg-dbus-proxy, complete: `[OPTION…] [ADDRESS PATH [OPTION…]…]`.
//!
//! It is read by hand and not by clap: options belong to the address before them, a value is given with
//! `=` and in no other way, and what is wrong is said in the words that wrappers look for.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use dbus_wire::names;

use crate::{Access, MemberRule, NamePattern, NameRule, RuleId};

/// The help of the options, as `--help` prints it.
pub const HELP: &str = "\
usage: {program} [OPTION…] [ADDRESS PATH [OPTION…]…]

Listens at each PATH, and passes what clients send there on to the bus at the ADDRESS before it.

Options:
    --help                       Print this help
    --version                    Print the version
    --fd=FD                      Write a byte to FD when all proxies are ready; end when FD is closed
    --args=FD                    Read arguments from FD, each ended by a NUL byte

Options of the ADDRESS PATH before them:
    --filter                     Let through only what the options below allow
    --log                        Print each message on standard output
    --sloppy-names               Tell of all unique names that come and go
    --see=NAME                   NAME can be seen
    --talk=NAME                  NAME can be seen and talked to
    --own=NAME                   NAME can be seen, talked to and owned
    --call=NAME=RULE             Calls to NAME that match RULE are let through
    --broadcast=NAME=RULE        Broadcasts from NAME that match RULE are let through

NAME is a bus name; org.example.* is org.example and all names below it.
RULE is [METHOD][@PATH]. METHOD is *, INTERFACE.* or INTERFACE.MEMBER; PATH is an object path, with /*
at its end for all paths below it as well.
";

/// What a command line asks for.
#[derive(Debug)]
pub enum Wanted {
    /// `--help`.
    Help,
    /// `--version`.
    Version,
    /// To run.
    Run(Proxies),
}

/// What is to be run.
#[derive(Debug, Default)]
pub struct Proxies {
    /// `--fd`: where readiness is told, and whose closing is the end.
    pub fd: Option<i32>,
    /// One for each ADDRESS.
    pub proxies: Vec<Proxy>,
}

/// One ADDRESS with its options.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// The bus.
    pub address: String,
    /// Where clients connect.
    pub path: PathBuf,
    /// `--filter`.
    pub filter: bool,
    /// `--log`.
    pub log: bool,
    /// `--sloppy-names`.
    pub sloppy_names: bool,
    /// `--see`, `--talk`, `--own`, `--call` and `--broadcast`, in their order.
    pub rules: Vec<NameRule>,
}

/// Reads a command line without the program's name. `args_of` gives what there is to be read from a
/// descriptor, for `--args`.
///
/// # Errors
/// What is wrong, for the person who wrote it.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    mut args_of: impl FnMut(i32) -> std::io::Result<Vec<u8>>,
) -> Result<Wanted, String> {
    let mut arguments: VecDeque<OsString> = arguments.into_iter().collect();
    let mut wanted = Proxies::default();
    while let Some(argument) = arguments.pop_front() {
        let Some(option) = argument.to_str().filter(|text| text.starts_with('-')) else {
            let address = argument
                .into_string()
                .map_err(|argument| format!("The address {} is not text", argument.display()))?;
            let path = arguments
                .pop_front()
                .filter(|path| !path.as_bytes().starts_with(b"-"))
                .ok_or_else(|| {
                    format!("No socket path given: after the address {address} comes the path to listen at")
                })?;
            wanted.proxies.push(Proxy {
                address,
                path: path.into(),
                filter: false,
                log: false,
                sloppy_names: false,
                rules: Vec::new(),
            });
            continue;
        };
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        match (name, value) {
            ("--help", None) => return Ok(Wanted::Help),
            ("--version", None) => return Ok(Wanted::Version),
            ("--fd", Some(value)) => wanted.fd = Some(descriptor(value)?),
            ("--args", Some(value)) => {
                let fd = descriptor(value)?;
                let bytes = args_of(fd).map_err(|error| {
                    format!(
                        "Failed to load --args: {error}; is {fd} a descriptor that can be read?"
                    )
                })?;
                let more = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
                if !more.is_empty() {
                    for argument in more.split(|byte| *byte == 0).rev() {
                        arguments.push_front(OsString::from_vec(argument.to_vec()));
                    }
                }
            }
            _ => {
                let Some(proxy) = wanted.proxies.last_mut() else {
                    return Err(if is_proxy_option(name) {
                        format!(
                            "Unknown argument {option}: {name} comes after an ADDRESS and its PATH"
                        )
                    } else {
                        unknown(option, name)
                    });
                };
                proxy_option(proxy, option, name, value)?;
            }
        }
    }
    if wanted.proxies.is_empty() {
        return Err("There is nothing to do: give an ADDRESS and a PATH; see --help".to_owned());
    }
    Ok(Wanted::Run(wanted))
}

const OPTIONS: [&str; 12] = [
    "--help",
    "--version",
    "--fd",
    "--args",
    "--filter",
    "--log",
    "--sloppy-names",
    "--see",
    "--talk",
    "--own",
    "--call",
    "--broadcast",
];

fn is_proxy_option(name: &str) -> bool {
    OPTIONS[4..].contains(&name)
}

fn unknown(option: &str, name: &str) -> String {
    let takes_value = |name: &str| {
        OPTIONS.contains(&name)
            && !matches!(
                name,
                "--help" | "--version" | "--filter" | "--log" | "--sloppy-names"
            )
    };
    if takes_value(name) {
        return format!("Unknown argument {option}: the value is given as {name}=VALUE");
    }
    if OPTIONS.contains(&name) {
        return format!("Unknown argument {option}: {name} takes no value");
    }
    // Without the hyphens, which all have in common.
    let known: Vec<String> = OPTIONS.iter().map(|it| it[2..].replace('-', "_")).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    match super::diagnostic::nearest(name.trim_start_matches('-'), &known) {
        Some(near) => format!(
            "Unknown argument {option}: did you mean --{}?",
            near.replace('_', "-")
        ),
        None => format!("Unknown argument {option}; see --help"),
    }
}

fn descriptor(value: &str) -> Result<i32, String> {
    value
        .parse()
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(|| format!("Invalid fd {value}: expected the number of an open descriptor"))
}

fn proxy_option(
    proxy: &mut Proxy,
    option: &str,
    name: &str,
    value: Option<&str>,
) -> Result<(), String> {
    match (name, value) {
        ("--filter", None) => proxy.filter = true,
        ("--log", None) => proxy.log = true,
        ("--sloppy-names", None) => proxy.sloppy_names = true,
        ("--see", Some(value)) => add(proxy, "--see", value, Access::See)?,
        ("--talk", Some(value)) => add(proxy, "--talk", value, Access::Talk)?,
        ("--own", Some(value)) => add(proxy, "--own", value, Access::Own)?,
        ("--call" | "--broadcast", Some(value)) => {
            let Some((bus_name, rule)) = value.split_once('=') else {
                return Err(format!(
                    "'{value}' is not a valid name + rule: expected {name}=NAME=RULE"
                ));
            };
            // Who may call something of a name, or hear something from it, also sees it.
            let table = if name == "--call" {
                "--call"
            } else {
                "--broadcast"
            };
            add(proxy, table, bus_name, Access::See)?;
            // A rule that can match nothing is no error: xdg-dbus-proxy takes it as well.
            if let (Ok(rule), Some(added)) = (MemberRule::parse(rule), proxy.rules.last_mut()) {
                let list = if name == "--call" {
                    &mut added.calls
                } else {
                    &mut added.broadcasts
                };
                list.push(rule);
            }
        }
        _ => return Err(unknown(option, name)),
    }
    Ok(())
}

/// `NAME.*` means NAME itself as well.
fn add(proxy: &mut Proxy, table: &'static str, text: &str, access: Access) -> Result<(), String> {
    let exact = text.strip_suffix(".*").unwrap_or(text);
    if !names::is_well_known_name(exact) {
        return Err(format!(
            "'{text}' is not a valid dbus name: expected something like org.example.Name or org.example.*"
        ));
    }
    let name = if exact == text {
        NamePattern::Exact(exact.into())
    } else {
        NamePattern::Subtree(exact.into())
    };
    proxy.rules.push(NameRule {
        id: RuleId {
            table,
            index: proxy.rules.len(),
            line: None,
        },
        name,
        access,
        lives_on_host: false,
        calls: Vec::new(),
        broadcasts: Vec::new(),
    });
    Ok(())
}

/// Whether the program was called by this name, whatever directory it is in.
pub fn is_called(argv0: Option<&OsStr>, name: &str) -> bool {
    argv0
        .map(std::path::Path::new)
        .and_then(std::path::Path::file_name)
        == Some(OsStr::new(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Proxies, String> {
        let arguments = arguments.iter().map(OsString::from);
        match parse(arguments, |_| Ok(b"--see=org.a.B\0--log\0".to_vec()))? {
            Wanted::Run(proxies) => Ok(proxies),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_belong_to_the_address_before_them() {
        let read = read(&[
            "--fd=3",
            "unix:path=/a",
            "/s1",
            "--filter",
            "--own=org.a.*",
            "unix:path=/b",
            "/s2",
            "--log",
        ])
        .unwrap();
        assert_eq!(read.fd, Some(3));
        let [first, second] = &read.proxies[..] else {
            panic!("{read:?}")
        };
        assert!(first.filter && !first.log && !second.filter && second.log);
        assert!(first.rules[0].name.matches("org.a.b") && first.rules[0].name.matches("org.a"));
    }

    #[test]
    fn arguments_from_a_descriptor_stand_where_the_option_stood() {
        let read = read(&["unix:path=/a", "/s", "--args=5", "--filter"]).unwrap();
        assert!(read.proxies[0].log && read.proxies[0].filter);
        assert_eq!(read.proxies[0].rules.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_said_in_the_words_that_wrappers_know() {
        for (arguments, said) in [
            (&["--bogus"][..], "Unknown argument --bogus"),
            (&["--fd=x"], "Invalid fd x"),
            (&["--filter"], "Unknown argument --filter"),
            (&["unix:path=/a"], "No socket path given"),
            (&["unix:path=/a", "/s", "--se=x"], "did you mean --see?"),
            (&["unix:path=/a", "/s", "--see"], "Unknown argument --see"),
            (
                &["unix:path=/a", "/s", "--see=1"],
                "'1' is not a valid dbus name",
            ),
            (
                &["unix:path=/a", "/s", "--see=:1.2"],
                "is not a valid dbus name",
            ),
            (
                &["unix:path=/a", "/s", "--talk=org.*"],
                "'org.*' is not a valid dbus name",
            ),
            (
                &["unix:path=/a", "/s", "--call=org.a.b"],
                "is not a valid name + rule",
            ),
            (
                &["unix:path=/a", "/s", "--filter=x"],
                "Unknown argument --filter=x",
            ),
        ] {
            let error = read(arguments).unwrap_err();
            assert!(error.contains(said), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn a_rule_that_matches_nothing_lets_its_name_be_seen() {
        let read = read(&[
            "unix:path=/a",
            "/s",
            "--call=org.a.b=Foo",
            "--call=org.a.b=@/*",
        ])
        .unwrap();
        let [first, second] = &read.proxies[0].rules[..] else {
            panic!("{read:?}")
        };
        assert!(first.calls.is_empty() && first.access == Access::See);
        assert!(second.calls[0].matches(Some("x.y"), Some("Z"), Some("/a")));
    }
}
