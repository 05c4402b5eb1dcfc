//! Opens and closes sessions as the load wants it, and keeps the books.

use super::capacity::{Action, Occupancy, Search};
use super::life::{Life, Sessions, State};
use super::live::{Live, Status};
use super::shape::Shape;
use crate::args::Args;
use crate::game_attacks::GameProtocol;
use crate::measure::board::{Board, Counts, Event};
use crate::measure::groups::Groups;
use crate::measure::meter::{Meter, Second};
use crate::measure::self_check::{Findings, SelfCheck};
use crate::preflight;
use crossbeam_channel::Receiver;
use dummy_client::attack::{AttackAction, AttackReport, AttackRun};
use indicatif::ProgressBar;
use server_core::host::{HostLimits, SourceAddresses};
use server_core::{DisconnectReason, ServerHandle};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connections under way at a time. More would overflow the server's backlog, and each SYN that
/// is dropped there is a second of waiting that says nothing about the server.
pub const MAX_CONNECTING: usize = 256;
/// So many events, and then a look at the clock.
const EVENTS_AT_A_TIME: usize = 1024;
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// A session that stood this long begins anew with its backoff.
const SETTLED: Duration = Duration::from_secs(1);

pub struct Conductor<'a> {
    pub(super) args: &'a Args,
    pub(super) machine: HostLimits,
    pub(super) sources: SourceAddresses,
    pub(super) server: ServerHandle,
    pub(super) board: Arc<Board>,
    pub(super) events: Receiver<Event>,
    pub(super) rng: fastrand::Rng,
    pub(super) plan: Plan,
    pub(super) lives: Vec<Life>,
    /// The sessions below this number are wanted.
    pub(super) wanted: usize,
    pub(super) connecting: usize,
    /// What is planned for single sessions, earliest first.
    pub(super) agenda: BinaryHeap<Reverse<(Instant, usize, Deed)>>,
    pub(super) meter: Meter,
    pub(super) self_check: SelfCheck,
    pub(super) findings: Findings,
    pub(super) window: Window,
    pub(super) siege: Option<AttackRun>,
    pub(super) besieged: Option<AttackReport>,
    pub(super) live: Live,
    pub(super) started_at: Instant,
    pub(super) next_second_at: Instant,
    pub(super) last_counts: Counts,
    pub(super) tally: Sessions,
    /// Since when at least one session stands.
    pub(super) someone_since: Option<Instant>,
    /// What had not come back when the run was over, and when that was.
    pub(super) final_counts: Counts,
    pub(super) ended_at: Instant,
    pub(super) losses: Groups<String>,
    pub(super) has_complained: bool,
    /// Nobody comes any more.
    pub(super) is_ending: bool,
}

pub(super) enum Plan {
    Shape(Shape),
    Search(Search),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    Connect,
    /// The connection that was the so-manieth of this session.
    Leave(u32),
}

/// A part of the run that is judged by itself.
#[derive(Default)]
pub(super) struct Window {
    pub(super) began_at: Option<Instant>,
    pub(super) counts: Counts,
    pub(super) tally: Sessions,
    pub(super) findings: Findings,
}

impl<'a> Conductor<'a> {
    pub fn new(
        args: &'a Args,
        machine: HostLimits,
        server: ServerHandle,
        board: Arc<Board>,
        events: Receiver<Event>,
        self_check: SelfCheck,
        bar: ProgressBar,
    ) -> Self {
        let now = Instant::now();
        let max_sessions = preflight::max_sessions(args, &machine);
        let plan = match args.shape() {
            Some(shape) => Plan::Shape(shape),
            None => Plan::Search(Search::new(max_sessions, now)),
        };
        let ends_in = match &plan {
            Plan::Shape(shape) => shape.ends_at(),
            Plan::Search(_) => None,
        };
        Self {
            args,
            sources: preflight::sources(args, &machine),
            machine,
            server,
            board,
            events,
            rng: fastrand::Rng::with_seed(args.seed()),
            plan,
            lives: (0..max_sessions).map(|_| Life::default()).collect(),
            wanted: 0,
            connecting: 0,
            agenda: BinaryHeap::new(),
            meter: Meter::new(now),
            self_check,
            findings: Findings::default(),
            window: Window::default(),
            siege: (args.attack).map(|attack| {
                let (attackers, target) = (args.attackers(attack), args.addr.first());
                let protocol = Arc::new(GameProtocol);
                AttackRun::new(Arc::new(attack), protocol, attackers, target, ends_in, now)
            }),
            besieged: None,
            live: Live::new(bar, ends_in),
            started_at: now,
            next_second_at: now + SECOND,
            last_counts: Counts::default(),
            tally: Sessions::default(),
            someone_since: None,
            final_counts: Counts::default(),
            ended_at: now,
            losses: Groups::default(),
            has_complained: false,
            is_ending: false,
        }
    }

    /// Until the time is up, a signal comes, or nobody is left.
    pub fn conduct(&mut self, signals: &Receiver<i32>) {
        loop {
            let now = Instant::now();
            self.do_what_is_due(now);
            self.search(now);
            self.besiege(now);
            self.follow_plan(now);
            if self.is_over(now) {
                return;
            }
            self.end_second_if_due(now);
            let timeout = self.next_at(now).saturating_duration_since(Instant::now());
            crossbeam_channel::select! {
                recv(self.events) -> event => {
                    if let Ok(event) = event {
                        self.handle(event);
                    }
                    self.handle_some();
                }
                recv(signals) -> _ => return,
                default(timeout) => {}
            }
        }
    }

    /// The time is up, or nobody is here and nobody will come.
    fn is_over(&self, now: Instant) -> bool {
        let elapsed = now.duration_since(self.started_at);
        let (is_done, may_want_more) = match &self.plan {
            Plan::Search(search) => (search.is_over(), true),
            Plan::Shape(shape) => (
                shape.ends_at().is_some_and(|at| at <= elapsed),
                shape.next_change(elapsed).is_some(),
            ),
        };
        is_done || !may_want_more && self.all_are_gone() || self.server.is_shutting_down()
    }

    fn all_are_gone(&self) -> bool {
        let mut wanted = self.lives[..self.wanted].iter();
        let nobody = self.connecting == 0 && self.tally.live == 0;
        nobody && self.wanted > 0 && wanted.all(|life| life.state == State::Gone)
    }

    fn next_at(&self, now: Instant) -> Instant {
        let elapsed = now.duration_since(self.started_at);
        let (change, end) = match &self.plan {
            Plan::Search(search) => (search.next_at(), None),
            Plan::Shape(shape) => (
                shape.next_change(elapsed).map(|at| self.started_at + at),
                shape.ends_at().map(|at| self.started_at + at),
            ),
        };
        // A full house waits for the events that empty it.
        let may_connect = self.connecting < MAX_CONNECTING;
        let change = change.filter(|_| may_connect);
        let deed = self.agenda.peek().map(|Reverse((at, ..))| *at);
        let deed = deed.filter(|at| may_connect || *at > now);
        let siege = self.siege.as_ref().and_then(AttackRun::next_at);
        [change, end, deed, siege, Some(self.next_second_at)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(now)
    }

    // ---- how many -----------------------------------------------------------------------------

    fn follow_plan(&mut self, now: Instant) {
        let elapsed = now.duration_since(self.started_at);
        let target = match &self.plan {
            Plan::Shape(shape) => shape.wanted(elapsed),
            Plan::Search(search) => search.target(),
        };
        while self.wanted < target && self.connecting < MAX_CONNECTING {
            self.wanted += 1;
            self.begin(self.wanted - 1);
        }
        while self.wanted > target {
            self.wanted -= 1;
            self.dismiss(self.wanted);
        }
        if self.wanted == 0 && self.someone_since.is_some() {
            // Nobody waits for a tick from now on.
            self.note_silence(now);
            self.someone_since = None;
        }
        // A peak that lasts for no time at all may be passed unseen, and asks for nothing.
        self.tally.asked = match &self.plan {
            Plan::Shape(shape) if shape.is_asked_at_once() => shape.max(),
            _ => self.tally.asked.max(self.wanted),
        };
    }

    fn begin(&mut self, index: usize) {
        // One that is on its way, or on its way out and will come back, is here already.
        if self.lives[index].state == State::Away {
            self.connect(index);
        }
    }

    /// It is not wanted any more. One that does not stand yet will be sent away when it does.
    fn dismiss(&mut self, index: usize) {
        match self.lives[index].state {
            State::Live { since, id } => {
                self.lives[index].state = State::Leaving { since };
                self.server.close(id);
            }
            State::Waiting | State::Gone => self.lives[index].state = State::Away,
            State::Away | State::Connecting | State::Leaving { .. } => {}
        }
    }

    fn connect(&mut self, index: usize) {
        self.lives[index].state = State::Connecting;
        self.connecting += 1;
        let now = Instant::now();
        self.board.begin_connect(index, now);
        if let Err(error) = self.begin_connection(index) {
            self.handle_failed(index, &format!("could not connect: {error}"), now);
        }
    }

    /// From an address that has a port for it. One that should have may not: ports of earlier
    /// connections wait in TIME_WAIT, others belong to other programs.
    fn begin_connection(&mut self, index: usize) -> io::Result<()> {
        let mut tries = 0;
        loop {
            let source = self.sources.source(index);
            let begun = (self.server).connect_from(source, self.args.addr.first(), index as u64);
            match begun.as_ref().map_err(io::Error::kind) {
                Err(ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse) => tries += 1,
                _ => return begun,
            }
            if self.sources.rotate() <= tries {
                return begun;
            }
        }
    }

    fn do_what_is_due(&mut self, now: Instant) {
        let mut put_off = Vec::new();
        while let Some(&Reverse(entry @ (at, index, deed))) = self.agenda.peek() {
            if at > now {
                break;
            }
            self.agenda.pop();
            let life = &mut self.lives[index];
            match (deed, life.state) {
                (Deed::Connect, State::Waiting) if self.connecting >= MAX_CONNECTING => {
                    put_off.push(Reverse(entry));
                }
                (Deed::Connect, State::Waiting) => self.connect(index),
                (Deed::Leave(stands), State::Live { since, id }) if stands == life.stands => {
                    life.state = State::Leaving { since };
                    self.server.close(id);
                }
                // It was planned for a connection that is no more.
                _ => {}
            }
        }
        self.agenda.extend(put_off);
    }

    // ---- the search for the capacity ----------------------------------------------------------

    fn search(&mut self, now: Instant) {
        let occupancy = match self.all_are_gone() {
            true => Occupancy::Unreachable,
            false if self.tally.live == self.wanted => Occupancy::Full,
            false => Occupancy::Partial,
        };
        let lag = self.meter.lag();
        let Plan::Search(search) = &mut self.plan else {
            return;
        };
        match search.poll(occupancy, lag, now) {
            Action::None => {}
            Action::BeginWindow => {
                self.measure(now);
                self.meter.begin_window();
                self.window = Window {
                    began_at: Some(now),
                    counts: self.board.counts(),
                    tally: self.tally,
                    findings: Findings::default(),
                };
            }
            Action::Evaluate => {
                self.end_window(now);
                let step = self.judge_step(now);
                self.live.say(&step);
                if let Plan::Search(search) = &mut self.plan {
                    let outcome = step.outcome();
                    search.evaluate(step, outcome, now);
                }
                self.revive(now);
            }
        }
    }

    /// Who was lost in one step is wanted again in the next.
    fn revive(&mut self, now: Instant) {
        for (index, life) in self.lives[..self.wanted].iter_mut().enumerate() {
            if matches!(life.state, State::Gone | State::Waiting) {
                life.state = State::Waiting;
                self.agenda.push(Reverse((now, index, Deed::Connect)));
            }
        }
    }

    // ---- attackers -----------------------------------------------------------------------------

    fn besiege(&mut self, now: Instant) {
        let is_full = match &self.plan {
            Plan::Shape(shape) => self.tally.live == shape.max(),
            Plan::Search(_) => false,
        };
        let want =
            (self.siege.as_mut()).map_or(AttackAction::None, |siege| siege.poll(is_full, now));
        if let (AttackAction::ConnectNeighbours, Some(siege)) = (want, &mut self.siege)
            && let Err(error) = siege.connect_neighbours()
        {
            log::error!("cannot connect the neighbours: {error}");
        }
        if matches!(want, AttackAction::None | AttackAction::ConnectNeighbours) {
            return;
        }
        self.end_window(now);
        if let (AttackAction::BeginAttack, Some(siege)) = (want, &mut self.siege) {
            let delays = &self.meter.window.tick_delays;
            let begun = siege.begin(delays, self.args.seed(), now);
            if let Err(error) = begun {
                log::error!("the attack could not begin: {error}");
            }
        }
        self.meter.begin_window();
    }

    pub(super) fn end_siege(&mut self, now: Instant) {
        self.besieged = self.siege.take().map(|mut siege| {
            siege.end(now).unwrap_or_else(|error| {
                log::error!("the attack failed: {error}");
                AttackReport::default()
            })
        });
    }

    // ---- events -------------------------------------------------------------------------------

    /// Handles what has come, but not without end: time goes on meanwhile, and signals come.
    pub(super) fn handle_some(&mut self) {
        for _ in 0..EVENTS_AT_A_TIME {
            match self.events.try_recv() {
                Ok(event) => self.handle(event),
                Err(_) => return,
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Connected(index, id) => {
                self.connecting -= 1;
                self.someone_since.get_or_insert(now);
                self.lives[index].arrive(&mut self.tally, now, id);
                if index >= self.wanted {
                    self.dismiss(index);
                } else if let Some(churn) = &self.args.churn_ms {
                    let leave_at = now + churn.draw(&mut self.rng);
                    let deed = Deed::Leave(self.lives[index].stands);
                    self.agenda.push(Reverse((leave_at, index, deed)));
                }
            }
            Event::Failed(index, why) => self.handle_failed(index, &why, now),
            Event::Lost(index, reason) => self.handle_lost(index, reason, now),
            Event::Refused(index) => {
                self.tally.live -= 1;
                self.tally.refused += 1;
                self.lives[index].take_back(&mut self.tally);
                // It was counted as under way until it stood.
                self.connecting += 1;
                self.handle_failed(index, "refused: the server is full", now);
            }
        }
    }

    fn handle_lost(&mut self, index: usize, reason: DisconnectReason, now: Instant) {
        self.tally.live -= 1;
        let life = &mut self.lives[index];
        let since = life.stands_since().unwrap_or(now);
        if matches!(life.state, State::Leaving { .. }) && reason == DisconnectReason::Closed {
            self.tally.left += 1;
            life.state = State::Away;
            if self.has_missed_ticks(index, since, now) {
                self.tally.silent += 1;
            }
            if index < self.wanted && !self.is_ending {
                self.connect(index);
            }
            return;
        }
        self.tally.lost += 1;
        self.losses.add(reason.label().into());
        if now.duration_since(since) >= SETTLED {
            life.backoff.reset();
        }
        life.lose(now);
        self.complain_once(&format!("lost a session: {reason}"));
        self.retry_or_give_up(index, now);
    }

    fn handle_failed(&mut self, index: usize, why: &str, now: Instant) {
        self.connecting -= 1;
        self.tally.failed_connects += 1;
        self.losses.add(why.into());
        self.complain_once(&format!("{}: {why}", self.args.addr.first()));
        self.retry_or_give_up(index, now);
    }

    fn retry_or_give_up(&mut self, index: usize, now: Instant) {
        let life = &mut self.lives[index];
        if index >= self.wanted {
            life.state = State::Away;
        } else if self.args.reconnect && !self.is_ending {
            life.state = State::Waiting;
            let delay = life.backoff.next_delay(self.rng.u32(..));
            self.agenda
                .push(Reverse((now + delay, index, Deed::Connect)));
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

    // ---- every second -------------------------------------------------------------------------

    fn end_second_if_due(&mut self, now: Instant) {
        if now < self.next_second_at {
            return;
        }
        self.measure(now);
        let second = self.end_second(now);
        self.live.show(&Status {
            wanted: self.wanted,
            failed_connects: self.tally.failed_connects,
            missing_ticks: self.last_counts.missing_ticks,
            elapsed: now.duration_since(self.started_at),
            second,
        });
        self.next_second_at = now + SECOND;
    }

    /// One more point of the timeline, of the time since the last one.
    pub(super) fn end_second(&mut self, now: Instant) -> Second {
        let counts = self.board.counts();
        let fresh = counts.since(&self.last_counts);
        let since = (self.next_second_at - SECOND).max(self.started_at);
        let seconds = now.saturating_duration_since(since).as_secs_f64().max(1e-3);
        self.last_counts = counts;
        self.meter.end_second(Second {
            at_secs: now.duration_since(self.started_at).as_secs_f64(),
            sessions: self.tally.live,
            packets_per_sec: fresh.packets as f64 / seconds,
            bytes_per_sec: fresh.bytes as f64 / seconds,
            sessions_lost: self.tally.lost,
            ..Second::default()
        })
    }

    /// Takes what the event loops have measured, and looks at this program itself.
    pub(super) fn measure(&mut self, now: Instant) {
        self.collect(now, false);
        self.look(now);
    }

    /// Takes what the event loops have measured; at the end of a run, all of it can be judged.
    pub(super) fn collect(&mut self, now: Instant, is_end: bool) {
        for recorder in self.board.recorders() {
            self.meter.collect(recorder);
        }
        self.meter.judge(now, is_end);
    }

    /// Looks at this program itself.
    pub(super) fn look(&mut self, now: Instant) {
        let glance = self.self_check.look(self.server.metrics(), now);
        self.findings.absorb(&glance);
        self.window.findings.absorb(&glance);
    }

    /// What was due in the window and is known by now is in it, and nothing else comes in.
    fn end_window(&mut self, now: Instant) {
        self.measure(now);
        self.meter.end_window(now);
        self.meter.judge_all(now);
        self.meter.settle_window(now);
    }
}
