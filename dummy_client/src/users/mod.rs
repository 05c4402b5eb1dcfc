//! All users of a run: starts and stops them, reconnects them, and counts what becomes of them. Knows no
//! clock and no socket.

mod peak;
#[cfg(test)]
pub(crate) mod tests;
mod user;

use crate::collector::{Stage, UserEvent};
use crate::executor::windowed::Occupancy;
use crate::metrics::TopCounter;
use crate::report::Sessions;
use peak::Peak;
use server_core::{DisconnectReason, SessionId};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

pub(crate) use user::{State, VirtualUser};

/// Connects under way at a time. More would overflow the server's backlog, and each SYN that is dropped there
/// is a second of waiting that says nothing about the server.
pub const MAX_CONNECTING: usize = 256;

/// A server that is full refuses a session sooner than this.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// The part of the network that the users need.
pub(crate) trait Endpoint {
    /// Begins the connection of a user.
    fn connect(&mut self, user: usize, now: Instant) -> io::Result<()>;
    /// Closes a session.
    fn close(&mut self, id: SessionId);
}

/// The users of a run.
#[derive(Debug)]
pub(crate) struct Users {
    settings: UserSettings,
    users: Vec<VirtualUser>,
    /// The users below this number are wanted.
    target: usize,
    connecting: usize,
    /// By time.
    timers: BinaryHeap<Reverse<(Instant, usize, Timer)>>,
    rng: fastrand::Rng,
    pub sessions: Sessions,
    peak: Peak,
    /// Times without a session, of sessions that were not refused, for the caller to take.
    pub outages: Vec<Duration>,
    /// Lost sessions and failed connects by reason.
    pub reasons: TopCounter<String>,
    /// Connects that failed for want of this machine's own ports, descriptors or memory.
    pub own_limits: TopCounter<String>,
    pub own_limit_count: u64,
    error_logged: bool,
    is_stopping: bool,
    /// Since when at least one user has a session.
    pub first_connected_at: Option<Instant>,
}

/// How users behave.
#[derive(Clone, Debug)]
pub(crate) struct UserSettings {
    /// For log lines.
    pub addr: String,
    /// Length of a session, if sessions leave by plan.
    pub churn: Option<RangeInclusive<Duration>>,
    pub reconnect: bool,
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Connect,
    /// Close the connection of this number.
    Close(u32),
    /// The server does not refuse the connection of this number any more.
    Admit(u32),
}

/// A user that an event takes out of its session, for the caller's checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// By plan; the session was this old.
    Closed {
        since: Instant,
    },
    Lost,
}

impl Users {
    pub fn new(count: usize, settings: UserSettings) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(settings.seed),
            users: (0..count).map(|_| VirtualUser::default()).collect(),
            target: 0,
            connecting: 0,
            timers: BinaryHeap::new(),
            sessions: Sessions::default(),
            peak: Peak::default(),
            outages: Vec::new(),
            reasons: TopCounter::default(),
            own_limits: TopCounter::default(),
            own_limit_count: 0,
            error_logged: false,
            is_stopping: false,
            first_connected_at: None,
            settings,
        }
    }

    /// Users that the run wants now.
    pub fn target(&self) -> usize {
        self.target
    }

    pub fn is_connecting(&self) -> bool {
        self.connecting > 0
    }

    /// All wanted users have failed, and none comes back.
    pub fn all_have_failed(&self) -> bool {
        let mut wanted = self.users[..self.target].iter();
        self.connecting == 0
            && self.sessions.connected_at_end == 0
            && self.target > 0
            && wanted.all(|user| user.state == State::Failed)
    }

    /// Whether all of the wanted users have a session. `wanted` may be above [`target`](Self::target), which is what
    /// the limit of connects has let begin.
    pub fn occupancy(&self, wanted: usize) -> Occupancy {
        if self.all_have_failed() {
            Occupancy::Unreachable
        } else if self.target == wanted && self.sessions.connected_at_end == wanted {
            Occupancy::Full
        } else {
            Occupancy::Partial
        }
    }

    /// Users with a session, and its start.
    pub fn connected(&self) -> impl Iterator<Item = (usize, Instant)> + '_ {
        let users = self.users.iter().enumerate();
        users.filter_map(|(index, user)| match user.state {
            State::Connected { since, .. } => Some((index, since)),
            _ => None,
        })
    }

    /// When to call [`run_timers`](Self::run_timers) again. `None`: with the next event.
    pub fn next_at(&self, now: Instant) -> Option<Instant> {
        let next = self.timers.peek().map(|Reverse((at, ..))| *at);
        next.filter(|at| self.may_connect() || *at > now)
    }

    pub fn may_connect(&self) -> bool {
        self.connecting < MAX_CONNECTING
    }

    /// Starts and stops users until there are `target` of them. At most [`MAX_CONNECTING`] connects are under
    /// way: call again after events.
    pub fn set_target(&mut self, target: usize, now: Instant, endpoint: &mut impl Endpoint) {
        let target = target.min(self.users.len());
        // With too many connects under way, some are wanted and not begun.
        self.sessions.requested = self.sessions.requested.max(target);
        while self.target < target && self.may_connect() {
            self.target += 1;
            let user = self.target - 1;
            // A user that is connecting, or closing and wanted again, needs nothing.
            if self.users[user].state == State::Idle {
                self.connect(user, now, endpoint);
            }
        }
        while self.target > target {
            self.target -= 1;
            self.dismiss(self.target, endpoint);
        }
    }

    /// The run does not want it any more. A user that is connecting is dismissed when it is connected.
    fn dismiss(&mut self, user: usize, endpoint: &mut impl Endpoint) {
        let one = &mut self.users[user];
        match one.state {
            State::Connected { since, id } => {
                one.state = State::Closing { since };
                endpoint.close(id);
            }
            State::Backoff | State::Failed => one.state = State::Idle,
            State::Idle | State::Connecting | State::Closing { .. } => {}
        }
    }

    fn connect(&mut self, user: usize, now: Instant, endpoint: &mut impl Endpoint) {
        self.users[user].state = State::Connecting;
        self.users[user].is_limited = false;
        self.connecting += 1;
        if let Err(error) = endpoint.connect(user, now) {
            if let Some(limit) = own_limit(&error) {
                self.users[user].is_limited = true;
                self.own_limit_count += 1;
                self.own_limits.add(limit.into());
            }
            self.on_failed(user, &format!("could not connect: {error}"), now);
        }
    }

    /// Does what is due.
    pub fn run_timers(&mut self, now: Instant, endpoint: &mut impl Endpoint) {
        let mut put_off = Vec::new();
        while let Some(&Reverse(entry @ (at, user, timer))) = self.timers.peek() {
            if at > now {
                break;
            }
            self.timers.pop();
            let one = &mut self.users[user];
            match (timer, one.state) {
                (Timer::Connect, State::Backoff) if self.connecting >= MAX_CONNECTING => {
                    put_off.push(Reverse(entry));
                }
                (Timer::Connect, State::Backoff) => self.connect(user, now, endpoint),
                (Timer::Admit(number), _) if number == one.connections => self.admit(user),
                (Timer::Close(number), State::Connected { since, id })
                    if number == one.connections =>
                {
                    one.state = State::Closing { since };
                    endpoint.close(id);
                }
                // The timer belongs to an earlier connection.
                _ => {}
            }
        }
        self.timers.extend(put_off);
    }

    /// Users that have failed try again: a new step of a capacity search wants them.
    pub fn retry_failed(&mut self, now: Instant) {
        for (user, one) in self.users[..self.target].iter_mut().enumerate() {
            if one.is_disconnected() {
                one.state = State::Backoff;
                self.timers.push(Reverse((now, user, Timer::Connect)));
            }
        }
    }

    /// Users do not reconnect any more.
    pub fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// Takes an event.
    pub fn on_event(
        &mut self,
        event: UserEvent,
        now: Instant,
        endpoint: &mut impl Endpoint,
    ) -> Option<Left> {
        match event {
            UserEvent::Connected(user, id) => {
                self.connecting -= 1;
                self.first_connected_at.get_or_insert(now);
                self.users[user].on_connected(&mut self.sessions, self.peak.begin(), now, id);
                let admit = Timer::Admit(self.users[user].connections);
                self.timers.push(Reverse((now + REFUSAL_TIME, user, admit)));
                if user >= self.target {
                    self.dismiss(user, endpoint);
                } else if let Some(churn) = self.settings.churn.clone() {
                    let (min, max) = (churn.start().as_millis(), churn.end().as_millis());
                    let length = Duration::from_millis(self.rng.u64(min as u64..=max as u64));
                    let timer = Timer::Close(self.users[user].connections);
                    self.timers.push(Reverse((now + length, user, timer)));
                }
                None
            }
            UserEvent::Failed(user, why, stage) => {
                self.sessions.failed_logins += u64::from(stage == Stage::Login);
                self.on_failed(user, &why, now);
                None
            }
            UserEvent::Refused(user) => {
                self.sessions.refused += 1;
                // It counted as connecting until it was connected.
                let one = &mut self.users[user];
                if one.connected_since().is_some() {
                    match one.on_refused(&mut self.sessions) {
                        Some(session) => {
                            self.sessions.max_connected = self.peak.decide(session, true);
                        }
                        None => self.peak.end(),
                    }
                    self.connecting += 1;
                }
                self.on_failed(user, "refused: the server is full", now);
                None
            }
            UserEvent::Lost(user, reason) => {
                self.admit(user);
                self.peak.end();
                Some(self.on_ended(user, reason, now, endpoint))
            }
        }
    }

    /// The server has not refused the session of this user.
    fn admit(&mut self, user: usize) {
        if let Some((session, outage)) = self.users[user].admit() {
            self.sessions.max_connected = self.peak.decide(session, false);
            self.outages.extend(outage);
        }
    }

    fn on_ended(
        &mut self,
        user: usize,
        reason: DisconnectReason,
        now: Instant,
        endpoint: &mut impl Endpoint,
    ) -> Left {
        let one = &mut self.users[user];
        let since = one.connected_since().unwrap_or(now);
        // The run has closed it, or its bot.
        if reason == DisconnectReason::Closed {
            one.on_closed(&mut self.sessions);
            if user < self.target && !self.is_stopping {
                self.connect(user, now, endpoint);
            }
            return Left::Closed { since };
        }
        if reason == DisconnectReason::HandlerPanicked {
            // A fault of the bot; the server has not lost it.
            one.on_closed(&mut self.sessions);
            self.reasons.add(reason.label().into());
            self.retry_or_give_up(user, now);
            return Left::Closed { since };
        }
        one.on_lost(&mut self.sessions, now);
        self.reasons.add(reason.label().into());
        self.log_error_once(&format!("lost a session: {reason}"));
        self.retry_or_give_up(user, now);
        Left::Lost
    }

    fn on_failed(&mut self, user: usize, why: &str, now: Instant) {
        self.connecting -= 1;
        self.sessions.failed_connects += 1;
        self.reasons.add(why.into());
        self.log_error_once(&format!("{}: {why}", self.settings.addr));
        self.retry_or_give_up(user, now);
    }

    fn retry_or_give_up(&mut self, user: usize, now: Instant) {
        let one = &mut self.users[user];
        if user >= self.target {
            one.state = State::Idle;
        } else if self.settings.reconnect && !self.is_stopping {
            one.state = State::Backoff;
            let delay = one.next_delay(self.rng.u32(..));
            let timer = Reverse((now + delay, user, Timer::Connect));
            self.timers.push(timer);
        } else {
            one.state = State::Failed;
        }
    }

    /// The first error gets a line; the report has the numbers.
    fn log_error_once(&mut self, error: &str) {
        if !std::mem::replace(&mut self.error_logged, true) {
            log::error!("{error}");
        }
    }

    /// Counts what is known at the end of the run only.
    pub fn finish(&mut self) {
        for user in 0..self.users.len() {
            self.admit(user);
        }
        let users = &self.users;
        let count = |is: fn(&VirtualUser) -> bool| users.iter().filter(|one| is(one)).count();
        self.sessions.disconnected_at_end = count(VirtualUser::is_disconnected);
        self.sessions.not_reconnected = count(VirtualUser::is_not_reconnected);
        let is_limited = |one: &VirtualUser| one.is_limited && one.is_disconnected();
        self.sessions.limited_by_client = count(is_limited);
        let sessions = &mut self.sessions;
        sessions.never_connected = sessions.requested.saturating_sub(sessions.connected);
    }
}

/// The resource of this machine that a connect has found used up.
pub(crate) fn own_limit(error: &io::Error) -> Option<&'static str> {
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse, _) => Some("ports"),
        (_, Some(EMFILE | ENFILE)) => Some("file descriptors"),
        (ErrorKind::OutOfMemory, _) | (_, Some(ENOBUFS)) => Some("memory"),
        _ => None,
    }
}

// Numbers of Linux and, for the first two, of every Unix.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOBUFS: i32 = 105;
