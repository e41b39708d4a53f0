//! A message bus for a sandbox, with rules for what of the host is there; and a drop-in for xdg-dbus-proxy.

use std::process::ExitCode;

fn main() -> ExitCode {
    dbus_router::tool::main()
}
