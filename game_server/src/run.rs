//! The tick loop: from the start to the goodbye.

use crate::args::Args;
use crate::check;
use crate::stats::{self, Stats, TickMetrics};
use game_server::chat_budget::ChatBudget;
use game_server::packets::{CHAT_FLOOD, SBye, SHello};
use game_server::preflight::Machine;
use game_server::{GameSession, process};
use server_core::admin::Admin;
use server_core::tick::TickSchedule;
use server_core::{Server, ServerHandle};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs until a signal comes.
///
/// # Errors
/// One line for the user.
pub fn run(args: &Args) -> Result<(), String> {
    let fd_limit = process::raise_fd_limit();
    let ticks_here = std::thread::current();
    let in_words = |error: io::Error| error.to_string();
    let signals =
        process::stop_signals_but_hangup(move || ticks_here.unpark()).map_err(in_words)?;
    let config = args.config(fd_limit);
    let (max_chats_per_sec, requires_login) = (args.max_chats_per_sec(), args.requires_login());
    let chats_of_address = args
        .max_chats_per_ip_per_sec()
        .map(ChatBudget::new)
        .map(Arc::new);
    let ticks = Arc::new(TickMetrics::default());
    // Before the server: a start that fails must not have accepted a peer. Ends with this function,
    // when the sessions have gone.
    let admin = (args.metrics_addr.as_ref())
        .map(|addrs| {
            Admin::builder()
                .name("game_server")
                .tick_metrics(Arc::clone(&ticks))
                .registry(stats::registry(chats_of_address.clone()))
                .allow_hosts(args.admin_hosts.iter().cloned())
                .host_hint("game_server --admin-host NAME allows it")
                .bind(addrs.all())
        })
        .transpose()
        .map_err(in_words)?;
    let server = Server::builder()
        .config(config.clone())
        .custom_labels([CHAT_FLOOD.label()])
        .close_message(SBye::close_message)
        .start(args.addr.all(), move |_peer| {
            GameSession::new(max_chats_per_sec)
                .with_chats_of_address(chats_of_address.clone())
                .with_login(requires_login)
        })
        .map_err(in_words)?;
    let handle = server.handle();
    let _admin = admin.map(|admin| {
        log::info!("metrics on {}", admin.local_addr());
        admin.serve(&handle)
    });
    log::info!("listening on {}", server.local_addr());
    if args.addr.are_several() {
        log::info!("took {} of {}", server.local_addr(), args.addr);
    }
    log::info!(
        "tick {} ms, {} workers, at most {} sessions ({fd_limit} open files)",
        args.tick_ms,
        config.workers,
        config.max_sessions.unwrap_or(usize::MAX),
    );
    let limits = check::limits(args, &Machine::look());
    if let (Some(asked), Some(most)) = (args.sessions_asked(), config.max_sessions)
        && asked > most as u64
    {
        log::warn!(
            "--max-sessions lowered from {asked} to {most}: of {fd_limit} descriptors, {} are kept for \
             the metrics port, refused connections and the program itself",
            fd_limit - most as u64,
        );
    }
    for finding in limits.iter().filter(|finding| finding.grade.is_bad()) {
        log::warn!("{finding}");
    }
    if let Some(warning) = args.silence_warning() {
        log::warn!("{warning}");
    }

    let signal = tick_until_signal(args, &handle, &ticks, &signals);
    if let Some(signal) = signal {
        log::info!("signal {signal}: shutting down");
        handle.shutdown(args.drain_secs);
    }
    server
        .join()
        .map_err(|error| format!("the server failed: {error}"))?;
    signal.map_or(Err("the server ended by itself".into()), |_| Ok(()))
}

/// Returns the signal, or `None` if the server has ended without one.
fn tick_until_signal(
    args: &Args,
    server: &ServerHandle,
    ticks: &Arc<TickMetrics>,
    signals: &crossbeam_channel::Receiver<i32>,
) -> Option<i32> {
    let start = Instant::now();
    let hello_tail = args.hello_tail();
    let mut schedule = args
        .tick_period()
        .map(|period| TickSchedule::new(start, period));
    let mut stats = Stats::new(args.stats_interval_secs, Arc::clone(ticks), start);
    while !server.is_shutting_down() {
        let ends = [
            schedule.as_ref().map(TickSchedule::next_at),
            stats.next_at(),
        ];
        let wake_at = ends.into_iter().flatten().min();
        // Not for ever: the server may end by itself.
        let check_at = Instant::now() + CHECK;
        let wake_at = wake_at.map_or(check_at, |at| at.min(check_at));
        // Parked, where a wait for the channel would spin for a while first, at each tick. The thread
        // of the signals ends that; what a wait for room in a mailbox has swallowed is seen before.
        if signals.is_empty() {
            std::thread::park_timeout(wake_at.saturating_duration_since(Instant::now()));
        }
        if let Ok(signal) = signals.try_recv() {
            return Some(signal);
        }
        let now = Instant::now();
        if let Some(tick) = schedule.as_mut().and_then(|schedule| schedule.poll(now)) {
            // Counted first: who has seen a tick finds it in the metrics.
            ticks.count(tick);
            server.broadcast_measured(now, &SHello::at(tick.number), &hello_tail);
        }
        stats.log_if_due(server, Instant::now());
    }
    None
}

/// How often the loop looks whether the server still runs.
const CHECK: Duration = Duration::from_secs(1);
