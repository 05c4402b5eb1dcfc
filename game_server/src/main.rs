//! The server program: reads the command line, runs, says how it ended.

mod args;
mod check;
mod run;
mod stats;

use args::Args;
use game_server::process;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::from_command_line();
    process::init_logs("info");
    if args.check {
        return check::check(&args);
    }
    match run::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            process::complain("game_server", why);
            ExitCode::FAILURE
        }
    }
}
