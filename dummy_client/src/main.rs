//! The load client: opens N connections, logs what it receives, and proves what it got.
//!
//! ```text
//!   load: ramp, reconnects, the end (main thread)
//!       |  connect                    ^ events: connected, lost, told goodbye
//!       v                             |
//!   bot: sessions of server_core, on its workers ----> measure: counters, last tick of each session,
//!                                                      arrivals, round trips, and this program itself
//!                                                         |
//!                                                         v
//!                                                      result: summary (text, JSON), exit status
//! ```

mod args;
mod bot;
mod load;
mod measure;
mod result;

use args::Args;
use game_server::process;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::from_command_line();
    // The conductor tells of losses itself; the library would tell of our own goodbyes too.
    process::init_logs("info,server_core=warn");
    let outcome = load::run(&args).and_then(|summary| {
        summary.publish(args.json.as_deref())?;
        Ok(summary.exit_code())
    });
    outcome.unwrap_or_else(|failure| {
        process::complain("dummy_client", &failure.why);
        ExitCode::from(failure.exit_status)
    })
}
