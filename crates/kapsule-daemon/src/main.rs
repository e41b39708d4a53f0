//! The program `kapsuled`. What it does is in the library; here it only starts.

fn main() -> std::process::ExitCode {
    kapsule_daemon::program::main()
}
