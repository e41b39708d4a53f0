//! The program; what it does is in the library beside it.

fn main() -> std::process::ExitCode {
    sidebus::agent::main()
}
