//! The load client: opens N connections, logs what it receives, and proves what it got.
//!
//! ```text
//!   conductor (main thread): ramp, reconnects, the end
//!       |  connect                    ^ events: connected, lost, told goodbye
//!       v                             |
//!   bots (sessions of server_core, on its workers) ---> board: counters, last tick of each session
//!       | arrivals, round trips                            |
//!       v                                                  v
//!   recorder (per loop) ---> meter, phase ---> summary (text, JSON) <--- self check
//! ```

mod args;
mod board;
mod bot;
mod conductor;
mod echo;
mod meter;
mod phase;
mod recorder;
mod self_check;
mod summary;

use args::Args;
use game_server::process;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::from_command_line();
    // The conductor tells of losses itself; the library would tell of our own goodbyes too.
    process::init_logs("info,server_core=warn");
    let outcome = conductor::run(&args).and_then(|summary| {
        summary.publish(args.json.as_deref())?;
        Ok(summary.exit_code())
    });
    outcome.unwrap_or_else(|failure| {
        process::complain("dummy_client", &failure.why);
        ExitCode::from(failure.exit_status)
    })
}
