//! Tests of allocations: in steady state a broadcast allocates nothing, whatever the number of its sessions.
#![allow(clippy::unwrap_used)] // In a test, a panic is the report.
#![allow(unsafe_code)] // A global allocator cannot be written without.

use bytemuck::{Pod, Zeroable};
use server_core::buffer::{ChunkPool, SendBufferManager};
use server_core::cluster::broker::Request;
use server_core::cluster::envelope::Incarnation;
use server_core::cluster::link::{self, Event, Link, LinkConfig};
use server_core::connection::admission::Admission;
use server_core::game::inbox::{Batch, Inbox, Input, Waiting};
use server_core::groups::members::Groups;
use server_core::metrics::Metrics;
use server_core::protocol::websocket::WebSocket;
use server_core::routing::completion_timer::CompletionTimer;
use server_core::routing::router::{Command, NewConnection, Router};
use server_core::shard::{Shard, Shared};
use server_core::testing::{FakeClock, FakeStream};
use server_core::transport::{Framed, Transport};
use server_core::wire::U64Le;
use server_core::{
    Config, Context, EntityId, GroupId, Handlers, InterestEvent, InterestGrid, Kick, List, Packet,
    PacketHead, Peer, PlayerView, SendBuffer, Session, SessionId, Sight, ViewChange,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SESSIONS: u64 = 100;
const BROADCASTS: u64 = 10_000;
/// The number of messages in one block of crossbeam's unbounded channel. A block is one allocation.
const CHANNEL_BLOCK: u64 = 31;

struct CountingAllocator;

thread_local! {
    /// The allocations of this thread. Tests run side by side, and each counts its own thread.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // At the end of a thread its storage is gone. No test counts by then.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system's allocator as it came; counting touches a plain
// thread-local number and allocates nothing.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, bytes) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Hello {
    tick: U64Le,
}
impl PacketHead for Hello {
    const ID: u16 = 1;
}

/// The first session broadcasts each time its timer expires.
struct Ticker {
    is_first: bool,
}

impl Session for Ticker {
    fn on_connected(&mut self, ctx: &mut Context<'_>) {
        if self.is_first {
            ctx.set_timer(ctx.now() + Duration::from_secs(1));
        }
    }

    fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
        Ok(())
    }

    fn on_timer(&mut self, ctx: &mut Context<'_>) {
        ctx.broadcast(&Hello { tick: 1.into() }, "Hello World");
        ctx.set_timer(ctx.now() + Duration::from_secs(1));
    }
}

struct Rig<T = FakeStream> {
    shard: Shard<T, Ticker>,
    router: Arc<Router<T>>,
    buffers: SendBufferManager,
    metrics: Arc<Metrics>,
    clock: FakeClock,
}

impl Rig {
    fn new() -> Self {
        Self::over(FakeStream::sink)
    }
}

impl<T: Transport + Send + 'static> Rig<T> {
    /// Sessions over transports that `stream` makes.
    fn over(stream: impl Fn() -> T) -> Self {
        let shared = Arc::new(Shared::for_tests(&Config::default(), 1, |peer| Ticker {
            is_first: peer.addr.port() == 0,
        }));
        let mut rig = Self {
            router: Arc::clone(&shared.router),
            buffers: shared.buffers.clone(),
            metrics: Arc::clone(&shared.metrics),
            shard: Shard::new(0, shared),
            clock: FakeClock::new(),
        };
        let admission = Arc::new(Admission::new(1, None, None));
        for port in 0..SESSIONS {
            let addr = SocketAddr::from(([127, 0, 0, 1], port as u16));
            let arrival = NewConnection {
                stream: stream(),
                permit: admission.admit(addr).unwrap(),
                tag: None,
                is_connecting: false,
            };
            let adopt = Command::Adopt(arrival);
            rig.shard
                .handle_command(adopt, rig.clock.now(), |_, _| Ok(()));
        }
        rig
    }

    /// Allocations and replaced chunks over [`BROADCASTS`] rounds, after as many rounds to warm up.
    fn measure(&mut self, mut round: impl FnMut(&mut Self)) -> (u64, u64) {
        let mut measured = (0, 0);
        for _ in 0..2 {
            let packets_before = self.metrics.totals().packets_sent;
            let pops_before = self.buffers.stats().pops;
            let before = ALLOCATIONS.get();
            for _ in 0..BROADCASTS {
                round(self);
            }
            let allocations = ALLOCATIONS.get() - before;
            measured = (allocations, self.buffers.stats().pops - pops_before);
            let packets = self.metrics.totals().packets_sent - packets_before;
            assert_eq!(
                packets,
                BROADCASTS * SESSIONS,
                "every session got each broadcast"
            );
        }
        measured
    }
}

#[test]
fn counting_allocator_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(vec![1_u8; 100]));
    assert_eq!(ALLOCATIONS.get(), before + 1);
}

#[track_caller]
fn expect_no_allocation(mut rig: Rig<impl Transport + Send + 'static>) {
    let (allocations, chunks) = rig.measure(|rig| {
        let hello = Hello { tick: 7.into() };
        let buffer = rig.buffers.encode(&hello, b"Hello World").unwrap();
        let broadcast = Command::Broadcast(buffer);
        rig.shard
            .handle_command(broadcast, rig.clock.now(), |_, _| Ok(()));
        rig.shard.run(rig.clock.now());
    });
    assert!(chunks > 0);
    // Each take of a chunk makes a new `Arc`. The block of the chunk comes from the pool.
    assert_eq!(
        allocations, chunks,
        "one allocation for each replaced chunk"
    );
}

/// (lecture row 34)
#[test]
fn broadcast_allocates_nothing() {
    expect_no_allocation(Rig::new());
}

#[test]
fn broadcast_over_websocket_allocates_nothing() {
    expect_no_allocation(Rig::over(|| {
        Framed::new(FakeStream::sink(), WebSocket::server())
    }));
}

/// (lecture row 2)
#[test]
fn broadcast_from_a_callback_allocates_two_blocks_at_most() {
    let mut rig = Rig::new();
    let (allocations, chunks) = rig.measure(|rig| {
        rig.clock.advance(Duration::from_secs(1));
        rig.shard.run(rig.clock.now());
    });
    assert!(chunks > 0);
    // Besides the chunks, each round allocates the list of due sessions and one node of the timeout
    // queue. The number of sessions changes neither.
    assert!(
        allocations <= chunks + 2 * BROADCASTS,
        "{allocations} for {BROADCASTS} broadcasts to {SESSIONS} sessions"
    );
}

/// Each post of a packet and its delivery allocate a share of a block of the mailbox's channel.
#[track_caller]
fn expect_a_share_of_a_channel_block(
    rig: &mut Rig,
    post: impl Fn(&Arc<Router<FakeStream>>, &SendBuffer),
) {
    let (allocations, chunks) = rig.measure(|rig| {
        let hello = Hello { tick: 7.into() };
        let buffer = rig.buffers.encode(&hello, b"Hello World").unwrap();
        post(&rig.router, &buffer);
        drop(buffer);
        let router = Arc::clone(&rig.router);
        router.mailbox(0).take_all(|command| {
            rig.shard
                .handle_command(command, rig.clock.now(), |_, _| Ok(()));
        });
        rig.shard.run(rig.clock.now());
    });
    assert!(
        allocations <= chunks + BROADCASTS / CHANNEL_BLOCK + 1,
        "{allocations} allocations, {chunks} of them for chunks"
    );
}

#[test]
fn broadcast_through_the_mailbox_allocates_a_share_of_a_channel_block() {
    let post = |router: &Arc<Router<_>>, buffer: &_| router.broadcast(buffer);
    expect_a_share_of_a_channel_block(&mut Rig::new(), post);
}

#[test]
fn packet_to_a_group_allocates_no_more_than_a_broadcast() {
    let mut rig = Rig::new();
    let group = GroupId::new(1, 7);
    for slot in 0..SESSIONS {
        rig.router.join(SessionId::new(1, 0, slot as u32), group);
    }
    expect_a_share_of_a_channel_block(&mut rig, |router, buffer| {
        router.broadcast_to(group, None, buffer);
    });
}

#[test]
fn measured_broadcast_allocates_nothing_more() {
    let mut rig = Rig::new();
    let timer = Arc::new(CompletionTimer::new(2));
    let (allocations, chunks) = rig.measure(|rig| {
        let hello = Hello { tick: 7.into() };
        let buffer = rig.buffers.encode(&hello, b"Hello World").unwrap();
        let share = timer.start(rig.clock.now(), 1).next().unwrap();
        let broadcast = Command::TimedBroadcast(buffer, share);
        rig.shard
            .handle_command(broadcast, rig.clock.now(), |_, _| Ok(()));
        rig.shard.run(rig.clock.now());
        rig.shard
            .end_turn(rig.clock.now(), rig.clock.now() + Duration::from_micros(3));
    });
    assert_eq!(
        allocations, chunks,
        "one allocation for each replaced chunk"
    );
    let durations = &rig.metrics.broadcasts;
    assert_eq!(
        durations.count(),
        2 * BROADCASTS,
        "each broadcast was measured"
    );
    let sum = Duration::from_micros(3 * 2 * BROADCASTS);
    assert_eq!(durations.sum(), sum);
}

server_core::packets! {
    /// A packet with variable parts in variable parts. Both sides send it.
    both 2 => Room<'a> {
        name: &'a str where 1..=16,
        players: List<'a, Player<'a>>,
    };
    part Player<'a> {
        name: &'a str,
        items: List<'a, u16>,
    };
}

/// A room with two players of two items each.
const ROOM: &[u8] = b"\x05\0lobby\x02\0\x01\0a\x02\0\x01\0\x02\0\x02\0bc\x02\0\x03\0\x04\0";

#[test]
fn typed_packets_are_read_handled_and_written_without_allocation() {
    let config = Config::default();
    let pool = ChunkPool::new(config.chunk_bytes, config.pooled_chunks);
    let buffers = SendBufferManager::new(pool);
    let handlers = Handlers::<u64>::new().on::<Room<'_>>(|items, ctx, room| {
        for player in room.players.iter() {
            *items += player.items.iter().map(u64::from).sum::<u64>();
        }
        ctx.broadcast_packet(&room);
        Ok(())
    });
    let peer = Peer::new(
        SessionId::new(1, 0, 0),
        SocketAddr::from(([127, 0, 0, 1], 1)),
        None,
    );
    let (mut items, mut effects) = (0, Vec::with_capacity(1));
    let mut groups = Groups::new(0, Arc::default(), 1);
    let mut measured = (0, 0);
    for _ in 0..2 {
        let (allocations, pops) = (ALLOCATIONS.get(), buffers.stats().pops);
        for _ in 0..BROADCASTS {
            let mut ctx =
                Context::new(peer, Instant::now(), &buffers, &mut effects, &mut groups, 0);
            let room = Packet::new(Room::ID, ROOM);
            assert_eq!(handlers.dispatch(&mut items, &mut ctx, room), Ok(()));
            // The count claims the most items that a count can claim, and three bytes follow it.
            let claim = Packet::new(Room::ID, b"\x01\0a\xff\xff\x01\0a");
            let answer = handlers.dispatch(&mut items, &mut ctx, claim);
            assert_eq!(answer, Err(Kick::BadPayload));
            effects.clear();
        }
        measured = (ALLOCATIONS.get() - allocations, buffers.stats().pops - pops);
    }
    assert_eq!(items, 2 * BROADCASTS * (1 + 2 + 3 + 4));
    let (allocations, chunks) = measured;
    assert!(chunks > 0);
    assert_eq!(
        allocations, chunks,
        "one allocation for each replaced chunk"
    );
}

/// The players send as much in each tick; the batches of the worker and the game thread take turns.
#[test]
fn steady_tick_of_a_game_loop_allocates_nothing() {
    let (mut inbox, mut batches) = (Inbox::new(32), [Batch::default(), Batch::default()]);
    let players: Vec<(SessionId, Arc<Waiting>)> = (0..SESSIONS as u32)
        .map(|slot| (SessionId::new(1, 0, slot), Arc::default()))
        .collect();
    for (id, waiting) in &players {
        assert!(batches[0].join(*id, Arc::clone(waiting)));
    }
    let mut handled = 0;
    let mut tick = |inbox: &mut Inbox| {
        let [worker, game] = &mut batches;
        for (id, waiting) in players.iter().flat_map(|player| [player; 3]) {
            waiting.add(100);
            worker.packet(*id, &Packet::new(7, &[1; 100]));
        }
        std::mem::swap(worker, game);
        let mut handle = |input: Input<'_>| {
            handled += u64::from(matches!(input, Input::Packet(..)));
            true
        };
        inbox.begin_tick(&mut handle);
        inbox.take(game, &mut handle);
    };
    (0..10).for_each(|_| tick(&mut inbox));
    let before = ALLOCATIONS.get();
    (0..1_000).for_each(|_| tick(&mut inbox));
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert_eq!(handled, 1_010 * SESSIONS * 3);
}

/// The players walk through each other: they enter and leave each other's sight all the time.
#[test]
fn steady_tick_of_interest_and_snapshots_allocates_nothing() {
    let sight = Sight::Radius {
        enter: 10.0,
        leave: 12.0,
    };
    let mut grid = InterestGrid::new([100.0; 2], sight);
    let place = |player: u64, tick: u64| {
        let along = (player * 7 + tick * (1 + player % 3)) % 100;
        [along as f32, (player % 10 * 10) as f32]
    };
    let ids: Vec<EntityId> = (0..SESSIONS)
        .map(|player| grid.insert_observer(place(player, 0)))
        .collect();
    let mut views: Vec<PlayerView<EntityId>> = ids.iter().map(|_| Default::default()).collect();
    let (mut tick, mut events, mut records, mut snapshot) = (0, 0, 0, Vec::new());
    let mut step = || {
        tick += 1;
        for (player, id) in (0..).zip(&ids) {
            grid.move_to(*id, place(player, tick));
        }
        grid.update(|observer, event| {
            events += 1;
            match event {
                InterestEvent::Enter(entity) => views[observer.index()].enter(entity),
                InterestEvent::Leave(entity) => views[observer.index()].leave(entity),
            }
        });
        for view in &mut views {
            snapshot.clear();
            let write = |change, out: &mut Vec<u8>| {
                let (ViewChange::Enter(entity)
                | ViewChange::Update(entity)
                | ViewChange::Leave(entity)) = change;
                records += 1;
                out.extend(EntityId::to_u64(entity).to_le_bytes());
            };
            if let Some(number) = view.build(80, &mut snapshot, |_| (tick, 1), write) {
                assert_eq!(view.acknowledge(number), Ok(()));
            }
        }
    };
    // The walk repeats after 100 ticks.
    (0..300).for_each(|_| step());
    let before = ALLOCATIONS.get();
    (0..1_000).for_each(|_| step());
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert!(events > 40_000 && records > 400_000, "{events}, {records}");
}

/// A worker's thread may begin the comparison, for example with a packet to a world group.
#[test]
fn comparison_of_all_logins_begins_without_a_list_of_them() {
    let now = Instant::now();
    let config = LinkConfig {
        name: "a".into(),
        incarnation: Incarnation(1),
        seed: 1,
    };
    let mut link = Link::new(config, Arc::default(), now);
    link.tick(now);
    for slot in 0..20_000 {
        let account = format!("account-{slot}");
        link.login(SessionId::new(1, 0, slot), &account, 1, now);
    }
    link.take_outputs();
    let connect = link.take_commands();
    let [link::Command::Connect(connection)] = connect[..] else {
        panic!("{connect:?}");
    };
    let before = ALLOCATIONS.get();
    link.handle(connection, Event::Connected, now);
    let allocations = ALLOCATIONS.get() - before;
    let commands = link.take_commands();
    let accounts = commands.iter().find_map(|command| match command {
        link::Command::Send(Request::GetLogins(accounts)) => Some(accounts.len()),
        _ => None,
    });
    assert_eq!(accounts, Some(512), "the first request");
    assert!(allocations < 100, "{allocations}");
}
