//! A machine within the machine: a private mount and network namespace with its own `/etc`, `/run`, `/home`
//! and users, in which daemons that expect to own a whole system can run beside each other's tests.
//!
//! Processes are those of the real machine, so a test can connect to a bus inside as itself. The files of
//! `/run`, `/etc` and `/home` are directories of the test ([`Machine::outside`]). Root only.
//!
//! One process, the keeper, holds the namespaces. When the test lets go of it, or is killed, the keeper ends
//! every process that still has the machine's mounts and every container that was started from it, and
//! removes what these have left in the cgroup hierarchy.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::fs::{Gid, Uid, chown};
use rustix::thread::LinkNameSpaceType;

use crate::deadline::Deadline;
use crate::directory::TestDir;
use crate::failure::Failure;
use crate::processes::{Line, Lines, Output, run_to_end};
use crate::skip::Trouble;
use crate::tools;

/// A person with an account on a [`Machine`].
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// The login name; also that of the user's own group, and of the home in `/home`.
    pub name: &'static str,
    /// The user id, and the group id.
    pub uid: u32,
    /// Groups besides the own one.
    pub groups: &'static [&'static str],
}

/// The first user of the machine, in the group `video`.
pub const ALICE: User = User {
    name: "alice",
    uid: 1000,
    groups: &["video"],
};

/// Another, who has nothing to do with what is alice's.
pub const BOB: User = User {
    name: "bob",
    uid: 1001,
    groups: &[],
};

/// The administrator, by the group `sudo`.
pub const CAROL: User = User {
    name: "carol",
    uid: 1002,
    groups: &["sudo"],
};

/// All who have an account; root apart, who has no password.
pub const USERS: [User; 3] = [ALICE, BOB, CAROL];

/// Everybody's password.
pub const PASSWORD: &str = "right-password";
/// It, as crypt(3) keeps it.
const PASSWORD_HASH: &str = "$6$kapsule$vu/QS7301nM0gJp4P4unMxRp/vHDz/idyie8BbACqszn.pALR7Z68aCk4hf8Rt1Ko0JZEODKIAJK15g8MhqaB.";

/// Where the programs of this workspace stand, as seen from inside.
const PROGRAMS: &str = "/run/kapsule-programs";

/// See the [module](self).
pub struct Machine {
    keeper: Child,
    // In this order: the keeper ends what runs when this closes, before the directory goes.
    hold: Option<ChildStdin>,
    dir: TestDir,
}

impl User {
    /// The home directory, as seen from inside.
    pub fn home(&self) -> PathBuf {
        Path::new("/home").join(self.name)
    }

    /// The runtime directory, as seen from inside.
    pub fn runtime_dir(&self) -> PathBuf {
        PathBuf::from(format!("/run/user/{}", self.uid))
    }
}

impl Machine {
    /// Makes one.
    ///
    /// # Errors
    /// [`Trouble::Unable`] where this process may not: it is not root, or is in a container that refuses.
    pub fn start() -> Result<Machine, Trouble> {
        if !rustix::process::geteuid().is_root() {
            return Err(Trouble::Unable(
                "a private machine (mount and network namespaces, users) needs root".to_owned(),
            ));
        }
        if tools::IP.find().is_none() {
            return Err(Trouble::Unable(tools::IP.missing()));
        }
        let dir = TestDir::new();
        make_root(&dir)?;
        let programs = programs_dir()?;

        let (reader, writer) = io::pipe().map_err(Failure::doing("making a pipe"))?;
        let second = writer
            .try_clone()
            .map_err(Failure::doing("making a pipe"))?;
        // Without the directory's path in its environment: whoever ends all that has it leaves the keeper to
        // do its work.
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--net", "--propagation", "private"])
            .args(["sh", "-c", KEEPER, "keeper"])
            .arg(dir.path())
            .arg(&programs)
            .args(USERS.map(|user| user.name))
            .env_clear()
            .env("PATH", search_path())
            .stdin(Stdio::piped())
            .stdout(writer)
            .stderr(second)
            .spawn()
            .map_err(Failure::doing("starting unshare"))?;
        let hold = keeper.stdin.take();
        let mut said = Lines::new("the machine's keeper".to_owned(), reader.into());
        let deadline = Deadline::usual();
        let mut heard = String::new();
        let machine = Machine { keeper, hold, dir };
        loop {
            match said.next_line(deadline) {
                Ok(Line::Text(line)) if line == "READY" => return Ok(machine),
                Ok(Line::Text(line)) => {
                    heard.push_str(&line);
                    heard.push('\n');
                }
                // It ends when it is refused what it asks for.
                Ok(Line::End) => {
                    return Err(Trouble::Unable(format!(
                        "a private machine cannot be made here: {}",
                        heard.trim()
                    )));
                }
                Ok(Line::NotYet) => {
                    return Err(Failure::new(format!(
                        "the private machine was not ready in time; it said:\n{heard}"
                    ))
                    .into());
                }
                Err(error) => return Err(Failure::doing("reading from the keeper")(error).into()),
            }
        }
    }

    /// The directory that everything is in.
    pub fn dir(&self) -> &TestDir {
        &self.dir
    }

    /// Where the logs of its daemons are.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// The path by which this process reaches what is `inside` at a path below `/etc`, `/run` or `/home`.
    ///
    /// # Panics
    /// For a path elsewhere: that is the same on both sides.
    pub fn outside(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let below = inside.strip_prefix("/").ok().filter(|below| {
            ["etc", "run", "home"]
                .iter()
                .any(|own| below.starts_with(own))
        });
        match below {
            Some(below) => self.dir.join(below),
            None => panic!(
                "{} is not one of the machine's own directories",
                inside.display()
            ),
        }
    }

    /// A command that root runs inside; its working directory is `/`. `program` is looked for in `PATH`.
    /// The environment is that of a daemon: none but `PATH`, the language, and what tests are run with.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.enter();
        command.arg(program.as_ref()).env("HOME", "/root");
        command
    }

    /// A command that `user` runs inside, with the groups and the environment of a login; its working
    /// directory is `/`.
    pub fn command_as(&self, user: &User, program: impl AsRef<Path>) -> Command {
        let mut command = self.enter();
        command
            .args(["setpriv", "--init-groups"])
            .arg(format!("--reuid={}", user.uid))
            .arg(format!("--regid={}", user.uid))
            .arg("--")
            .arg(program.as_ref())
            .env("HOME", user.home())
            .env("USER", user.name)
            .env("LOGNAME", user.name)
            .env("SHELL", "/bin/bash")
            .env("XDG_RUNTIME_DIR", user.runtime_dir())
            .env(
                "DBUS_SESSION_BUS_ADDRESS",
                format!("unix:path={}/bus", user.runtime_dir().display()),
            );
        command
    }

    /// Runs a command of [`Machine::command`] or [`Machine::command_as`] to its end, within the usual limit.
    ///
    /// # Panics
    /// When it cannot be started or does not end.
    #[track_caller]
    pub fn run(&self, command: Command) -> Output {
        run_to_end(command, crate::deadline::LIMIT).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// A socket of this process that listens on the machine's own loopback, at a port that is free there.
    ///
    /// # Panics
    /// When the machine's network namespace cannot be entered.
    pub fn listen(&self) -> TcpListener {
        let namespace = fs::File::open(format!("/proc/{}/ns/net", self.keeper.id()))
            .expect("the keeper holds it");
        // A socket stays in the namespace of the thread that made it.
        let listening = std::thread::spawn(move || {
            let network = Some(LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), network)?;
            TcpListener::bind("127.0.0.1:0")
        });
        let listener = listening.join().expect("it does not panic");
        listener.expect("root may enter it")
    }

    /// The path inside of a program of this workspace, that has been built.
    ///
    /// # Errors
    /// It has not been built.
    pub fn program(&self, name: &str) -> Result<PathBuf, Failure> {
        let dir = programs_dir()?;
        if dir.join(name).is_file() {
            return Ok(Path::new(PROGRAMS).join(name));
        }
        Err(Failure::new(format!(
            "there is no {name} in {}: build it with `cargo build --bin {name}`",
            dir.display()
        )))
    }

    fn enter(&self) -> Command {
        let pid = self.keeper.id();
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{pid}/ns/mnt"))
            .arg(format!("--net=/proc/{pid}/ns/net"))
            .arg("--")
            .env_clear()
            .env("PATH", search_path())
            .env("LC_ALL", "C.UTF-8")
            // For those who end what a test has left: see TestDir.
            .env("KAPSULE_TEST_DIR", self.dir.path());
        for inherited in ["RUST_LOG", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(inherited) {
                command.env(inherited, value);
            }
        }
        command
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The end of its stdin is what the keeper waits for.
        drop(self.hold.take());
        let deadline = Deadline::usual();
        // By pidfd, to wait with a limit.
        let pid = i32::try_from(self.keeper.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let pidfd = pid.and_then(|pid| {
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
        });
        if let Some(pidfd) = pidfd
            && deadline.wait_readable(&[pidfd.as_fd()]).is_none()
        {
            eprintln!("the machine's keeper has not ended in time; it is killed");
            let _ = self.keeper.kill();
        }
        let _ = self.keeper.wait();
    }
}

/// `$1` is the test's directory, `$2` that of the programs, the rest are the users of `/home`.
///
/// Mounts: sysfs anew, because it shows the network namespace that it was mounted in; cgroup2 in the place
/// of whatever hierarchies there are, because containers want that one, and programs look for it among the mounts. Homes of the real machine stay visible
/// beside the test's, for the programs under test may lie there.
const KEEPER: &str = r#"
trap '' INT TERM HUP
dir=$1 programs=$2
shift 2
or_end() { "$@" || { echo "refused: $*"; exit 1; }; }
or_end ip link set lo up
umount -R /sys/fs/cgroup 2>/dev/null || umount -R -l /sys/fs/cgroup 2>/dev/null
or_end mount -t sysfs sysfs /sys
or_end mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security 2>/dev/null
# What is not the test's own is there to be read: nothing that runs inside can harm it.
read_only() {
    or_end mount --bind "$1" "$2"
    or_end mount -o remount,bind,ro "$2"
}
read_only "$programs" "$dir/run/kapsule-programs"
for home in /home/*/; do
    name=${home#/home/}
    name=${name%/}
    case " $* *" in *" $name "*) continue ;; esac
    [ -d "$home" ] && mkdir -p "$dir/home/$name" && read_only "$home" "$dir/home/$name"
done
or_end mount --rbind "$dir/home" /home
or_end mount --bind "$dir/etc" /etc
or_end mount --rbind "$dir/run" /run
echo READY
exec >/dev/null 2>&1
cat

mine=$(readlink /proc/$$/ns/mnt | sed 's/[][]/\\&/g')
groups=
ours() {
    # Those that look are among those found, and gone by now.
    for pid in $(find /proc/[0-9]*/ns/mnt -lname "$mine" | cut -d/ -f3); do
        [ "$pid" != $$ ] && [ -e /proc/$pid/ns ] && echo "$pid"
    done
}
# A container's monitor has our mounts, and its child, the container's init, has its own.
for pid in $(ours); do
    for one in "$pid" $(cat /proc/$pid/task/*/children); do
        group=$(sed -n 's/^0:://p' /proc/$one/cgroup)
        case $group in /lxc.*) group=${group#/}; groups="$groups ${group%%/*}" ;; esac
    done
done
for group in $groups; do
    echo 1 >"/sys/fs/cgroup/$group/cgroup.kill"
done
for round in 1 2 3 4 5 6 7 8 9 10; do
    left=$(ours)
    [ -z "$left" ] && break
    kill -KILL $left
done
for group in $groups; do
    for round in 1 2 3 4 5 6 7 8 9 10; do
        [ -d "/sys/fs/cgroup/$group" ] || break
        find "/sys/fs/cgroup/$group" -depth -type d -exec rmdir {} + && break
        sleep 0.1
    done
done
# Made by liblxc on the way, for all containers, and empty.
rmdir /sys/fs/cgroup/lxc.pivot
# What is mounted below the directory are the programs under test and people's homes: it is removed by who made
# it, from outside, where none of these is seen. Never from here.
umount -R -l /run /home /etc
"#;

/// The programs under test: beside the one that runs, or above, where tests stand in `deps`.
fn programs_dir() -> Result<PathBuf, Failure> {
    let ours = std::env::current_exe().map_err(Failure::doing("finding this program's path"))?;
    let beside = ours.parent().unwrap_or(Path::new("/"));
    let dir = match beside.file_name() {
        Some(name) if name == "deps" || name == "examples" => beside.parent().unwrap_or(beside),
        _ => beside,
    };
    Ok(dir.to_owned())
}

/// That of this process, with the directories of daemons.
fn search_path() -> String {
    let inherited = std::env::var("PATH").unwrap_or_default();
    format!("{inherited}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
}

/// Lays out `etc`, `run` and `home` in the test's directory.
fn make_root(dir: &TestDir) -> Result<(), Failure> {
    // The directories are seen by other users through their mounts; the way to them is root's.
    let mut copy = Command::new("cp");
    copy.args(["--archive", "/etc"]).arg(dir.join("etc"));
    let copied = run_to_end(copy, crate::deadline::LIMIT)?;
    if !copied.status.success() {
        return Err(Failure::new(format!(
            "copying /etc for a private machine: {}",
            copied.both()
        )));
    }
    let etc = dir.join("etc");
    let system = |uid: u32| !(1000..65534).contains(&uid);
    let mut passwd = kept(&etc.join("passwd"), 2, system)?;
    let mut group = kept(&etc.join("group"), 2, system)?;
    let mut shadow = kept(&etc.join("shadow"), 2, |_| true)?;
    for user in &USERS {
        let User { name, uid, groups } = user;
        passwd.push(format!("{name}:x:{uid}:{uid}::/home/{name}:/bin/bash"));
        shadow.retain(|line| !line.starts_with(&format!("{name}:")));
        shadow.push(format!("{name}:{PASSWORD_HASH}:19000:0:99999:7:::"));
        for line in &mut group {
            if groups.iter().any(|of| line.starts_with(&format!("{of}:"))) {
                let separator = if line.ends_with(':') { "" } else { "," };
                line.push_str(separator);
                line.push_str(name);
            }
        }
        group.push(format!("{name}:x:{uid}:"));
    }
    for (file, lines) in [("passwd", passwd), ("group", group), ("shadow", shadow)] {
        let text = lines.join("\n") + "\n";
        fs::write(etc.join(file), text).map_err(Failure::doing(format_args!(
            "writing the machine's /etc/{file}"
        )))?;
    }
    // Root's containers may use a range of ids, and the ids of the users.
    let mut ranges = "root:1000000:1000000000\n".to_owned();
    for user in &USERS {
        ranges.push_str(&format!("root:{}:1\n", user.uid));
    }
    for file in ["subuid", "subgid"] {
        fs::write(etc.join(file), &ranges).map_err(Failure::doing(format_args!(
            "writing the machine's /etc/{file}"
        )))?;
    }

    make_dir(&dir.join("home"), 0o755, 0)?;
    for below in [
        "run",
        "run/lock",
        "run/user",
        "run/dbus",
        "run/kapsule-programs",
    ] {
        make_dir(&dir.join(below), 0o755, 0)?;
    }
    for user in &USERS {
        make_dir(&dir.join("home").join(user.name), 0o755, user.uid)?;
        make_dir(&dir.join(format!("run/user/{}", user.uid)), 0o700, user.uid)?;
    }
    Ok(())
}

/// The lines of an account file of which the number in `field` is one to keep.
fn kept(file: &Path, field: usize, keep: impl Fn(u32) -> bool) -> Result<Vec<String>, Failure> {
    let text = fs::read_to_string(file)
        .map_err(Failure::doing(format_args!("reading {}", file.display())))?;
    Ok(text
        .lines()
        .filter(|line| {
            line.split(':')
                .nth(field)
                .and_then(|number| number.parse().ok())
                .is_none_or(&keep)
        })
        .map(str::to_owned)
        .collect())
}

fn make_dir(path: &Path, mode: u32, owner: u32) -> Result<(), Failure> {
    let doing = || Failure::doing(format!("making {}", path.display()));
    fs::create_dir_all(path).map_err(doing())?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(doing())?;
    let owner = (Uid::from_raw(owner), Gid::from_raw(owner));
    chown(path, Some(owner.0), Some(owner.1)).map_err(Failure::doing(format!(
        "giving {} to its user",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::or_skip;

    #[test]
    fn users_of_the_machine_have_their_own_homes_and_groups() {
        let machine = or_skip!(Machine::start());
        let mut command = machine.command_as(&ALICE, "sh");
        command.args([
            "-c",
            "id -un; id -Gn; touch ~/x; pwd; stat -c %U ~/x; ip -br link",
        ]);
        let said = machine.run(command).success();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[..4], ["alice", "alice video", "/", "alice"]);
        assert_eq!(lines.len(), 5, "the loopback device alone: {said}");
        assert!(machine.outside("/home/alice/x").exists());
    }

    #[test]
    fn a_machine_that_goes_takes_its_processes_and_its_directory_along() {
        let machine = or_skip!(Machine::start());
        let dir = machine.dir().path().to_owned();
        let mut command = machine.command_as(&BOB, "sh");
        // Forks itself away, and shows nothing of the directory in its environment.
        command.args([
            "-c",
            "env -i setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $!",
        ]);
        let pid = machine
            .run(command)
            .success()
            .trim()
            .parse()
            .expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("not zero");
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .expect("it runs");
        drop(machine);
        use std::os::fd::AsFd;
        assert!(Deadline::usual().wait_readable(&[pidfd.as_fd()]).is_some());
        assert!(!dir.exists());
    }
}
