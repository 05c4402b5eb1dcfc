//! What a bot can do in its callbacks, and the session that calls it.

use crate::analysis::Arrived;
use crate::collector::{Collector, Stage, UserEvent};
use crate::metrics::recorder::Recorder;
use crate::metrics::{Check, Counter, Rate, RequestSeries, TickSeries, Trend};
use crate::pacing::{MAX_SENDS_PER_CALLBACK, PacedRequests};
use crate::scenario::{Bot, UserId, Violation};
use server_core::text::one_line;
use server_core::{
    Context, DisconnectReason, Kick, OutgoingPacket, Packet, PacketHead, Session, SessionId,
};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A bot's view of its connection during a callback.
#[derive(Debug)]
pub struct BotContext<'a, 'c> {
    session: &'a mut Context<'c>,
    user: &'a mut UserState,
}

/// What the engine keeps for one connection of a user.
#[derive(Debug)]
pub(crate) struct UserState {
    collector: Arc<Collector>,
    id: UserId,
    /// The place of the user in this process.
    index: usize,
    thread: usize,
    logs_packets: bool,
    /// The login must be over by then.
    login_until: Option<Instant>,
    login_timeout: Option<Duration>,
    reconnects: bool,
    connected_at: Option<Instant>,
    phase: Phase,
    has_received: bool,
    /// The latest packet is a refusal, and the first one of the connection.
    is_refused: bool,
    bot_timer: Option<Instant>,
    /// Those that the bot has started.
    requests: Vec<PacedRequests>,
    seed: u64,
    /// By series.
    ticks: Box<[TickCursor]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    LoggingIn,
    Connected,
    /// The login has failed: the session ends.
    LoginFailed,
}

/// The ticks of one series that a connection has received.
#[derive(Clone, Copy, Debug, Default)]
struct TickCursor {
    newest: u64,
    /// `None` before the first tick.
    epoch: Option<u64>,
}

/// Of a server's text, a report keeps this many characters.
const MAX_TEXT_CHARS: usize = 200;
const MAX_LOGGED_CHARS: usize = 80;

impl BotContext<'_, '_> {
    /// The time of this callback.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.session.now()
    }

    /// The user of this bot.
    #[must_use]
    pub fn user(&self) -> UserId {
        self.user.id
    }

    /// The id of the session in this process. The server has another one.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.session.id()
    }

    /// Queues a packet to the server.
    pub fn send<H: PacketHead>(&mut self, head: &H, tail: impl AsRef<[u8]>) {
        self.session.send(head, tail);
    }

    /// Queues a packet of a [`packets!`](server_core::packets) table to the server.
    pub fn send_packet<P: OutgoingPacket>(&mut self, packet: &P) {
        self.session.send_packet(packet);
    }

    /// Queues a packet of bytes. Payloads of more than 65,531 bytes end the session.
    pub fn send_raw(&mut self, id: u16, payload: &[u8]) {
        self.session.send_raw(id, payload);
    }

    /// Bytes that the socket has not accepted yet.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.session.queued_bytes()
    }

    /// Calls [`Bot::on_timer`] at this instant. Replaces an earlier one.
    pub fn set_timer(&mut self, at: Instant) {
        self.user.bot_timer = Some(at);
        self.user.set_timer(self.session);
    }

    /// Cancels [`Bot::on_timer`].
    pub fn clear_timer(&mut self) {
        self.user.bot_timer = None;
        self.user.set_timer(self.session);
    }

    /// Ends the session behind the queued packets. The session counts as closed and not as lost. A user that the
    /// run still wants connects again at once, with a new bot.
    pub fn close(&mut self) {
        self.session.close();
    }

    // ---- login ---------------------------------------------------------------------------------

    /// The user is logged in, which takes it from logging in to connected. Ignored in a scenario without a login.
    pub fn logged_in(&mut self) {
        if self.user.phase == Phase::LoggingIn {
            let now = self.now();
            let began = self.user.connected_at.unwrap_or(now);
            if let Some(trend) = self.user.collector.engine.login_time {
                self.record(trend, now.saturating_duration_since(began));
            }
            self.user.connected(self.session);
        }
    }

    /// The server has refused the login: the session ends, and counts as a failed login. The reason is kept in one line
    /// of up to 200 characters.
    pub fn login_failed(&mut self, reason: &str) {
        if self.user.phase == Phase::LoggingIn {
            let reason: String = reason.chars().take(MAX_TEXT_CHARS).collect();
            self.user.fail_login(self.session, &one_line(&reason));
        }
    }

    /// Whether the user is connected, and logged in if the scenario has a login.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.user.phase == Phase::Connected
    }

    // ---- measuring -----------------------------------------------------------------------------

    /// Records a duration.
    pub fn record(&mut self, trend: Trend, duration: Duration) {
        self.user.recorder().record(trend, duration);
    }

    /// Adds to a counter.
    pub fn add(&mut self, counter: Counter, amount: u64) {
        self.user.add(counter, amount);
    }

    /// Counts a check that did not pass.
    pub fn check(&mut self, check: Check, passed: bool) {
        self.user.collector.note_check();
        self.user.add(check.0, u64::from(!passed));
    }

    /// Counts failures of a check.
    pub fn fail(&mut self, check: Check, failures: u64) {
        self.user.add(check.0, failures);
    }

    /// Counts an event of a rate.
    pub fn rate(&mut self, rate: Rate, passed: bool) {
        self.user.add(rate.total, 1);
        self.user.add(rate.passes, u64::from(passed));
    }

    /// A tick of a series has arrived: its number is compared with the newest one of this connection, and its
    /// time with the server's schedule.
    pub fn tick(&mut self, series: TickSeries, tick: u64) {
        self.user
            .tick(series, tick, self.session.now(), Instant::now);
    }

    /// The server says why it ends this session. The text is kept with up to 200 characters.
    pub fn close_message(&mut self, code: u16, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        let text = text.chars().take(MAX_TEXT_CHARS).collect();
        self.user.collector.count_close_message(code, text);
    }

    /// The server is full. As the only packet of a connection this is a refused connect and not a lost
    /// session.
    pub fn refused(&mut self) {
        self.user.is_refused = !self.user.has_received;
    }

    // ---- requests ------------------------------------------------------------------------------

    /// Sends a request each period from now on: [`Bot::on_request`] is called when one is due, however late the answer
    /// before came (an open loop). The seed of the bot gives the place of the first one in its period.
    ///
    /// The time of an answer is measured from the moment at which its request was due, so a bot or a server that is
    /// late shows it (this corrects for coordinated omission). Of `payload_bytes` each, at most 4 MiB (and at least 16
    /// requests) are in flight; the others wait, and their times count from when they were due. A second call for a
    /// series changes nothing.
    pub fn start_requests(
        &mut self,
        series: RequestSeries,
        period: Duration,
        payload_bytes: usize,
    ) {
        let user = &mut *self.user;
        if user.requests.iter().all(|one| one.series != series) {
            let seed = user.seed ^ (user.requests.len() as u64).rotate_right(8);
            let now = self.session.now();
            let requests = PacedRequests::new(series, now, period, payload_bytes, seed);
            user.requests.push(requests);
            user.set_timer(self.session);
        }
    }

    /// Takes the next answer of a server that answers in order. `is_right` gets the number of the request that the
    /// answer must belong to. Returns the time of a right answer. An answer without a request is a corrupted one.
    pub fn answered(
        &mut self,
        series: RequestSeries,
        is_right: impl FnOnce(u64) -> bool,
    ) -> Option<Duration> {
        let number = self.user.requests_of(series);
        let number = number.map_or(0, |requests| requests.next_answer());
        self.answered_number(series, number, || is_right(number))
    }

    /// Takes the answer of the request with this number, of a protocol whose answers name their request. The
    /// requests between the answer before and this one are lost. Returns the time of a right answer.
    pub fn answered_number(
        &mut self,
        series: RequestSeries,
        number: u64,
        is_right: impl FnOnce() -> bool,
    ) -> Option<Duration> {
        let requests = self.user.requests_of(series);
        let Some((skipped, due)) = requests.and_then(|one| one.take_answer(number)) else {
            // It must not make up for one that is missing.
            self.fail(series.corrupted, 1);
            return None;
        };
        self.fail(series.lost, skipped);
        self.add(series.answered, 1);
        if !is_right() {
            self.fail(series.corrupted, 1);
            return None;
        }
        let time = self.now().saturating_duration_since(due);
        self.record(series.time, time);
        Some(time)
    }
}

impl UserState {
    pub fn new(
        collector: Arc<Collector>,
        id: UserId,
        index: usize,
        thread: usize,
        seed: u64,
        settings: &SessionSettings,
    ) -> Self {
        let series = collector.registry.ticks().len();
        Self {
            id,
            index,
            thread,
            logs_packets: index < settings.log_sessions,
            login_until: None,
            login_timeout: settings.login_timeout,
            reconnects: settings.reconnects,
            connected_at: None,
            phase: Phase::Connecting,
            has_received: false,
            is_refused: false,
            bot_timer: None,
            requests: Vec::new(),
            seed,
            ticks: vec![TickCursor::default(); series].into(),
            collector,
        }
    }

    fn recorder(&self) -> &Recorder {
        self.collector.recorder(self.thread)
    }

    fn add(&self, counter: Counter, amount: u64) {
        self.recorder().counters()[counter.0].add(amount);
    }

    fn requests_of(&mut self, series: RequestSeries) -> Option<&mut PacedRequests> {
        self.requests.iter_mut().find(|one| one.series == series)
    }

    /// One timer of the session serves the login, the bot and its requests.
    fn set_timer(&mut self, session: &mut Context<'_>) {
        let (now, is_stopping) = (session.now(), self.collector.is_stopping());
        let requests = self.requests.iter_mut().filter(|_| !is_stopping);
        let requests = requests.map(|one| one.next_at(now));
        let others = self.bot_timer.into_iter().chain(self.login_until);
        match requests.chain(others).min() {
            Some(at) => session.set_timer(at),
            None => session.clear_timer(),
        }
    }

    fn connected(&mut self, session: &mut Context<'_>) {
        self.join(session.id());
        self.set_timer(session);
    }

    /// The connection is made: ticks may arrive from now on, before the login too.
    pub fn open(&mut self) {
        self.phase = Phase::LoggingIn;
        self.collector.join(self.index);
    }

    /// The user is connected, and logged in if the scenario has a login.
    pub fn join(&mut self, id: SessionId) {
        self.phase = Phase::Connected;
        self.login_until = None;
        self.collector.tell(UserEvent::Connected(self.index, id));
    }

    /// The connection has ended, or was never made.
    pub fn leave(&self, reason: DisconnectReason, now: Instant) {
        let index = self.index;
        if self.phase != Phase::Connecting {
            // The end of a login that saw no tick says nothing about the server.
            let is_known =
                self.phase == Phase::Connected || self.ticks.iter().any(|one| one.epoch.is_some());
            let was_lost = reason != DisconnectReason::Closed && !self.is_refused;
            self.collector.leave(index, was_lost && is_known);
        }
        for (series, cursor) in self.ticks.iter().enumerate() {
            if let Some(epoch) = cursor.epoch {
                let waits = self.reconnects && reason != DisconnectReason::Closed;
                self.recorder().left(TickSeries(series), epoch, waits, now);
            }
        }
        let event = match self.phase {
            Phase::Connecting => UserEvent::Failed(index, reason.to_string(), Stage::Connect),
            Phase::LoggingIn if self.is_refused => UserEvent::Refused(index),
            Phase::LoggingIn => {
                let why = format!("login failed: {reason}");
                UserEvent::Failed(index, why, Stage::Login)
            }
            // Told already.
            Phase::LoginFailed => return,
            Phase::Connected if self.is_refused => UserEvent::Refused(index),
            Phase::Connected => UserEvent::Lost(index, reason),
        };
        self.collector.tell(event);
    }

    fn fail_login(&mut self, session: &mut Context<'_>, reason: &str) {
        self.phase = Phase::LoginFailed;
        self.login_until = None;
        self.bot_timer = None;
        session.clear_timer();
        session.close();
        let reason = format!("login failed: {reason}");
        let event = UserEvent::Failed(self.index, reason, Stage::Login);
        self.collector.tell(event);
    }

    /// A tick has arrived. `woke_at` is the wake-up of the event loop, and `handled_at` the present time.
    pub fn tick(
        &mut self,
        series: TickSeries,
        tick: u64,
        woke_at: Instant,
        handled_at: impl FnOnce() -> Instant,
    ) {
        let cursor = self.ticks[series.0];
        let newest = cursor.newest;
        let (epoch, arrived) = match cursor.epoch {
            None => (
                self.collector.epoch_of_first_tick(series, self.index, tick),
                Arrived::First,
            ),
            Some(epoch) if tick > newest => (epoch, Arrived::Next),
            Some(epoch) => (epoch, Arrived::Again),
        };
        self.ticks[series.0] = TickCursor {
            newest: newest.max(tick),
            epoch: Some(epoch),
        };
        self.recorder()
            .tick(series, (epoch, tick), arrived, woke_at, handled_at);
        let metrics = &self.collector.registry.ticks()[series.0];
        self.add(metrics.received, 1);
        match arrived {
            Arrived::Again if tick == newest => self.add(metrics.repeated.0, 1),
            Arrived::Again => self.add(metrics.reordered.0, 1),
            Arrived::Next if tick > newest + 1 => {
                self.add(metrics.gaps, 1);
                // A server that sends any number must not be able to overflow the sum.
                let missing = (tick - newest - 1).min(u64::from(u32::MAX));
                self.add(metrics.missing.0, missing);
            }
            Arrived::First | Arrived::Next => {}
        }
        self.collector
            .set_newest_tick(series, self.index, newest.max(tick));
    }

    fn log(&self, packet: &Packet<'_>, text: Option<&[u8]>) {
        // Log lines number the sessions from 1.
        let (number, id, size) = (self.index + 1, packet.id(), packet.size());
        match text {
            Some(text) => log::info!("session {number}: id {id} size {size} {}", quoted(text)),
            None => log::info!("session {number}: id {id} size {size}"),
        }
    }
}

/// What all sessions of a run have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionSettings {
    pub log_sessions: usize,
    /// `None` of a scenario without a login.
    pub login_timeout: Option<Duration>,
    /// Users connect again after a loss, and wait for ticks until then.
    pub reconnects: bool,
}

/// The readable text of a packet, if it has one.
pub(crate) type TextOf = dyn for<'a> Fn(&Packet<'a>) -> Option<&'a [u8]> + Send + Sync;

/// The session of one connection: counts, and calls the bot.
pub(crate) struct UserSession<B> {
    pub bot: B,
    pub user: UserState,
    pub text_of: Arc<TextOf>,
}

impl<B: Bot> UserSession<B> {
    fn call<R>(
        &mut self,
        session: &mut Context<'_>,
        call: impl FnOnce(&mut B, &mut BotContext<'_, '_>) -> R,
    ) -> R {
        let mut context = BotContext {
            session,
            user: &mut self.user,
        };
        call(&mut self.bot, &mut context)
    }

    /// Calls the bot for the requests that are due, unless the run is about to end.
    fn send_due(&mut self, session: &mut Context<'_>) {
        let now = session.now();
        for index in 0..self.user.requests.len() {
            let mut left = MAX_SENDS_PER_CALLBACK;
            while left > 0 && self.user.requests[index].is_due(now) {
                let user = &mut self.user;
                let series = user.requests[index].series;
                if !user.collector.may_send(user.thread, series.sent) {
                    return;
                }
                left -= 1;
                if let Some((number, late)) = user.requests[index].take_due(now) {
                    user.recorder().sent_late(late);
                    self.call(session, |bot, ctx| bot.on_request(ctx, series, number));
                }
            }
        }
    }
}

impl<B: Bot> Session for UserSession<B> {
    fn on_connected(&mut self, session: &mut Context<'_>) {
        let (now, user) = (session.now(), &mut self.user);
        let began = user.collector.connect_began(user.index);
        let connect_time = user.collector.engine.connect_time;
        user.recorder()
            .record(connect_time, now.saturating_duration_since(began));
        user.connected_at = Some(now);
        user.open();
        if let Some(timeout) = user.login_timeout {
            user.login_until = Some(now + timeout);
            user.set_timer(session);
        } else {
            user.connected(session);
        }
        self.call(session, |bot, ctx| bot.on_connected(ctx));
    }

    fn on_packet(&mut self, session: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        let user = &self.user;
        let engine = &user.collector.engine;
        let counters = user.recorder().counters();
        counters[engine.packets.0].add(1);
        counters[engine.bytes.0].add(packet.size() as u64);
        if let Some(counter) = user.collector.packet_counter(packet.id()) {
            counters[counter].add(1);
        }
        if user.logs_packets {
            user.log(&packet, (self.text_of)(&packet));
        }
        // The server goes on: it has not refused this session.
        self.user.is_refused = false;
        let checked = self.call(session, |bot, ctx| bot.on_packet(ctx, packet));
        self.user.has_received = true;
        let engine = self.user.collector.engine;
        match checked {
            Ok(()) => {}
            Err(Violation::UnknownId) => self.user.add(engine.unknown.0, 1),
            Err(Violation::Malformed) => self.user.add(engine.malformed.0, 1),
        }
        Ok(())
    }

    fn on_timer(&mut self, session: &mut Context<'_>) {
        let now = session.now();
        if self.user.login_until.is_some_and(|until| until <= now) {
            self.user.fail_login(session, "timed out");
            return;
        }
        if self.user.collector.is_stopping() {
            self.user.bot_timer = None;
        } else if self.user.bot_timer.is_some_and(|at| at <= now) {
            self.user.bot_timer = None;
            self.call(session, |bot, ctx| bot.on_timer(ctx));
        }
        self.send_due(session);
        // The timer of a session comes once: the other one of the two may still be to come.
        self.user.set_timer(session);
    }

    fn on_disconnected(&mut self, session: &mut Context<'_>, reason: DisconnectReason) {
        let now = session.now();
        let mut called = Ok(());
        if self.user.phase != Phase::Connecting {
            let call = || self.call(session, |bot, ctx| bot.on_disconnected(ctx, reason));
            called = catch_unwind(AssertUnwindSafe(call));
        }
        for mut requests in std::mem::take(&mut self.user.requests) {
            let (lost, waiting) = requests.disconnected(now);
            self.user.add(requests.series.lost.0, lost);
            self.user.add(requests.series.waiting, waiting);
        }
        if called.is_err() || reason == DisconnectReason::HandlerPanicked {
            self.user.add(self.user.collector.engine.panicked.0, 1);
        }
        // A bot that panics must not leave its user connected for ever.
        self.user.leave(reason, now);
        if let Err(panic) = called {
            resume_unwind(panic);
        }
    }
}

/// A server's text in a log line: without its padding, without control characters, 80 characters at most.
fn quoted(text: &[u8]) -> String {
    let is_text = |byte: &u8| *byte != 0;
    let end = text.iter().rposition(is_text).map_or(0, |last| last + 1);
    let text = String::from_utf8_lossy(&text[..end]);
    let shown: String = text.chars().take(MAX_LOGGED_CHARS).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    format!("{shown:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_the_log_is_short_and_harmless() {
        assert_eq!(quoted(b"Hello World\0\0\0"), r#""Hello World""#);
        assert_eq!(quoted(b"\x1b[31m\n"), r#""\u{1b}[31m\n""#);
        assert_eq!(quoted(&[b'a'; 100]), format!("\"{}\"…", "a".repeat(80)));
        assert_eq!(quoted(b"\0\0"), r#""""#);
    }
}
