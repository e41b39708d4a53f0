//! What is to run for one VM: which programs, and where they keep what they have.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::SupervisorError;
use crate::portals::applications::machine_id;

/// Where the daemons of other projects are.
///
/// [`Programs::find`] looks where distributions put them; each can be set to another, as tests do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// `xdg-permission-store`.
    pub permission_store: PathBuf,
    /// `xdg-document-portal`.
    pub document_portal: PathBuf,
    /// `virtiofsd`, 1.13 or newer. None: the documents are not shared (with `--debug-access` alone there is no guest to share them with).
    pub virtiofsd: Option<PathBuf>,
}

impl Programs {
    /// Looks in the usual directories of distributions, and for virtiofsd also in `PATH`.
    ///
    /// # Errors
    /// A daemon of the portals is not installed. Without virtiofsd, `virtiofsd` is none.
    pub fn find() -> Result<Programs, SupervisorError> {
        const PORTALS: [&str; 4] = [
            "/usr/libexec",
            "/usr/lib",
            "/usr/lib/xdg-desktop-portal",
            "/run/current-system/sw/libexec",
        ];
        // Not /usr/lib/qemu: what is there is the older program of the same name, in C, which does not know our options.
        const VIRTIOFSD: [&str; 2] = ["/usr/libexec", "/usr/lib"];
        let of_portals = |program: &'static str| {
            in_directories(&PORTALS, program).ok_or(SupervisorError::NotInstalled { program })
        };
        Ok(Programs {
            permission_store: of_portals("xdg-permission-store")?,
            document_portal: of_portals("xdg-document-portal")?,
            virtiofsd: in_directories(&VIRTIOFSD, "virtiofsd").or_else(|| in_path("virtiofsd")),
        })
    }
}

fn in_directories(directories: &[&str], program: &str) -> Option<PathBuf> {
    directories
        .iter()
        .map(|directory| Path::new(directory).join(program))
        .find(|path| is_program(path))
}

fn in_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// The user of the guest to whom shared documents belong there. The guest's kernel checks access to them by this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestUser {
    /// Its user id in the guest.
    pub uid: u32,
    /// Its group id in the guest.
    pub gid: u32,
}

/// What a [`Supervisor`](super::Supervisor) runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The VM's name: letters, digits, `_` and `-`.
    pub vm: String,
    /// The directory for sockets, the lock and the document mount: of this VM and of this user alone (mode 0700). Made if it
    /// is not there.
    pub runtime_dir: PathBuf,
    /// Where the daemons keep what is to outlive them: which documents there are, and what was permitted.
    pub data_dir: PathBuf,
    /// What to run.
    pub programs: Programs,
    /// To whom the documents belong in the guest; none: to the user with our own number.
    pub guest_user: Option<GuestUser>,
    /// How long a daemon may take to become ready. They take half a second; [`Plan::new`] says twenty.
    pub patience: Duration,
}

impl Plan {
    /// The usual plan of a VM, with everything below `runtime_dir`.
    ///
    /// # Errors
    /// The daemons of the portals are not installed.
    pub fn new(vm: &str, runtime_dir: &Path) -> Result<Plan, SupervisorError> {
        Ok(Plan {
            vm: vm.to_owned(),
            runtime_dir: runtime_dir.to_owned(),
            data_dir: runtime_dir.join("data"),
            programs: Programs::find()?,
            guest_user: None,
            patience: Duration::from_secs(20),
        })
    }

    /// The application id under which all of the guest is known to the document portal (`vm.NAME`). A document that the guest
    /// may see is granted to this id, for this id's view of the documents is what the guest mounts.
    pub fn documents_app_id(&self) -> String {
        machine_id(&self.vm)
    }

    /// The private bus's socket.
    pub fn private_bus_socket(&self) -> PathBuf {
        self.runtime_dir.join("private.sock")
    }

    /// Where the documents are mounted on the host, all of them.
    pub fn documents_mount(&self) -> PathBuf {
        self.runtime_dir.join("doc")
    }

    /// What of it the guest sees as its document directory.
    pub fn shared_directory(&self) -> PathBuf {
        self.documents_mount()
            .join("by-app")
            .join(self.documents_app_id())
    }

    /// The socket to give to the virtual machine monitor (vhost-user).
    pub fn virtiofs_socket(&self) -> PathBuf {
        self.runtime_dir.join("virtiofs.sock")
    }

    /// Held by us and by every daemon: who has it owns the directory.
    pub(super) fn lock(&self) -> PathBuf {
        self.runtime_dir.join("lock")
    }
}
