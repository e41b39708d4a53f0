//! The programs of other projects that tests need: what each is for, whether it is here, and which
//! package of which distribution has it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cache;
use crate::processes::{Output, run_to_end};
use crate::reference;

/// Something that is installed, or not.
pub struct Tool {
    /// What people call it.
    pub name: &'static str,
    /// Which tests need it.
    pub purpose: &'static str,
    probe: Probe,
    /// Where it is to be had.
    pub packages: Packages,
}

/// Package names. An empty list: not packaged there.
#[derive(Copy, Clone)]
pub struct Packages {
    /// Debian, Ubuntu and what is made from them.
    pub debian: &'static [&'static str],
    /// Fedora and its kin.
    pub fedora: &'static [&'static str],
    /// Arch Linux and its kin.
    pub arch: &'static [&'static str],
    /// openSUSE.
    pub opensuse: &'static [&'static str],
}

/// How to find out: by running it.
enum Probe {
    /// A program of `PATH`, with arguments with which it ends well and does nothing.
    Program(&'static str, &'static [&'static str]),
    /// A program of `PATH` that has no such arguments: it starts, however it ends.
    Starts(&'static str),
    /// A program that is not in `PATH` but where distributions put the daemons of packages.
    Daemon(&'static str, &'static [&'static str]),
    /// A module of Python 3.
    Python(&'static str),
    /// The reference implementation's tests.
    ReferenceSuites,
    /// A program that no release of the distribution has (or has new enough), and that cargo installs.
    Crate(Crate),
}

/// A program of crates.io, installed beside the other things that tests keep (see [`cache`]).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Crate {
    /// Its name there, and its program's.
    pub name: &'static str,
    /// Which version.
    pub version: &'static str,
}

impl Crate {
    /// For `cargo install --root`: a directory for this version alone.
    pub fn root(&self) -> PathBuf {
        cache::directory().join(format!("{}-{}", self.name, self.version))
    }

    fn program(&self) -> PathBuf {
        self.root().join("bin").join(self.name)
    }
}

/// The message bus of the reference implementation.
pub const DBUS_DAEMON: Tool = Tool {
    name: "dbus-daemon",
    purpose: "the host's bus and the container's bus in nearly every test, and in the demo",
    probe: Probe::Program("dbus-daemon", &["--version"]),
    packages: Packages {
        debian: &["dbus"],
        fedora: &["dbus-daemon"],
        arch: &["dbus"],
        opensuse: &["dbus-1-daemon"],
    },
};

/// dbus-send and dbus-monitor.
pub const DBUS_SEND: Tool = Tool {
    name: "dbus-send, dbus-monitor",
    purpose: "the tests that use them",
    probe: Probe::Program("dbus-monitor", &["--help"]),
    packages: Packages {
        debian: &["dbus"],
        fedora: &["dbus-tools"],
        arch: &["dbus"],
        opensuse: &["dbus-1-tools"],
    },
};

/// The reference implementation's installed tests.
pub const REFERENCE_SUITES: Tool = Tool {
    name: "the reference implementation's tests",
    purpose: "the comparison with a plain dbus-daemon, case by case",
    probe: Probe::ReferenceSuites,
    packages: Packages {
        debian: &["dbus-tests"],
        fedora: &["dbus-tests"],
        arch: &[],
        opensuse: &[],
    },
};

/// GLib's client.
pub const GDBUS: Tool = Tool {
    name: "gdbus",
    purpose: "the tests that use it",
    probe: Probe::Program("gdbus", &["help"]),
    packages: Packages {
        debian: &["libglib2.0-bin"],
        fedora: &["glib2"],
        arch: &["glib2"],
        opensuse: &["glib2-tools"],
    },
};

/// systemd's client.
pub const BUSCTL: Tool = Tool {
    name: "busctl",
    purpose: "the tests that use it",
    probe: Probe::Program("busctl", &["--version"]),
    packages: Packages {
        debian: &["systemd"],
        fedora: &["systemd"],
        arch: &["systemd"],
        opensuse: &["systemd"],
    },
};

/// Reads units.
pub const SYSTEMD_ANALYZE: Tool = Tool {
    name: "systemd-analyze",
    purpose: "whether systemd understands our units",
    probe: Probe::Program("systemd-analyze", &["--version"]),
    packages: BUSCTL.packages,
};

/// Listens as systemd does, and passes the socket on.
pub const SOCKET_ACTIVATE: Tool = Tool {
    name: "systemd-socket-activate",
    purpose: "a socket that systemd passes",
    probe: Probe::Program("systemd-socket-activate", &["--version"]),
    packages: BUSCTL.packages,
};

/// Joins its stdin and stdout to a bus.
pub const STDIO_BRIDGE: Tool = Tool {
    name: "systemd-stdio-bridge",
    purpose: "a host bus behind a program (unixexec:)",
    probe: Probe::Program("systemd-stdio-bridge", &["--version"]),
    packages: BUSCTL.packages,
};

/// Sends notifications.
pub const NOTIFY_SEND: Tool = Tool {
    name: "notify-send",
    purpose: "notifications from inside to the host",
    probe: Probe::Program("notify-send", &["--version"]),
    packages: Packages {
        debian: &["libnotify-bin"],
        fedora: &["libnotify"],
        arch: &["libnotify"],
        opensuse: &["libnotify-tools"],
    },
};

/// Shows notifications.
pub const DUNST: Tool = Tool {
    name: "dunst",
    purpose: "the host's notification daemon",
    probe: Probe::Program("dunst", &["--version"]),
    packages: Packages {
        debian: &["dunst"],
        fedora: &["dunst"],
        arch: &["dunst"],
        opensuse: &["dunst"],
    },
};

/// An X server without a screen.
pub const XVFB: Tool = Tool {
    name: "Xvfb",
    purpose: "the screen that the notification daemon draws on",
    probe: Probe::Program("Xvfb", &["-help"]),
    packages: Packages {
        debian: &["xvfb"],
        fedora: &["xorg-x11-server-Xvfb"],
        arch: &["xorg-server-xvfb"],
        opensuse: &["xorg-x11-server-Xvfb"],
    },
};

/// A media player, and what makes it one that desktops control (MPRIS).
pub const MPV: Tool = Tool {
    name: "mpv",
    purpose: "a media player inside that the host's controls find",
    probe: Probe::Program("mpv", &["--version"]),
    packages: Packages {
        debian: &["mpv", "mpv-mpris"],
        fedora: &["mpv", "mpv-mpris"],
        arch: &["mpv", "mpv-mpris"],
        opensuse: &["mpv", "mpv-mpris"],
    },
};

/// Controls media players.
pub const PLAYERCTL: Tool = Tool {
    name: "playerctl",
    purpose: "the host's controls of a media player inside",
    probe: Probe::Program("playerctl", &["--version"]),
    packages: Packages {
        debian: &["playerctl"],
        fedora: &["playerctl"],
        arch: &["playerctl"],
        opensuse: &["playerctl"],
    },
};

/// Qt's bindings.
pub const PYTHON_QT: Tool = Tool {
    name: "Python 3 with PyQt 5",
    purpose: "a program inside with a tray icon and a menu",
    probe: Probe::Python("PyQt5.QtWidgets"),
    packages: Packages {
        debian: &["python3-pyqt5"],
        fedora: &["python3-qt5"],
        arch: &["python-pyqt5"],
        opensuse: &["python3-qt5"],
    },
};

/// The settings database and its client.
pub const DCONF: Tool = Tool {
    name: "dconf",
    purpose: "settings written inside and kept on the host",
    probe: Probe::Program("dconf", &["help"]),
    packages: Packages {
        debian: &["dconf-cli"],
        fedora: &["dconf"],
        arch: &["dconf"],
        opensuse: &["dconf"],
    },
};

/// The daemon that writes the settings database; GSettings' module that uses it comes along.
pub const DCONF_SERVICE: Tool = Tool {
    name: "dconf-service",
    purpose: "settings written inside and kept on the host",
    probe: Probe::Daemon("dconf-service", &["--help"]),
    packages: Packages {
        debian: &["dconf-service", "dconf-gsettings-backend"],
        fedora: &["dconf"],
        arch: &["dconf"],
        opensuse: &["dconf", "gsettings-backend-dconf"],
    },
};

/// GLib's settings client.
pub const GSETTINGS: Tool = Tool {
    name: "gsettings",
    purpose: "settings written inside and kept on the host",
    // Whatever it is asked, it fails where no schemas are installed.
    probe: Probe::Starts("gsettings"),
    packages: Packages {
        debian: &["libglib2.0-bin"],
        fedora: &["glib2"],
        arch: &["glib2"],
        opensuse: &["glib2-tools"],
    },
};

/// Makes GSettings schemas readable.
pub const GLIB_COMPILE_SCHEMAS: Tool = Tool {
    name: "glib-compile-schemas",
    purpose: "settings written inside and kept on the host",
    probe: Probe::Program("glib-compile-schemas", &["--version"]),
    packages: Packages {
        debian: &["libglib2.0-bin"],
        fedora: &["glib2"],
        arch: &["glib2"],
        opensuse: &["glib2-tools"],
    },
};

/// A Python library for D-Bus, written without the reference implementation.
pub const PYTHON_DBUS_FAST: Tool = Tool {
    name: "Python 3 with dbus-fast",
    purpose: "Python services inside and outside",
    probe: Probe::Python("dbus_fast"),
    packages: Packages {
        debian: &["python3-dbus-fast"],
        fedora: &["python3-dbus-fast"],
        arch: &["python-dbus-fast"],
        opensuse: &["python3-dbus-fast"],
    },
};

/// The host's portals.
pub const PORTAL: Tool = Tool {
    name: "xdg-desktop-portal",
    purpose: "portals called from inside: the request's path, its Response, a file descriptor",
    probe: Probe::Daemon("xdg-desktop-portal", &["--version"]),
    packages: Packages {
        debian: &["xdg-desktop-portal"],
        fedora: &["xdg-desktop-portal"],
        arch: &["xdg-desktop-portal"],
        opensuse: &["xdg-desktop-portal"],
    },
};

/// Where portals keep what a person has allowed; xdg-desktop-portal does not start without it.
pub const PERMISSION_STORE: Tool = Tool {
    name: "xdg-permission-store",
    purpose: "portals called from inside",
    probe: Probe::Daemon("xdg-permission-store", &["--version"]),
    packages: PORTAL.packages,
};

/// Loads the firewall's rules.
pub const NFT: Tool = Tool {
    name: "nft",
    purpose: "the firewall's tests on real rules",
    probe: Probe::Program("nft", &["--version"]),
    packages: same(&["nftables"]),
};

/// Makes the networks of the firewall's tests.
pub const IP: Tool = Tool {
    name: "ip",
    purpose: "the firewall's tests on real networks",
    probe: Probe::Program("ip", &["-Version"]),
    packages: Packages {
        fedora: &["iproute"],
        ..same(&["iproute2"])
    },
};

/// ICMP.
pub const PING: Tool = Tool {
    name: "ping",
    purpose: "the firewall's test of ICMP",
    probe: Probe::Program("ping", &["-V"]),
    packages: Packages {
        debian: &["iputils-ping"],
        ..same(&["iputils"])
    },
};

/// Clicks.
pub const XDOTOOL: Tool = Tool {
    name: "xdotool",
    purpose: "the click on a notification of the firewall",
    probe: Probe::Starts("xdotool"),
    packages: same(&["xdotool"]),
};

/// A real container engine.
pub const PODMAN: Tool = Tool {
    name: "podman",
    purpose: "the firewall's test with a real container",
    probe: Probe::Program("podman", &["--version"]),
    packages: Packages {
        debian: &["podman", "crun"],
        ..same(&["podman"])
    },
};

/// What runs in that container.
pub const BUSYBOX: Tool = Tool {
    name: "busybox",
    purpose: "tests with real containers: the firewall's, and images without systemd",
    probe: Probe::Program("busybox", &["true"]),
    packages: Packages {
        debian: &["busybox-static"],
        ..same(&["busybox"])
    },
};

/// Packages that have one name everywhere.
const fn same(packages: &'static [&'static str]) -> Packages {
    Packages {
        debian: packages,
        fedora: packages,
        arch: packages,
        opensuse: packages,
    }
}

/// The filter whose place dbus-router takes.
pub const XDG_DBUS_PROXY: Tool = Tool {
    name: "xdg-dbus-proxy",
    purpose: "dbus-router beside it, option by option",
    probe: Probe::Program("xdg-dbus-proxy", &["--version"]),
    packages: same(&["xdg-dbus-proxy"]),
};

/// Counts instructions.
pub const VALGRIND: Tool = Tool {
    name: "valgrind",
    purpose: "the guard against messages that become dearer, in instructions",
    probe: Probe::Program("valgrind", &["--version"]),
    packages: same(&["valgrind"]),
};

/// Makes sandboxes.
pub const BWRAP: Tool = Tool {
    name: "bwrap",
    purpose: "a sandbox with dbus-router's socket in it",
    probe: Probe::Program("bwrap", &["--version"]),
    packages: same(&["bubblewrap"]),
};

/// The container manager.
pub const INCUSD: Tool = Tool {
    name: "incusd",
    purpose: "everything that containers are tested with",
    probe: Probe::Daemon("incusd", &["--version"]),
    packages: Packages {
        debian: &["incus-base"],
        fedora: &["incus"],
        arch: &["incus"],
        opensuse: &["incus"],
    },
};

/// Its client.
pub const INCUS: Tool = Tool {
    name: "incus",
    purpose: "everything that containers are tested with",
    probe: Probe::Program("incus", &["version", "--help"]),
    packages: Packages {
        debian: &["incus-client"],
        fedora: &["incus-client"],
        arch: &["incus"],
        opensuse: &["incus"],
    },
};

/// Gives addresses on the containers' network.
pub const DNSMASQ: Tool = Tool {
    name: "dnsmasq",
    purpose: "the containers' network",
    probe: Probe::Program("dnsmasq", &["--version"]),
    packages: Packages {
        debian: &["dnsmasq-base"],
        ..same(&["dnsmasq"])
    },
};

/// Makes the containers' storage.
pub const MKFS_BTRFS: Tool = Tool {
    name: "mkfs.btrfs",
    purpose: "containers on btrfs, as people have them (slower storage without)",
    probe: Probe::Program("mkfs.btrfs", &["--version"]),
    packages: Packages {
        opensuse: &["btrfsprogs"],
        ..same(&["btrfs-progs"])
    },
};

/// Makes a certificate, and speaks TLS as an image server does.
pub const OPENSSL: Tool = Tool {
    name: "openssl",
    purpose: "images from a server with a certificate",
    probe: Probe::Program("openssl", &["version"]),
    packages: same(&["openssl"]),
};

/// Makes the containers' images.
pub const MMDEBSTRAP: Tool = Tool {
    name: "mmdebstrap",
    purpose: "everything that containers are tested with (their image)",
    probe: Probe::Program("mmdebstrap", &["--version"]),
    packages: same(&["mmdebstrap"]),
};

/// Packs the containers' images.
pub const TAR2SQFS: Tool = Tool {
    name: "tar2sqfs",
    purpose: "everything that containers are tested with (their image)",
    probe: Probe::Program("tar2sqfs", &["--version"]),
    packages: same(&["squashfs-tools-ng"]),
};

/// Decides who may do what.
pub const POLKITD: Tool = Tool {
    name: "polkitd",
    purpose: "who may do what with containers",
    probe: Probe::Daemon("polkitd", &["--help"]),
    packages: Packages {
        debian: &["polkitd"],
        ..same(&["polkit"])
    },
};

/// Asks for passwords at a terminal.
pub const PKTTYAGENT: Tool = Tool {
    name: "pkttyagent",
    purpose: "who may do what with containers after giving a password",
    probe: Probe::Program("pkttyagent", &["--version"]),
    packages: POLKITD.packages,
};

/// The host's documents.
pub const DOCUMENT_PORTAL: Tool = Tool {
    name: "xdg-document-portal",
    purpose: "documents of a virtual machine",
    probe: Probe::Daemon("xdg-document-portal", &["--version"]),
    packages: Packages {
        debian: &["xdg-desktop-portal", "fuse3"],
        ..PORTAL.packages
    },
};

/// Shares a directory with a virtual machine.
pub const VIRTIOFSD: Tool = Tool {
    name: "virtiofsd",
    purpose: "documents of a virtual machine, in the machine",
    probe: Probe::Crate(Crate {
        name: "virtiofsd",
        version: "1.14.0",
    }),
    packages: Packages {
        debian: &["libcap-ng-dev", "libseccomp-dev"],
        fedora: &["libcap-ng-devel", "libseccomp-devel"],
        arch: &["libcap-ng", "libseccomp"],
        opensuse: &["libcap-ng-devel", "libseccomp-devel"],
    },
};

/// Vsock for a virtual machine, without a module of the host's kernel.
pub const VHOST_DEVICE_VSOCK: Tool = Tool {
    name: "vhost-device-vsock",
    purpose: "everything that is tested in a virtual machine",
    probe: Probe::Crate(Crate {
        name: "vhost-device-vsock",
        version: "0.3.0",
    }),
    packages: same(&[]),
};

/// Runs a virtual machine.
pub const QEMU: Tool = Tool {
    name: "qemu-system-x86_64",
    purpose: "everything that is tested in a virtual machine",
    probe: Probe::Program("qemu-system-x86_64", &["--version"]),
    packages: Packages {
        debian: &["qemu-system-x86"],
        fedora: &["qemu-system-x86-core"],
        arch: &["qemu-system-x86"],
        opensuse: &["qemu-x86"],
    },
};

/// Makes the disk of a virtual machine.
pub const MKE2FS: Tool = Tool {
    name: "mke2fs",
    purpose: "everything that is tested in a virtual machine (its disk)",
    probe: Probe::Program("mke2fs", &["-V"]),
    packages: same(&["e2fsprogs"]),
};

/// All of them.
pub const ALL: &[&Tool] = &[
    &DBUS_DAEMON,
    &DBUS_SEND,
    &REFERENCE_SUITES,
    &GDBUS,
    &BUSCTL,
    &SYSTEMD_ANALYZE,
    &SOCKET_ACTIVATE,
    &STDIO_BRIDGE,
    &NOTIFY_SEND,
    &DUNST,
    &XVFB,
    &MPV,
    &PLAYERCTL,
    &PYTHON_QT,
    &DCONF,
    &DCONF_SERVICE,
    &GSETTINGS,
    &GLIB_COMPILE_SCHEMAS,
    &PYTHON_DBUS_FAST,
    &PORTAL,
    &PERMISSION_STORE,
    &NFT,
    &IP,
    &PING,
    &XDOTOOL,
    &PODMAN,
    &BUSYBOX,
    &XDG_DBUS_PROXY,
    &BWRAP,
    &VALGRIND,
    &INCUSD,
    &INCUS,
    &DNSMASQ,
    &MKFS_BTRFS,
    &OPENSSL,
    &MMDEBSTRAP,
    &TAR2SQFS,
    &POLKITD,
    &PKTTYAGENT,
    &DOCUMENT_PORTAL,
    &VIRTIOFSD,
    &VHOST_DEVICE_VSOCK,
    &QEMU,
    &MKE2FS,
];

impl Tool {
    /// The program's path, or that of the interpreter that has the module; `None` if it is not here, or
    /// is here and does not run.
    pub fn find(&self) -> Option<PathBuf> {
        match &self.probe {
            Probe::Program(program, arguments) => {
                in_path(program).find(|path| runs_well(path, arguments))
            }
            Probe::Starts(program) => in_path(program).find(|path| run(path, &[]).is_some()),
            Probe::Daemon(program, arguments) => [
                "/usr/libexec",
                "/usr/lib",
                "/usr/lib/dconf",
                "/usr/lib/polkit-1",
                "/usr/libexec/incus",
                "/usr/lib/incus",
                "/opt/incus/bin",
            ]
            .into_iter()
            .map(|dir| Path::new(dir).join(program))
            .find(|path| path.exists() && runs_well(path, arguments)),
            // Of several, not every one has the distribution's modules.
            Probe::Python(module) => {
                let import = format!("import {module}");
                in_path("python3").find(|python| runs_well(python, &["-c", &import]))
            }
            Probe::Crate(program) => {
                Some(program.program()).filter(|path| runs_well(path, &["--version"]))
            }
            Probe::ReferenceSuites => {
                reference::Installation::find().map(|installation| installation.dir().to_owned())
            }
        }
    }

    /// What cargo has to install for it, if it is not a package (the packages are then what it is built with).
    pub fn from_crate(&self) -> Option<Crate> {
        match self.probe {
            Probe::Crate(program) => Some(program),
            _ => None,
        }
    }

    /// Why a test cannot run without it, and what to do.
    pub fn missing(&self) -> String {
        let packages = match self.packages.debian {
            [] => String::new(),
            packages => format!(" (Debian: {})", packages.join(" ")),
        };
        format!(
            "{} is not here{packages}; `cargo xtask test` offers to install it",
            self.name
        )
    }
}

/// All programs of this name in `PATH`.
fn in_path(program: &str) -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let candidates: Vec<PathBuf> = std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .collect();
    candidates.into_iter().filter(|candidate| {
        candidate
            .metadata()
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })
}

fn run(program: &Path, arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new(program);
    command.args(arguments);
    run_to_end(command, Duration::from_secs(10)).ok()
}

fn runs_well(program: &Path, arguments: &[&str]) -> bool {
    run(program, arguments).is_some_and(|output| output.status.success())
}

/// Skips a test, loudly, unless all of these tools are here.
#[macro_export]
macro_rules! needs {
    ($($tool:expr),+ $(,)?) => {
        for tool in [$(&$tool),+] {
            if tool.find().is_none() {
                $crate::skip!("{}", tool.missing());
            }
        }
    };
}
