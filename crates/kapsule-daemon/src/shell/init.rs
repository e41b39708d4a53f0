//! A container's first process, and what can be learnt of the container from it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};

use super::enter::{self, Instruction};
use super::inside::Root;
use crate::error::{Error, Result};

/// The namespaces that a container can have of its own, by their file names below `/proc/PID/ns`.
const NAMESPACES: [(&str, i32); 8] = [
    ("user", libc::CLONE_NEWUSER),
    ("mnt", libc::CLONE_NEWNS),
    ("pid", libc::CLONE_NEWPID),
    ("net", libc::CLONE_NEWNET),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("time", enter::CLONE_NEWTIME),
];

/// Where Incus (LXC) puts what enters a container besides its init: a cgroup beside those of the container's own
/// service manager, for a cgroup that has children with controllers takes no processes itself.
const LEAF: &str = ".lxc";
/// How Incus (LXC) names the cgroup of a container.
const PAYLOAD: &str = "lxc.payload.";

/// The first process of a running container. As long as [`Init::is_alive`] it is that very process, whoever else may
/// get its number later.
#[derive(Debug)]
pub struct Init {
    pid: Pid,
    pidfd: OwnedFd,
    namespaces: i32,
    uids: IdMap,
    gids: IdMap,
    bounding: u64,
    no_new_privileges: bool,
    label: Option<String>,
    filters: Vec<Vec<Instruction>>,
    cgroup: Option<OwnedFd>,
    /// Users whose sessions were prepared since the container's start.
    prepared: Mutex<BTreeSet<u32>>,
}

/// `/proc/PID/uid_map`: first inside, first outside, how many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct IdMap(Vec<(u32, u32, u32)>);

impl IdMap {
    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut numbers = line.split_whitespace().map(|n| n.parse().ok());
            Some((numbers.next()??, numbers.next()??, numbers.next()??))
        };
        Self(text.lines().filter_map(line).collect())
    }

    fn outside(&self, id: u32) -> Option<u32> {
        self.0
            .iter()
            .find(|(inside, _, count)| id >= *inside && id - inside < *count)
            .map(|(inside, outside, _)| outside + (id - inside))
    }
}

impl Init {
    /// The process with this number, which Incus says is the init of the container `name`. That this is so is looked for in
    /// the name of its cgroup, which only the host's root can give.
    ///
    /// # Errors
    /// [`Error::NotRunning`] if it is not, or not any more.
    pub fn of_container(pid: u32, name: &str) -> Result<Self> {
        let init = Self::open(pid)?;
        let cgroup = read(pid, "cgroup").map_err(|e| gone(name, &e))?;
        let is_its = cgroup
            .lines()
            .filter_map(|line| line.splitn(3, ':').nth(2))
            .any(|path| payload(path).is_some_and(|(_, of)| is_named(of, name)));
        if !is_its || !init.is_alive() {
            return Err(gone(name, &"another process has its number now"));
        }
        Ok(init)
    }

    /// The process with this number, whatever it is the init of.
    ///
    /// # Errors
    /// [`Error::NotRunning`] if it has gone, or is nobody's init; [`Error::Failed`] if it cannot be looked at.
    pub fn open(pid: u32) -> Result<Self> {
        let name = format!("process {pid}");
        let id = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| gone(&name, &"no such number"))?;
        // From here on it is known by the pidfd; what is read below by number is of the same process if that is still
        // alive at the end.
        let pidfd =
            rustix::process::pidfd_open(id, PidfdFlags::empty()).map_err(|e| gone(&name, &e))?;
        let doing = |e: io::Error| gone(&name, &e);
        let status = read(pid, "status").map_err(doing)?;
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        // NSpid: its number in each pid namespace, the innermost last.
        if field("NSpid").and_then(|ids| ids.split_whitespace().last()) != Some("1") {
            return Err(gone(&name, &"it is not the first process of a container"));
        }
        let namespaces = namespaces(pid).map_err(doing)?;
        let in_user_namespace = namespaces & libc::CLONE_NEWUSER != 0;
        let has_filters = field("Seccomp") == Some("2");
        let filters = match enter::filters_of(id) {
            _ if !has_filters => Vec::new(),
            Ok(filters) => filters,
            // What Incus denies by default needs capabilities over the host, which nobody has in a user namespace.
            Err(error) if in_user_namespace => {
                tracing::warn!(pid, %error, "the container's seccomp filter cannot be read; its shells go without");
                Vec::new()
            }
            Err(error) => {
                return Err(Error::Failed(format!(
                    "reading the seccomp filter of the container's init: {error}; in a privileged container nothing \
                     is started without it"
                )));
            }
        };
        let cgroup = read(pid, "cgroup").map_err(doing)?;
        let init = Self {
            pid: id,
            namespaces,
            uids: IdMap::parse(&read(pid, "uid_map").map_err(doing)?),
            gids: IdMap::parse(&read(pid, "gid_map").map_err(doing)?),
            bounding: field("CapBnd")
                .and_then(|set| u64::from_str_radix(set, 16).ok())
                .unwrap_or(0),
            no_new_privileges: field("NoNewPrivs") == Some("1"),
            label: label(pid),
            filters,
            cgroup: cgroup_directory(&cgroup).map_err(Error::failed(
                "making a cgroup in the container's for what enters it",
            ))?,
            prepared: Mutex::default(),
            pidfd,
        };
        if !init.is_alive() {
            return Err(gone(&name, &"it has ended"));
        }
        Ok(init)
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        let mut poll = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec::try_from(Duration::ZERO).ok();
        matches!(rustix::event::poll(&mut poll, now.as_ref()), Ok(0))
    }

    /// Its number here.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// A descriptor that becomes readable when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The container's files. Not kept open: that would keep the container's storage busy when it is to go.
    ///
    /// # Errors
    /// [`Error::NotRunning`] if it has ended.
    pub fn root(&self) -> Result<Root> {
        let number = self.pid.as_raw_nonzero().get().unsigned_abs();
        let root = Root::of_process(number).map_err(|e| gone("the container", &e))?;
        // Still alive after that: then it was its root and nobody else's.
        if self.is_alive() {
            Ok(root)
        } else {
            Err(gone("the container", &"it has ended"))
        }
    }

    /// The number outside of a user inside.
    pub fn uid_outside(&self, uid: u32) -> Option<u32> {
        self.uids.outside(uid)
    }

    /// The number outside of a group inside.
    pub fn gid_outside(&self, gid: u32) -> Option<u32> {
        self.gids.outside(gid)
    }

    /// Whether [`Init::first_time`] was asked for this user.
    pub(super) fn is_prepared(&self, uid: u32) -> bool {
        let prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        prepared.contains(&uid)
    }

    /// Whether this is asked for the first time for this user.
    pub(super) fn first_time(&self, uid: u32) -> bool {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        prepared.insert(uid)
    }

    pub(super) fn namespaces(&self) -> i32 {
        self.namespaces
    }

    pub(super) fn bounding(&self) -> u64 {
        self.bounding
    }

    pub(super) fn no_new_privileges(&self) -> bool {
        self.no_new_privileges
    }

    pub(super) fn filters(&self) -> &[Vec<Instruction>] {
        &self.filters
    }

    pub(super) fn cgroup(&self) -> Option<BorrowedFd<'_>> {
        self.cgroup.as_ref().map(AsFd::as_fd)
    }

    /// What a program has to write to have init's label of the security module.
    pub(super) fn label(&self) -> Option<enter::Label> {
        let label = self.label.as_deref()?;
        if Path::new("/proc/self/attr/apparmor").exists() {
            // "PROFILE (enforce)"; a profile's own name may have spaces.
            let profile = label
                .rsplit_once(" (")
                .map_or(label, |(profile, _)| profile);
            return (profile != "unconfined").then(|| enter::Label {
                path: c"self/attr/apparmor/exec",
                text: format!("exec {profile}").into_bytes(),
            });
        }
        Path::new("/sys/fs/selinux/enforce")
            .exists()
            .then(|| enter::Label {
                path: c"self/attr/exec",
                text: label.as_bytes().to_vec(),
            })
    }
}

fn gone(name: &str, error: &dyn std::fmt::Display) -> Error {
    Error::NotRunning(format!(
        "{name} does not run (any more): {error}; start it and try again"
    ))
}

fn read(pid: u32, file: &str) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}"))
}

/// Those namespaces of the process that are not ours.
fn namespaces(pid: u32) -> io::Result<i32> {
    let mut flags = 0;
    for (name, flag) in NAMESPACES {
        let ours = std::fs::read_link(format!("/proc/self/ns/{name}"));
        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/{name}"));
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) if ours == theirs => {}
            (Ok(_), Ok(_)) => flags |= flag,
            // A kernel without it.
            (Err(e), _) if e.kind() == io::ErrorKind::NotFound => {}
            (Err(e), _) | (_, Err(e)) => return Err(e),
        }
    }
    Ok(flags)
}

fn label(pid: u32) -> Option<String> {
    let text = read(pid, "attr/apparmor/current")
        .or_else(|_| read(pid, "attr/current"))
        .ok()?;
    let text = text.trim_end_matches(['\0', '\n']);
    (!text.is_empty()).then(|| text.to_owned())
}

/// The container's own cgroup in the path of one of its processes, and the name after [`PAYLOAD`].
fn payload(path: &str) -> Option<(&str, &str)> {
    let mut end = 0;
    for part in path.split('/') {
        end += part.len();
        if let Some(name) = part.strip_prefix(PAYLOAD) {
            return Some((path.get(..end)?, name));
        }
        end += 1;
    }
    None
}

/// Whether a cgroup of this name is the container's: LXC adds a number if the name was taken by a cgroup that was left over.
fn is_named(cgroup: &str, name: &str) -> bool {
    cgroup == name
        || cgroup
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// The directory of the cgroup in which programs begin, given `/proc/PID/cgroup`; none for a process of no container.
fn cgroup_directory(cgroup: &str) -> io::Result<Option<OwnedFd>> {
    let Some((own, _)) = cgroup
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .and_then(payload)
    else {
        return Ok(None);
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    // One mount may hide another: that is where it is whose directory is there.
    let own = cgroup_mounts(&mounts)
        .map(|mount| mount.join(own.trim_start_matches('/')))
        .find(|own| own.is_dir())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "the unified hierarchy is not mounted whole",
            )
        })?;
    let leaf = own.join(LEAF);
    match std::fs::create_dir(&leaf) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
        Ok(()) => {
            // The container's service manager may move what is in it.
            use std::os::unix::fs::MetadataExt;
            let of = std::fs::metadata(&own)?;
            for place in [leaf.clone(), leaf.join("cgroup.procs")] {
                std::os::unix::fs::chown(place, Some(of.uid()), Some(of.gid()))?;
            }
        }
    }
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    Ok(Some(rustix::fs::open(&leaf, flags, Mode::empty())?))
}

/// Where the unified hierarchy is mounted whole, given `/proc/self/mountinfo`: the newest first.
fn cgroup_mounts(mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().rev().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(place))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_inside_has_one_outside_if_it_is_mapped() {
        let map = IdMap::parse(
            "         0    1000000       1000\n      1000       1000          1\n  1001 1001001 999\n",
        );
        assert_eq!(map.outside(0), Some(1_000_000));
        assert_eq!(map.outside(1000), Some(1000));
        assert_eq!(map.outside(1001), Some(1_001_001));
        assert_eq!(map.outside(2000), None);
    }

    #[test]
    fn a_cgroup_says_whose_process_it_is() {
        let (own, name) =
            payload("/lxc.payload.box/init.scope").expect("it is one of a container's");
        assert_eq!((own, name), ("/lxc.payload.box", "box"));
        assert!(payload("/user.slice/lxc.monitor.box").is_none());
        assert!(is_named("box", "box") && is_named("box-1", "box"));
        assert!(!is_named("box-a", "box") && !is_named("boxer", "box") && !is_named("box-", "box"));
    }

    #[test]
    fn the_unified_hierarchy_is_found_where_it_is() {
        let mounts = "30 24 0:27 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs ro\n\
                      31 30 0:28 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found: Vec<_> = cgroup_mounts(mounts).collect();
        assert_eq!(found, [PathBuf::from("/sys/fs/cgroup/unified")]);
    }

    #[test]
    fn a_process_of_the_host_is_no_containers_init() {
        let error = Init::open(std::process::id()).expect_err("this test is nobody's init");
        assert!(matches!(error, Error::NotRunning(_)), "{error:?}");
    }
}
