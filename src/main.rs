//! The `walproof` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    walproof::commands::main()
}
