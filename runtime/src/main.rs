//! The `roam` command.

fn main() -> std::process::ExitCode {
    roam_runtime::cli::main()
}
