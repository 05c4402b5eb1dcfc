//! A server that has ended, or is ended by one of its own callbacks: each call has an answer, and
//! none waits.
#![allow(clippy::unwrap_used)] // In a test, a panic is the report.

use server_core::connection::admission::Admission;
use server_core::routing::mailbox::Mailbox;
use server_core::routing::router::Router;
use server_core::runtime::connector::Connector;
use server_core::snapshot::WorkerGone;
use server_core::wire::U32Le;
use server_core::{
    Config, Context, DisconnectReason, GroupId, Kick, Packet, Peer, SendBuffer, Server,
    ServerHandle, Session, SessionId,
};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here can take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);
const ROOM: GroupId = GroupId::new(1, 7);

server_core::packets! {
    /// What the server sends.
    server 2 => pub SNote {
        /// Any.
        number: u32,
    } + bytes;
    /// The same without a tail.
    server 3 => pub SShort {
        /// Any.
        number: u32,
    };
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "waited in vain for: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

// ---- a handle after the end ---------------------------------------------------------------------

const HANDLE: &str = include_str!("../src/server/handle.rs");

struct Silent;

impl Session for Silent {
    fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
        Ok(())
    }
}

/// A handle whose server has ended, and what was there before.
struct Ended {
    handle: ServerHandle,
    id: SessionId,
    buffer: SendBuffer,
    /// A socket listens here.
    elsewhere: SocketAddr,
}

type Call = fn(&Ended);

const NOTE: SNote = SNote {
    number: U32Le::new(1),
};
const SHORT: SShort = SShort {
    number: U32Le::new(1),
};
/// More than waits for one worker.
const TAIL: [u8; 1_000] = [7; 1_000];

/// Each method of a handle, and what it has to do after the end.
const METHODS: [(&str, Call); 28] = [
    ("broadcast", |it| it.handle.broadcast(&NOTE, TAIL)),
    ("broadcast_packet", |it| it.handle.broadcast_packet(&SHORT)),
    ("broadcast_buffer", |it| {
        it.handle.broadcast_buffer(&it.buffer)
    }),
    ("broadcast_measured", |it| {
        let before = it.handle.metrics().broadcasts.count();
        it.handle.broadcast_measured(Instant::now(), &NOTE, TAIL);
        assert_eq!(it.handle.metrics().broadcasts.count(), before);
    }),
    ("send_to", |it| it.handle.send_to(it.id, &NOTE, TAIL)),
    ("send_packet_to", |it| {
        it.handle.send_packet_to(it.id, &SHORT)
    }),
    ("broadcast_to", |it| {
        it.handle.broadcast_to(ROOM, &NOTE, TAIL)
    }),
    ("broadcast_to_others", |it| {
        it.handle.broadcast_to_others(ROOM, it.id, &NOTE, TAIL);
    }),
    ("broadcast_packet_to", |it| {
        it.handle.broadcast_packet_to(ROOM, &SHORT);
    }),
    ("broadcast_packet_to_others", |it| {
        it.handle.broadcast_packet_to_others(ROOM, it.id, &SHORT);
    }),
    ("broadcast_buffer_to", |it| {
        it.handle.broadcast_buffer_to(ROOM, None, &it.buffer);
    }),
    ("send_buffer", |it| {
        it.handle.send_buffer(it.id, it.buffer.clone());
    }),
    ("try_send_buffer", |it| {
        assert!(it.handle.try_send_buffer(it.id, it.buffer.clone()).is_ok());
    }),
    ("try_broadcast_buffer", |it| {
        assert!(it.handle.try_broadcast_buffer(&it.buffer).is_ok());
    }),
    ("try_broadcast_buffer_to", |it| {
        let answer = it.handle.try_broadcast_buffer_to(ROOM, None, &it.buffer);
        assert!(answer.is_ok());
    }),
    ("is_congested", |it| assert!(!it.handle.is_congested())),
    ("join", |it| {
        it.handle.join(it.id, ROOM);
        // It has drawn no packet.
        it.handle.broadcast_to(ROOM, &NOTE, TAIL);
    }),
    ("leave", |it| it.handle.leave(it.id, ROOM)),
    ("close", |it| it.handle.close(it.id)),
    ("encode", |it| {
        assert_eq!(it.handle.encode(&NOTE, TAIL).unwrap().len(), 1_008);
    }),
    ("encode_packet", |it| {
        assert_eq!(it.handle.encode_packet(&SHORT).unwrap().len(), 8);
    }),
    ("connect", |it| {
        let error = it.handle.connect(it.elsewhere, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected, "{error}");
    }),
    ("connect_from", |it| {
        let error = it.handle.connect_from(None, it.elsewhere, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotConnected, "{error}");
    }),
    ("snapshot", |it| {
        let poll = |_| it.handle.snapshot().unwrap().poll();
        assert_eq!([0, 1].map(poll), [const { Err(WorkerGone) }; 2]);
    }),
    ("metrics", |it| {
        let totals = it.handle.metrics().totals();
        assert_eq!((totals.sessions, totals.accepted), (0, 1));
    }),
    ("pool_stats", |it| assert!(it.handle.pool_stats().live > 0)),
    ("is_shutting_down", |it| {
        assert!(it.handle.is_shutting_down())
    }),
    ("shutdown", |it| {
        it.handle.shutdown(Duration::from_secs(100))
    }),
];

/// Each one of them, often enough to fill a mailbox.
#[test]
fn every_method_of_a_handle_has_its_answer_after_the_end() {
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let (tell, told) = channel();
    let ids = Mutex::new(tell);
    let mut config = Config::default();
    config.workers = 2;
    config.mailbox_bytes = 1;
    let server = (Server::builder().config(config))
        .start("127.0.0.1:0", move |peer: Peer| {
            ids.lock().unwrap().send(peer.id).unwrap();
            Silent
        })
        .unwrap();
    let _client = TcpStream::connect(server.local_addr()).unwrap();
    let handle = server.handle();
    let ended = Ended {
        id: told.recv_timeout(PATIENCE).unwrap(),
        buffer: handle.encode(&NOTE, TAIL).unwrap(),
        elsewhere: there.local_addr().unwrap(),
        handle: handle.clone(),
    };
    handle.shutdown(Duration::ZERO);
    server.join().unwrap();
    let before = handle.metrics().totals();
    let (tell, told) = channel();
    let calls = thread::spawn(move || {
        for (method, call) in METHODS {
            (0..100).for_each(|_| call(&ended));
            tell.send(method).unwrap();
        }
    });
    for (method, _) in METHODS {
        let done = told.recv_timeout(PATIENCE);
        assert_eq!(done, Ok(method), "`{method}` waits, or has another answer");
    }
    calls.join().unwrap();
    let after = handle.metrics().totals();
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    there.set_nonblocking(true).unwrap();
    assert_eq!(there.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// A method that is new has to say what it does after the end, and to be called above.
#[test]
fn the_table_has_every_method_of_a_handle() {
    let (_, code) = HANDLE.split_once("impl ServerHandle {").unwrap();
    let methods: BTreeSet<&str> = (code.lines())
        .filter_map(|line| line.strip_prefix("    pub fn "))
        .map(|rest| rest.split(['<', '(']).next().unwrap())
        .collect();
    let rows = (HANDLE.lines()).filter(|line| line.starts_with("/// | [`"));
    let documented: BTreeSet<&str> = rows
        .flat_map(|row| row.split("](Self::").skip(1))
        .map(|rest| rest.split(')').next().unwrap())
        .collect();
    let tested: BTreeSet<&str> = METHODS.iter().map(|(method, _)| *method).collect();
    assert_eq!(documented, methods, "the documentation on the left");
    assert_eq!(tested, methods, "what is tested on the left");
}

// ---- connections that are begun at the end --------------------------------------------------------

struct Told(Sender<DisconnectReason>);

impl Session for Told {
    fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
        Ok(())
    }

    fn on_disconnected(&mut self, _: &mut Context<'_>, reason: DisconnectReason) {
        self.0.send(reason).unwrap();
    }
}

#[test]
fn a_connection_that_is_begun_as_the_server_ends_is_refused_or_told_of_the_end() {
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = there.local_addr().unwrap();
    for round in 0..100 {
        let (tell, told) = channel();
        let sessions = Mutex::new(tell);
        let server = (Server::builder().workers(2))
            .start_client(move |_| Told(sessions.lock().unwrap().clone()))
            .unwrap();
        let (handle, (begin, begun)) = (server.handle(), channel());
        let connecting = thread::spawn(move || {
            (1..10_000)
                .take_while(|number| match handle.connect(addr, *number) {
                    Ok(()) => {
                        let _ = begin.send(());
                        true
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::NotConnected, "{error}");
                        false
                    }
                })
                .count()
        });
        (0..round % 4).for_each(|_| begun.recv_timeout(PATIENCE).unwrap());
        server.handle().shutdown(Duration::ZERO);
        server.join().unwrap();
        let connections = connecting.join().unwrap();
        assert!(connections < 9_999, "an ended server goes on connecting");
        assert_eq!(told.iter().count(), connections, "round {round}");
    }
}

/// The server's own flag is seen by most callers; here a worker ends without it.
#[test]
fn a_connection_for_a_worker_that_has_ended_gives_its_place_back() {
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let admission = Arc::new(Admission::new(1, None, None));
    let router = Arc::new(Router::new([Mailbox::new(1 << 20, || {})]));
    let connector = Connector::new(Arc::clone(&admission), Arc::clone(&router));
    let addr = there.local_addr().unwrap();
    connector.connect_from(None, addr, 1).unwrap();
    assert_eq!(admission.total(), 1);
    router.mailbox(0).close();
    assert_eq!(admission.total(), 0);
    let error = connector.connect_from(None, addr, 2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    assert_eq!(admission.total(), 0);
}

// ---- the end from inside --------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Shutdown,
    Join,
    JoinWithoutShutdown,
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Factory,
    OnConnected,
    OnPacket,
    OnTimer,
    OnDisconnected,
    CloseMessage,
}

/// Ends its server in one of its own callbacks.
#[derive(Clone)]
struct Ender {
    way: Way,
    place: Place,
    server: Arc<Mutex<Option<Server>>>,
    outcomes: Sender<Option<ErrorKind>>,
    departures: Sender<DisconnectReason>,
    /// Gone with the last thread.
    _token: Arc<()>,
}

impl Ender {
    fn pass(&self, place: Place) {
        // The lock must be free again: what is dropped here may be the last session.
        let server = || self.server.lock().unwrap().take();
        let Some(server) = (place == self.place).then(server).flatten() else {
            return;
        };
        let handle = server.handle();
        let outcome = match self.way {
            Way::Shutdown => {
                handle.shutdown(Duration::from_secs(1));
                *self.server.lock().unwrap() = Some(server);
                None
            }
            Way::Join => {
                handle.shutdown(Duration::from_secs(1));
                server.join().err()
            }
            Way::JoinWithoutShutdown => server.join().err(),
            Way::Drop => {
                drop(server);
                None
            }
        };
        assert!(handle.is_shutting_down());
        let kind = outcome.map(|error| error.kind());
        self.outcomes.send(kind).unwrap();
    }
}

impl Session for Ender {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        self.pass(Place::OnConnected);
        if self.place == Place::OnTimer {
            ctx.set_timer(ctx.now());
        }
    }

    fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
        self.pass(Place::OnPacket);
        match self.place {
            Place::OnDisconnected | Place::CloseMessage => Err(Kick::UnknownId),
            _ => Ok(()),
        }
    }

    fn on_timer(&mut self, _: &mut Context<'_>) {
        self.pass(Place::OnTimer);
    }

    fn on_disconnected(&mut self, _: &mut Context<'_>, reason: DisconnectReason) {
        self.pass(Place::OnDisconnected);
        self.departures.send(reason).unwrap();
    }
}

struct Scene {
    shared: Arc<Mutex<Option<Server>>>,
    token: Arc<()>,
    addr: SocketAddr,
    outcomes: Receiver<Option<ErrorKind>>,
    departures: Receiver<DisconnectReason>,
}

fn scene(way: Way, place: Place) -> Scene {
    assert_eq!(server_panics(), 0);
    let (shared, token) = (Arc::new(Mutex::new(None)), Arc::new(()));
    let ((outcome, outcomes), (departure, departures)) = (channel(), channel());
    let ender = Ender {
        way,
        place,
        server: Arc::clone(&shared),
        outcomes: outcome,
        departures: departure,
        _token: Arc::clone(&token),
    };
    let (for_farewell, for_factory) = (Mutex::new(ender.clone()), Mutex::new(ender));
    // Held until the server is where the callbacks look for it.
    let mut place_for_server = shared.lock().unwrap();
    let server = (Server::builder().workers(2))
        .close_message(move |_| {
            for_farewell.lock().unwrap().pass(Place::CloseMessage);
            Some((NOTE, ""))
        })
        .start("127.0.0.1:0", move |_| {
            let ender = for_factory.lock().unwrap().clone();
            ender.pass(Place::Factory);
            ender
        })
        .unwrap();
    let addr = server.local_addr();
    *place_for_server = Some(server);
    drop(place_for_server);
    Scene {
        shared,
        token,
        addr,
        outcomes,
        departures,
    }
}

/// Panics of the servers' own threads, from now on: a callback's is caught, and a detached thread's
/// is seen by no join.
fn server_panics() -> usize {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let this = thread::current();
            let name = this.name().unwrap_or_default();
            let is_server = name.starts_with("worker-") || name == "listener";
            PANICS.fetch_add(is_server.into(), Ordering::SeqCst);
            hook(info);
        }));
    });
    PANICS.load(Ordering::SeqCst)
}

/// Reads what is left, and whether the end came as an end.
fn read_to_end(stream: &mut TcpStream) -> std::io::Result<usize> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_to_end(&mut Vec::new())
}

#[test]
fn a_callback_can_end_its_own_server_and_cannot_wait_for_it() {
    let ways = [
        Way::Shutdown,
        Way::Join,
        Way::JoinWithoutShutdown,
        Way::Drop,
    ];
    let places = [
        Place::Factory,
        Place::OnConnected,
        Place::OnPacket,
        Place::OnTimer,
        Place::OnDisconnected,
        Place::CloseMessage,
    ];
    for (way, place) in ways
        .into_iter()
        .flat_map(|way| places.map(|place| (way, place)))
    {
        let scene = scene(way, place);
        let mut actor = TcpStream::connect(scene.addr).unwrap();
        actor.write_all(&[4, 0, 1, 0]).unwrap();
        let outcome = scene.outcomes.recv_timeout(PATIENCE);
        let expected = match way {
            Way::Join | Way::JoinWithoutShutdown => Some(ErrorKind::Deadlock),
            Way::Shutdown | Way::Drop => None,
        };
        assert_eq!(outcome, Ok(expected), "{way:?} in {place:?}");
        read_to_end(&mut actor).unwrap();
        drop(actor);
        let reason = scene.departures.recv_timeout(PATIENCE).unwrap();
        let expected = match place {
            Place::OnDisconnected | Place::CloseMessage => {
                DisconnectReason::Kicked(Kick::UnknownId)
            }
            _ => DisconnectReason::Shutdown,
        };
        assert_eq!(reason, expected, "{way:?} in {place:?}: no callback panics");
        let left = scene.shared.lock().unwrap().take();
        assert_eq!(left.is_some(), way == Way::Shutdown);
        if let Some(server) = left {
            server.join().unwrap();
        }
        wait_for("every thread has ended", || {
            Arc::strong_count(&scene.token) == 1
        });
        let refused = TcpStream::connect(scene.addr).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(server_panics(), 0);
    }
}

/// The others of that server see an end, too.
#[test]
fn a_server_that_a_callback_drops_ends_for_all_its_sessions() {
    let scene = scene(Way::Drop, Place::OnPacket);
    let connect = |_| TcpStream::connect(scene.addr).unwrap();
    let mut clients = [0; 6].map(connect);
    clients[0].write_all(&[4, 0, 1, 0]).unwrap();
    for client in &mut clients {
        // What was accepted gets its last packet; what was not is reset with the port.
        let said = read_to_end(client);
        assert!(
            said.is_ok() || said.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
        );
    }
    wait_for("every thread has ended", || {
        Arc::strong_count(&scene.token) == 1
    });
    assert_eq!(server_panics(), 0);
}

/// The last owner of a server may be its own factory.
#[test]
fn a_server_that_its_factory_owns_ends() {
    let scene = scene(Way::Shutdown, Place::OnPacket);
    let Scene {
        shared,
        token,
        addr,
        ..
    } = scene;
    let handle = (shared.lock().unwrap().as_ref())
        .map(Server::handle)
        .unwrap();
    drop(shared);
    handle.shutdown(Duration::ZERO);
    drop(handle);
    wait_for("every thread has ended", || Arc::strong_count(&token) == 1);
    assert!(TcpStream::connect(addr).is_err());
    assert_eq!(server_panics(), 0);
}
