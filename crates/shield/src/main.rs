//! The program `shield-bridge`. What it does is in the library; here it only starts.

fn main() -> std::process::ExitCode {
    shield::cli::main()
}
