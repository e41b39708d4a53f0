//! The host's session: a bus, the portal's daemons, and the backend.

use std::path::{Path, PathBuf};

use testbed::{DaemonOptions, DbusDaemon, TestDir, tools};

use crate::backend::{self, Backend};

/// A host.
pub struct Desktop {
    pub backend: Backend,
    pub bus: DbusDaemon,
    // After the daemons, before the directory.
    _mounts: Mounts,
    pub dir: TestDir,
}

/// What document portals have mounted in the test's directory: the host's own, if somebody has called it, which is ended
/// with its bus and does not unmount then; and that of a broker which had to be killed.
struct Mounts([PathBuf; 2]);

impl Drop for Mounts {
    fn drop(&mut self) {
        for mount in &self.0 {
            // Nothing is mounted there in most tests.
            let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

impl Desktop {
    /// With a portal that is started when somebody calls it, as on a desktop.
    pub async fn start() -> Desktop {
        let dir = TestDir::new();
        let interfaces: Vec<String> = backend::INTERFACES
            .iter()
            .map(|interface| format!("org.freedesktop.impl.portal.{interface}"))
            .collect();
        dir.write(
            "portals/testbed.portal",
            format!(
                "[portal]\nDBusName={}\nUseIn=testbed\nInterfaces={}\n",
                backend::NAME,
                interfaces.join(";")
            ),
        );
        // How 1.18 and later choose.
        dir.write(
            "portals/testbed-portals.conf",
            "[preferred]\ndefault=testbed\n",
        );
        let services = dir.make_dir("services");
        // So that OpenURI has somebody to open with.
        dir.write(
            "system-data/applications/org.example.Opener.desktop",
            "[Desktop Entry]\nType=Application\nName=Opener\nExec=false %u\n\
             MimeType=x-scheme-handler/https;x-scheme-handler/http;text/plain;inode/directory;\n",
        );
        dir.write(
            "system-data/applications/mimeinfo.cache",
            "[MIME Cache]\nx-scheme-handler/https=org.example.Opener.desktop;\n\
             text/plain=org.example.Opener.desktop;\ninode/directory=org.example.Opener.desktop;\n",
        );
        dir.make_dir("data/applications");
        for (name, tool) in [
            ("org.freedesktop.portal.Desktop", &tools::PORTAL),
            ("org.freedesktop.portal.Documents", &tools::DOCUMENT_PORTAL),
            (
                "org.freedesktop.impl.portal.PermissionStore",
                &tools::PERMISSION_STORE,
            ),
        ] {
            let program = tool.find().expect("its test asked for it");
            let exec = match std::env::var_os("SIDEBUS_TEST_PORTAL_ROOT") {
                Some(root) if name == "org.freedesktop.portal.Desktop" => {
                    in_other_root(&dir, Path::new(&root))
                }
                _ => program,
            };
            dir.write(
                format!("services/{name}.service"),
                format!("[D-BUS Service]\nName={name}\nExec={}\n", exec.display()),
            );
        }
        let bus = DbusDaemon::start(
            &dir,
            &DaemonOptions {
                name: "host".to_owned(),
                service_dirs: vec![services],
                environment: vec![
                    (
                        "XDG_DESKTOP_PORTAL_DIR".to_owned(),
                        dir.join("portals").display().to_string(),
                    ),
                    ("XDG_CURRENT_DESKTOP".to_owned(), "testbed".to_owned()),
                ],
                ..DaemonOptions::default()
            },
        )
        .expect("a session bus");
        let backend = Backend::start(bus.address()).await;
        let mounts = Mounts([dir.join("runtime/doc"), dir.join("broker/run/doc")]);
        Desktop {
            backend,
            bus,
            _mounts: mounts,
            dir,
        }
    }

    /// Makes a file in the person's home.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        self.dir.write(format!("home/{name}"), content)
    }
}

/// A script that runs the portal of another system.
fn in_other_root(dir: &TestDir, root: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let root = root.display();
    let script = dir.write(
        "portal-of-other-root",
        format!(
            "#!/bin/sh\nexec unshare -m sh -c 'mount --make-rprivate / && mount --bind {root} {root} && mount --bind /tmp {root}/tmp && \
             mount --rbind /dev {root}/dev && mount -t proc proc {root}/proc && \
             XDG_DATA_DIRS=$XDG_DATA_DIRS:/usr/share GSETTINGS_BACKEND=memory \
             exec chroot {root} /usr/libexec/xdg-desktop-portal'\n"
        ),
    );
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700))
        .expect("a file of ours");
    script
}
