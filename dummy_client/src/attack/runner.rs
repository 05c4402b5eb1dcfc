//! The attackers of a run, on a thread of their own.

use super::plan::{Attack, Due, Ending, Plan, label_of};
use game_server::packets::SBye;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use schemars::JsonSchema;
use serde::Serialize;
use server_core::framer::Framer;
use server_core::start;
use server_core::wire::MAX_PACKET_BYTES;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Attackers at work.
#[derive(Debug)]
pub struct Squad {
    thread: JoinHandle<io::Result<Tally>>,
    is_over: Arc<AtomicBool>,
    waker: Waker,
}

/// What the attackers have met.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Tally {
    /// Connections that stood.
    pub connections: u64,
    /// Those on which the attack was made: not those that were refused because the server is full,
    /// unless connections themselves are the attack, nor those that had just begun at the end.
    pub fought: u64,
    /// Connections that could not be made, or were refused because the server is full.
    pub turned_away: u64,
    /// Those that the server ended with a reason, by reason.
    pub kicked: BTreeMap<String, u64>,
    /// Those that it ended without one that could be read.
    pub ended_without_reason: u64,
    /// Those of them that read all along, and were owed a reason.
    pub untold: u64,
    /// Those that it ended with another reason than is due; they are among the kicked as well.
    pub wrong_reason: u64,
    /// Those that it should have ended by then, and had not.
    pub not_kicked: u64,
    /// Attackers that were still waiting for their first end when the attack was over.
    pub undecided: u64,
    /// What was sent.
    pub bytes_sent: u64,
    /// Packets that came back.
    pub packets_received: u64,
}

/// One connection at a time.
struct Attacker {
    state: State,
    /// When something is to be done without an event.
    next_at: Option<Instant>,
    /// A connection of its has come to the end that is due, or has waited for it in vain.
    is_decided: bool,
}

enum State {
    /// Until the next connection.
    Resting,
    Connecting(TcpStream, Plan),
    Fighting(Box<Fight>),
}

struct Fight {
    stream: TcpStream,
    plan: Plan,
    framer: Framer,
    since: Instant,
    /// The opening, or one refrain.
    output: Cow<'static, [u8]>,
    /// Bytes of the output that the socket has accepted.
    sent: usize,
    /// When the opening is to be sent, if that is later than the connection.
    opening_at: Option<Instant>,
    refrain_at: Option<Instant>,
    is_writable: bool,
    has_shut: bool,
    bye: Option<u16>,
}

/// How a connection has ended.
enum End {
    /// By the server; with this code, if one was read.
    ByServer(Option<u16>),
    /// By the attacker, as planned.
    AsPlanned,
    /// By the attacker, which has waited long enough.
    OutOfPatience,
    /// By the attacker, which has closed its write side and does not wait.
    Left,
}

const WAKER: Token = Token(usize::MAX);
/// One look at a socket: then the others have their turn.
const BUDGET_BYTES: usize = 256 << 10;
/// Connections that have left and are not closed yet; the oldest is closed for the next one.
const MAX_LEFT: usize = 100;
/// The start of what the server has sent to a connection that left: a refusal is the first packet.
const FIRST_BYTES: usize = 4 << 10;
/// A connection that sends its opening in step is idle for at least this long before.
const IDLE: Duration = Duration::from_millis(200);

impl Squad {
    /// Begins the attack.
    ///
    /// # Errors
    /// If there is no descriptor or thread left for it.
    pub fn begin(
        attack: Attack,
        attackers: usize,
        target: SocketAddr,
        seed: u64,
    ) -> io::Result<Self> {
        let refused = |error| start::failed("cannot set up the attackers", error);
        let poll = Poll::new().map_err(refused)?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(refused)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let mut field = Field {
            poll,
            attack,
            target,
            rng: fastrand::Rng::with_seed(seed),
            attackers: (0..attackers * attack.connections())
                .map(|_| Attacker {
                    state: State::Resting,
                    next_at: Some(Instant::now()),
                    is_decided: false,
                })
                .collect(),
            began_at: Instant::now(),
            begun: 0,
            left: VecDeque::new(),
            buffer: vec![0; 64 << 10],
            tally: Tally::default(),
        };
        let over = Arc::clone(&is_over);
        let thread = start::spawn("attackers", move || field.fight(&over))?;
        Ok(Self {
            thread,
            is_over,
            waker,
        })
    }

    /// Ends the attack, and tells how it went.
    ///
    /// # Errors
    /// If the attackers' thread has failed.
    pub fn end(self) -> io::Result<Tally> {
        self.is_over.store(true, Ordering::Release);
        self.waker.wake()?;
        let ended = self.thread.join();
        ended.unwrap_or_else(|_| Err(io::Error::other("the attackers' thread panicked")))
    }
}

/// What the thread owns.
struct Field {
    poll: Poll,
    attack: Attack,
    target: SocketAddr,
    rng: fastrand::Rng,
    attackers: Vec<Attacker>,
    began_at: Instant,
    /// Connections begun so far.
    begun: u64,
    /// Connections that have left, the oldest first.
    left: VecDeque<Box<Fight>>,
    buffer: Vec<u8>,
    tally: Tally,
}

impl Field {
    fn fight(&mut self, is_over: &AtomicBool) -> io::Result<Tally> {
        let mut events = Events::with_capacity(1024);
        let mut busy = Vec::new();
        while !is_over.load(Ordering::Acquire) {
            let timeout = match busy.is_empty() {
                true => self.until_next(Instant::now()),
                false => Duration::ZERO,
            };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => events.clear(),
                other => other?,
            }
            let now = Instant::now();
            let mut called = std::mem::take(&mut busy);
            for event in events.iter().filter(|event| event.token() != WAKER) {
                let index = event.token().0;
                if let State::Fighting(fight) = &mut self.attackers[index].state {
                    // An error is found by the write that meets it.
                    fight.is_writable |=
                        event.is_writable() || event.is_error() || event.is_write_closed();
                }
                called.push(index);
            }
            let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            let all = self.attackers.iter().enumerate();
            called.extend(
                all.filter(|(_, one)| due(one.next_at))
                    .map(|(index, _)| index),
            );
            called.sort_unstable();
            called.dedup();
            for index in called {
                if self.step(index, now) {
                    busy.push(index);
                }
            }
        }
        while let Some(fight) = self.left.pop_front() {
            self.close_left(fight);
        }
        let now = Instant::now();
        for attacker in &self.attackers {
            self.tally.undecided += u64::from(attacker.is_undecided());
            self.tally.fought += u64::from(attacker.has_a_footing(now));
        }
        Ok(std::mem::take(&mut self.tally))
    }

    fn until_next(&self, now: Instant) -> Duration {
        let next = self.attackers.iter().filter_map(|one| one.next_at).min();
        // Rounded up, as the kernel counts milliseconds here.
        next.map_or(Duration::from_secs(1), |at| {
            let left = at.saturating_duration_since(now);
            left.max(Duration::from_millis(u64::from(!left.is_zero())))
        })
    }

    /// Goes on with one attacker; returns whether it has more to do at once.
    fn step(&mut self, index: usize, now: Instant) -> bool {
        let state = std::mem::replace(&mut self.attackers[index].state, State::Resting);
        match state {
            State::Resting => self.connect(index, now),
            State::Connecting(stream, plan) => self.connected(index, stream, plan, now),
            State::Fighting(mut fight) => {
                let outcome = fight.go_on(&mut self.buffer, &mut self.tally, now);
                match outcome {
                    Ok(has_more) => {
                        self.attackers[index].next_at = fight.next_at();
                        self.attackers[index].state = State::Fighting(fight);
                        has_more
                    }
                    Err(End::Left) => {
                        self.rest(index, fight.plan.pause, now);
                        self.leave(fight);
                        false
                    }
                    Err(end) => {
                        self.attackers[index].is_decided |= end.is_telling();
                        self.count(&fight.plan, &end);
                        self.rest(index, fight.plan.pause, now);
                        false
                    }
                }
            }
        }
    }

    fn connect(&mut self, index: usize, now: Instant) -> bool {
        let plan = self.attack.plan(self.begun, &mut self.rng);
        self.begun += 1;
        let both = Interest::READABLE | Interest::WRITABLE;
        let stream = connect(self.target, plan.recv_buffer_bytes).and_then(|mut stream| {
            (self.poll.registry()).register(&mut stream, Token(index), both)?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => {
                let attacker = &mut self.attackers[index];
                attacker.state = State::Connecting(stream, plan);
                attacker.next_at = Some(now + CONNECT_TIME);
            }
            Err(_) => self.turn_away(index, now),
        }
        false
    }

    fn connected(&mut self, index: usize, stream: TcpStream, plan: Plan, now: Instant) -> bool {
        let stands = match stream.take_error() {
            Ok(None) => stream.peer_addr().map(|_| ()),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        let is_late = self.attackers[index].next_at.is_some_and(|at| at <= now);
        match stands {
            Ok(()) => {
                self.tally.connections += 1;
                if let Ending::Reset(_) = plan.ending {
                    // Closing it is a reset then: that is what is planned, and it spares our ports.
                    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                }
                let opening_at = (plan.in_step).map(|step| next_step(self.began_at, step, now));
                let fight = Box::new(Fight::new(stream, plan, opening_at, now));
                self.attackers[index].state = State::Fighting(fight);
                self.step(index, now)
            }
            Err(error) if error.kind() == ErrorKind::NotConnected && !is_late => {
                self.attackers[index].state = State::Connecting(stream, plan);
                false
            }
            Err(_) => {
                self.turn_away(index, now);
                false
            }
        }
    }

    /// Takes a connection that has left; a bounded number of them is open at a time.
    fn leave(&mut self, mut fight: Box<Fight>) {
        // What the server does about it is read when it is closed.
        let _ = self.poll.registry().deregister(&mut fight.stream);
        self.left.push_back(fight);
        if self.left.len() > MAX_LEFT
            && let Some(oldest) = self.left.pop_front()
        {
            self.close_left(oldest);
        }
    }

    fn close_left(&mut self, mut fight: Box<Fight>) {
        // Not read to its end: a client that leaves does not wait for what is under way.
        if let Ok(count) = fight.stream.read(&mut self.buffer[..FIRST_BYTES]) {
            fight.look_for_bye(&self.buffer[..count], &mut self.tally);
        }
        let end = match fight.bye {
            Some(code) => End::ByServer(Some(code)),
            None => End::AsPlanned,
        };
        self.count(&fight.plan, &end);
    }

    fn turn_away(&mut self, index: usize, now: Instant) {
        self.tally.turned_away += 1;
        self.rest(index, TURNED_AWAY_PAUSE, now);
    }

    fn rest(&mut self, index: usize, pause: Duration, now: Instant) {
        let attacker = &mut self.attackers[index];
        attacker.state = State::Resting;
        attacker.next_at = Some(now + pause);
    }

    fn count(&mut self, plan: &Plan, end: &End) {
        let tally = &mut self.tally;
        let is_refused = matches!(end, End::ByServer(Some(SERVER_FULL)));
        tally.fought += u64::from(!is_refused || self.attack.is_of_connections());
        match *end {
            End::AsPlanned | End::Left => {}
            End::OutOfPatience => tally.not_kicked += 1,
            End::ByServer(Some(SERVER_FULL)) => tally.turned_away += 1,
            End::ByServer(Some(code)) => {
                *tally.kicked.entry(label_of(code).into()).or_default() += 1;
                if matches!(plan.due, Due::Bye(codes) if !codes.contains(&code) && code != SHUTDOWN)
                {
                    tally.wrong_reason += 1;
                }
            }
            End::ByServer(None) => {
                tally.ended_without_reason += 1;
                tally.untold += u64::from(plan.reads && matches!(plan.due, Due::Bye(_)));
            }
        }
    }
}

impl Attacker {
    /// Whether it is under way, and nothing can be said yet of what becomes of such a one.
    fn is_undecided(&self) -> bool {
        let is_judged = match &self.state {
            State::Fighting(fight) => fight.plan.due != Due::Anything,
            State::Resting | State::Connecting(..) => false,
        };
        is_judged && !self.is_decided
    }

    /// Whether it stands, and for so long that it was let in.
    fn has_a_footing(&self, now: Instant) -> bool {
        match &self.state {
            State::Fighting(fight) => fight.bye.is_none() && fight.since + FOOTING <= now,
            State::Resting | State::Connecting(..) => false,
        }
    }
}

impl End {
    fn is_telling(&self) -> bool {
        match self {
            Self::ByServer(code) => *code != Some(SERVER_FULL),
            Self::AsPlanned | Self::Left => false,
            Self::OutOfPatience => true,
        }
    }
}

/// The next moment at which all attackers act; a connection of this moment is idle until then.
fn next_step(began_at: Instant, step: Duration, now: Instant) -> Instant {
    let elapsed = (now + IDLE).duration_since(began_at).as_nanos();
    let steps = elapsed.div_ceil(step.as_nanos());
    began_at + step * u32::try_from(steps).unwrap_or(u32::MAX)
}

/// Begins a connection; the size of a receive buffer has to be set before.
fn connect(target: SocketAddr, recv_buffer_bytes: Option<usize>) -> io::Result<TcpStream> {
    let Some(bytes) = recv_buffer_bytes else {
        return TcpStream::connect(target);
    };
    let domain = Domain::for_address(target);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(bytes)?;
    match socket.connect(&target.into()) {
        Err(error) if !is_in_progress(&error) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

fn is_in_progress(error: &io::Error) -> bool {
    // The kind of EINPROGRESS has no stable name yet.
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(EINPROGRESS)
}

#[cfg(target_os = "linux")]
const EINPROGRESS: i32 = 115;
#[cfg(not(target_os = "linux"))]
const EINPROGRESS: i32 = 36;

const CONNECT_TIME: Duration = Duration::from_secs(10);
/// A server that is full has said so by then.
const FOOTING: Duration = Duration::from_secs(1);
const TURNED_AWAY_PAUSE: Duration = Duration::from_millis(100);
const SERVER_FULL: u16 = 9;
const SHUTDOWN: u16 = 10;

impl Fight {
    fn new(stream: TcpStream, mut plan: Plan, opening_at: Option<Instant>, now: Instant) -> Self {
        Self {
            stream,
            output: std::mem::take(&mut plan.opening),
            sent: 0,
            opening_at,
            refrain_at: plan.refrain.as_ref().map(|_| now),
            plan,
            framer: Framer::default(),
            since: now,
            is_writable: true,
            has_shut: false,
            bye: None,
        }
    }

    /// When to come again without an event.
    fn next_at(&self) -> Option<Instant> {
        let patience = match self.plan.ending {
            Ending::Reset(after) => Some(self.since + after),
            _ if self.plan.due == Due::Anything => None,
            _ => Some(self.since + self.plan.patience),
        };
        let refrain = self.refrain_at.filter(|_| self.is_writable);
        let times = [patience, refrain, self.opening_at];
        times.into_iter().flatten().min()
    }

    /// Reads, writes, and looks at the time. Returns whether there is more to do at once.
    fn go_on(&mut self, buffer: &mut [u8], tally: &mut Tally, now: Instant) -> Result<bool, End> {
        // All openings of one step go out before the first answer is read.
        let opens_in_step = self.opening_at.is_some_and(|at| at <= now);
        let may_read_on = self.plan.reads && (opens_in_step || self.read(buffer, tally)?);
        let may_write_on = self.write(buffer, tally, now)?;
        match self.plan.ending {
            Ending::Reset(after) if self.since + after <= now => return Err(End::AsPlanned),
            Ending::Leave if self.has_sent_all() => {
                let _ = self.stream.shutdown(Shutdown::Write);
                return Err(End::Left);
            }
            Ending::ShutWrite if self.has_sent_all() && !self.has_shut => {
                self.has_shut = true;
                // If it is closed already, the next read tells.
                let _ = self.stream.shutdown(Shutdown::Write);
            }
            _ => {}
        }
        let is_judged = self.plan.due != Due::Anything;
        if is_judged && self.since + self.plan.patience <= now {
            return Err(End::OutOfPatience);
        }
        Ok(may_read_on || may_write_on)
    }

    fn has_sent_all(&self) -> bool {
        self.sent == self.output.len()
    }

    fn read(&mut self, buffer: &mut [u8], tally: &mut Tally) -> Result<bool, End> {
        let mut left = BUDGET_BYTES;
        while left > 0 {
            match self.stream.read(buffer) {
                Ok(0) => return Err(End::ByServer(self.bye)),
                Ok(count) => {
                    left = left.saturating_sub(count);
                    self.look_for_bye(&buffer[..count], tally);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(false),
                    ErrorKind::Interrupted => {}
                    _ => return Err(End::ByServer(self.bye)),
                },
            }
        }
        Ok(true)
    }

    fn look_for_bye(&mut self, mut input: &[u8], tally: &mut Tally) {
        // A server that breaks the framing is found by the healthy sessions.
        while let Ok(Some(packet)) = self.framer.next_packet(&mut input, MAX_PACKET_BYTES) {
            tally.packets_received += 1;
            if packet.id() == SBye::ID
                && let Ok((bye, _)) = packet.parse::<SBye>()
            {
                self.bye = Some(bye.reason.get());
            }
        }
    }

    fn write(&mut self, buffer: &mut [u8], tally: &mut Tally, now: Instant) -> Result<bool, End> {
        if self.opening_at.is_some_and(|at| at > now) {
            return Ok(false);
        }
        self.opening_at = None;
        let mut left = BUDGET_BYTES;
        while self.is_writable && self.bye.is_none() && left > 0 {
            if self.has_sent_all() {
                match (&self.plan.refrain, self.refrain_at) {
                    (Some(refrain), Some(at)) if at <= now => {
                        self.output = refrain.bytes.clone();
                        self.sent = 0;
                        self.refrain_at = Some(now + refrain.every);
                    }
                    _ => return Ok(false),
                }
            }
            match self.stream.write(&self.output[self.sent..]) {
                Ok(count) => {
                    self.sent += count;
                    tally.bytes_sent += count as u64;
                    left = left.saturating_sub(count.max(1));
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.is_writable = false,
                    ErrorKind::Interrupted => {}
                    // What the server has said before lies in our socket; reading tells.
                    _ if self.plan.reads => {
                        self.is_writable = false;
                        return Ok(true);
                    }
                    // It has never looked: that it was not even let in stands before all else.
                    _ => {
                        self.read(buffer, tally)?;
                        return Err(End::ByServer(self.bye));
                    }
                },
            }
        }
        Ok(self.is_writable && self.bye.is_none() && left == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn all_connections_of_one_step_act_at_one_moment() {
        let began_at = Instant::now();
        let (step, at) = (Duration::from_secs(1), |ms| {
            began_at + Duration::from_millis(ms)
        });
        for (now, expected) in [
            (0, 1000),
            (800, 1000),
            (801, 2000),
            (1000, 2000),
            (1800, 2000),
        ] {
            assert_eq!(next_step(began_at, step, at(now)), at(expected), "{now}");
        }
    }

    /// Each connection sends the permitted burst, closes its write side, and the next one comes
    /// although the server has not answered.
    #[test]
    fn churn_and_bursts_send_20_chats_and_leave() {
        for (attack, connections) in [(Attack::ChatChurn, 30), (Attack::ChatBurst, 6)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let target = listener.local_addr().unwrap();
            let squad = Squad::begin(attack, 3, target, 1).unwrap();
            for _ in 0..connections {
                let mut received = Vec::new();
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_to_end(&mut received).unwrap();
                let mut input = &received[..];
                let mut framer = Framer::default();
                let mut chats = 0;
                while let Ok(Some(packet)) = framer.next_packet(&mut input, MAX_PACKET_BYTES) {
                    assert_eq!((packet.id(), packet.size()), (4, 4 + 512), "{attack:?}");
                    chats += 1;
                }
                assert_eq!((chats, framer.is_mid_packet()), (20, false), "{attack:?}");
            }
            let tally = squad.end().unwrap();
            assert!(tally.connections >= connections, "{attack:?}: {tally:?}");
            assert_eq!(tally.turned_away, 0, "{attack:?}: {tally:?}");
        }
    }
}
