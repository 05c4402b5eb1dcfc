//! The server program: reads the command line, runs, and reports the error that ended the run.

mod cli;

use cli::args::Args;
use cli::{check, run};
use server_core::host;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::from_command_line();
    host::init_logs("info");
    if args.check {
        return check::check(&args);
    }
    match run::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            host::print_error("game_server", error);
            host::exit::FAILURE.into()
        }
    }
}
