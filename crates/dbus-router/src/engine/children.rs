//! Programs that the router starts: services, and the other ends of `unixexec` addresses.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use rustix::event::epoll::{self, EventData, EventFlags};

use super::{CHILDREN, MOST_CHILDREN, Router, Watched};
use crate::hub::LaunchEnd;
use crate::local_bus::{ActivationId, Launch};

impl Router {
    /// Starts a service's program.
    pub(super) fn launch(&mut self, id: ActivationId, launch: &Launch) {
        let Some((program, arguments)) = launch.command.split_first() else {
            return;
        };
        let address = self.address();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(launch.environment.iter().map(|(key, value)| (key, value)))
            .env("DBUS_STARTER_ADDRESS", &address)
            .env("DBUS_STARTER_BUS_TYPE", "session")
            .env("DBUS_SESSION_BUS_ADDRESS", &address)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null());
        self.with_original_limits(&mut command);
        match command.spawn() {
            Ok(child) => self.watch_child(Watched::Service(id), child),
            Err(error) => {
                let why = format!("Failed to execute program {}: {error}", launch.name);
                self.hub
                    .launch_ended(id, &LaunchEnd::Failed(why), &mut self.io);
            }
        }
    }

    pub(super) fn watch_child(&mut self, what: Watched, child: Child) {
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let fd = pid.and_then(|pid| {
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
        });
        let Some(fd) = fd else { return };
        self.next_child = (self.next_child + 1) % (MOST_CHILDREN - 1);
        let data = CHILDREN - self.next_child;
        if epoll::add(
            self.io.epoll(),
            &fd,
            EventData::new_u64(data),
            EventFlags::IN,
        )
        .is_ok()
        {
            self.children.insert(data, (what, child, fd));
        }
    }

    pub(super) fn child_ended(&mut self, data: u64) {
        let Some((what, mut child, fd)) = self.children.remove(&data) else {
            return;
        };
        let _ = epoll::delete(self.io.epoll(), &fd);
        let Ok(status) = child.wait() else { return };
        let Watched::Service(id) = what else { return };
        let end = match (status.code(), status.signal()) {
            (Some(code), _) => LaunchEnd::Exited(code),
            (None, signal) => LaunchEnd::Signaled(signal.unwrap_or_default()),
        };
        self.hub.launch_ended(id, &end, &mut self.io);
    }
}
