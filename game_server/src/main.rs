//! The server program: reads the command line, and runs.

mod cli;

use cli::args::Args;
use cli::run;
use std::process::ExitCode;

fn main() -> ExitCode {
    run::run(&Args::from_command_line())
}
