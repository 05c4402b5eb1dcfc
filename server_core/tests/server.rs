//! The public API over real sockets. The peers are raw `std::net` clients: no type of this crate
//! takes part in what they read and write.
#![allow(clippy::unwrap_used)] // In a test, a panic is the report.

use bytemuck::{Pod, Zeroable};
use server_core::wire::{U16Le, U64Le};
use server_core::{
    Config, Context, DisconnectReason, Kick, Packet, PacketHead, Peer, Server, ServerBuilder,
};
use server_core::{ServerHandle, Session, SessionId};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here can take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Numbered {
    sender: U64Le,
    number: U64Le,
}
impl PacketHead for Numbered {
    const ID: u16 = 1;
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Echo;
impl PacketHead for Echo {
    const ID: u16 = 3;
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
struct Bye(U16Le);
impl PacketHead for Bye {
    const ID: u16 = 6;
}

const C_ECHO: u16 = 2;
const C_PANIC: u16 = 20;
const C_BURST: u16 = 21;
const C_BACK_CALL: u16 = 22;
const C_CLOSE: u16 = 23;
const BURST: u64 = 200;

/// What happened to a session, in order, and on which thread.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Connected(SessionId, Option<u64>, String),
    Packet(SessionId, String),
    Disconnected(SessionId, Option<u64>, DisconnectReason, String),
}

struct Recorder {
    peer: Peer,
    events: Sender<Event>,
    handle: Arc<OnceLock<ServerHandle>>,
}

fn this_thread() -> String {
    thread::current().name().unwrap_or_default().to_owned()
}

impl Session for Recorder {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        let _ = self
            .events
            .send(Event::Connected(ctx.id(), self.peer.tag, this_thread()));
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        let _ = self.events.send(Event::Packet(ctx.id(), this_thread()));
        match packet.id() {
            C_ECHO => ctx.send(&Echo, packet.payload()),
            // Silent for the hook: the panic is not the news here.
            C_PANIC => std::panic::resume_unwind(Box::new("a bug in the handler")),
            C_BURST => {
                for number in 0..BURST {
                    ctx.send(&numbered(0, number), b"");
                }
            }
            C_CLOSE => {
                ctx.send(&Echo, b"closing");
                ctx.close();
            }
            C_BACK_CALL => {
                // The whole handle, from inside a worker's callback.
                let handle = self.handle.get().unwrap();
                for number in 0..2_000 {
                    handle.broadcast(&numbered(1, number), [7; 1_000]);
                    handle.send_to(ctx.id(), &numbered(2, number), b"");
                }
                handle.close(SessionId::from_u64(u64::MAX));
                assert!(handle.metrics().totals().sessions >= 1);
            }
            _ => return Err(Kick::UnknownId),
        }
        Ok(())
    }

    fn on_disconnected(&mut self, ctx: &mut Context<'_>, reason: DisconnectReason) {
        let event = Event::Disconnected(ctx.id(), self.peer.tag, reason, this_thread());
        let _ = self.events.send(event);
    }
}

fn numbered(sender: u64, number: u64) -> Numbered {
    Numbered {
        sender: sender.into(),
        number: number.into(),
    }
}

/// A server of recorders, and what they tell.
struct Running {
    server: Server,
    events: Receiver<Event>,
}

fn builder() -> ServerBuilder {
    Server::builder()
        .workers(2)
        .close_message(|reason| Some((Bye(reason.code()?.into()), "")))
}

fn factory() -> (
    impl Fn(Peer) -> Recorder + Send + Sync,
    Receiver<Event>,
    Arc<OnceLock<ServerHandle>>,
) {
    let (sender, events) = channel();
    let handle = Arc::new(OnceLock::new());
    let for_sessions = Arc::clone(&handle);
    let sender = Mutex::new(sender);
    let factory = move |peer| Recorder {
        peer,
        events: sender.lock().unwrap().clone(),
        handle: Arc::clone(&for_sessions),
    };
    (factory, events, handle)
}

fn start(builder: ServerBuilder) -> Running {
    let (factory, events, handle) = factory();
    let server = builder.start("127.0.0.1:0", factory).unwrap();
    assert!(handle.set(server.handle()).is_ok());
    Running { server, events }
}

impl Running {
    fn next(&self) -> Event {
        self.events.recv_timeout(PATIENCE).unwrap()
    }

    fn connect(&self) -> (Client, SessionId) {
        let client = Client::new(TcpStream::connect(self.server.local_addr()).unwrap());
        loop {
            if let Event::Connected(id, ..) = self.next() {
                return (client, id);
            }
        }
    }

    fn next_departure(&self) -> (SessionId, DisconnectReason) {
        loop {
            if let Event::Disconnected(id, _, reason, _) = self.next() {
                return (id, reason);
            }
        }
    }

    fn wait_for(&self, what: &str, mut is_so: impl FnMut(&ServerHandle) -> bool) {
        let handle = self.server.handle();
        wait_for(what, || is_so(&handle));
    }
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "waited in vain for: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A raw client.
struct Client {
    stream: TcpStream,
}

impl Client {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    fn send(&mut self, id: u16, payload: &[u8]) {
        let mut bytes = ((payload.len() + 4) as u16).to_le_bytes().to_vec();
        bytes.extend(id.to_le_bytes());
        bytes.extend(payload);
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next packet, or `None` at the end of the stream.
    fn receive(&mut self) -> Option<(u16, Vec<u8>)> {
        let mut header = [0; 4];
        match self.stream.read_exact(&mut header) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
            other => other.unwrap(),
        }
        let size = u16::from_le_bytes([header[0], header[1]]);
        let id = u16::from_le_bytes([header[2], header[3]]);
        let mut payload = vec![0; usize::from(size).checked_sub(4).expect("a whole header")];
        self.stream.read_exact(&mut payload).unwrap();
        Some((id, payload))
    }

    fn receive_numbered(&mut self) -> (u64, u64, Vec<u8>) {
        let (id, payload) = self.receive().expect("one more packet");
        assert_eq!(id, 1);
        let number = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().unwrap());
        (number(0), number(8), payload[16..].to_vec())
    }

    fn echo(&mut self, payload: &[u8]) {
        self.send(C_ECHO, payload);
        assert_eq!(self.receive(), Some((3, payload.to_vec())));
    }
}

#[test]
fn lecture_21_a_session_is_connected_then_served_then_disconnected_on_one_worker() {
    let running = start(builder());
    assert_ne!(running.server.local_addr().port(), 0);
    let mut client = Client::new(TcpStream::connect(running.server.local_addr()).unwrap());
    client.echo(b"one");
    client.echo(b"");
    drop(client);
    let Event::Connected(id, None, worker) = running.next() else {
        panic!("connected comes first");
    };
    assert!(worker.starts_with("worker-"), "{worker}");
    assert_eq!(running.next(), Event::Packet(id, worker.clone()));
    assert_eq!(running.next(), Event::Packet(id, worker.clone()));
    let Event::Disconnected(left, None, reason, there) = running.next() else {
        panic!("disconnected comes last");
    };
    assert_eq!((left, there), (id, worker));
    assert_eq!(reason, DisconnectReason::PeerClosed);
    running.wait_for("nobody is here", |handle| {
        handle.metrics().totals().sessions == 0
    });
}

#[test]
fn lecture_22_a_handler_sees_whole_packets_only_however_they_arrive() {
    let running = start(builder());
    let (mut client, id) = running.connect();
    let bytes = [&[7, 0, 2, 0][..], b"abc", &[4, 0, 2, 0], &[5, 0, 2, 0, 9]].concat();
    for byte in bytes {
        client.stream.write_all(&[byte]).unwrap();
    }
    for payload in [&b"abc"[..], b"", &[9]] {
        assert_eq!(client.receive(), Some((3, payload.to_vec())));
        assert!(matches!(running.next(), Event::Packet(of, _) if of == id));
    }
    assert_eq!(
        running.server.handle().metrics().totals().packets_received,
        3
    );
}

#[test]
fn lecture_23_a_client_is_built_on_the_same_sessions() {
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let (factory, events, _) = factory();
    let client = builder().start_client(factory).unwrap();
    client
        .handle()
        .connect(there.local_addr().unwrap(), 77)
        .unwrap();
    let (stream, _) = there.accept().unwrap();
    let mut peer = Client::new(stream);
    let connected = events.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(connected, Event::Connected(_, Some(77), _)),
        "{connected:?}"
    );
    peer.echo(b"round");
    assert!(matches!(
        events.recv_timeout(PATIENCE).unwrap(),
        Event::Packet(..)
    ));
    drop(peer);
    let left = events.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(
            left,
            Event::Disconnected(_, Some(77), DisconnectReason::PeerClosed, _)
        ),
        "{left:?}"
    );
}

#[test]
fn a_refused_connection_is_told_of_once_and_was_never_connected() {
    let nobody: SocketAddr = {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        taken.local_addr().unwrap()
    };
    let (factory, events, _) = factory();
    let client = builder().start_client(factory).unwrap();
    client.handle().connect(nobody, 5).unwrap();
    let refused = DisconnectReason::ConnectFailed(ErrorKind::ConnectionRefused);
    let told = events.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(told, Event::Disconnected(_, Some(5), reason, _) if reason == refused),
        "{told:?}"
    );
    client.handle().shutdown(Duration::ZERO);
    client.join().unwrap();
    assert!(events.recv().is_err(), "and nothing else");
}

/// All of 127.0.0.0/8 is this machine on Linux; elsewhere 127.0.0.1 alone may be.
#[cfg(target_os = "linux")]
#[test]
fn a_connection_comes_from_the_address_that_was_asked_for() {
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = there.local_addr().unwrap();
    let (factory, events, _) = factory();
    let client = builder().start_client(factory).unwrap();
    for (tag, source) in [(1, "127.0.0.2"), (2, "127.0.0.3"), (3, "127.0.0.1")] {
        let source: IpAddr = source.parse().unwrap();
        (client.handle().connect_from(Some(source), addr, tag)).unwrap();
        let (stream, peer) = there.accept().unwrap();
        assert_eq!(peer.ip(), source);
        let connected = events.recv_timeout(PATIENCE).unwrap();
        assert!(
            matches!(connected, Event::Connected(_, told, _) if told == Some(tag)),
            "{connected:?}"
        );
        drop(stream);
        let left = events.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(left, Event::Disconnected(..)), "{left:?}");
    }
}

#[test]
fn a_source_that_cannot_be_is_an_error_at_once() {
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = there.local_addr().unwrap();
    let (factory, events, _) = factory();
    let client = builder().start_client(factory).unwrap();
    // One is set aside for documentation, so nobody has it; the other is of another family.
    for source in ["192.0.2.1", "::1"] {
        let source: IpAddr = source.parse().unwrap();
        assert!(client.handle().connect_from(Some(source), addr, 1).is_err());
    }
    client.handle().shutdown(Duration::ZERO);
    client.join().unwrap();
    assert!(events.recv().is_err(), "no session came of it");
}

/// On an address that no other test uses, so that none can take the port in between.
#[cfg(target_os = "linux")]
#[test]
fn an_address_is_tried_without_being_taken() {
    let taken = TcpListener::bind("127.0.0.77:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let refused = Server::try_bind(addr).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AddrInUse);
    drop(taken);
    Server::try_bind(addr).unwrap();
    TcpListener::bind(addr).expect("the try has left it free");
}

#[test]
fn lecture_04_threads_that_send_to_one_session_never_tear_a_packet() {
    many_senders(|handle, id, head, tail| handle.send_to(id, &head, tail));
}

#[test]
fn lecture_06_many_threads_broadcast_at_once_and_each_one_keeps_its_order() {
    many_senders(|handle, _, head, tail| handle.broadcast(&head, tail));
}

/// Several threads send numbered packets of many sizes at the same time.
fn many_senders(send: fn(&ServerHandle, SessionId, Numbered, Vec<u8>)) {
    const SENDERS: u64 = 4;
    const EACH: u64 = 400;
    let running = start(builder());
    let (mut client, id) = running.connect();
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let handle = running.server.handle();
            thread::spawn(move || {
                for number in 0..EACH {
                    let tail = vec![sender as u8; (number * 37 % 700) as usize];
                    send(&handle, id, numbered(sender, number), tail);
                }
            })
        })
        .collect();
    let mut next: HashMap<u64, u64> = HashMap::new();
    for _ in 0..SENDERS * EACH {
        let (sender, number, tail) = client.receive_numbered();
        let expected = next.entry(sender).or_default();
        assert_eq!(number, *expected, "the order of sender {sender}");
        *expected += 1;
        assert_eq!(tail, vec![sender as u8; (number * 37 % 700) as usize]);
    }
    for sender in senders {
        sender.join().unwrap();
    }
}

#[test]
fn lecture_07_a_session_that_does_not_read_holds_up_no_sender_and_no_reader() {
    // Both on one worker: the one that is stuck lies in the way, if anything does.
    let running = start(builder().workers(1).max_send_queue_bytes(64 << 20));
    let (stuck, stuck_id) = running.connect();
    let (mut reader, reader_id) = running.connect();
    let handle = running.server.handle();
    // More than any socket buffer takes.
    for number in 0..400 {
        handle.send_to(stuck_id, &numbered(0, number), vec![0; 40_000]);
    }
    running.wait_for("its socket is full", |handle| {
        handle.metrics().totals().send_queue_bytes > 1 << 20
    });
    for number in 0..1_000 {
        handle.send_to(reader_id, &numbered(1, number), b"");
        if number % 50 == 49 {
            for expected in number - 49..=number {
                assert_eq!(reader.receive_numbered().1, expected);
            }
        }
    }
    assert_eq!(handle.metrics().totals().sessions, 2);
    drop(stuck);
}

/// A reader that keeps up must not be taken for a slow one, however much a turn brings: the limits
/// are judged by what the socket did not take. (A burst above `max_send_queue_bytes` itself, 1 MiB by
/// default, is over the limit whoever reads.)
#[test]
fn a_burst_kicks_no_reader_that_keeps_up() {
    for (packets, bytes) in [(5_000_u64, 100), (30, 30_000)] {
        let running = start(builder());
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let (mut client, _) = running.connect();
                thread::spawn(move || {
                    for number in 0..packets {
                        let (_, got, tail) = client.receive_numbered();
                        assert_eq!((got, tail.len()), (number, bytes));
                    }
                    client
                })
            })
            .collect();
        for number in 0..packets {
            running
                .server
                .broadcast(&numbered(0, number), vec![7; bytes]);
        }
        let clients: Vec<Client> = readers.into_iter().map(|one| one.join().unwrap()).collect();
        assert_eq!(clients.len(), 8);
    }
}

#[test]
fn lecture_08_a_send_after_the_close_is_counted_and_harmless() {
    let running = start(builder());
    let (mut gone, id) = running.connect();
    let (mut other, _) = running.connect();
    let handle = running.server.handle();
    handle.close(id);
    assert_eq!(running.next_departure(), (id, DisconnectReason::Closed));
    assert_eq!(gone.receive(), None);
    for number in 0..100 {
        handle.send_to(id, &numbered(0, number), b"too late");
    }
    handle.close(id);
    running.wait_for("all of them are counted", |handle| {
        handle.metrics().totals().undeliverable == 100
    });
    assert_eq!(handle.metrics().totals().send_queue_bytes, 0);
    other.echo(b"still here");
}

#[test]
fn lecture_08_close_flushes_what_was_sent_before() {
    let running = start(builder());
    let (mut client, id) = running.connect();
    let handle = running.server.handle();
    for number in 0..300 {
        handle.send_to(id, &numbered(0, number), [1; 1_000]);
    }
    handle.close(id);
    for number in 0..300 {
        assert_eq!(client.receive_numbered().1, number);
    }
    assert_eq!(client.receive(), None);
}

#[test]
fn nothing_is_handled_behind_the_packet_that_closes_the_session() {
    let running = start(builder());
    let (mut client, id) = running.connect();
    // In one write, so that all of it lies in the server's buffer at once.
    let close_then_echo = [4, 0, C_CLOSE as u8, 0, 4, 0, C_ECHO as u8, 0];
    client.stream.write_all(&close_then_echo).unwrap();
    assert_eq!(client.receive(), Some((3, b"closing".to_vec())));
    assert_eq!(client.receive(), None);
    assert!(matches!(running.next(), Event::Packet(of, _) if of == id));
    assert!(
        matches!(running.next(), Event::Disconnected(of, _, DisconnectReason::Closed, _) if of == id)
    );
}

#[test]
fn lecture_09_sends_go_on_while_a_long_write_is_under_way() {
    let running = start(builder().workers(1).max_send_queue_bytes(64 << 20));
    let (mut client, id) = running.connect();
    let handle = running.server.handle();
    // The first part fills the socket; the second is pushed while that one is being written.
    let (first, second) = (200_u64, 2_000_u64);
    for number in 0..first {
        handle.send_to(id, &numbered(0, number), vec![5; 60_000]);
    }
    running.wait_for("a write is under way", |handle| {
        let totals = handle.metrics().totals();
        totals.bytes_sent > 0 && totals.send_queue_bytes > 0
    });
    for number in first..first + second {
        handle.send_to(id, &numbered(0, number), b"");
    }
    for number in 0..first + second {
        assert_eq!(client.receive_numbered().1, number);
    }
}

#[test]
fn lecture_10_a_burst_of_one_turn_leaves_in_a_few_calls() {
    let running = start(builder().workers(1));
    let (mut client, _) = running.connect();
    client.send(C_BURST, b"");
    for number in 0..BURST {
        assert_eq!(client.receive_numbered().1, number);
    }
    running.wait_for("the counters are up to date", |handle| {
        handle.metrics().totals().packets_sent == BURST
    });
    // 24 bytes each: all lie side by side in one chunk, or in two.
    let calls = running.server.handle().metrics().totals().write_calls;
    assert_eq!(calls, 1, "{BURST} packets in {calls} calls");
}

#[test]
fn lecture_27_bytes_behind_a_whole_packet_wait_for_the_rest_of_theirs() {
    let running = start(builder());
    let (mut client, _) = running.connect();
    client
        .stream
        .write_all(&[6, 0, 2, 0, b'a', b'b', 6, 0])
        .unwrap();
    assert_eq!(client.receive(), Some((3, b"ab".to_vec())));
    client.stream.write_all(&[2, 0, b'c']).unwrap();
    client.stream.write_all(b"d").unwrap();
    assert_eq!(client.receive(), Some((3, b"cd".to_vec())));
}

#[test]
fn lecture_34_one_broadcast_reaches_everybody_and_is_encoded_once() {
    const CLIENTS: usize = 50;
    let running = start(builder());
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| running.connect().0).collect();
    let handle = running.server.handle();
    let chunks_before = handle.pool_stats().pops;
    for number in 0..20 {
        handle.broadcast(&numbered(0, number), [8; 1_000]);
    }
    for client in &mut clients {
        for expected in 0..20 {
            assert_eq!(client.receive_numbered(), (0, expected, vec![8; 1_000]));
        }
    }
    // 20 packets of one kilobyte are less than one chunk; a copy per session would be sixteen.
    assert_eq!(handle.pool_stats().pops, chunks_before + 1);
}

#[test]
fn lecture_53_a_peer_that_breaks_amid_a_broadcast_leaves_later_and_alone() {
    let running = start(builder().workers(1));
    let mut clients: Vec<_> = (0..10).map(|_| running.connect()).collect();
    let handle = running.server.handle();
    let (broken, broken_id) = clients.remove(0);
    socket2::SockRef::from(&broken.stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(broken);
    let mut number = 0;
    let (left, reason) = loop {
        handle.broadcast(&numbered(0, number), b"");
        number += 1;
        if let Ok(Event::Disconnected(id, _, reason, _)) = running.events.try_recv() {
            break (id, reason);
        }
        assert!(number < 10_000_000);
    };
    assert_eq!((left, reason), (broken_id, DisconnectReason::PeerReset));
    for (client, _) in &mut clients {
        for expected in 0..number {
            assert_eq!(client.receive_numbered().1, expected);
        }
    }
    assert_eq!(handle.metrics().totals().sessions, 9);
}

#[test]
fn a_handler_that_panics_costs_its_own_session_only() {
    let running = start(builder().workers(1));
    let (mut bad, bad_id) = running.connect();
    let (mut good, _) = running.connect();
    good.echo(b"before");
    bad.echo(b"answered before the panic");
    bad.send(C_PANIC, b"");
    assert_eq!(
        running.next_departure(),
        (bad_id, DisconnectReason::HandlerPanicked)
    );
    assert_eq!(bad.receive(), None);
    good.echo(b"after");
    let (mut next, _) = running.connect();
    next.echo(b"and the door is open");
    running.server.handle().shutdown(Duration::from_secs(1));
    drop((bad, good, next));
    running.server.join().unwrap();
}

/// A session that fails at the very last moment.
struct Fragile;

impl Session for Fragile {
    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        ctx.send(&Echo, packet.payload());
        Ok(())
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        // Silent for the hook: the panic is not the news here.
        std::panic::resume_unwind(Box::new("a bug in the destructor"));
    }
}

#[test]
fn a_session_whose_destructor_panics_costs_no_other_one() {
    let server = builder().workers(1).start("127.0.0.1:0", |_| Fragile);
    let server = server.unwrap();
    let connect = || Client::new(TcpStream::connect(server.local_addr()).unwrap());
    let (mut leaving, mut staying) = (connect(), connect());
    leaving.echo(b"one");
    staying.echo(b"two");
    drop(leaving);
    wait_for("one to have left", || {
        server.handle().metrics().totals().sessions == 1
    });
    staying.echo(b"and still there");
    server.handle().shutdown(Duration::from_secs(1));
    drop(staying);
    server.join().unwrap();
}

#[test]
fn lecture_06_a_callback_that_uses_the_handle_does_not_lock_up() {
    let running = start(builder().max_send_queue_bytes(64 << 20));
    let (mut client, _) = running.connect();
    let (mut other, _) = running.connect();
    client.send(C_BACK_CALL, b"");
    let (mut broadcasts, mut own) = (0, 0);
    while broadcasts + own < 4_000 {
        let (sender, number, _) = client.receive_numbered();
        let next = if sender == 1 {
            &mut broadcasts
        } else {
            &mut own
        };
        assert_eq!(number, *next);
        *next += 1;
    }
    for expected in 0..2_000 {
        let (sender, number, _) = other.receive_numbered();
        assert_eq!((sender, number), (1, expected));
    }
}

#[test]
fn a_shutdown_says_goodbye_flushes_and_joins() {
    let running = start(builder());
    let (mut client, id) = running.connect();
    let handle = running.server.handle();
    let addr = running.server.local_addr();
    assert!(!handle.is_shutting_down());
    for number in 0..100 {
        handle.send_to(id, &numbered(0, number), [3; 500]);
    }
    handle.shutdown(Duration::from_secs(5));
    assert!(handle.is_shutting_down());
    let reader = thread::spawn(move || {
        for number in 0..100 {
            assert_eq!(client.receive_numbered().1, number);
        }
        assert_eq!(client.receive(), Some((6, vec![10, 0])));
        assert_eq!(client.receive(), None);
    });
    assert_eq!(running.next_departure(), (id, DisconnectReason::Shutdown));
    running.server.join().unwrap();
    reader.join().unwrap();
    assert!(TcpStream::connect(addr).is_err(), "nobody listens any more");
    // A handle that outlives its server is harmless.
    handle.broadcast(&numbered(0, 0), b"");
    handle.send_to(id, &numbered(0, 0), b"");
    handle.close(id);
    handle.shutdown(Duration::ZERO);
    assert_eq!(handle.metrics().totals().sessions, 0);
}

#[test]
fn no_time_is_too_long_for_a_server() {
    let endless = Some(Duration::MAX);
    let mut config = Config::default();
    config.workers = 1;
    config.max_sessions = Some(1);
    config.max_send_lag = endless;
    config.packet_timeout = endless;
    config.idle_timeout = endless;
    config.unacknowledged_timeout = endless;
    config.connect_timeout = endless;
    config.flush_timeout = Duration::MAX;
    config.linger = Duration::MAX;
    config.read_pause = Duration::MAX;
    let running = start(builder().config(config));
    let (mut first, id) = running.connect();
    let mut rejected = Client::new(TcpStream::connect(running.server.local_addr()).unwrap());
    assert_eq!(rejected.receive(), Some((6, vec![9, 0])));
    first.echo(b"all is well");
    first.stream.write_all(&[8]).unwrap(); // A packet that is begun has a deadline, too.
    running.server.handle().close(id);
    assert_eq!(first.receive(), None);
    running.server.handle().shutdown(Duration::MAX);
    drop((first, rejected));
    running.server.join().unwrap();
}

#[test]
fn a_dropped_server_has_ended_all_its_threads() {
    let running = start(builder());
    let (mut client, _) = running.connect();
    client.echo(b"here");
    let Running { server, events } = running;
    // Each thread of the server holds a sender, in its factory: when all are gone, so are they.
    let began = Instant::now();
    drop(client);
    drop(server);
    while events.recv_timeout(PATIENCE).is_ok() {}
    assert!(matches!(
        events.try_recv(),
        Err(std::sync::mpsc::TryRecvError::Disconnected)
    ));
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn an_address_in_use_is_an_error_at_the_start() {
    let running = start(builder());
    let (factory, _events, _) = factory();
    let second = builder().start(running.server.local_addr(), factory);
    assert_eq!(second.unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[test]
fn a_full_server_tells_so_and_counts_it_apart() {
    let running = start(builder().max_sessions(Some(1)));
    let (mut first, _) = running.connect();
    let mut second = Client::new(TcpStream::connect(running.server.local_addr()).unwrap());
    assert_eq!(second.receive(), Some((6, vec![9, 0])));
    assert_eq!(second.receive(), None);
    first.echo(b"not my concern");
    let totals = running.server.handle().metrics().totals();
    assert_eq!((totals.accepted, totals.rejected), (1, 1));
    assert_eq!(totals.disconnects.iter().sum::<u64>(), 0);
}

#[test]
fn every_measured_broadcast_is_counted_once_however_many_workers_there_are() {
    const BROADCASTS: u64 = 50;
    let running = start(builder().workers(3));
    let mut clients: Vec<Client> = (0..5).map(|_| running.connect().0).collect();
    let handle = running.server.handle();
    let began = Instant::now();
    for number in 0..BROADCASTS {
        handle.broadcast_measured(began, &numbered(0, number), b"");
        handle.broadcast(&numbered(1, number), b"not measured");
    }
    for client in &mut clients {
        for _ in 0..2 * BROADCASTS {
            client.receive_numbered();
        }
    }
    running.wait_for("all are measured", |handle| {
        handle.metrics().broadcasts.count() >= BROADCASTS
    });
    let durations = &handle.metrics().broadcasts;
    assert_eq!(durations.count(), BROADCASTS);
    assert!(durations.take_max() <= began.elapsed());
    assert!(durations.sum() > Duration::ZERO);
}

#[test]
fn a_snapshot_shows_every_session_of_every_worker() {
    let running = start(builder());
    let mut clients: Vec<(Client, SessionId)> = (0..6).map(|_| running.connect()).collect();
    for (count, (client, _)) in clients.iter_mut().enumerate() {
        for _ in 0..count {
            client.echo(b"one more");
        }
    }
    // One that does not read: what its socket did not take is shown.
    let stuck = clients[5].1;
    let handle = running.server.handle();
    let (number, tail) = (numbered(0, 0), [7; 60_000]);
    for _ in 0..16 {
        handle.send_to(stuck, &number, tail);
    }
    running.wait_for("something waits for it", |handle| {
        handle.metrics().totals().send_queue_bytes > 0
    });
    let mut snapshot = handle.snapshot().expect("no other one is under way");
    let mut sessions = Vec::new();
    wait_for("every worker has answered", || {
        snapshot.poll().unwrap().is_some_and(|all| {
            sessions = all;
            true
        })
    });
    assert_eq!(sessions.len(), clients.len());
    for (count, (client, id)) in clients.iter().enumerate() {
        let session = sessions.iter().find(|one| one.id == *id).unwrap();
        assert_eq!(session.addr, client.stream.local_addr().unwrap());
        assert_eq!(session.packets_received, count as u64);
        assert!(session.packets_sent >= count as u64);
        assert!(session.opened_at <= Instant::now());
        assert_eq!(session.queued_bytes > 0, *id == stuck);
        assert_eq!(session.oldest_unsent_at.is_some(), *id == stuck);
    }
    running.wait_for("the next one may begin", |handle| {
        handle.snapshot().is_some()
    });
}

#[test]
fn bytes_that_are_thrown_away_behind_an_offence_have_come_all_the_same() {
    const BEHIND: usize = 300_000;
    let mut config = server_core::Config::default();
    // However slow this machine is, nothing is cut off.
    config.linger = PATIENCE;
    config.flush_timeout = PATIENCE;
    let running = start(builder().config(config));
    let (mut client, _) = running.connect();
    client.echo(b"before");
    client.send(999, b"of no known kind");
    let behind = thread::spawn({
        let mut stream = client.stream.try_clone().unwrap();
        move || {
            // More than one read takes, so that most of it comes while the session leaves.
            stream.write_all(&[0xa5; BEHIND]).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
    });
    let (id, payload) = client.receive().expect("the goodbye");
    assert_eq!((id, payload), (6, vec![3, 0]));
    assert_eq!(client.receive(), None, "then the end, in order");
    behind.join().unwrap();
    let sent = 10 + 20 + BEHIND as u64;
    running.wait_for("all that was sent has come", |handle| {
        handle.metrics().totals().bytes_received == sent
    });
    let totals = running.server.handle().metrics().totals();
    assert_eq!(
        totals.packets_received, 2,
        "the offence, and nothing behind"
    );
    assert_eq!((totals.packets_sent, totals.bytes_sent), (2, 10 + 6));
}

/// Admits itself at one packet, and says after each whether it is admitted.
struct Guarded {
    ends: Sender<DisconnectReason>,
}

const C_LOGIN: u16 = 24;

impl Session for Guarded {
    fn requires_login(&self) -> bool {
        true
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        if packet.id() == C_LOGIN {
            ctx.admit();
        }
        ctx.send(&Echo, [ctx.is_admitted().into()]);
        Ok(())
    }

    fn on_disconnected(&mut self, _: &mut Context<'_>, reason: DisconnectReason) {
        let _ = self.ends.send(reason);
    }
}

fn start_guarded(builder: ServerBuilder) -> (Server, Receiver<DisconnectReason>) {
    let (sender, ends) = channel();
    let sender = Mutex::new(sender);
    let factory = move |_| Guarded {
        ends: sender.lock().unwrap().clone(),
    };
    (builder.start("127.0.0.1:0", factory).unwrap(), ends)
}

#[test]
fn a_session_that_admits_itself_in_time_stays_and_the_others_are_told() {
    let timeout = Duration::from_millis(400);
    let (server, ends) = start_guarded(builder().login_timeout(Some(timeout)));
    let connect = || Client::new(TcpStream::connect(server.local_addr()).unwrap());
    let began = Instant::now();
    let (mut admitted, mut talker, mut silent) = (connect(), connect(), connect());
    for (id, is_admitted) in [(C_ECHO, 0), (C_LOGIN, 1), (C_ECHO, 1)] {
        admitted.send(id, b"");
        assert_eq!(admitted.receive(), Some((3, vec![is_admitted])));
    }
    talker.send(C_ECHO, b"no login");
    assert_eq!(talker.receive(), Some((3, vec![0])));
    for client in [&mut talker, &mut silent] {
        assert_eq!(client.receive(), Some((6, vec![12, 0])));
        assert_eq!(client.receive(), None);
    }
    assert!(began.elapsed() >= timeout);
    for _ in 0..2 {
        let end = ends.recv_timeout(PATIENCE).unwrap();
        assert_eq!(end, DisconnectReason::LoginTimeout);
    }
    admitted.send(C_ECHO, b"");
    assert_eq!(admitted.receive(), Some((3, vec![1])));
}

/// There is always more to read from it, and none of that is a login.
#[test]
fn a_flood_without_a_login_does_not_put_its_end_off() {
    let mut config = Config::default();
    config.read_budget_bytes = 64;
    config.login_timeout = Some(Duration::from_millis(300));
    let (server, ends) = start_guarded(builder().config(config));
    let stream = TcpStream::connect(server.local_addr()).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let mut writer = stream;
    let reads = thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    let packets = [4, 0, C_ECHO as u8, 0].repeat(1000);
    let writes = thread::spawn(move || while writer.write_all(&packets).is_ok() {});
    let end = ends.recv_timeout(PATIENCE).unwrap();
    assert_eq!(end, DisconnectReason::LoginTimeout);
    writes.join().unwrap();
    let _ = reads.join().unwrap();
}
