//! One account, one session, on the workers of one node: a model by seed over two shards, and the rules of the login
//! over sockets. `TEST_SEED=7` runs only seed 7.

use server_core::connection::admission::Admission;
use server_core::routing::accounts::LoginPolicy;
use server_core::routing::mailbox::Mailbox;
use server_core::routing::router::{Command, NewConnection, Router};
use server_core::shard::{Shard, Shared};
use server_core::testing::{DEADLINE, FakeStream, RawClient, RawPacket, packet};
use server_core::tick::Tick;
use server_core::{
    Config, Context, DisconnectReason, Game, GameContext, GameLoop, Kick, LoginAnswer, LoginRules,
    Message, Packet, Server, ServerBuilder, Session, SessionId,
};
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const WORKERS: usize = 2;
const ACCOUNTS: [&str; 3] = ["alice", "bob", "eve"];

#[derive(Clone, Copy, Debug)]
enum Event {
    Login(SessionId, LoginAnswer),
    Message(SessionId, usize),
    Left(SessionId, DisconnectReason),
}

/// Notes what it is told.
struct Noter(Arc<Mutex<Vec<Event>>>);

impl Noter {
    fn note(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Session for Noter {
    fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
        Ok(())
    }

    fn on_login(&mut self, ctx: &mut Context<'_>, answer: LoginAnswer) {
        self.note(Event::Login(ctx.id(), answer));
    }

    fn on_message(&mut self, ctx: &mut Context<'_>, message: Box<dyn Any + Send>) {
        let Note(number) = *message.downcast::<Note>().unwrap();
        self.note(Event::Message(ctx.id(), number));
    }

    fn on_disconnected(&mut self, ctx: &mut Context<'_>, reason: DisconnectReason) {
        self.note(Event::Left(ctx.id(), reason));
    }
}

struct Note(usize);

impl Message for Note {}

/// What the model knows of a session.
#[derive(Debug, Default)]
struct Peer {
    /// Accounts of logins that are not answered, in order.
    asked: Vec<usize>,
    account: Option<usize>,
    has_left: bool,
    /// A newer session has its account: it has to end.
    is_replaced: bool,
}

struct Rig {
    rng: fastrand::Rng,
    policy: LoginPolicy,
    shards: Vec<Shard<FakeStream, Noter>>,
    router: Arc<Router<FakeStream>>,
    admission: Arc<Admission>,
    events: Arc<Mutex<Vec<Event>>>,
    now: Instant,
    ids: Vec<SessionId>,
    peers: HashMap<SessionId, Peer>,
    current: HashMap<usize, SessionId>,
    /// The account of each message.
    posted: Vec<usize>,
    delivered: HashSet<usize>,
}

impl Rig {
    fn new(seed: u64, policy: LoginPolicy) -> Self {
        let config = Config::default();
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let of_sessions = Arc::clone(&events);
        let mut shared =
            Shared::for_tests(&config, WORKERS, move |_| Noter(Arc::clone(&of_sessions)));
        let mailboxes = (0..WORKERS).map(|_| Mailbox::new(config.mailbox_bytes, || {}));
        let router = Arc::new(Router::new(mailboxes).with_login_policy(policy));
        shared.router = Arc::clone(&router);
        let shared = Arc::new(shared);
        Self {
            rng: fastrand::Rng::with_seed(seed),
            policy,
            shards: (0..WORKERS)
                .map(|worker| Shard::new(worker, Arc::clone(&shared)))
                .collect(),
            router,
            admission: Arc::new(Admission::new(WORKERS, None, None)),
            events,
            now: Instant::now(),
            ids: Vec::new(),
            peers: HashMap::new(),
            current: HashMap::new(),
            posted: Vec::new(),
            delivered: HashSet::new(),
        }
    }

    fn connect(&mut self) -> SessionId {
        let permit = self
            .admission
            .admit(([127, 0, 0, 1], self.ids.len() as u16).into())
            .unwrap();
        let (worker, mut id) = (permit.worker(), None);
        let arrival = NewConnection {
            stream: FakeStream::sink(),
            permit,
            tag: None,
            is_connecting: false,
        };
        let adopt = Command::Adopt(arrival);
        self.shards[worker].handle_command(adopt, self.now, |_, new| {
            id = Some(new);
            Ok(())
        });
        let id = id.unwrap();
        self.ids.push(id);
        self.peers.insert(id, Peer::default());
        id
    }

    fn login(&mut self, id: SessionId) {
        let account = self.rng.usize(..ACCOUNTS.len());
        let peer = self.peers.get_mut(&id).unwrap();
        peer.asked.push(account);
        self.router.begin_login(id, ACCOUNTS[account].into());
    }

    fn post(&mut self) {
        let account = self.rng.usize(..ACCOUNTS.len());
        let has_session = self
            .router
            .post_to_account(ACCOUNTS[account], Note(self.posted.len()));
        assert_eq!(has_session.ok(), Some(self.current.contains_key(&account)));
        if self.current.contains_key(&account) {
            self.posted.push(account);
        }
    }

    fn turn(&mut self, worker: usize) {
        let (shard, now) = (&mut self.shards[worker], self.now);
        self.router.mailbox(worker).take_all(|command| {
            shard.handle_command(command, now, |_, _| Ok(()));
        });
        shard.run(now);
        let events = std::mem::take(&mut *self.events.lock().unwrap());
        events.into_iter().for_each(|event| self.check(event));
    }

    fn check(&mut self, event: Event) {
        match event {
            Event::Login(id, answer) => {
                let peer = self.peers.get_mut(&id).unwrap();
                assert!(!peer.has_left);
                let account = peer.asked.remove(0);
                let old = self.current.get(&account).copied();
                let expected = match old {
                    Some(old) if old == id => LoginAnswer::Granted,
                    Some(_) if self.policy == LoginPolicy::OldestStays => LoginAnswer::Refused,
                    Some(_) => LoginAnswer::Replaced,
                    None => LoginAnswer::Granted,
                };
                assert_eq!(answer, expected);
                if answer == LoginAnswer::Refused || old == Some(id) {
                    return;
                }
                if let Some(before) = peer.account.replace(account) {
                    self.current.remove(&before);
                }
                if let Some(old) = self.current.insert(account, id) {
                    let old = self.peers.get_mut(&old).unwrap();
                    (old.account, old.is_replaced) = (None, true);
                }
            }
            Event::Message(id, number) => {
                let peer = &self.peers[&id];
                assert!(!peer.has_left);
                assert!(self.delivered.insert(number), "twice");
            }
            Event::Left(id, reason) => {
                let peer = self.peers.get_mut(&id).unwrap();
                assert!(!std::mem::replace(&mut peer.has_left, true));
                assert!(peer.is_replaced || reason != DisconnectReason::LoggedInElsewhere);
                if let Some(account) = peer.account.take() {
                    self.current.remove(&account);
                }
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            (0..WORKERS).for_each(|worker| self.turn(worker));
        }
        for (id, peer) in &self.peers {
            assert!(
                !peer.is_replaced || peer.has_left,
                "{id} is a second session"
            );
        }
        let undelivered: u64 = (self.shards.iter())
            .map(|shard| shard.metrics().undeliverable.get())
            .sum();
        assert_eq!(
            self.delivered.len() as u64 + undelivered,
            self.posted.len() as u64
        );
    }
}

fn seeds() -> impl Iterator<Item = u64> {
    let one = std::env::var("TEST_SEED")
        .ok()
        .map(|seed| seed.parse().unwrap());
    (0..200).filter(move |seed| one.is_none_or(|one: u64| one == *seed))
}

#[test]
fn account_has_one_session_by_the_policy_and_no_message_arrives_twice() {
    for seed in seeds() {
        println!("seed {seed}");
        let policy = [LoginPolicy::NewestStays, LoginPolicy::OldestStays][seed as usize % 2];
        let mut rig = Rig::new(seed, policy);
        rig.connect();
        for _ in 0..300 {
            let id = rig.ids[rig.rng.usize(..rig.ids.len())];
            match rig.rng.u8(..10) {
                0 => drop(rig.connect()),
                1..=3 => rig.login(id),
                4 => rig.router.close(id, DisconnectReason::Closed),
                5..=6 => rig.post(),
                _ => {
                    let worker = rig.rng.usize(..WORKERS);
                    rig.turn(worker);
                }
            }
        }
        rig.settle();
    }
}

#[test]
fn takeover_hands_over_each_message_that_waits() {
    for seed in seeds() {
        println!("seed {seed}");
        let mut rig = Rig::new(seed, LoginPolicy::NewestStays);
        for _ in 0..300 {
            match rig.rng.u8(..6) {
                0 => {
                    let id = rig.connect();
                    rig.login(id);
                }
                1..=3 => rig.post(),
                _ => {
                    let worker = rig.rng.usize(..WORKERS);
                    rig.turn(worker);
                }
            }
        }
        rig.settle();
        assert_eq!(rig.delivered.len(), rig.posted.len(), "none is dropped");
    }
}

server_core::packets! {
    /// Logs in to an account.
    client 1 => CLogin { version: u32 } + text(1..=32);
    client 2 => CStep;
    server 3 => SLogin { answer: u32 };
    server 4 => SStep;
    server 6 => SBye { code: u16 } + text;
}

const NOT_LOGGED_IN: Kick = Kick::custom(1_001, "not_logged_in").with_text("log in first");
const WRONG_VERSION: Kick = Kick::custom(1_002, "wrong_version");
const NAME_TAKEN: Kick = Kick::custom(1_003, "name_taken");
const LOGGED_IN_ELSEWHERE: u16 = 13;

/// A game with accounts.
struct Accounts {
    events: Sender<(SessionId, LoginAnswer)>,
}

impl Game for Accounts {
    fn on_packet(
        &mut self,
        ctx: &mut GameContext<'_>,
        player: SessionId,
        packet: Packet<'_>,
    ) -> Result<(), Kick> {
        if packet.id() == CStep::ID {
            ctx.send(player, &SStep, "");
        } else {
            ctx.server().login(player, packet.decode::<CLogin>()?.1);
        }
        Ok(())
    }

    fn on_login(&mut self, ctx: &mut GameContext<'_>, player: SessionId, answer: LoginAnswer) {
        let _ = self.events.send((player, answer));
        if answer == LoginAnswer::Refused {
            ctx.close_with(player, NAME_TAKEN, "");
        } else {
            ctx.admit(player);
            ctx.send(player, &SLogin { answer: 0.into() }, "");
        }
    }

    fn on_tick(&mut self, _: &mut GameContext<'_>, _: Tick) {}
}

fn start(builder: ServerBuilder) -> (Server, Receiver<(SessionId, LoginAnswer)>) {
    let game = GameLoop::new(Duration::from_millis(5)).requires_login(true);
    let rules = LoginRules::new(NOT_LOGGED_IN)
        .packet_if::<CLogin>(|(login, _)| login.version.get() == 7, WRONG_VERSION);
    let builder = builder
        .workers(2)
        .login_rules(rules)
        .close_message_with_text(|reason, text| Some((SBye::new(reason.code()?), text.to_owned())));
    let server = builder.start("127.0.0.1:0", game.players()).unwrap();
    let (events, told) = channel();
    let handle = server.handle();
    thread::spawn(move || game.run(&handle, Accounts { events }));
    (server, told)
}

fn login(version: u32, name: &str) -> Vec<u8> {
    packet(
        CLogin::ID,
        [&version.to_le_bytes()[..], name.as_bytes()].concat(),
    )
}

/// Returns the text.
fn expect_bye(client: &mut RawClient, code: u16) -> String {
    let packet = client.next_packet();
    let (bye, text) = packet.decode::<SBye>().unwrap();
    assert_eq!(bye.code(), code);
    client.expect_eof();
    text.to_owned()
}

#[test]
fn unadmitted_player_may_send_its_login_in_the_right_version_alone() {
    let (server, told) = start(Server::builder());
    let connect = || RawClient::connect(server.local_addr());
    for (bytes, code) in [
        (packet(CStep::ID, b""), NOT_LOGGED_IN.code()),
        (packet(99, b""), NOT_LOGGED_IN.code()),
        (login(6, "bob"), WRONG_VERSION.code()),
        (login(7, ""), Kick::BadPayload.code()),
    ] {
        let mut client = connect();
        client.send(&bytes);
        let text = expect_bye(&mut client, code);
        assert_eq!(text == "log in first", code == NOT_LOGGED_IN.code());
    }
    assert!(
        told.try_recv().is_err(),
        "the game has heard of none of them"
    );
    let mut client = connect();
    client.send(&login(7, "bob"));
    assert_eq!(
        client.next_packet(),
        RawPacket::new(SLogin::ID, 0_u32.to_le_bytes())
    );
    client.send_packet(CStep::ID, b"");
    assert_eq!(client.next_packet(), RawPacket::new(SStep::ID, b""));
    // The rules are for unadmitted players.
    client.send(&login(6, "bob"));
    assert_eq!(client.next_packet().id, SLogin::ID);
}

#[test]
fn second_login_of_an_account_ends_the_old_session_or_is_refused() {
    for policy in [LoginPolicy::NewestStays, LoginPolicy::OldestStays] {
        let (server, told) = start(Server::builder().login_policy(policy));
        let connect = || {
            let mut client = RawClient::connect(server.local_addr());
            client.send(&login(7, "bob"));
            let (_, answer) = told.recv_timeout(DEADLINE).unwrap();
            (client, answer)
        };
        let (mut old, answer) = connect();
        assert_eq!(answer, LoginAnswer::Granted);
        assert_eq!(old.next_packet().id, SLogin::ID);
        let (mut new, answer) = connect();
        if policy == LoginPolicy::NewestStays {
            assert_eq!(answer, LoginAnswer::Replaced);
            expect_bye(&mut old, LOGGED_IN_ELSEWHERE);
            assert_eq!(new.next_packet().id, SLogin::ID);
        } else {
            assert_eq!(answer, LoginAnswer::Refused);
            expect_bye(&mut new, NAME_TAKEN.code());
            old.send_packet(CStep::ID, b"");
            assert_eq!(old.next_packet().id, SStep::ID);
        }
    }
}
