//! Runs a test from the first connection to the summary.

use crate::args::Args;
use crate::bot::{Bot, BotSettings};
use crate::measure::board::{Board, Event};
use crate::measure::meter::{Meter, Second, quantile_ms};
use crate::measure::self_check::SelfCheck;
use crate::result::summary::{Outcome, Sessions, Summary};
use crossbeam_channel::Receiver;
use game_server::process::{self, human_bytes};
use server_core::backoff::Backoff;
use server_core::{Config, Server, ServerHandle};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why there is no summary.
#[derive(Debug)]
pub struct Failure {
    /// One line for the user.
    pub why: String,
    /// What the process ends with.
    pub exit_status: u8,
}

/// Runs until the time is up, Ctrl-C, or nobody is left.
///
/// # Errors
/// If it could not even begin.
pub fn run(args: &Args) -> Result<Summary, Failure> {
    check_fd_limit(args)?;
    let failed = |what: &str, error: std::io::Error| Failure {
        why: format!("{what}: {error}"),
        exit_status: 1,
    };
    let signals = process::stop_signals()
        .map_err(|error| failed("cannot install the signal handlers", error))?;
    let (board, events) = Board::new(args.count, args.threads);
    let board = Arc::new(board);
    let settings = Arc::new(BotSettings {
        board: Arc::clone(&board),
        log_sessions: args.log_sessions.0,
        echo_period: args.echo_period(),
        payload_bytes: args.payload_bytes,
        seed: args.seed(),
    });
    let server = Server::builder()
        .config(config(args.threads))
        .start_without_listener(move |peer| Bot::new(Arc::clone(&settings), peer))
        .map_err(|error| failed("cannot start", error))?;
    log::info!(
        "{} sessions to {}, seed {}",
        args.count,
        args.addr,
        args.seed()
    );
    let self_check =
        SelfCheck::start(args.threads).map_err(|error| failed("cannot start a thread", error))?;
    let handle = server.handle();
    let mut conductor = Conductor::new(args, handle, Arc::clone(&board), events, self_check);
    conductor.conduct(&signals);
    conductor.settle();
    server.handle().shutdown(GOODBYE);
    server
        .join()
        .map_err(|error| failed("a thread failed", error))?;
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

fn check_fd_limit(args: &Args) -> Result<(), Failure> {
    let limit = process::raise_fd_limit();
    // Standard streams, signals, and a poll with its waker for each thread.
    let needed = (args.count + 16 + 3 * args.threads) as u64;
    if needed <= limit {
        return Ok(());
    }
    Err(Failure {
        why: format!(
            "--count {} needs {needed} open files, and the limit is {limit}: \
             raise it with `ulimit -Hn {needed} && ulimit -Sn {needed}`, or lower --count",
            args.count
        ),
        exit_status: 2,
    })
}

/// Connections under way at a time. More would overflow the server's backlog, and each SYN that
/// is dropped there is a second of waiting that says nothing about the server.
const MAX_CONNECTING: usize = 256;
/// A loss that came back within this time is no failure.
const COMEBACK: Duration = Duration::from_secs(10);
/// How long the last answers may take at the end.
const SETTLE: Duration = Duration::from_secs(2);
/// A session that stood this long begins anew with its backoff.
const SETTLED: Duration = Duration::from_secs(1);
/// A run in which nothing at all is received for this long proves nothing.
const MAX_SILENCE: Duration = Duration::from_secs(5);
/// No tick for this many periods, and no shorter than this, is a server that hangs.
const MAX_MISSED: (u32, Duration) = (4, Duration::from_secs(1));
const GOODBYE: Duration = Duration::from_secs(1);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

struct Conductor<'a> {
    meter: Meter,
    self_check: SelfCheck,
    args: &'a Args,
    server: ServerHandle,
    board: Arc<Board>,
    events: Receiver<Event>,
    rng: fastrand::Rng,
    sessions: Vec<Life>,
    next_new: usize,
    connecting: usize,
    retries: BinaryHeap<Reverse<(Instant, usize)>>,
    started_at: Instant,
    next_line_at: Instant,
    last_line: Line,
    tally: Sessions,
    /// Echoes that were not answered when the run was over, and when that was.
    unanswered: u64,
    ended_at: Instant,
    losses: BTreeMap<String, u64>,
    byes: BTreeMap<u16, (String, u64)>,
    has_complained: bool,
}

/// One session, as the conductor sees it.
struct Life {
    state: State,
    backoff: Backoff,
    /// It stood at least once, and was not refused.
    has_stood: bool,
    /// When it was lost, until it is back.
    lost_at: Option<Instant>,
}

impl Life {
    /// It has stood, and the server has not refused it: counts that, once, and returns for how
    /// long it has stood by now.
    fn stand(&mut self, tally: &mut Sessions, now: Instant) -> Duration {
        let State::Live { since } = self.state else {
            return Duration::ZERO;
        };
        if !std::mem::replace(&mut self.has_stood, true) {
            tally.connected += 1;
        }
        match self.lost_at.take() {
            None => {}
            Some(at) if since.duration_since(at) <= COMEBACK => tally.came_back += 1,
            Some(_) => tally.came_back_late += 1,
        }
        now.duration_since(since)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its first connection has not begun.
    New,
    Connecting,
    Live {
        since: Instant,
    },
    /// Waits for its next try.
    Waiting,
    /// Will not come back.
    Gone,
}

#[derive(Default)]
struct Line {
    packets: u64,
    bytes: u64,
}

impl<'a> Conductor<'a> {
    fn new(
        args: &'a Args,
        server: ServerHandle,
        board: Arc<Board>,
        events: Receiver<Event>,
        self_check: SelfCheck,
    ) -> Self {
        let now = Instant::now();
        let new_life = || Life {
            state: State::New,
            backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
            has_stood: false,
            lost_at: None,
        };
        Self {
            meter: Meter::new(now),
            self_check,
            args,
            server,
            board,
            events,
            rng: fastrand::Rng::with_seed(args.seed()),
            sessions: (0..args.count).map(|_| new_life()).collect(),
            next_new: 0,
            connecting: 0,
            retries: BinaryHeap::new(),
            started_at: now,
            next_line_at: now + Duration::from_secs(1),
            last_line: Line::default(),
            tally: Sessions::default(),
            unanswered: 0,
            ended_at: now,
            losses: BTreeMap::new(),
            byes: BTreeMap::new(),
            has_complained: false,
        }
    }

    fn conduct(&mut self, signals: &Receiver<i32>) {
        let end_at = self
            .args
            .duration_secs
            .map(|duration| self.started_at + duration);
        loop {
            let now = Instant::now();
            if end_at.is_some_and(|at| at <= now) || self.is_over() {
                return;
            }
            self.connect_due(now);
            self.log_line_if_due(now);
            let ends = [end_at, Some(self.next_line_at), self.next_connect_at(now)];
            let wake_at = ends.into_iter().flatten().min().unwrap_or(now);
            let timeout = wake_at.saturating_duration_since(Instant::now());
            crossbeam_channel::select! {
                recv(self.events) -> event => {
                    if let Ok(event) = event {
                        self.handle(event);
                    }
                    while let Ok(event) = self.events.try_recv() {
                        self.handle(event);
                    }
                }
                recv(signals) -> _ => return,
                default(timeout) => {}
            }
        }
    }

    /// Nobody is here and nobody will come.
    fn is_over(&self) -> bool {
        self.next_new == self.args.count
            && self.connecting == 0
            && self.tally.live == 0
            && self.retries.is_empty()
            || self.server.is_shutting_down()
    }

    // ---- connecting ---------------------------------------------------------------------------

    fn connect_due(&mut self, now: Instant) {
        while self.connecting < MAX_CONNECTING {
            let retry = self.retries.peek().filter(|Reverse((at, _))| *at <= now);
            if let Some(&Reverse((_, index))) = retry {
                self.retries.pop();
                self.connect(index, now);
            } else if self.next_new < self.args.count && self.new_connect_at() <= now {
                self.next_new += 1;
                self.connect(self.next_new - 1, now);
            } else {
                break;
            }
        }
    }

    fn connect(&mut self, index: usize, now: Instant) {
        self.sessions[index].state = State::Connecting;
        self.connecting += 1;
        self.board.begin_connect(index, Instant::now());
        if let Err(error) = self.server.connect(self.args.addr, index as u64) {
            self.handle_failed(index, &format!("could not connect: {error}"), now);
        }
    }

    /// When the next new session is due on its ramp.
    fn new_connect_at(&self) -> Instant {
        match self.args.ramp_per_sec {
            0 => self.started_at,
            rate => {
                self.started_at
                    + Duration::from_secs(1).mul_f64(self.next_new as f64 / f64::from(rate))
            }
        }
    }

    fn next_connect_at(&self, now: Instant) -> Option<Instant> {
        if self.connecting >= MAX_CONNECTING {
            return None;
        }
        let new = (self.next_new < self.args.count).then(|| self.new_connect_at());
        let retry = self.retries.peek().map(|Reverse((at, _))| *at);
        [new, retry]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.max(now))
    }

    // ---- events -------------------------------------------------------------------------------

    fn handle(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Connected(index) => self.handle_connected(index, now),
            Event::Failed(index, why) => self.handle_failed(index, &why, now),
            Event::Lost(index, reason) => {
                self.tally.live -= 1;
                self.tally.lost += 1;
                *self.losses.entry(reason.label().into()).or_default() += 1;
                self.complain_once(&format!("lost a session: {reason}"));
                let life = &mut self.sessions[index];
                let stood = life.stand(&mut self.tally, now);
                if stood >= SETTLED {
                    life.backoff.reset();
                }
                life.lost_at = Some(now);
                self.retry_or_give_up(index, now);
            }
            Event::Refused(index) => {
                self.tally.live -= 1;
                self.tally.refused += 1;
                // It was counted as under way until it stood.
                self.connecting += 1;
                self.handle_failed(index, "refused: the server is full", now);
            }
            Event::Bye(code, text) => self.byes.entry(code).or_insert((text, 0)).1 += 1,
        }
    }

    fn handle_connected(&mut self, index: usize, now: Instant) {
        self.connecting -= 1;
        self.tally.live += 1;
        self.tally.max_live = self.tally.max_live.max(self.tally.live);
        self.sessions[index].state = State::Live { since: now };
    }

    fn handle_failed(&mut self, index: usize, why: &str, now: Instant) {
        self.connecting -= 1;
        self.tally.failed_connects += 1;
        *self.losses.entry(why.into()).or_default() += 1;
        self.complain_once(&format!("{}: {why}", self.args.addr));
        self.retry_or_give_up(index, now);
    }

    fn retry_or_give_up(&mut self, index: usize, now: Instant) {
        let life = &mut self.sessions[index];
        if self.args.reconnect {
            life.state = State::Waiting;
            let delay = life.backoff.next_delay(self.rng.u32(..));
            self.retries.push(Reverse((now + delay, index)));
        } else {
            life.state = State::Gone;
        }
    }

    /// The first trouble gets a line; the summary has the numbers.
    fn complain_once(&mut self, what: &str) {
        if !std::mem::replace(&mut self.has_complained, true) {
            log::error!("{what}");
        }
    }

    fn log_line_if_due(&mut self, now: Instant) {
        if now < self.next_line_at {
            return;
        }
        let line = Line {
            packets: self.board.sum(|counters| &counters.packets),
            bytes: self.board.sum(|counters| &counters.bytes),
        };
        let seconds = 1.0 + now.duration_since(self.next_line_at).as_secs_f64();
        self.measure(now, false);
        self.meter.end_second(Second {
            at_secs: now.duration_since(self.started_at).as_secs_f64(),
            sessions: self.tally.live,
            packets_per_sec: (line.packets - self.last_line.packets) as f64 / seconds,
            bytes_per_sec: (line.bytes - self.last_line.bytes) as f64 / seconds,
            lost: self.tally.lost,
            ..Second::default()
        });
        let tally = &self.tally;
        log::info!(
            "live {} of {}, {:.0} packets/s, {}/s, tick delay p50 {:.1} p99 {:.1} ms, lost {}, \
             failed {}, missing ticks {}",
            tally.live,
            self.args.count,
            (line.packets - self.last_line.packets) as f64 / seconds,
            human_bytes((line.bytes - self.last_line.bytes) as f64 / seconds),
            quantile_ms(&self.meter.delays, 0.5),
            quantile_ms(&self.meter.delays, 0.99),
            tally.lost,
            tally.failed_connects,
            self.board.sum(|counters| &counters.missing_ticks),
        );
        self.last_line = line;
        self.next_line_at = now + Duration::from_secs(1);
    }

    /// Takes what the event loops have measured, and looks at this program itself.
    fn measure(&mut self, now: Instant, is_end: bool) {
        for recorder in self.board.recorders() {
            self.meter.collect(recorder);
        }
        self.meter.judge(now, is_end);
        self.self_check.look(self.server.metrics(), now);
    }

    // ---- the end ------------------------------------------------------------------------------

    /// Sends nothing new, and gives what is under way a last chance: the answers to echoes, and
    /// the newest tick on those sessions that do not have it yet.
    fn settle(&mut self) {
        self.board.stop();
        let now = Instant::now();
        self.measure(now, false);
        self.tally.server_silent_secs =
            self.silence(now).map_or(0.0, |silent| silent.as_secs_f64());
        let give_up_at = Instant::now() + SETTLE;
        let newest = self.live_ticks().max().unwrap_or(0);
        while Instant::now() < give_up_at {
            while let Ok(event) = self.events.try_recv() {
                self.handle(event);
            }
            let is_behind = self.live_ticks().any(|tick| tick != 0 && tick < newest);
            if self.tally.live == 0 || !is_behind && self.echoes_under_way() == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.tally.behind = self
            .live_ticks()
            .filter(|&tick| tick != 0 && tick < newest)
            .count();
        self.tally.silent = self.count_silent(newest);
        self.unanswered = self.echoes_under_way();
        self.ended_at = Instant::now();
    }

    /// For how long the server as a whole has been silent, if that is too long. One that hangs
    /// repeats and omits nothing: its silence is all that can be found.
    fn silence(&self, now: Instant) -> Option<Duration> {
        let oldest_since = self.live_sessions().map(|(_, since)| since).min()?;
        let (since, limit) = match (self.meter.latest_tick_at(), self.meter.period()) {
            (Some(at), Some(period)) => (at, (period * MAX_MISSED.0).max(MAX_MISSED.1)),
            // With one tick the period is not known.
            (Some(_), None) => return None,
            _ if self.board.sum(|counters| &counters.packets) > 0 => return None,
            _ => (oldest_since, MAX_SILENCE),
        };
        Some(now.saturating_duration_since(since.max(oldest_since)))
            .filter(|silence| *silence > limit)
    }

    fn live_ticks(&self) -> impl Iterator<Item = u64> + '_ {
        self.live_sessions()
            .map(|(index, _)| self.board.last_tick(index))
    }

    fn live_sessions(&self) -> impl Iterator<Item = (usize, Instant)> + '_ {
        let lives = self.sessions.iter().enumerate();
        lives.filter_map(|(index, life)| match life.state {
            State::Live { since } => Some((index, since)),
            _ => None,
        })
    }

    fn echoes_under_way(&self) -> u64 {
        let sent = self.board.sum(|counters| &counters.echoes_sent);
        let answered = self.board.sum(|counters| &counters.echoes_answered);
        let lost = self.board.sum(|counters| &counters.echoes_lost);
        sent.saturating_sub(answered + lost)
    }

    /// Sessions that stand for more than two periods of the tick and have not seen one, while
    /// others have. The period is estimated from what the others saw.
    fn count_silent(&self, newest: u64) -> usize {
        let oldest_since = self.live_sessions().map(|(_, since)| since).min();
        let (Some(oldest), true) = (oldest_since, newest > 0) else {
            return 0;
        };
        // The longest that a period can be, if `newest` ticks came since the oldest one stands;
        // with ticks from before that, it is shorter, and the wait here longer than needed.
        let seen =
            self.board.sum(|counters| &counters.ticks) as f64 / self.tally.max_live.max(1) as f64;
        let period = oldest.elapsed().div_f64(seen.max(1.0));
        self.live_sessions()
            .filter(|&(index, since)| {
                self.board.last_tick(index) == 0 && since.elapsed() > period * 2 + SETTLE
            })
            .count()
    }

    fn summarize(mut self) -> Summary {
        let now = self.ended_at;
        self.measure(now, true);
        for life in &mut self.sessions {
            life.stand(&mut self.tally, now);
        }
        let lives = self.sessions.iter();
        self.tally.asked = self.args.count;
        self.tally.never_connected = self.args.count - self.tally.connected;
        self.tally.gone = lives
            .filter(|life| matches!(life.state, State::Gone | State::Waiting))
            .count();
        let worst_late_send_ms = quantile_ms(&self.meter.late_sends, 1.0);
        Summary::new(
            self.args,
            &self.board,
            Outcome {
                elapsed: self.ended_at - self.started_at,
                sessions: self.tally,
                echoes_unanswered: self.unanswered,
                losses: self.losses,
                byes: self.byes,
                client: self.self_check.finish(worst_late_send_ms),
                meter: self.meter,
            },
        )
    }
}
