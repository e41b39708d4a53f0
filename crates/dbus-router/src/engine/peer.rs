//! Who has connected.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::kernel;
use crate::session::{Credentials, Program};

/// The credentials of the process at the other end; none where the kernel does not know it.
pub(super) fn credentials(socket: &OwnedFd) -> Option<Credentials> {
    let (pid, uid, primary) = kernel::peer_credentials(socket.as_fd()).ok()?;
    let mut groups = kernel::peer_groups(socket.as_fd());
    if !groups.contains(&primary) {
        groups.push(primary);
    }
    groups.sort_unstable();
    Some(Credentials {
        uid,
        pid: (pid > 0).then_some(pid),
        groups,
        process_fd: kernel::peer_pidfd(socket.as_fd()).map(Arc::new),
        security_label: kernel::peer_label(socket.as_fd()),
        program: Program::default(),
    })
}

/// What a process runs. Nothing where it is gone, or where the kernel gave no descriptor of it: then what stands
/// under its number now could be another.
pub(super) fn program(credentials: &Credentials) -> Program {
    let (Some(pid), Some(process)) = (credentials.pid, &credentials.process_fd) else {
        return Program::default();
    };
    let executable = std::fs::read_link(format!("/proc/{pid}/exe"))
        .ok()
        .and_then(|path| path.into_os_string().into_string().ok());
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .ok()
        .and_then(|text| cgroup(&text));
    // A descriptor of a process can be read from once the process has ended.
    let mut poll = [PollFd::new(&**process, PollFlags::IN)];
    let alive = matches!(
        rustix::event::poll(&mut poll, Some(&Timespec::default())),
        Ok(0)
    );
    if alive {
        Program { executable, cgroup }
    } else {
        Program::default()
    }
}

/// The control group in the text of a `/proc/PID/cgroup`: that of the unified hierarchy, or where everything is at
/// its root the one of systemd's own hierarchy, as on machines that have both.
fn cgroup(text: &str) -> Option<String> {
    // NUMBER:CONTROLLERS:PATH
    let of = |controllers: &str| {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            rest.strip_prefix(controllers)?.strip_prefix(':')
        })
    };
    let (unified, systemd) = (of(""), of("name=systemd"));
    let path = match unified {
        Some("/") | None => systemd.or(unified),
        Some(path) => Some(path),
    };
    path.map(str::to_owned)
}

/// The uid that a process in another user namespace has there, for what is `uid` here.
pub(super) fn uid_inside(credentials: &Credentials) -> Option<u32> {
    let pid = credentials.pid?;
    let theirs = std::fs::read_link(format!("/proc/{pid}/ns/user")).ok()?;
    if std::fs::read_link("/proc/self/ns/user").ok()? == theirs {
        return None;
    }
    let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).ok()?;
    inside(&map, credentials.uid)
}

/// Looks `outside` up in the text of a uid_map.
fn inside(map: &str, outside: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line
            .split_whitespace()
            .map(|number| number.parse::<u32>().ok());
        let (first_inside, first_outside, count) =
            (numbers.next()??, numbers.next()??, numbers.next()??);
        let place = outside.checked_sub(first_outside)?;
        (place < count).then(|| first_inside.checked_add(place))?
    })
}

/// Whether we ourselves are in a user namespace, where our uid may have no meaning for others.
pub(super) fn is_mapped() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        let words: Vec<&str> = map.split_whitespace().collect();
        words != ["0", "0", "4294967295"]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_group_is_that_of_the_hierarchy_that_is_in_use() {
        let of = |text: &str| cgroup(text).unwrap_or_default();
        assert_eq!(of("0::/user.slice/app.scope\n"), "/user.slice/app.scope");
        let both = "4:memory:/m\n1:name=systemd:/s.service\n0::";
        assert_eq!(of(&format!("{both}/u.service\n")), "/u.service");
        assert_eq!(of(&format!("{both}/\n")), "/s.service");
        assert_eq!(of("1:name=systemd:/s.service\n"), "/s.service");
        assert_eq!(of("4:memory:/m\n0::/\n"), "/");
        assert_eq!(cgroup("4:memory:/m\n"), None);
        // A name may have a colon in it.
        assert_eq!(of("0::/a:name=systemd:/b\n"), "/a:name=systemd:/b");
    }

    #[test]
    fn a_uid_is_translated_by_the_line_that_holds_it() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(inside(map, 1000), Some(0));
        assert_eq!(inside(map, 100_004), Some(5));
        assert_eq!(inside(map, 1001), None);
    }
}
