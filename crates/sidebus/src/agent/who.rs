//! Who a program is, as far as the guest's kernel says. For the broker these are claims.

use tokio::net::UnixStream;

/// A program that has connected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Who {
    pub uid: u32,
    /// 0: not known.
    pub pid: u32,
    pub app_id: Option<String>,
}

impl Who {
    /// Of the other end of a socket.
    pub fn of(socket: &UnixStream) -> std::io::Result<Who> {
        let credentials = socket.peer_cred()?;
        // None where the process is of a namespace that we cannot see.
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
        let pid = pid.unwrap_or_default();
        Ok(Who {
            uid: credentials.uid(),
            pid,
            app_id: (pid != 0).then(|| app_id(pid)).flatten(),
        })
    }
}

/// The application that a process belongs to: what Flatpak says of its sandbox, else the systemd unit in which a
/// desktop has started it.
fn app_id(pid: u32) -> Option<String> {
    let flatpak = std::fs::read_to_string(format!("/proc/{pid}/root/.flatpak-info"));
    if let Ok(info) = flatpak {
        return of_flatpak(&info);
    }
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    of_cgroup(&cgroup)
}

/// The key `name` of the group `[Application]`.
fn of_flatpak(info: &str) -> Option<String> {
    let mut lines = info.lines().skip_while(|line| *line != "[Application]");
    lines.next()?;
    let name = lines
        .take_while(|line| !line.starts_with('['))
        .find_map(|line| line.strip_prefix("name="))?;
    valid(name.to_owned())
}

/// `app[-LAUNCHER]-ID-RANDOM.scope`, `app[-LAUNCHER]-ID[@RANDOM].service` or `.slice`: systemd's convention for
/// desktops. In ID, `-` is written `\x2d`.
fn of_cgroup(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    path.rsplit('/').find_map(|unit| {
        let unit = unit.strip_prefix("app-")?;
        let id = if let Some(name) = unit.strip_suffix(".scope") {
            name.rsplit_once('-')?.0
        } else {
            let name = unit.strip_suffix(".service")?;
            name.split_once('@').map_or(name, |(name, _)| name)
        };
        let id = id.rsplit_once('-').map_or(id, |(_, id)| id);
        valid(id.replace("\\x2d", "-"))
    })
}

fn valid(id: String) -> Option<String> {
    dbus_wire::is_well_known_name(&id).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_application_of_a_sandbox_is_what_flatpak_says() {
        let info =
            "[Context]\nname=no\n[Application]\nname=org.kde.okular\nruntime=x\n[Instance]\n";
        assert_eq!(of_flatpak(info).as_deref(), Some("org.kde.okular"));
        assert_eq!(of_flatpak("[Application]\n[Other]\nname=a.b\n"), None);
    }

    #[test]
    fn the_units_of_desktops_name_their_applications() {
        let of = |unit: &str| of_cgroup(&format!("0::/user.slice/app.slice/{unit}\n"));
        for (unit, id) in [
            ("app-org.kde.okular-1234.scope", Some("org.kde.okular")),
            ("app-gnome-org.gnome.Maps-77.scope", Some("org.gnome.Maps")),
            ("app-org.kde.konsole@abc.service", Some("org.kde.konsole")),
            ("app-org.a.b\\x2dc.service", Some("org.a.b-c")),
            ("dbus.service", None),
            ("app-firefox-99.scope", None),
        ] {
            assert_eq!(of(unit).as_deref(), id, "{unit}");
        }
    }
}
