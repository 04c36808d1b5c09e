//! The worker's command line; [`worker::cli`] has it all.

fn main() -> std::process::ExitCode {
    worker::cli::main()
}
