//! Tests of what a game learns about its queues: the bytes in a send queue, the moment when the queue has
//! drained, and that a mailbox is full.

use server_core::connection::admission::Admission;
use server_core::routing::router::{Command, NewConnection};
use server_core::shard::{Shard, Shared};
use server_core::testing::{
    DEADLINE, Edges, FakeClock, FakePeer, FakeStream, RawClient, packet, wait_until,
};
use server_core::{
    Config, ContentReceiver, ContentSender, Context, GroupId, Kick, MailboxFull, Packet,
    SendBuffer, Server, ServerHandle, Session, SessionId,
};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

server_core::packets! {
    /// Makes the session send a packet of 1,000 bytes to its peer.
    client 1 => CSend;
    /// Makes the session request `on_drained`.
    client 2 => CNotify { below: u32 };
    client 3 => CClose;
    /// Makes the session send a content of this size.
    client 4 => CContent { bytes: u32 };
    /// Makes the callback wait until the test opens the gate.
    client 5 => CBlock;
    server 6 => SFiller + bytes;
    server 7 => SPiece + bytes;
    server 8 => SNumbered { number: u32 } + bytes;
}

/// The size in bytes of an `SFiller` of the session.
const FILLER: usize = 1_000;

/// The queue that a callback saw.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    /// The queued bytes before a send, and after it.
    Sent(usize, usize),
    /// The queued bytes in `on_drained`.
    Drained(usize),
    Connected(SessionId),
    Blocked,
}

struct Probe {
    events: Sender<Event>,
    content: Option<ContentSender<SPiece>>,
    gate: Arc<Mutex<Receiver<()>>>,
}

impl Probe {
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }
}

impl Session for Probe {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        self.tell(Event::Connected(ctx.id()));
    }

    fn on_packet(&mut self, ctx: &mut Context<'_>, packet: Packet<'_>) -> Result<(), Kick> {
        match packet.id() {
            CSend::ID => {
                let before = ctx.queued_bytes();
                ctx.send(&SFiller, [7; FILLER - 4]);
                self.tell(Event::Sent(before, ctx.queued_bytes()));
            }
            CNotify::ID => {
                let below = packet.decode::<CNotify>()?.below.get();
                ctx.notify_drained(below as usize);
            }
            CClose::ID => ctx.close(),
            CContent::ID => {
                let bytes = packet.decode::<CContent>()?.bytes.get();
                let mut content = ContentSender::new(9, content(bytes as usize).into());
                content.pump(ctx);
                self.content = Some(content);
            }
            CBlock::ID => {
                self.tell(Event::Blocked);
                // The receive ends when the gate opens, or when the test has failed and dropped its end of
                // the channel.
                let _ = self.gate.lock().unwrap().recv();
            }
            _ => return Err(Kick::UnknownId),
        }
        Ok(())
    }

    fn on_drained(&mut self, ctx: &mut Context<'_>) {
        self.tell(Event::Drained(ctx.queued_bytes()));
        if let Some(content) = &mut self.content {
            content.pump(ctx);
        }
    }
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n * 7 + n / 251) as u8).collect()
}

fn notify(below: u32) -> Vec<u8> {
    packet(CNotify::ID, below.to_le_bytes())
}

// ---- one session over a fake connection ---------------------------------------------------------

/// A shard of one session. Its peer takes as many bytes as the test lets it take.
struct One {
    shard: Shard<FakeStream, Probe>,
    peer: FakePeer,
    id: SessionId,
    events: Receiver<Event>,
    clock: FakeClock,
}

impl One {
    fn new() -> Self {
        let (teller, events) = channel();
        let (_, gate) = channel();
        let (teller, gate) = (Mutex::new(teller), Arc::new(Mutex::new(gate)));
        let shared = Shared::for_tests(&Config::default(), 1, move |_| Probe {
            events: teller.lock().unwrap().clone(),
            content: None,
            gate: Arc::clone(&gate),
        });
        let mut shard = Shard::new(0, Arc::new(shared));
        let (stream, peer) = FakeStream::pair();
        peer.state().room = 0;
        let admission = Arc::new(Admission::new(1, None, None));
        let arrival = NewConnection {
            stream,
            permit: admission.admit(([127, 0, 0, 1], 1).into()).unwrap(),
            tag: None,
            is_connecting: false,
        };
        let clock = FakeClock::new();
        shard.handle_command(Command::Adopt(arrival), clock.now(), |_, _| Ok(()));
        let Ok(Event::Connected(id)) = events.try_recv() else {
            panic!("the first event is not `Connected`");
        };
        Self {
            shard,
            peer,
            id,
            events,
            clock,
        }
    }

    /// Lets the peer send `sends` and take up to `takes` bytes. The shard runs turns until it would sleep.
    fn step(&mut self, sends: &[Vec<u8>], takes: usize) -> Vec<Event> {
        self.begin_turn(sends, takes);
        let mut turns = 0;
        loop {
            self.shard.run(self.clock.now());
            turns += 1;
            assert!(turns < 1_000, "the shard does not come to rest");
            if !self.shard.has_work() {
                break;
            }
        }
        self.events.try_iter().collect()
    }

    fn begin_turn(&mut self, sends: &[Vec<u8>], takes: usize) {
        self.peer.send(&sends.concat());
        self.peer.state().room = takes;
        let Edges { readable, writable } = self.peer.take_edges();
        (self.shard).handle_readiness(self.id, readable, writable, self.clock.now());
    }

    fn queued_bytes(&mut self) -> usize {
        self.shard.queued_bytes(self.id).unwrap()
    }

    fn taken(&self) -> Vec<u8> {
        self.peer.state().output.clone()
    }
}

#[test]
fn queued_bytes_counts_unsent_bytes_and_new_sends() {
    let mut one = One::new();
    let send = packet(CSend::ID, b"");
    // One read has both requests: the shard has not queued the answer to the first request when it handles the
    // second request.
    let seen = one.step(&[send.clone(), send.clone()], 0);
    assert_eq!(seen, [Event::Sent(0, 1_000), Event::Sent(1_000, 2_000)]);
    assert_eq!(one.step(&[], 700), []);
    assert_eq!(one.queued_bytes(), 1_300);
    let seen = one.step(std::slice::from_ref(&send), 0);
    assert_eq!(seen, [Event::Sent(1_300, 2_300)]);
    one.step(&[], 1 << 20);
    let seen = one.step(&[send], 0);
    assert_eq!(seen, [Event::Sent(0, 1_000)], "the peer took all bytes");
}

#[test]
fn queue_that_falls_to_the_size_calls_on_drained_once() {
    let mut one = One::new();
    let send = packet(CSend::ID, b"");
    one.step(&[send.clone(), send], 0);
    assert_eq!(one.step(&[notify(1_000)], 0), []);
    assert_eq!(one.step(&[], 999), [], "1,001 bytes are left");
    assert_eq!(one.step(&[], 1), [Event::Drained(1_000)]);
    for takes in [1, 500, 1 << 20] {
        assert_eq!(one.step(&[], takes), [], "`on_drained` was called");
    }
    assert_eq!(one.step(&[notify(0)], 0), [Event::Drained(0)], "at once");
    assert_eq!(one.step(&[], 0), []);
}

#[test]
fn drain_request_counts_the_packets_sent_before_it() {
    let mut one = One::new();
    let send = packet(CSend::ID, b"");
    let seen = one.step(&[send.clone(), notify(500)], 400);
    assert_eq!(seen, [Event::Sent(0, 1_000)], "600 bytes are left");
    assert_eq!(one.step(&[], 100), [Event::Drained(500)]);
}

#[test]
fn later_drain_request_replaces_an_earlier_one() {
    let mut one = One::new();
    let send = packet(CSend::ID, b"");
    one.step(&[send.clone(), send], 0);
    assert_eq!(one.step(&[notify(1_900), notify(0)], 0), []);
    assert_eq!(one.step(&[], 500), [], "the second request asks for 0");
    assert_eq!(one.step(&[notify(1_500)], 0), [Event::Drained(1_500)]);
    assert_eq!(one.step(&[], 1 << 20), [], "there was one request");
}

#[test]
fn closed_session_gets_no_on_drained() {
    let mut one = One::new();
    let (send, close) = (packet(CSend::ID, b""), packet(CClose::ID, b""));
    one.step(&[send], 0);
    assert_eq!(one.step(&[notify(500), close], 0), []);
    assert_eq!(one.step(&[], 1 << 20), []);
    assert_eq!(one.taken().len(), FILLER, "the packet was flushed");
    assert_eq!(one.shard.sessions(), 0);
}

#[test]
fn content_keeps_one_window_queued_and_arrives_complete() {
    const BYTES: usize = 1_000_000;
    let window = ContentSender::<SPiece>::DEFAULT_WINDOW_BYTES;
    let mut one = One::new();
    let ask = packet(CContent::ID, (BYTES as u32).to_le_bytes());
    one.step(&[ask], 0);
    let mut steps = 0;
    while one.queued_bytes() > 0 {
        assert!(one.queued_bytes() <= window);
        for event in one.step(&[], 10_000) {
            assert!(matches!(event, Event::Drained(bytes) if bytes <= window / 2));
        }
        steps += 1;
    }
    assert!(
        (BYTES / 10_000..BYTES / 10_000 + 3).contains(&steps),
        "the peer had to wait: {steps}"
    );
    assert!(receive_content(&one.taken()) == content(BYTES));
}

#[test]
fn content_of_one_turn_stays_within_two_write_budgets() {
    const BYTES: usize = 2_000_000;
    let budget = Config::default().write_budget_bytes;
    let mut one = One::new();
    let ask = packet(CContent::ID, (BYTES as u32).to_le_bytes());
    one.begin_turn(&[ask], usize::MAX);
    let mut taken = 0;
    loop {
        one.shard.run(one.clock.now());
        let before = std::mem::replace(&mut taken, one.taken().len());
        assert!(taken - before <= 2 * budget, "{} bytes", taken - before);
        if !one.shard.has_work() {
            break;
        }
    }
    assert!(receive_content(&one.taken()) == content(BYTES));
}

fn receive_content(mut bytes: &[u8]) -> Vec<u8> {
    let mut receiver = ContentReceiver::new(bytes.len());
    while let [low, high, id, 0, ..] = *bytes {
        assert_eq!(u16::from(id), SPiece::ID);
        let (packet, behind) = bytes.split_at(u16::from_le_bytes([low, high]).into());
        bytes = behind;
        if let Some(content) = receiver.push(&packet[4..]).unwrap() {
            assert!(content.id == 9 && bytes.is_empty());
            return content.bytes;
        }
    }
    panic!(
        "the peer got {} bytes of the content",
        receiver.received_bytes()
    );
}

// ---- mailboxes, over real sockets ---------------------------------------------------------------

/// A server of two workers with one session each. The first worker waits in a callback.
struct Stuck {
    server: Server,
    handle: ServerHandle,
    clients: [RawClient; 2],
    ids: [SessionId; 2],
    gate: Sender<()>,
    _events: Receiver<Event>,
}

const MAILBOX_BYTES: usize = 10_000;
const ROOM: GroupId = GroupId::new(1, 7);

impl Stuck {
    fn new() -> Self {
        let mut config = Config::default();
        (config.workers, config.mailbox_bytes) = (2, MAILBOX_BYTES);
        let (teller, events) = channel();
        let (gate, wait) = channel();
        let (teller, wait) = (Mutex::new(teller), Arc::new(Mutex::new(wait)));
        let builder = Server::builder().config(config);
        let server = builder
            .start("127.0.0.1:0", move |_| Probe {
                events: teller.lock().unwrap().clone(),
                content: None,
                gate: Arc::clone(&wait),
            })
            .unwrap();
        let connect = || {
            let client = RawClient::connect(server.local_addr());
            let Ok(Event::Connected(id)) = events.recv_timeout(DEADLINE) else {
                panic!("the first event is not `Connected`");
            };
            (client, id)
        };
        let [(mut one, one_id), (other, other_id)] = [connect(), connect()];
        assert_ne!(one_id.worker(), other_id.worker());
        one.send_packet(CBlock::ID, b"");
        assert_eq!(events.recv_timeout(DEADLINE), Ok(Event::Blocked));
        Self {
            handle: server.handle(),
            server,
            clients: [one, other],
            ids: [one_id, other_id],
            gate,
            _events: events,
        }
    }

    fn numbered(&self, number: u32) -> SendBuffer {
        let head = SNumbered {
            number: number.into(),
        };
        self.handle.encode(&head, [7; 992]).unwrap()
    }

    /// Receives the next packet of a client, and returns its number.
    fn receive(&mut self, client: usize) -> u32 {
        let packet = self.clients[client].next_packet();
        assert_eq!((packet.id, packet.payload.len()), (8, 996));
        u32::from_le_bytes(packet.payload[..4].try_into().unwrap())
    }
}

#[test]
fn full_mailbox_refuses_a_packet_until_its_worker_continues() {
    let mut stuck = Stuck::new();
    let [one, other] = stuck.ids;
    let (gone, handle) = (SessionId::new(77, 0, 1 << 20), stuck.handle.clone());
    handle.join(other, ROOM);
    let mut accepted = 0;
    let refused = loop {
        let buffer = stuck.numbered(accepted);
        match handle.try_send_buffer(one, buffer) {
            Ok(()) => accepted += 1,
            Err(MailboxFull(buffer)) => break buffer,
        }
        assert!(accepted as usize * 1_000 <= MAILBOX_BYTES, "{accepted}");
    };
    assert!(accepted >= 8, "{accepted} packets of 1,000 bytes");
    assert_eq!(
        *refused,
        *stuck.numbered(accepted),
        "the refused packet is given back"
    );

    // A broadcast for which one worker has no room reaches no worker. The other worker still takes mail.
    let to_all = stuck.numbered(1_000);
    assert_eq!(handle.try_broadcast_buffer(&to_all), Err(MailboxFull(())));
    let to_room = stuck.numbered(1_001);
    assert_eq!(handle.try_broadcast_buffer_to(ROOM, None, &to_room), Ok(()));
    assert!(handle.try_send_buffer(other, stuck.numbered(1_002)).is_ok());
    assert_eq!([stuck.receive(1), stuck.receive(1)], [1_001, 1_002]);

    stuck.gate.send(()).unwrap();
    wait_until("room", || handle.try_broadcast_buffer(&to_all).is_ok());
    assert!(handle.try_send_buffer(gone, stuck.numbered(0)).is_ok());
    for number in 0..accepted {
        assert_eq!(stuck.receive(0), number, "the accepted packets, in order");
    }
    assert_eq!([stuck.receive(0), stuck.receive(1)], [1_000, 1_000]);
    handle.send_buffer(one, refused);
    assert_eq!(stuck.receive(0), accepted);
}

#[test]
fn ended_server_accepts_packets_and_drops_them() {
    let stuck = Stuck::new();
    let (handle, one) = (stuck.handle.clone(), stuck.ids[0]);
    let packets: Vec<SendBuffer> = (0..100).map(|number| stuck.numbered(number)).collect();
    drop(stuck.gate);
    handle.shutdown(std::time::Duration::ZERO);
    stuck.server.join().unwrap();
    for packet in packets {
        assert_eq!(handle.try_broadcast_buffer(&packet), Ok(()));
        assert_eq!(handle.try_broadcast_buffer_to(ROOM, None, &packet), Ok(()));
        assert!(handle.try_send_buffer(one, packet.clone()).is_ok());
        handle.send_buffer(one, packet);
    }
}
