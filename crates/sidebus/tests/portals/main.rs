//! The portals on a virtual machine's bus, without a machine: a real session bus, xdg-desktop-portal, document portal
//! with its FUSE mount and permission store; and a backend of ours that chooses what a person would choose.
//!
//! `SIDEBUS_TEST_PORTAL_ROOT=DIR` takes xdg-desktop-portal from a system that is unpacked in DIR (another
//! distribution's, with a newer version), in a mount namespace of its own.

mod applications;
mod ashpd_client;
mod backend;
mod client;
mod desktop;
mod documents;
mod file_chooser;
mod files_by_descriptor;
mod gone;
mod introspection;
mod machine;
mod monitors;
mod notification;
mod policy;
mod program;
mod requests;
#[allow(dead_code, reason = "shared by tests, of which each needs a part")]
#[path = "../rig/broker.rs"]
mod rig;
mod sessions;
mod settings;

use std::time::Duration;

/// Runs a test's asynchronous part, as the broker does, and within a limit.
fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(async {
            tokio::time::timeout(Duration::from_secs(60), test)
                .await
                .expect("the test ends in time")
        })
}

/// Skips a test where the host's portals cannot be had.
macro_rules! needs_portals {
    () => {
        testbed::needs!(
            testbed::tools::DBUS_DAEMON,
            testbed::tools::PORTAL,
            testbed::tools::PERMISSION_STORE,
            testbed::tools::DOCUMENT_PORTAL,
        );
        if let Err(error) = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
        {
            testbed::skip!("/dev/fuse cannot be opened ({error}), so nothing can be mounted");
        }
    };
}
use needs_portals;
