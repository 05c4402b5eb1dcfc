//! The attackers of a run: one event loop on a thread of its own.

use super::connection::{AttackConnection, End};
use super::protocol::Protocol;
use super::report::AttackStats;
use super::script::{Attack, AttackScript, Ending, Expect};
use super::socket::{AttackSocket, connect};
use crate::transport::Transport;
use fastrand::Rng;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use server_core::start;
use socket2::SockRef;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The thread of the attackers. It runs until [`end`](Self::end).
#[derive(Debug)]
pub struct AttackRunner {
    thread: JoinHandle<io::Result<AttackStats>>,
    is_over: Arc<AtomicBool>,
    waker: Waker,
}

/// What the thread owns.
struct AttackLoop {
    poll: Poll,
    attack: Arc<dyn Attack>,
    protocol: Arc<dyn Protocol>,
    target: SocketAddr,
    transport: Transport,
    rng: Rng,
    attackers: Vec<Attacker>,
    started_at: Instant,
    /// Connections begun so far.
    begun: u64,
    /// Connections that have left, the oldest first.
    left: VecDeque<Box<AttackSocket>>,
    buffer: Vec<u8>,
    stats: AttackStats,
}

/// One connection at a time.
struct Attacker {
    state: State,
    /// When to go on without an event.
    next_at: Option<Instant>,
    /// The server ended one of its connections, or did not before the timeout.
    is_conclusive: bool,
}

enum State {
    /// Until the next connection.
    Paused,
    Connecting(TcpStream, AttackScript),
    Active(Box<AttackSocket>),
}

const WAKER: Token = Token(usize::MAX);
/// Connections that have left and are not closed yet. The oldest is closed for the next one.
const MAX_LEFT: usize = 100;
/// A connection whose initial bytes are aligned is idle for at least this long before.
const MIN_IDLE: Duration = Duration::from_millis(200);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A full server has refused a connection that is older.
const ADMISSION_TIME: Duration = Duration::from_secs(1);
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

impl AttackRunner {
    /// Starts this number of attackers. `target`: the server, and the transport to it. `seed`: that of the scripts.
    ///
    /// # Errors
    /// If the system has no descriptor or thread left.
    pub fn start(
        attack: Arc<dyn Attack>,
        protocol: Arc<dyn Protocol>,
        attackers: usize,
        (target, transport): (SocketAddr, Transport),
        seed: u64,
    ) -> io::Result<Self> {
        let failed = |error| start::failed("cannot set up the attackers", error);
        let poll = Poll::new().map_err(failed)?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(failed)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let now = Instant::now();
        let connections = attackers.saturating_mul(attack.connections_per_attacker());
        let mut attack_loop = AttackLoop {
            poll,
            attack,
            protocol,
            target,
            transport,
            rng: Rng::with_seed(seed),
            attackers: (0..connections).map(|_| Attacker::new(now)).collect(),
            started_at: now,
            begun: 0,
            left: VecDeque::new(),
            buffer: vec![0; 64 << 10],
            stats: AttackStats::default(),
        };
        let over = Arc::clone(&is_over);
        let thread = start::spawn("attackers", move || attack_loop.run(&over))?;
        Ok(Self {
            thread,
            is_over,
            waker,
        })
    }

    /// Ends the attack, and returns what the attackers counted.
    ///
    /// # Errors
    /// If the thread has failed.
    pub fn end(self) -> io::Result<AttackStats> {
        self.is_over.store(true, Ordering::Release);
        self.waker.wake()?;
        let ended = self.thread.join();
        ended.unwrap_or_else(|_| Err(io::Error::other("the attackers' thread panicked")))
    }
}

impl AttackLoop {
    fn run(&mut self, is_over: &AtomicBool) -> io::Result<AttackStats> {
        let mut events = Events::with_capacity(1024);
        let mut busy = Vec::new();
        while !is_over.load(Ordering::Acquire) {
            let timeout = if busy.is_empty() {
                self.until_next(Instant::now())
            } else {
                Duration::ZERO
            };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => events.clear(),
                other => other?,
            }
            let now = Instant::now();
            let mut due = std::mem::take(&mut busy);
            for event in events.iter().filter(|event| event.token() != WAKER) {
                let index = event.token().0;
                if let State::Active(socket) = &mut self.attackers[index].state {
                    // The write that meets an error finds it.
                    socket.is_writable |=
                        event.is_writable() || event.is_error() || event.is_write_closed();
                }
                due.push(index);
            }
            let all = self.attackers.iter().enumerate();
            let timed = all.filter(|(_, one)| one.next_at.is_some_and(|at| at <= now));
            due.extend(timed.map(|(index, _)| index));
            due.sort_unstable();
            due.dedup();
            busy.extend(due.into_iter().filter(|index| self.step(*index, now)));
        }
        while let Some(socket) = self.left.pop_front() {
            self.close_left(*socket);
        }
        let now = Instant::now();
        for attacker in &self.attackers {
            self.stats.inconclusive += u64::from(attacker.is_inconclusive());
            self.stats.attempted += u64::from(attacker.was_admitted(now));
        }
        Ok(std::mem::take(&mut self.stats))
    }

    fn until_next(&self, now: Instant) -> Duration {
        let next = self.attackers.iter().filter_map(|one| one.next_at).min();
        // Rounded up: the kernel counts milliseconds here.
        next.map_or(Duration::from_secs(1), |at| {
            let left = at.saturating_duration_since(now);
            left.max(Duration::from_millis(u64::from(!left.is_zero())))
        })
    }

    /// Goes on with one attacker. Returns whether it has more to do at once.
    fn step(&mut self, index: usize, now: Instant) -> bool {
        let state = std::mem::replace(&mut self.attackers[index].state, State::Paused);
        match state {
            State::Paused => self.connect(index, now),
            State::Connecting(stream, script) => self.on_connected(index, stream, script, now),
            State::Active(socket) => self.exchange(index, socket, now),
        }
    }

    fn exchange(&mut self, index: usize, mut socket: Box<AttackSocket>, now: Instant) -> bool {
        let protocol = &*self.protocol;
        let exchanged = socket.exchange(&mut self.buffer, protocol, &mut self.stats, now);
        let attacker = &mut self.attackers[index];
        let end = match exchanged {
            Ok(has_more) => {
                attacker.next_at = socket.next_at();
                attacker.state = State::Active(socket);
                return has_more;
            }
            Err(end) => end,
        };
        attacker.is_conclusive |= end.is_conclusive(protocol);
        attacker.pause(socket.connection.script().pause, now);
        match end {
            End::Left => self.leave(socket),
            _ => self.count_end(socket.connection.script(), end),
        }
        false
    }

    fn connect(&mut self, index: usize, now: Instant) -> bool {
        let rate = self.attack.connects_per_sec();
        let due_at = rate.and_then(|rate| due_at(self.started_at, self.begun, rate));
        if let Some(at) = due_at.filter(|at| *at > now) {
            self.attackers[index].next_at = Some(at);
            return false;
        }
        let script = self.attack.script(self.begun, &mut self.rng);
        self.begun += 1;
        let both = Interest::READABLE | Interest::WRITABLE;
        let stream = connect(self.target, script.recv_buffer_bytes).and_then(|mut stream| {
            (self.poll.registry()).register(&mut stream, Token(index), both)?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => {
                let attacker = &mut self.attackers[index];
                attacker.state = State::Connecting(stream, script);
                attacker.next_at = Some(now + CONNECT_TIMEOUT);
            }
            Err(_) => self.on_refused(index, now),
        }
        false
    }

    /// The socket has an event, or its time is over.
    fn on_connected(
        &mut self,
        index: usize,
        stream: TcpStream,
        script: AttackScript,
        now: Instant,
    ) -> bool {
        let connected = match stream.take_error() {
            Ok(None) => stream.peer_addr().map(|_| ()),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        let is_late = self.attackers[index].next_at.is_some_and(|at| at <= now);
        match connected {
            Ok(()) => {
                self.stats.connections += 1;
                if let Ending::Reset(_) = script.ending {
                    // The close is a reset then. The port does not wait in TIME_WAIT.
                    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                }
                let aligned_to = script.aligned_to;
                let send_at = aligned_to.and_then(|step| next_step(self.started_at, step, now));
                let (ip, layer) = (self.target.ip(), self.attack.layer());
                let Ok(channel) = self.transport.over(stream, ip, layer) else {
                    self.on_refused(index, now);
                    return false;
                };
                let connection = AttackConnection::new(script, send_at, now);
                let socket = Box::new(AttackSocket::new(channel, connection));
                self.exchange(index, socket, now)
            }
            Err(error) if error.kind() == ErrorKind::NotConnected && !is_late => {
                self.attackers[index].state = State::Connecting(stream, script);
                false
            }
            Err(_) => {
                self.on_refused(index, now);
                false
            }
        }
    }

    /// Keeps a connection that has left. A bounded number of them is open at a time.
    fn leave(&mut self, mut socket: Box<AttackSocket>) {
        // What the server sends to it is read when it is closed.
        let _ = (self.poll.registry()).deregister(socket.stream.socket_mut());
        self.left.push_back(socket);
        if self.left.len() > MAX_LEFT
            && let Some(oldest) = self.left.pop_front()
        {
            self.close_left(*oldest);
        }
    }

    fn close_left(&mut self, socket: AttackSocket) {
        let (connection, end) =
            socket.end_of_left(&mut self.buffer, &*self.protocol, &mut self.stats);
        self.count_end(connection.script(), end);
    }

    fn on_refused(&mut self, index: usize, now: Instant) {
        self.stats.refused += 1;
        self.attackers[index].pause(REFUSED_PAUSE, now);
    }

    fn count_end(&mut self, script: &AttackScript, end: End) {
        let targets_accept = self.attack.targets_accept();
        (self.stats).count_end(script, end, targets_accept, &*self.protocol);
    }
}

impl Attacker {
    fn new(now: Instant) -> Self {
        Self {
            state: State::Paused,
            next_at: Some(now),
            is_conclusive: false,
        }
    }

    fn pause(&mut self, pause: Duration, now: Instant) {
        self.state = State::Paused;
        self.next_at = now.checked_add(pause);
    }

    /// Whether its connection has to end, and none of its connections has shown how the server does that.
    fn is_inconclusive(&self) -> bool {
        match &self.state {
            State::Active(socket) => {
                socket.connection.script().expect != Expect::Any && !self.is_conclusive
            }
            State::Paused | State::Connecting(..) => false,
        }
    }

    /// Whether it has a connection that the server has admitted.
    fn was_admitted(&self, now: Instant) -> bool {
        match &self.state {
            State::Active(socket) => {
                let connection = &socket.connection;
                let age = now.saturating_duration_since(connection.connected_at());
                connection.close_reason().is_none() && age >= ADMISSION_TIME
            }
            State::Paused | State::Connecting(..) => false,
        }
    }
}

/// When connection `number` of an attack begins that begins `rate` connections a second.
fn due_at(started_at: Instant, number: u64, rate: u32) -> Option<Instant> {
    let after = Duration::try_from_secs_f64(number as f64 / f64::from(rate));
    started_at.checked_add(after.ok()?)
}

/// The next moment at which all attackers send. A connection that begins now is idle until then, 200 ms at
/// least. `None`: at once.
fn next_step(started_at: Instant, step: Duration, now: Instant) -> Option<Instant> {
    if step.is_zero() {
        return None;
    }
    let elapsed = (now + MIN_IDLE).saturating_duration_since(started_at);
    let steps = elapsed.as_nanos().div_ceil(step.as_nanos());
    let steps = u32::try_from(steps).ok()?;
    started_at.checked_add(step.checked_mul(steps)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_one_step_send_at_one_moment() {
        let started_at = Instant::now();
        let at = |ms| started_at + Duration::from_millis(ms);
        let step = Duration::from_secs(1);
        for (now, expected) in [
            (0, 1000),
            (800, 1000),
            (801, 2000),
            (1000, 2000),
            (1800, 2000),
        ] {
            let next = next_step(started_at, step, at(now));
            assert_eq!(next, Some(at(expected)), "{now}");
        }
    }

    #[test]
    fn connections_begin_evenly_at_their_rate() {
        let start = Instant::now();
        let at = |ms| Some(start + Duration::from_millis(ms));
        for (number, expected) in [
            (0, at(0)),
            (1, at(5)),
            (200, at(1000)),
            (12_345, at(61_725)),
        ] {
            assert_eq!(due_at(start, number, 200), expected, "{number}");
        }
        assert_eq!(due_at(start, 1, 0), None);
    }

    #[test]
    fn steps_without_a_next_moment_send_at_once() {
        let now = Instant::now();
        for step in [Duration::ZERO, Duration::MAX] {
            assert_eq!(next_step(now, step, now), None, "{step:?}");
        }
    }
}
