//! One session bus for a container.

use std::process::ExitCode;

fn main() -> ExitCode {
    kapsule_dbus_mux::main()
}
