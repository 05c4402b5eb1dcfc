//! What each method of a handle does when its server has ended.

use server_core::snapshot::WorkerGone;
use server_core::testing::DEADLINE;
use server_core::wire::U32Le;
use server_core::{
    Config, Context, GroupId, Kick, Message, Packet, Peer, SendBuffer, Server, ServerHandle,
    Session, SessionId, TraceTarget,
};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

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

const HANDLE: &str = include_str!("../src/server/handle.rs");

struct Silent;

impl Session for Silent {
    fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
        Ok(())
    }
}

struct Note;
impl Message for Note {}

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
const METHODS: [(&str, Call); 40] = [
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
    ("send_built", |it| {
        it.handle.send_built(it.id, &NOTE, |tail| tail.extend(TAIL));
    }),
    ("broadcast_built", |it| {
        it.handle.broadcast_built(&NOTE, |tail| tail.extend(TAIL));
    }),
    ("broadcast_built_to", |it| {
        (it.handle).broadcast_built_to(ROOM, &NOTE, |tail| tail.extend(TAIL));
    }),
    ("broadcast_built_to_others", |it| {
        (it.handle).broadcast_built_to_others(ROOM, it.id, &NOTE, |tail| tail.extend(TAIL));
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
    ("admit", |it| it.handle.admit(it.id)),
    ("login", |it| it.handle.login(it.id, "bob")),
    ("post_to_account", |it| {
        assert!(
            it.handle
                .post_to_account("bob", Note)
                .is_ok_and(|is_here| !is_here)
        );
    }),
    ("resume_reading", |it| it.handle.resume_reading(it.id)),
    ("post", |it| assert!(it.handle.post(it.id, Note).is_ok())),
    ("is_congested", |it| assert!(!it.handle.is_congested())),
    ("join", |it| {
        it.handle.join(it.id, ROOM);
        // It has drawn no packet.
        it.handle.broadcast_to(ROOM, &NOTE, TAIL);
    }),
    ("leave", |it| it.handle.leave(it.id, ROOM)),
    ("close", |it| it.handle.close(it.id)),
    ("close_with", |it| {
        it.handle.close_with(it.id, Kick::RateLimit, "too late");
    }),
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
    ("trace", |it| {
        let target = TraceTarget::Session(it.id);
        let trace = it.handle.trace(target, Duration::from_secs(60)).unwrap();
        assert!(trace.events().is_empty());
    }),
    ("metrics", |it| {
        let totals = it.handle.metrics().totals();
        assert_eq!((totals.sessions, totals.accepted), (0, 1));
    }),
    ("pool_stats", |it| assert!(it.handle.pool_stats().live > 0)),
    ("has_ended", |it| assert!(it.handle.has_ended())),
    ("is_shutting_down", |it| {
        assert!(it.handle.is_shutting_down())
    }),
    ("shutdown", |it| {
        it.handle.shutdown(Duration::from_secs(100))
    }),
];

/// Calls each method often enough to fill a mailbox.
#[test]
fn handle_of_an_ended_server_answers_every_method_without_waiting() {
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
        id: told.recv_timeout(DEADLINE).unwrap(),
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
        let done = told.recv_timeout(DEADLINE);
        assert_eq!(done, Ok(method), "`{method}` waits, or has another answer");
    }
    calls.join().unwrap();
    let after = handle.metrics().totals();
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    there.set_nonblocking(true).unwrap();
    assert_eq!(there.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// A new method needs a row that says what it does after the end, and a call in `METHODS`.
#[test]
fn table_after_the_end_lists_every_method_of_a_handle() {
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
