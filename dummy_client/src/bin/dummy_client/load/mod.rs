//! How many sessions there are when: from the first connection to the end of the run.

pub mod capacity;
mod conductor;
mod ending;
pub mod life;
mod live;
pub mod shape;

use crate::args::Args;
use crate::bot::{Bot, BotSettings};
use crate::measure::board::Board;
use crate::measure::self_check::SelfCheck;
use crate::preflight;
use crate::result::summary::Summary;
use conductor::Conductor;
use indicatif::ProgressBar;
use server_core::host::{exit, signals};
use server_core::{Config, Server, start};
use std::sync::Arc;
use std::time::Duration;

pub use conductor::MAX_CONNECTING;
pub use live::{LogWriter, status_bar};

/// Why there is no summary.
#[derive(Debug)]
pub struct Failure {
    /// One line for the user.
    pub why: String,
    /// What the process ends with.
    pub exit_status: u8,
}

const GOODBYE: Duration = Duration::from_secs(1);

/// Runs until the time is up, Ctrl-C, or nobody is left.
///
/// # Errors
/// If it could not even begin.
pub fn run(args: &Args, bar: ProgressBar) -> Result<Summary, Failure> {
    let machine = preflight::require(args)?;
    let max_sessions = preflight::max_sessions(args, &machine);
    let failed = |error: std::io::Error| Failure {
        why: error.to_string(),
        exit_status: exit::FAILURE,
    };
    let (sender, stopped) = crossbeam_channel::bounded(1);
    let stop = move |signal| {
        // Without a receiver the process is about to end.
        let _ = sender.send(signal);
    };
    signals::on_stop(stop).map_err(failed)?;
    let (board, events) = Board::new(max_sessions, args.threads);
    let board = Arc::new(board);
    let settings = Arc::new(BotSettings {
        board: Arc::clone(&board),
        log_sessions: args.log_sessions.0,
        requests: args.requests(),
    });
    let server = Server::builder()
        .config(config(args.threads))
        .start_client(move |peer| Bot::new(Arc::clone(&settings), peer))
        .map_err(failed)?;
    let self_check = SelfCheck::start(args.threads).map_err(failed)?;
    log::info!(
        "{max_sessions} sessions to {}, seed {}",
        args.addr.first(),
        args.seed()
    );
    let handle = server.handle();
    let mut conductor = Conductor::new(args, machine, handle, board, events, self_check, bar);
    conductor.conduct(&stopped);
    conductor.settle();
    server.handle().shutdown(GOODBYE);
    server
        .join()
        .map_err(|error| failed(start::failed("a thread failed", error)))?;
    // Only now: nothing is counted any more while it is summed up.
    Ok(conductor.summarize())
}

/// The limits of a load client: the server is on trial, not this side.
fn config(threads: usize) -> Config {
    let mut config = Config::default();
    config.workers = threads;
    config.max_send_queue_bytes = 64 << 20;
    config.max_send_lag = None;
    config.packet_timeout = None;
    config.flush_timeout = GOODBYE;
    config
}
