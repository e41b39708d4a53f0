//! A container's state directory: what was decided, and what happened.
//!
//! The files that the original has are kept as it has them, one address or name a line:
//! `profile.allowed`, `profile.domains`, `live.allowed`, `live.domains`, `deny.list`, `denied.domains`,
//! `interactive`, `container.id`, `ruleset.nft`, `audit.jsonl`. Ours are `live.ports`, `deny.ports`
//! (decisions by address, protocol and port), `target.json` (where the container is), `pending.jsonl`
//! (questions that wait, for a restart) and `bridge.lock`.
//!
//! What counts is (profile ∪ live) − deny. Files are replaced whole, by renaming; lists are only added to.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::dns::Name;
use crate::error::{Error, Result};
use crate::packet::Destination;
use crate::pending::Request;
use crate::profile::{self, Entry, Network};
use crate::ruleset::Rules;

/// No file of ours is larger; what is larger is somebody else's.
const FILE_MAX: u64 = 16 * 1024 * 1024;

/// How many lines `pending.jsonl` may grow by before it is written anew.
const JOURNAL_LINES: usize = 4 * crate::pending::CAPACITY;

/// A list of addresses, destinations or names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// Addresses that the profile allows.
    ProfileAllowed,
    /// Destinations that the profile allows.
    ProfilePorts,
    /// Names that the profile allows.
    ProfileDomains,
    /// Addresses that were allowed since.
    LiveAllowed,
    /// Destinations that were allowed since.
    LivePorts,
    /// Names that were allowed since.
    LiveDomains,
    /// Addresses that were denied.
    DenyList,
    /// Destinations that were denied.
    DenyPorts,
    /// Names that were denied.
    DeniedDomains,
}

impl List {
    fn file(self) -> &'static str {
        match self {
            Self::ProfileAllowed => "profile.allowed",
            Self::ProfilePorts => "profile.ports",
            Self::ProfileDomains => "profile.domains",
            Self::LiveAllowed => "live.allowed",
            Self::LivePorts => "live.ports",
            Self::LiveDomains => "live.domains",
            Self::DenyList => "deny.list",
            Self::DenyPorts => "deny.ports",
            Self::DeniedDomains => "denied.domains",
        }
    }
}

/// Where a container is, as `up` found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The container's name.
    pub container: String,
    /// How it was found: `podman`, `docker`, `incus`, `pid`, `netns`.
    pub kind: String,
    /// The path of its network namespace.
    pub netns: PathBuf,
    /// Its first process, if it is known.
    #[serde(default)]
    pub pid: Option<u32>,
    /// When that process started, in clock ticks since boot: a pid alone may mean another process later.
    #[serde(default)]
    pub started: Option<u64>,
    /// Addresses of gateways, for when the rules are loaded again.
    #[serde(default)]
    pub gateways: Vec<std::net::IpAddr>,
    /// Ask about private networks too.
    #[serde(default)]
    pub ask_private: bool,
    /// Leave name resolution alone.
    #[serde(default)]
    pub without_names: bool,
}

/// A state directory.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

/// The right to be the only bridge of a container, until it is dropped.
#[derive(Debug)]
pub struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // A child that was forked a moment ago may still have a copy of the descriptor: closing ours would
        // not be enough.
        let _ = rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock);
    }
}

impl StateDir {
    /// A directory that may exist or not.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where the directories of all containers are, unless somebody says otherwise.
    pub fn default_root() -> PathBuf {
        if rustix::process::geteuid().is_root() {
            return "/var/lib/shield".into();
        }
        let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".local/state"));
        std::env::var_os("XDG_STATE_HOME")
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
            .or_else(home)
            .unwrap_or_else(|| "/var/tmp".into())
            .join("shield")
    }

    /// The directory of a container below `root`. A name cannot lead out of it.
    pub fn of_container(root: &Path, container: &str) -> Self {
        let mut name = String::new();
        for byte in container.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(byte.into()),
                b'.' if !name.is_empty() => name.push('.'),
                other => name.push_str(&format!("%{other:02x}")),
            }
        }
        Self::new(root.join(name))
    }

    /// The directories below `root` whose containers are up.
    pub fn all(root: &Path) -> Vec<Self> {
        let mut found: Vec<_> = fs::read_dir(root)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| Self::new(e.path()))
            .filter(|s| s.path.join("target.json").is_file())
            .collect();
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file of it is.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes the directory, for its owner only.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(&self) -> Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(|e| {
                Error::system(
                    format!("making the state directory {}", self.path.display()),
                    e,
                )
            })
    }

    /// The container's short id: twelve hexadecimal digits.
    ///
    /// # Errors
    /// If the file is missing, or holds something else.
    pub fn container_id(&self) -> Result<String> {
        let text = self.read("container.id")?.ok_or_else(|| {
            Error::system(
                format!("reading {}", self.file("container.id").display()),
                io::ErrorKind::NotFound.into(),
            )
        })?;
        let id = text.trim();
        if is_short_id(id) {
            Ok(id.to_owned())
        } else {
            Err(Error::Line {
                path: self.file("container.id").display().to_string(),
                line: 1,
                what: "not twelve hexadecimal digits".into(),
            })
        }
    }

    /// Whether the container's connections are asked about.
    pub fn is_interactive(&self) -> bool {
        matches!(self.read("interactive"), Ok(Some(text)) if text.trim() == "nflog")
    }

    /// Where the container is; `None` if the directory was made by another program.
    ///
    /// # Errors
    /// If the file cannot be read, or is not what `up` wrote.
    pub fn target(&self) -> Result<Option<Target>> {
        let Some(text) = self.read("target.json")? else {
            return Ok(None);
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|e| Error::Line {
                path: self.file("target.json").display().to_string(),
                line: e.line(),
                what: e.to_string(),
            })
    }

    /// Writes where it is.
    ///
    /// # Errors
    /// What the file system says.
    pub fn set_target(&self, target: &Target) -> Result<()> {
        let text =
            serde_json::to_string(target).map_err(|_| Error::Internal("a target is no JSON"))?;
        self.replace("target.json", &format!("{text}\n"))
    }

    /// Replaces a file, whole or not at all.
    ///
    /// # Errors
    /// What the file system says.
    pub fn replace(&self, name: &str, text: &str) -> Result<()> {
        let path = self.file(name);
        let new = self.file(&format!(".{name}.{}", std::process::id()));
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&new, &path)
        };
        write().map_err(|e: io::Error| {
            let _ = fs::remove_file(&new);
            Error::system(format!("writing {}", path.display()), e)
        })
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.file(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::system(
                format!("removing {}", self.file(name).display()),
                e,
            )),
            _ => Ok(()),
        }
    }

    /// Reads a file; `None` if it is not there.
    fn read(&self, name: &str) -> Result<Option<String>> {
        let path = self.file(name);
        let read = || -> io::Result<Option<String>> {
            let file = match File::open(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other?,
            };
            let mut text = String::new();
            file.take(FILE_MAX).read_to_string(&mut text)?;
            Ok(Some(text))
        };
        read().map_err(|e| Error::system(format!("reading {}", path.display()), e))
    }

    /// The entries of a list. Lines that say nothing are left out, and warned of.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn list(&self, list: List) -> Result<Vec<Entry>> {
        let text = self.read(list.file())?.unwrap_or_default();
        let mut entries = Vec::new();
        for line in text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
        {
            match line.parse() {
                Ok(entry) => entries.push(entry),
                Err(why) => tracing::warn!(file = list.file(), %why, "a line is left out"),
            }
        }
        Ok(entries)
    }

    /// Adds a line to a list, if it does not hold it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn add(&self, list: List, line: &str) -> Result<()> {
        let text = self.read(list.file())?.unwrap_or_default();
        if text.lines().any(|l| l.trim() == line) {
            return Ok(());
        }
        let path = self.file(list.file());
        let gap = if text.is_empty() || text.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut f| f.write_all(format!("{gap}{line}\n").as_bytes()))
            .map_err(|e| Error::system(format!("writing {}", path.display()), e))
    }

    /// Takes a line out of a list, if it holds it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn take(&self, list: List, line: &str) -> Result<()> {
        let Some(text) = self.read(list.file())? else {
            return Ok(());
        };
        if !text.lines().any(|l| l.trim() == line) {
            return Ok(());
        }
        let kept: String = text
            .lines()
            .filter(|l| l.trim() != line)
            .flat_map(|l| [l, "\n"])
            .collect();
        self.replace(list.file(), &kept)
    }

    /// Replaces a list.
    ///
    /// # Errors
    /// What the file system says.
    pub fn set_list(&self, list: List, entries: &[Entry]) -> Result<()> {
        let text: String = entries.iter().map(|e| format!("{e}\n")).collect();
        self.replace(list.file(), &text)
    }

    /// The rules that the lists say.
    ///
    /// # Errors
    /// If a list cannot be read.
    pub fn rules(&self) -> Result<Rules> {
        let networks = |list: List| -> Result<Vec<Network>> {
            Ok(self
                .list(list)?
                .into_iter()
                .filter_map(|e| match e {
                    Entry::Network(n) => Some(n),
                    _ => None,
                })
                .collect())
        };
        let destinations = |list: List| -> Result<Vec<Destination>> {
            Ok(self
                .list(list)?
                .into_iter()
                .filter_map(|e| match e {
                    Entry::Destination(d) => Some(d),
                    _ => None,
                })
                .collect())
        };
        let denied = networks(List::DenyList)?;
        let denied_ports = destinations(List::DenyPorts)?;
        let mut allowed = networks(List::ProfileAllowed)?;
        allowed.extend(networks(List::LiveAllowed)?);
        allowed.retain(|n| !denied.contains(n));
        let mut allowed_ports = destinations(List::ProfilePorts)?;
        allowed_ports.extend(destinations(List::LivePorts)?);
        allowed_ports.retain(|d| !denied_ports.contains(d));
        dedup(&mut allowed);
        dedup(&mut allowed_ports);
        Ok(Rules {
            allowed,
            denied,
            allowed_ports,
            denied_ports,
            ..Rules::default()
        })
    }

    /// The names that are allowed, and those that are denied.
    ///
    /// # Errors
    /// If a list cannot be read.
    pub fn names(&self) -> Result<(HashSet<Name>, HashSet<Name>)> {
        let names = |list: List| -> Result<HashSet<Name>> {
            Ok(self
                .list(list)?
                .into_iter()
                .filter_map(|e| match e {
                    Entry::Name(n) => Name::parse(&n),
                    _ => None,
                })
                .collect())
        };
        let denied = names(List::DeniedDomains)?;
        let mut allowed = names(List::ProfileDomains)?;
        allowed.extend(names(List::LiveDomains)?);
        allowed.retain(|n| !denied.contains(n));
        Ok((allowed, denied))
    }

    /// Becomes the only bridge of this container.
    ///
    /// # Errors
    /// [`Error::Busy`] if there is one.
    pub fn lock(&self, container: &str) -> Result<Lock> {
        let path = self.file("bridge.lock");
        let failed = |e: io::Error| Error::system(format!("locking {}", path.display()), e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut by = String::new();
                let _ = (&mut file).take(20).read_to_string(&mut by);
                let by = by
                    .trim()
                    .parse::<u32>()
                    .map_or(String::new(), |pid| format!(" (pid {pid})"));
                return Err(Error::Busy {
                    container: container.to_owned(),
                    by,
                });
            }
            Err(e) => return Err(failed(e.into())),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Lock(file))
    }

    /// Opens the questions that waited when the last bridge ended.
    ///
    /// # Errors
    /// What the file system says.
    pub fn journal(&self) -> Result<(Journal, Vec<Request>, u64)> {
        let text = self.read("pending.jsonl")?.unwrap_or_default();
        let mut requests: std::collections::BTreeMap<u64, Request> = Default::default();
        let mut next = 1;
        for line in text.lines() {
            // A line that was cut off by a crash is the last one, and says nothing that was told.
            match serde_json::from_str(line) {
                Ok(JournalLine::Pending { id, dest, domain }) => {
                    next = next.max(id.saturating_add(1));
                    if let Ok(Entry::Destination(dest)) = dest.parse() {
                        let domain = crate::text::plain(&domain);
                        requests.insert(id, Request { id, dest, domain });
                    }
                }
                Ok(JournalLine::Closed { id }) => {
                    requests.remove(&id);
                }
                Ok(JournalLine::Next { id }) => next = next.max(id),
                Err(_) => {}
            }
        }
        let requests: Vec<_> = requests.into_values().collect();
        let mut journal = Journal {
            state: self.clone(),
            file: None,
            lines: 0,
        };
        journal.rewrite(requests.iter(), next)?;
        Ok((journal, requests, next))
    }
}

fn dedup<T: Eq + std::hash::Hash + Copy>(list: &mut Vec<T>) {
    let mut seen = HashSet::new();
    list.retain(|x| seen.insert(*x));
}

/// Twelve hexadecimal digits.
pub fn is_short_id(id: &str) -> bool {
    id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum JournalLine {
    Pending {
        id: u64,
        dest: String,
        domain: String,
    },
    Closed {
        id: u64,
    },
    Next {
        id: u64,
    },
}

/// `pending.jsonl`: what waits, so that a bridge that is started again takes up where the last one was.
#[derive(Debug)]
pub struct Journal {
    state: StateDir,
    file: Option<File>,
    lines: usize,
}

impl Journal {
    /// A question waits from now on.
    pub fn opened(&mut self, request: &Request) {
        self.write(&JournalLine::Pending {
            id: request.id,
            dest: profile::destination_line(request.dest),
            domain: request.domain.clone(),
        });
    }

    /// It does no longer.
    pub fn closed(&mut self, id: u64) {
        self.write(&JournalLine::Closed { id });
    }

    /// Whether so much was written that it should be written anew.
    pub fn is_long(&self) -> bool {
        self.lines > JOURNAL_LINES
    }

    /// Writes what waits now, and nothing else.
    ///
    /// # Errors
    /// What the file system says; the journal is then as it was.
    pub fn rewrite<'a>(
        &mut self,
        requests: impl Iterator<Item = &'a Request>,
        next: u64,
    ) -> Result<()> {
        let mut text = line(&JournalLine::Next { id: next });
        for request in requests {
            text.push_str(&line(&JournalLine::Pending {
                id: request.id,
                dest: profile::destination_line(request.dest),
                domain: request.domain.clone(),
            }));
        }
        self.state.replace("pending.jsonl", &text)?;
        let path = self.state.file("pending.jsonl");
        self.file = Some(
            OpenOptions::new()
                .append(true)
                .open(&path)
                .map_err(|e| Error::system(format!("opening {}", path.display()), e))?,
        );
        self.lines = 0;
        Ok(())
    }

    fn write(&mut self, entry: &JournalLine) {
        // A question that is not written down is lost with this process, and asked again when it is tried
        // again: no reason to stop.
        let written = self
            .file
            .as_mut()
            .map(|f| f.write_all(line(entry).as_bytes()));
        if let Some(Err(error)) = written {
            tracing::warn!(%error, "pending.jsonl cannot be written");
        }
        self.lines += 1;
    }
}

fn line(entry: &JournalLine) -> String {
    // Strings and numbers always make JSON.
    let mut text = serde_json::to_string(entry).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path().join("c"));
        state.create().unwrap();
        (dir, state)
    }

    #[test]
    fn a_line_is_in_a_list_once_and_can_be_taken_out() {
        let (_dir, state) = state();
        for _ in 0..2 {
            state.add(List::LiveAllowed, "203.0.113.1").unwrap();
            state.add(List::LiveAllowed, "203.0.113.2").unwrap();
        }
        let read = || fs::read_to_string(state.file("live.allowed")).unwrap();
        assert_eq!(read(), "203.0.113.1\n203.0.113.2\n");
        state.take(List::LiveAllowed, "203.0.113.1").unwrap();
        assert_eq!(read(), "203.0.113.2\n");
    }

    #[test]
    fn what_counts_is_profile_and_live_without_deny() {
        let (_dir, state) = state();
        fs::write(state.file("profile.allowed"), "203.0.113.1\n203.0.113.2\n").unwrap();
        fs::write(state.file("live.allowed"), "203.0.113.3\n203.0.113.1").unwrap();
        fs::write(
            state.file("deny.list"),
            "203.0.113.2\nrubbish }; flush ruleset\n",
        )
        .unwrap();
        let rules = state.rules().unwrap();
        let allowed: Vec<_> = rules.allowed.iter().map(ToString::to_string).collect();
        assert_eq!(allowed, ["203.0.113.1", "203.0.113.3"]);
        assert!(!rules.text().contains("flush"));
    }

    #[test]
    fn a_container_name_stays_below_the_root() {
        for name in ["..", ".", "../x", "/etc", "a/b", "--help"] {
            let path = StateDir::of_container(Path::new("/r"), name).path;
            assert_eq!(path.parent(), Some(Path::new("/r")), "{name}");
            assert!(path.file_name().is_some_and(|n| n != ".."));
        }
    }

    #[test]
    fn questions_survive_a_restart_and_ids_are_never_used_twice() {
        let (_dir, state) = state();
        let (mut journal, none, next) = state.journal().unwrap();
        assert!(none.is_empty());
        assert_eq!(next, 1);
        let request = |id| Request {
            id,
            dest: Destination {
                address: "2001:db8::1".parse().unwrap(),
                proto: 17,
                port: 53,
            },
            domain: "example.org".into(),
        };
        journal.opened(&request(1));
        journal.opened(&request(2));
        journal.closed(2);
        // A crash in the middle of a line.
        OpenOptions::new()
            .append(true)
            .open(state.file("pending.jsonl"))
            .unwrap()
            .write_all(b"{\"type\":\"pend")
            .unwrap();
        drop(journal);
        for _ in 0..2 {
            let (_journal, requests, next) = state.journal().unwrap();
            assert_eq!(requests, [request(1)]);
            assert_eq!(next, 3);
        }
    }

    #[test]
    fn a_second_lock_is_refused_and_names_the_first() {
        let (_dir, state) = state();
        let _lock = state.lock("c").unwrap();
        let error = state.lock("c").unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
    }
}
