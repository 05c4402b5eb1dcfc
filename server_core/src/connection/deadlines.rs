//! The deadlines of a peer: which one has expired, and whether the peer is a slow consumer.

use super::reading::ReadState;
use super::{Connection, Phase};
use crate::base::config::Config;
use crate::base::reason::{DisconnectReason, Kick};
use crate::transport::Transport;
use std::io::ErrorKind;
use std::time::Instant;

/// The deadline that has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// No deadline.
    None,
    /// The peer has sent too little: read once more, then close.
    ReadThenClose(DisconnectReason),
    /// The peer has taken too little: write once more, then close.
    WriteThenClose(DisconnectReason),
    /// Close: another try is useless.
    Close(DisconnectReason),
}

impl<T: Transport, S> Connection<T, S> {
    /// When `on_timer` or `on_keyed_timer` is due. Never for a held session: the effects that it asks for would
    /// have to wait.
    #[must_use]
    pub fn timer_at(&self) -> Option<Instant> {
        let extras = self.extras.as_ref();
        let keyed_at = extras.and_then(|extras| extras.keyed_timers.next_at());
        let next_at = [self.timer_at, keyed_at].into_iter().flatten().min();
        next_at.filter(|_| !self.is_held())
    }

    /// Takes the session's timer, if its instant has come.
    pub fn take_timer(&mut self, now: Instant) -> bool {
        !self.is_held() && self.timer_at.take_if(|at| *at <= now).is_some()
    }

    /// Sets the instant of `on_timer`, or clears it.
    pub fn set_timer(&mut self, at: Option<Instant>) {
        self.timer_at = at;
    }

    /// Sets the timer of a key, or clears it.
    pub fn set_keyed_timer(&mut self, key: u8, at: Option<Instant>) {
        if at.is_some() || self.extras.is_some() {
            let extras = self.extras.get_or_insert_default();
            extras.keyed_timers.set(key, at);
        }
    }

    /// The number of timers with a key whose instant has come.
    #[must_use]
    pub fn due_keyed_timers(&self, now: Instant) -> usize {
        let extras = self.extras.as_ref();
        extras.map_or(0, |extras| extras.keyed_timers.due(now))
    }

    /// Takes the earliest of them. A held session keeps its timers.
    pub fn take_keyed_timer(&mut self, now: Instant) -> Option<u8> {
        if self.is_held() {
            return None;
        }
        self.extras.as_mut()?.keyed_timers.take_due(now)
    }

    /// The next deadline.
    #[must_use]
    pub fn next_deadline(&self, config: &Config) -> Option<Instant> {
        self.deadlines(config).min()
    }

    /// The next deadline that has not expired.
    #[must_use]
    pub fn next_deadline_after(&self, now: Instant, config: &Config) -> Option<Instant> {
        self.deadlines(config).filter(|at| *at > now).min()
    }

    /// The next deadline for what the peer has to take.
    #[must_use]
    pub fn output_deadline(&self, config: &Config) -> Option<Instant> {
        let limit_check_at = self.queue.limit_check_at(config.max_send_grace);
        let lag_check_at = (config.max_send_lag).and_then(|lag| self.queue.lag_check_at(lag));
        limit_check_at.into_iter().chain(lag_check_at).min()
    }

    fn deadlines(&self, config: &Config) -> impl Iterator<Item = Instant> {
        let after = |since: Option<Instant>, wait: Option<_>| Some(since? + wait?);
        let opening = match self.phase {
            Phase::Connecting => Some(after(Some(self.since), config.connect_timeout)),
            Phase::Handshaking => Some(after(Some(self.since), config.handshake_timeout)),
            Phase::Open => None,
        };
        let open = opening.is_none().then(|| {
            let (began_at, last_received_at) = self.input_clock();
            let paused_until = match self.read_state() {
                ReadState::Paused { until } => Some(until),
                ReadState::Free | ReadState::Resumed => None,
            };
            [
                self.timer_at(),
                paused_until,
                after(began_at, config.packet_timeout),
                after(last_received_at, config.idle_timeout),
                after(self.login_began_at(), config.login_timeout),
                self.output_deadline(config),
            ]
        });
        let opening = opening.into_iter();
        opening.chain(open.into_iter().flatten()).flatten()
    }

    /// Since when a packet is incomplete, and when bytes last came. `None` while the peer is not read.
    fn input_clock(&self) -> (Option<Instant>, Option<Instant>) {
        if self.is_input_paused() {
            (None, None)
        } else {
            (self.incomplete_since(), Some(self.last_received_at))
        }
    }

    /// Moves the time of what was read in the turn that `began` to the end of that turn.
    pub fn shift_to(&mut self, began: Instant, ended: Instant) {
        if self.last_received_at == began {
            self.last_received_at = ended;
        }
        self.framer.shift_to(began, ended);
        if let Some(extras) = &mut self.extras
            && extras.incomplete_since == Some(began)
        {
            extras.incomplete_since = Some(ended);
        }
    }

    /// The deadline that has expired. A peer that passes a check of its throughput gets more time here.
    #[must_use]
    pub fn expired(&mut self, config: &Config, now: Instant) -> Expired {
        let is_over = |since: Option<Instant>, wait: Option<_>| {
            since.zip(wait).is_some_and(|(at, wait)| at + wait <= now)
        };
        let opening = match self.phase {
            Phase::Connecting => Some((
                config.connect_timeout,
                Expired::Close(DisconnectReason::ConnectFailed(ErrorKind::TimedOut)),
            )),
            Phase::Handshaking => Some((
                config.handshake_timeout,
                Expired::ReadThenClose(DisconnectReason::Handshake),
            )),
            Phase::Open => None,
        };
        if let Some((timeout, expired)) = opening {
            return if is_over(Some(self.since), timeout) {
                expired
            } else {
                Expired::None
            };
        }
        let (began_at, last_received_at) = self.input_clock();
        if is_over(began_at, config.packet_timeout) {
            Expired::ReadThenClose(Kick::PacketTimeout.into())
        } else if is_over(last_received_at, config.idle_timeout) {
            Expired::ReadThenClose(DisconnectReason::Idle)
        } else if self.is_slow(config, now) {
            Expired::WriteThenClose(Kick::SlowConsumer.into())
        } else if is_over(self.login_began_at(), config.login_timeout) {
            // The last: the session may defer it.
            Expired::ReadThenClose(DisconnectReason::LoginTimeout)
        } else {
            Expired::None
        }
    }

    fn is_slow(&mut self, config: &Config, now: Instant) -> bool {
        let limit_check_at = self.queue.limit_check_at(config.max_send_grace);
        if limit_check_at.is_some_and(|at| at <= now) && !self.queue.passes_limit_check(now) {
            return true;
        }
        let lag_check_at = (config.max_send_lag).and_then(|lag| self.queue.lag_check_at(lag));
        lag_check_at.is_some_and(|at| at <= now)
            && !(self.queue).passes_lag_check(config.min_send_rate_bytes.into(), now)
    }
}
