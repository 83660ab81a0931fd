//! The `vaultmount` program. All code is in the library.

use std::process::ExitCode;

use vaultmount::cli;

fn main() -> ExitCode {
    cli::run(std::env::args_os())
}
