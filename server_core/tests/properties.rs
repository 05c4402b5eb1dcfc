//! The small machines against simple models, over random operations.
#![allow(clippy::unwrap_used)] // In a test, a panic is the report.

mod util;

use proptest::prelude::*;
use proptest::test_runner::{Config as RunnerConfig, RngSeed, TestRunner};
use server_core::framer::Framer;
use server_core::send_buffer::{ChunkPool, SendBuffer, SendBufferManager};
use server_core::send_queue::{MAX_SLICES, SendQueue};
use server_core::session_table::SessionTable;
use server_core::timeout_queue::{Alarm, TimeoutQueue};
use server_core::{DisconnectReason, Kick, SessionId};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::IoSlice;
use std::time::{Duration, Instant};

const MAX_PACKET_BYTES: usize = 65_535;

fn check<S: Strategy>(
    test: &str,
    cases: u32,
    strategy: &S,
    property: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let seed = util::seed(test);
    let config = RunnerConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..RunnerConfig::default()
    };
    if let Err(error) = TestRunner::new(config).run(strategy, property) {
        panic!("{error}\nreplay with TEST_SEED={seed}");
    }
}

// ---- framer -------------------------------------------------------------------------------------

type Packets = Vec<(u16, Vec<u8>)>;

fn a_packet() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let payload = prop_oneof![
        20 => prop::collection::vec(any::<u8>(), 0..40),
        4 => prop::collection::vec(any::<u8>(), 200..2_000),
        1 => (any::<u8>(), 60_000_usize..=65_531).prop_map(|(byte, len)| vec![byte; len]),
    ];
    (any::<u16>(), payload)
}

/// Sizes of reads; used round and round.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    let cut = prop_oneof![4 => 1_usize..6, 4 => 1_usize..200, 1 => 1_usize..70_000];
    prop::collection::vec(cut, 1..20)
}

fn on_the_wire(packets: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (id, payload) in packets {
        bytes.extend(((payload.len() + 4) as u16).to_le_bytes());
        bytes.extend(id.to_le_bytes());
        bytes.extend(payload);
    }
    bytes
}

/// Feeds `bytes` in pieces, and checks what holds after each.
fn feed(
    bytes: &[u8],
    cuts: &[usize],
    max_packet_bytes: usize,
) -> Result<(Packets, Option<Kick>), TestCaseError> {
    let mut framer = Framer::default();
    let (mut packets, mut fed, mut used) = (Packets::new(), 0, 0);
    let mut cuts = cuts.iter().cycle();
    while fed < bytes.len() {
        let end = bytes.len().min(fed + cuts.next().unwrap());
        let mut input = &bytes[fed..end];
        fed = end;
        let calls_at_most = input.len() / 4 + 2;
        let mut calls = 0;
        loop {
            calls += 1;
            prop_assert!(calls <= calls_at_most, "it goes round and round");
            match framer.next_packet(&mut input, max_packet_bytes) {
                Ok(Some(packet)) => {
                    used += packet.size();
                    packets.push((packet.id(), packet.payload().to_vec()));
                }
                Ok(None) => break,
                Err(kick) => return Ok((packets, Some(kick))),
            }
        }
        prop_assert!(input.is_empty());
        let waiting = fed - used;
        prop_assert_eq!(framer.is_mid_packet(), waiting > 0);
        // A Vec doubles, and its first memory is eight bytes.
        let at_most = (2 * waiting).max(8) * usize::from(waiting > 0);
        prop_assert!(
            framer.reserved_bytes() <= at_most,
            "{} bytes of memory for {waiting} that came",
            framer.reserved_bytes()
        );
    }
    Ok((packets, None))
}

/// The same by other means: all bytes at once, by index.
fn by_the_book(bytes: &[u8], max_packet_bytes: usize) -> (Packets, Option<Kick>) {
    let (mut packets, mut at) = (Packets::new(), 0);
    while at + 4 <= bytes.len() {
        let number = |at: usize| u16::from(bytes[at]) | u16::from(bytes[at + 1]) << 8;
        let size = usize::from(number(at));
        if size < 4 {
            return (packets, Some(Kick::BadSize));
        }
        if size > max_packet_bytes {
            return (packets, Some(Kick::TooLarge));
        }
        if at + size > bytes.len() {
            break;
        }
        packets.push((number(at + 2), bytes[at + 4..at + size].to_vec()));
        at += size;
    }
    (packets, None)
}

#[test]
fn lecture_20_any_packets_cut_in_any_way_come_out_the_same() {
    let strategy = (prop::collection::vec(a_packet(), 0..30), cuts());
    check("framer, good packets", 300, &strategy, |(packets, cuts)| {
        let bytes = on_the_wire(&packets);
        let (seen, kick) = feed(&bytes, &cuts, MAX_PACKET_BYTES)?;
        prop_assert_eq!(kick, None);
        prop_assert!(seen == packets, "other packets came out");
        Ok(())
    });
}

#[test]
fn lecture_42_arbitrary_bytes_are_packets_up_to_the_first_offence() {
    let strategy = (
        prop::collection::vec(a_packet(), 0..6),
        prop::collection::vec(prop_oneof![3 => 0_u8..12, 1 => any::<u8>()], 0..400),
        cuts(),
        prop_oneof![Just(MAX_PACKET_BYTES), 4_usize..3_000],
    );
    check(
        "framer, any bytes",
        600,
        &strategy,
        |(good, junk, cuts, max)| {
            let mut bytes = on_the_wire(&good);
            bytes.extend(junk);
            let expected = by_the_book(&bytes, max);
            let seen = feed(&bytes, &cuts, max)?;
            prop_assert_eq!(seen.1, expected.1);
            prop_assert!(seen.0 == expected.0, "other packets came out");
            Ok(())
        },
    );
}

// ---- send queue ---------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum QueueStep {
    Push {
        manager: usize,
        bytes: usize,
    },
    /// The socket takes this many thousandths of what a gathered write offers.
    Advance(usize),
    Settle {
        after_millis: u64,
    },
}

fn a_queue_step() -> impl Strategy<Value = QueueStep> {
    let bytes = prop_oneof![12 => 4_usize..60, 3 => 60_usize..1_500, 1 => 1_500_usize..=65_535];
    let share = prop_oneof![2 => 0_usize..1_000, 1 => Just(1_000), 1 => 0_usize..20];
    let pause = prop_oneof![2 => 0_u64..20, 2 => 0_u64..400, 1 => 0_u64..60_000];
    prop_oneof![
        5 => (0_usize..3, bytes).prop_map(|(manager, bytes)| QueueStep::Push { manager, bytes }),
        3 => share.prop_map(QueueStep::Advance),
        2 => pause.prop_map(|after_millis| QueueStep::Settle { after_millis }),
    ]
}

fn a_buffer(manager: &SendBufferManager, bytes: usize, serial: u32) -> SendBuffer {
    manager.write(bytes, |free| {
        for (at, byte) in free.iter_mut().enumerate() {
            *byte = (serial.wrapping_mul(31) as usize + at * 7) as u8;
        }
        free[..2].copy_from_slice(&(bytes as u16).to_le_bytes());
        bytes
    })
}

/// What the queue should hold: bytes, the ends of packets, and when each turn's bytes settled.
#[derive(Default)]
struct QueueModel {
    bytes: VecDeque<u8>,
    sent: u64,
    pushed: u64,
    packet_ends: VecDeque<u64>,
    settled: VecDeque<(u64, Instant)>,
    /// The greatest age that a mark has had since the queue was last empty.
    oldest_ever: Option<Instant>,
}

#[test]
fn send_queue_keeps_bytes_order_counts_and_ages() {
    let strategy = prop::collection::vec(a_queue_step(), 1..120);
    check("send queue", 400, &strategy, |steps| {
        // Two of them are cramped: slices do not merge across chunks, large ones are private.
        let managers = [1 << 10, 4 << 10, 64 << 10]
            .map(|bytes| SendBufferManager::new(ChunkPool::new(bytes, 4)));
        let mut queue = SendQueue::default();
        let mut model = QueueModel::default();
        let mut now = Instant::now();
        for (serial, step) in steps.into_iter().enumerate() {
            match step {
                QueueStep::Push { manager, bytes } => {
                    let buffer = a_buffer(&managers[manager], bytes, serial as u32);
                    model.bytes.extend(&buffer[..]);
                    model.pushed += bytes as u64;
                    model.packet_ends.push_back(model.pushed);
                    queue.push(buffer);
                }
                QueueStep::Advance(share) => {
                    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                    let count = queue.gather(&mut slices);
                    let offered: Vec<u8> =
                        slices[..count].iter().flat_map(|s| s.to_vec()).collect();
                    prop_assert!(slices[..count].iter().all(|slice| !slice.is_empty()));
                    prop_assert_eq!(offered.is_empty(), model.bytes.is_empty());
                    let expected: Vec<u8> =
                        model.bytes.iter().take(offered.len()).copied().collect();
                    prop_assert!(offered == expected, "other bytes, or another order");
                    let taken = offered.len() * share / 1_000;
                    model.bytes.drain(..taken);
                    model.sent += taken as u64;
                    let mut whole = 0;
                    while model
                        .packet_ends
                        .front()
                        .is_some_and(|end| *end <= model.sent)
                    {
                        model.packet_ends.pop_front();
                        whole += 1;
                    }
                    prop_assert_eq!(queue.advance(taken), whole);
                    while model
                        .settled
                        .front()
                        .is_some_and(|(end, _)| *end <= model.sent)
                    {
                        model.settled.pop_front();
                    }
                }
                QueueStep::Settle { after_millis } => {
                    now += Duration::from_millis(after_millis);
                    queue.settle(now);
                    prop_assert_eq!(queue.pinned_bytes(), 0);
                    if model.settled.back().map_or(model.sent, |(end, _)| *end) < model.pushed {
                        model.settled.push_back((model.pushed, now));
                    }
                }
            }
            if model.bytes.is_empty() {
                model.oldest_ever = None;
            } else if let Some((_, at)) = model.settled.front() {
                let oldest = model.oldest_ever.unwrap_or(*at);
                model.oldest_ever = Some(oldest.min(*at));
            }
            prop_assert_eq!(queue.queued_bytes(), model.bytes.len());
            prop_assert_eq!(queue.queued_packets(), model.packet_ends.len());
            let oldest = queue.oldest_at();
            prop_assert_eq!(oldest.is_some(), !model.settled.is_empty());
            if let (Some(told), Some((_, real))) = (oldest, model.settled.front()) {
                prop_assert!(told <= *real, "never younger than it is");
                let oldest_ever = model.oldest_ever.unwrap_or(*real);
                let tolerance = ((*real - oldest_ever) / 16).max(Duration::from_millis(50));
                prop_assert!(*real - told <= tolerance, "{:?} too early", *real - told);
            }
        }
        // Whatever happened: the rest leaves, and the chunks with it.
        while queue.queued_bytes() > 0 {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = queue.gather(&mut slices);
            let offered: Vec<u8> = slices[..count].iter().flat_map(|s| s.to_vec()).collect();
            prop_assert!(offered.iter().eq(model.bytes.iter().take(offered.len())));
            model.bytes.drain(..offered.len());
            queue.advance(offered.len());
        }
        prop_assert!(model.bytes.is_empty());
        for manager in &managers {
            prop_assert!(
                manager.stats().live <= 1,
                "a chunk is held by an empty queue"
            );
            manager.release();
            prop_assert_eq!(manager.stats().live, 0);
        }
        Ok(())
    });
}

// ---- session table ------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum TableStep {
    Insert,
    InsertFails,
    Close(usize, bool),
    Judge(usize, bool),
    Pop,
    Visit(usize),
    VisitAll,
    CloseAll,
}

fn a_table_step() -> impl Strategy<Value = TableStep> {
    prop_oneof![
        6 => Just(TableStep::Insert),
        1 => Just(TableStep::InsertFails),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(n, kick)| TableStep::Close(n, kick)),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(n, ok)| TableStep::Judge(n, ok)),
        4 => Just(TableStep::Pop),
        2 => any::<usize>().prop_map(TableStep::Visit),
        2 => Just(TableStep::VisitAll),
        1 => Just(TableStep::CloseAll),
    ]
}

#[test]
fn session_table_behaves_as_a_list_of_names() {
    let strategy = (any::<u8>(), prop::collection::vec(a_table_step(), 1..200));
    check("session table", 400, &strategy, |(worker, steps)| {
        let mut table: SessionTable<u64> = SessionTable::new(worker);
        let mut ever: Vec<SessionId> = Vec::new();
        let mut unique = HashSet::new();
        let mut open: HashMap<SessionId, u64> = HashMap::new();
        let mut closing: VecDeque<(SessionId, DisconnectReason, u64)> = VecDeque::new();
        for step in steps {
            let pick = |n: usize| (!ever.is_empty()).then(|| ever[n % ever.len()]);
            match step {
                TableStep::Insert => {
                    let name = ever.len() as u64;
                    let id = table.insert(|id| {
                        assert_eq!(id.worker(), usize::from(worker));
                        Ok::<_, ()>(name)
                    });
                    let id = id.unwrap();
                    prop_assert!(unique.insert(id), "{id:?} was given a second time");
                    prop_assert!(id.to_u64() >= 1 << 32, "a small token");
                    ever.push(id);
                    open.insert(id, name);
                }
                TableStep::InsertFails => {
                    prop_assert_eq!(table.insert(|_| Err("no")), Err(Some("no")));
                }
                TableStep::Close(n, kick) => {
                    let Some(id) = pick(n) else { continue };
                    let reason = match kick {
                        true => Kick::BadSize.into(),
                        false => DisconnectReason::Closed,
                    };
                    let name = open.remove(&id);
                    prop_assert_eq!(table.close(id, reason), name.is_some());
                    closing.extend(name.map(|name| (id, reason, name)));
                }
                TableStep::Judge(n, ok) => {
                    let Some(id) = pick(n) else { continue };
                    let answer = table.judge(id, |name| match ok {
                        true => Ok(*name),
                        false => Err(DisconnectReason::Idle),
                    });
                    prop_assert_eq!(answer, open.get(&id).copied().filter(|_| ok));
                    if !ok && let Some(name) = open.remove(&id) {
                        closing.push_back((id, DisconnectReason::Idle, name));
                    }
                }
                TableStep::Pop => prop_assert_eq!(table.pop_closing(), closing.pop_front()),
                TableStep::Visit(n) => {
                    let Some(id) = pick(n) else { continue };
                    prop_assert_eq!(table.visit(id, |name| *name), open.get(&id).copied());
                }
                TableStep::VisitAll => {
                    let mut seen = HashMap::new();
                    table.visit_all(|id, name| {
                        assert!(seen.insert(id, *name).is_none(), "shown twice");
                    });
                    prop_assert_eq!(&seen, &open);
                }
                TableStep::CloseAll => {
                    table.close_all(DisconnectReason::Shutdown);
                    // In the order of the table, which is nobody's business: compare as sets.
                    let mut left: HashMap<_, _> = std::mem::take(&mut open);
                    while let Some(front) = closing.pop_front() {
                        prop_assert_eq!(table.pop_closing(), Some(front));
                    }
                    while let Some((id, reason, name)) = table.pop_closing() {
                        prop_assert_eq!(reason, DisconnectReason::Shutdown);
                        prop_assert_eq!(left.remove(&id), Some(name));
                    }
                    prop_assert!(left.is_empty());
                }
            }
            prop_assert_eq!(table.len(), open.len() + closing.len());
            prop_assert_eq!(table.is_empty(), open.is_empty() && closing.is_empty());
        }
        for id in ever {
            prop_assert_eq!(table.visit(id, |name| *name), open.get(&id).copied());
        }
        Ok(())
    });
}

// ---- timeout queue ------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum TimeoutStep {
    Arm(usize, u64),
    Disarm(usize),
    Pass(u64),
}

#[test]
fn timeout_queue_behaves_as_a_list_of_instants() {
    const SESSIONS: usize = 12;
    let step = prop_oneof![
        5 => (0..SESSIONS, 0_u64..500).prop_map(|(who, millis)| TimeoutStep::Arm(who, millis)),
        1 => (0..SESSIONS).prop_map(TimeoutStep::Disarm),
        2 => (0_u64..200).prop_map(TimeoutStep::Pass),
    ];
    let strategy = prop::collection::vec(step, 1..200);
    check("timeout queue", 400, &strategy, |steps| {
        let id = |who: usize| SessionId::new(1 + who as u32 % 3, 0, who as u32);
        let mut queue = TimeoutQueue::default();
        let mut alarms: Vec<Alarm> = (0..SESSIONS).map(|_| Alarm::default()).collect();
        let mut model: HashMap<usize, Instant> = HashMap::new();
        let mut now = Instant::now();
        for step in steps {
            match step {
                TimeoutStep::Arm(who, millis) => {
                    let at = now + Duration::from_millis(millis);
                    queue.arm(id(who), &mut alarms[who], at);
                    let armed = model.entry(who).or_insert(at);
                    *armed = (*armed).min(at);
                }
                TimeoutStep::Disarm(who) => {
                    queue.disarm(id(who), &mut alarms[who]);
                    model.remove(&who);
                }
                TimeoutStep::Pass(millis) => {
                    now += Duration::from_millis(millis);
                    let mut last = None;
                    while let Some(due) = queue.pop_due(now) {
                        let who = due.slot();
                        prop_assert_eq!(due, id(who));
                        alarms[who].rang();
                        let at = model.remove(&who);
                        prop_assert!(at.is_some_and(|at| at <= now), "too early, or not armed");
                        prop_assert!(last <= at, "out of order");
                        last = at;
                    }
                    prop_assert!(model.values().all(|at| *at > now), "one was left behind");
                }
            }
            prop_assert_eq!(queue.next_at(), model.values().min().copied());
        }
        Ok(())
    });
}
