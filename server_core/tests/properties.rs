//! Property tests: random steps run on each small machine and on its simple model.
#![allow(clippy::unwrap_used)] // In a test, a panic is the report.

mod models;
mod util;

use models::address_budgets::Step as BudgetStep;
use models::chunk_pool::Step as PoolStep;
use models::connection::{REFUSED_ID, Step as ConnectionStep};
use models::content::Piece;
use models::framer::on_the_wire;
use models::framing::{check_input, check_output, frame, framings, id_of};
use models::groups::Step as GroupStep;
use models::send_queue::Step as QueueStep;
use models::session_table::Step as TableStep;
use models::tls::Step as TlsStep;
use models::websocket::{Frame, FrameKind};
use proptest::prelude::*;
use proptest::test_runner::{Config as RunnerConfig, RngSeed, TestRunner};
use server_core::base::timers::{TimeoutQueue, TimerSlot};
use server_core::testing::Outcome;
use server_core::{ContentReceiver, SessionId};
use std::collections::HashMap;
use std::io::ErrorKind;
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

fn a_packet() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let payload = prop_oneof![
        20 => prop::collection::vec(any::<u8>(), 0..40),
        4 => prop::collection::vec(any::<u8>(), 200..2_000),
        1 => (any::<u8>(), 60_000_usize..=65_531).prop_map(|(byte, len)| vec![byte; len]),
    ];
    (any::<u16>(), payload)
}

/// Sizes of reads, which are repeated.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    let cut = prop_oneof![4 => 1_usize..6, 4 => 1_usize..200, 1 => 1_usize..70_000];
    prop::collection::vec(cut, 1..20)
}

/// (lecture row 20)
#[test]
fn framer_returns_the_same_packets_for_any_cut() {
    let strategy = (prop::collection::vec(a_packet(), 0..30), cuts());
    check("framer, good packets", 300, &strategy, |(packets, cuts)| {
        let bytes = on_the_wire(&packets);
        let (seen, kick) = models::framer::feed(&bytes, &cuts, MAX_PACKET_BYTES);
        prop_assert_eq!(kick, None);
        prop_assert!(seen == packets, "the framer returned other packets");
        Ok(())
    });
}

/// (lecture row 42)
#[test]
fn framer_returns_packets_up_to_the_first_invalid_header() {
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
            models::framer::check(&bytes, &cuts, max);
            Ok(())
        },
    );
}

// ---- PROXY headers ------------------------------------------------------------------------------

/// A header as a proxy sends it, or with another length, command or family.
fn a_proxy_header() -> impl Strategy<Value = Vec<u8>> {
    let ports = (any::<u16>(), any::<u16>());
    let v1 = (any::<[u8; 4]>(), any::<[u8; 16]>(), ports).prop_map(|(v4, v6, (from, to))| {
        let (v4, v6) = (std::net::Ipv4Addr::from(v4), std::net::Ipv6Addr::from(v6));
        match from % 3 {
            0 => format!("PROXY TCP4 {v4} 10.0.0.1 {from} {to}\r\n"),
            1 => format!("PROXY TCP6 {v6} ::1 {from} {to}\r\n"),
            _ => format!("PROXY UNKNOWN {v6} {v6} {from} {to}\r\n"),
        }
    });
    let command = prop_oneof![8 => Just(0x21), 2 => Just(0x20), 1 => any::<u8>()];
    let family = prop_oneof![
        8 => prop::sample::select(vec![0x11_u8, 0x21, 0x00, 0x31]),
        1 => any::<u8>(),
    ];
    let block = prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 0..60),
        2 => prop::collection::vec(any::<u8>(), 200..540),
    ];
    let v2 = (command, family, block).prop_map(|(command, family, block)| {
        let length = (block.len() as u16).to_be_bytes();
        let signature = b"\r\n\r\n\0\r\nQUIT\n";
        [&signature[..], &[command, family], &length, &block].concat()
    });
    prop_oneof![v1.prop_map(String::into_bytes), v2]
}

#[test]
fn proxy_header_names_the_same_peer_for_any_cut_and_takes_no_byte_behind_it() {
    let change = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    let behind = prop::collection::vec(any::<u8>(), 0..30);
    let strategy = (a_proxy_header(), change, behind, cuts());
    let named = std::cell::Cell::new(0);
    check(
        "PROXY header",
        2_000,
        &strategy,
        |(mut bytes, change, behind, cuts)| {
            if let Some((index, byte)) = change {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
            bytes.extend(behind);
            models::proxy_header::check(&bytes, &cuts);
            named.set(
                named.get() + usize::from(models::proxy_header::by_the_book(&bytes).is_some()),
            );
            Ok(())
        },
    );
    assert!(
        named.get() > 500,
        "{} headers of 2,000 are valid",
        named.get()
    );
}

// ---- framings -----------------------------------------------------------------------------------

#[test]
fn frames_of_every_framing_become_the_same_packets_for_any_cut() {
    let strategy = (prop::collection::vec(a_packet(), 0..12), cuts(), cuts());
    check("framing, input", 10, &strategy, |(packets, cuts, rooms)| {
        for framing in framings(16 << 20) {
            let frames = packets
                .iter()
                .map(|(id, payload)| frame(&framing, *id, payload));
            let frames = frames.collect::<Vec<_>>().concat();
            let expected = packets
                .iter()
                .map(|(id, payload)| (id_of(&framing, *id), payload.clone()));
            let expected = on_the_wire(&expected.collect::<Vec<_>>());
            prop_assert!(models::framing::by_the_book(&frames, &framing) == (expected, None));
            check_input(&frames, &framing, &cuts, &rooms);
        }
        Ok(())
    });
}

#[test]
fn any_bytes_become_packets_up_to_the_first_invalid_header() {
    let strategy = (
        prop::collection::vec(prop_oneof![3 => 0_u8..8, 1 => any::<u8>()], 0..300),
        cuts(),
        cuts(),
        prop_oneof![1_u32..40, 1_u32..100_000],
    );
    check(
        "framing, any bytes",
        300,
        &strategy,
        |(bytes, cuts, rooms, limit)| {
            for framing in framings(limit) {
                check_input(&bytes, &framing, &cuts, &rooms);
            }
            Ok(())
        },
    );
}

#[test]
fn packets_become_the_same_frames_for_any_offer_and_any_socket() {
    let packets = prop::collection::vec(a_packet(), 1..12);
    check(
        "framing, output",
        10,
        &(packets, cuts(), cuts(), cuts()),
        |(packets, offers, slices, takes)| {
            for framing in framings(16 << 20) {
                let packets = packets
                    .iter()
                    .map(|(id, payload)| (id_of(&framing, *id), payload.clone()));
                check_output(
                    &packets.collect::<Vec<_>>(),
                    &framing,
                    &offers,
                    &slices,
                    &takes,
                );
            }
            Ok(())
        },
    );
}

// ---- TLS driver ---------------------------------------------------------------------------------

fn a_tls_step() -> impl Strategy<Value = TlsStep> {
    let bytes = || prop_oneof![9 => 0_usize..200, 2 => 0_usize..9_000, 1 => 16_000_usize..40_000];
    let text = (any::<u8>(), bytes()).prop_map(|(first, count)| {
        (0..count)
            .map(|at| (at as u8).wrapping_add(first))
            .collect::<Vec<u8>>()
    });
    let slice = prop_oneof![1_usize..50, 50_usize..20_000];
    prop_oneof![
        30 => text.clone().prop_map(TlsStep::Record),
        20 => Just(TlsStep::Handshake),
        1 => Just(TlsStep::Garbage),
        1 => any::<bool>().prop_map(|in_band| TlsStep::End { in_band }),
        60 => bytes().prop_map(TlsStep::Arrive),
        40 => bytes().prop_map(TlsStep::Room),
        30 => (text, slice).prop_map(|(bytes, slice)| TlsStep::Queue { bytes, slice }),
        60 => bytes().prop_map(TlsStep::Read),
        60 => Just(TlsStep::Write),
        2 => Just(TlsStep::Close),
    ]
}

#[test]
fn tls_driver_keeps_bytes_and_order_and_holds_one_record() {
    let strategy = prop::collection::vec(a_tls_step(), 1..150);
    check("TLS driver", 200, &strategy, |steps| {
        let mut machine = models::tls::Machine::default();
        for handshake in [TlsStep::Handshake, TlsStep::Handshake, TlsStep::Room(700)] {
            machine.step(handshake);
        }
        steps.into_iter().for_each(|step| machine.step(step));
        machine.finish();
        Ok(())
    });
}

// ---- websocket ----------------------------------------------------------------------------------

fn a_frame() -> impl Strategy<Value = Frame> {
    let kind = prop_oneof![
        4 => any::<bool>().prop_map(|is_last| FrameKind::Data { is_last }),
        1 => Just(FrameKind::Ping),
        1 => Just(FrameKind::Pong),
    ];
    let payload = prop_oneof![
        12 => prop::collection::vec(any::<u8>(), 0..140),
        2 => prop::collection::vec(any::<u8>(), 200..2_000),
        1 => (any::<u8>(), 65_000_usize..66_000).prop_map(|(byte, len)| vec![byte; len]),
    ];
    (kind, any::<[u8; 4]>(), payload).prop_map(|(kind, mask, payload)| Frame {
        kind,
        mask,
        payload,
    })
}

#[test]
fn any_fragmentation_and_any_split_gives_the_same_packets() {
    let strategy = (prop::collection::vec(a_frame(), 0..20), cuts());
    check("websocket, frames", 300, &strategy, |(frames, cuts)| {
        let bytes = models::websocket::on_the_wire(&frames);
        let expected = models::websocket::meaning_of(&frames);
        prop_assert!(models::websocket::by_the_book(&bytes) == expected);
        models::websocket::check_input(&bytes, &cuts);
        Ok(())
    });
}

#[test]
fn any_bytes_are_frames_up_to_the_first_violation() {
    let header = prop_oneof![
        Just(vec![0x82, 0x83]),
        Just(vec![0x02, 0x80]),
        Just(vec![0x80, 0x80]),
        Just(vec![0x89, 0xfd]),
        Just(vec![0x88, 0x82, 0, 0, 0, 0]),
        Just(vec![0x82, 0xfe, 0]),
        Just(vec![0x82, 0xff, 0, 0, 0, 0, 0]),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    let strategy = (prop::collection::vec(header, 0..20), cuts());
    check("websocket, any bytes", 2_000, &strategy, |(parts, cuts)| {
        models::websocket::check_input(&parts.concat(), &cuts);
        Ok(())
    });
}

#[test]
fn packets_go_through_websocket_for_any_offer_and_any_socket() {
    let bytes = prop::collection::vec(any::<u8>(), 0..200_000);
    let strategy = (bytes, cuts(), cuts(), cuts(), any::<bool>());
    check(
        "websocket, output",
        60,
        &strategy,
        |(bytes, offers, slices, takes, is_client)| {
            models::websocket::check_output(&bytes, &offers, &slices, &takes, is_client);
            Ok(())
        },
    );
}

// ---- send queue ---------------------------------------------------------------------------------

fn a_queue_step() -> impl Strategy<Value = QueueStep> {
    let bytes = prop_oneof![12 => 4_usize..60, 3 => 60_usize..1_500, 1 => 1_500_usize..=65_535];
    let share = prop_oneof![2 => 0_usize..1_000, 1 => Just(1_000), 1 => 0_usize..20];
    let limit = prop_oneof![2 => Just(usize::MAX), 1 => 0_usize..3_000];
    let pause = prop_oneof![2 => 0_u64..20, 2 => 0_u64..400, 1 => 0_u64..60_000];
    prop_oneof![
        5 => (0_usize..3, bytes).prop_map(|(manager, bytes)| QueueStep::Push { manager, bytes }),
        3 => (limit, share).prop_map(|(limit, share)| QueueStep::Advance { limit, share }),
        2 => pause.prop_map(|after_millis| QueueStep::Settle { after_millis }),
    ]
}

#[test]
fn send_queue_keeps_bytes_order_counts_and_ages() {
    let strategy = prop::collection::vec(a_queue_step(), 1..120);
    check("send queue", 400, &strategy, |steps| {
        let mut machine = models::send_queue::Machine::default();
        steps.into_iter().for_each(|step| machine.step(step));
        machine.finish();
        Ok(())
    });
}

// ---- session table ------------------------------------------------------------------------------

fn a_table_step() -> impl Strategy<Value = TableStep> {
    prop_oneof![
        6 => Just(TableStep::Insert),
        1 => Just(TableStep::InsertFails),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(n, kick)| TableStep::Close(n, kick)),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(n, ok)| TableStep::TryVisit(n, ok)),
        4 => Just(TableStep::Pop),
        2 => any::<usize>().prop_map(TableStep::Visit),
        2 => Just(TableStep::VisitAll),
        1 => Just(TableStep::CloseAll),
    ]
}

#[test]
fn session_table_behaves_as_a_list_of_ids() {
    let strategy = (any::<u8>(), prop::collection::vec(a_table_step(), 1..200));
    check("session table", 400, &strategy, |(worker, steps)| {
        let mut machine = models::session_table::Machine::new(worker);
        steps.into_iter().for_each(|step| machine.step(step));
        machine.finish();
        Ok(())
    });
}

// ---- groups -------------------------------------------------------------------------------------

fn a_group_step() -> impl Strategy<Value = GroupStep> {
    let pair = || (any::<usize>(), any::<usize>());
    prop_oneof![
        8 => pair().prop_map(|(session, group)| GroupStep::Join(session, group)),
        4 => pair().prop_map(|(session, group)| GroupStep::Post(session, group)),
        4 => Just(GroupStep::Deliver),
        1 => Just(GroupStep::Lose),
        5 => pair().prop_map(|(session, group)| GroupStep::Leave(session, group)),
        2 => any::<usize>().prop_map(GroupStep::Replace),
    ]
}

#[test]
fn groups_behave_as_a_set_of_pairs() {
    let strategy = (0_usize..5, prop::collection::vec(a_group_step(), 1..150));
    check("groups", 150, &strategy, |(max, steps)| {
        let mut machine = models::groups::Machine::new(max);
        steps.into_iter().for_each(|step| machine.step(step));
        machine.finish();
        Ok(())
    });
}

// ---- chunk pool ---------------------------------------------------------------------------------

fn a_pool_step() -> impl Strategy<Value = PoolStep> {
    let which = any::<usize>;
    let capacity = prop_oneof![8 => 0_usize..100, 4 => 100_usize..1_200, 1 => 1_200_usize..9_000];
    prop_oneof![
        8 => (which(), capacity, 0_usize..10).prop_map(|(manager, capacity, unused)| {
            let used = capacity.saturating_sub(unused * capacity / 12);
            PoolStep::Write { manager, capacity, used }
        }),
        2 => which().prop_map(PoolStep::Clone),
        5 => which().prop_map(PoolStep::Drop),
        3 => (which(), which()).prop_map(|(one, other)| PoolStep::Merge(one, other)),
        2 => (which(), 0_usize..200).prop_map(|(n, bytes)| PoolStep::Advance(n, bytes)),
        1 => which().prop_map(PoolStep::Release),
    ]
}

#[test]
fn chunk_pool_keeps_contents_and_gets_every_chunk_back() {
    let strategy = prop::collection::vec(a_pool_step(), 1..200);
    check("chunk pool", 400, &strategy, |steps| {
        let mut machine = models::chunk_pool::Machine::default();
        steps.into_iter().for_each(|step| machine.step(step));
        machine.finish();
        Ok(())
    });
}

// ---- connection ---------------------------------------------------------------------------------

fn an_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        10 => (1_usize..300).prop_map(Outcome::AtMost),
        4 => Just(Outcome::WouldBlock),
        2 => Just(Outcome::Interrupted),
        1 => Just(Outcome::Fails(ErrorKind::ConnectionReset)),
        1 => Just(Outcome::Fails(ErrorKind::BrokenPipe)),
    ]
}

fn a_connection_step() -> impl Strategy<Value = ConnectionStep> {
    let id = prop_oneof![20 => 0_u16..REFUSED_ID, 1 => Just(REFUSED_ID)];
    let payload = prop::collection::vec(any::<u8>(), 0..300);
    let junk = prop::collection::vec(0_u8..20, 1..6);
    let bytes = prop_oneof![12 => 4_usize..200, 2 => 200_usize..3_000, 1 => 3_000_usize..8_000];
    prop_oneof![
        10 => (id, payload).prop_map(|(id, payload)| ConnectionStep::Packet(id, payload)),
        1 => junk.prop_map(ConnectionStep::Bytes),
        1 => Just(ConnectionStep::Fin),
        8 => an_outcome().prop_map(ConnectionStep::Meets),
        8 => bytes.clone().prop_map(ConnectionStep::Queue),
        8 => (bytes, any::<bool>()).prop_map(|(bytes, two)| ConnectionStep::SendCommon(bytes, two)),
        8 => Just(ConnectionStep::Receive),
        8 => Just(ConnectionStep::Flush),
        5 => Just(ConnectionStep::Writable),
        2 => (0_u64..1_500).prop_map(|millis| ConnectionStep::Pass { millis }),
        1 => Just(ConnectionStep::Admit),
        1 => Just(ConnectionStep::Close),
    ]
}

#[test]
fn connection_receives_and_sends_whole_packets_in_order() {
    let strategy = prop::collection::vec(a_connection_step(), 1..150);
    check("connection", 600, &strategy, |steps| {
        let mut machine = models::connection::Machine::default();
        steps.into_iter().for_each(|step| machine.step(step));
        machine.finish();
        Ok(())
    });
}

// ---- content ------------------------------------------------------------------------------------

#[test]
fn content_of_any_size_arrives_complete_within_its_window() {
    let bytes = prop_oneof![Just(0), 1_usize..3_000, 1_usize..400_000];
    let window = prop_oneof![Just(1 << 10), 1_024_usize..200_000];
    let some = |of| prop::collection::vec(0_usize..of, 1..8);
    let strategy = (bytes, window, some(90_000), some(600));
    check(
        "content",
        200,
        &strategy,
        |(bytes, window, takes, others)| {
            let bytes: Vec<u8> = (0..bytes).map(|n| (n * 7 + n / 251) as u8).collect();
            let mut receiver = ContentReceiver::new(bytes.len());
            let mut payloads = models::content::send(&bytes, window, &takes, &others);
            let last = payloads.pop().unwrap();
            for payload in payloads {
                prop_assert_eq!(receiver.push(&payload), Ok(None));
            }
            let content = receiver.push(&last).unwrap().unwrap();
            prop_assert!(content.id == 3 && content.bytes == bytes, "another content");
            Ok(())
        },
    );
}

/// A piece with small numbers, so that many pieces fit together.
fn a_piece() -> impl Strategy<Value = Piece> {
    let total = prop_oneof![8 => 0_u64..5, 1 => Just(u64::MAX)];
    let offset = prop_oneof![8 => 0_u64..4, 1 => Just(u64::MAX)];
    let cut = prop_oneof![12 => Just(0), 1 => 0_usize..25];
    (0_u32..2, total, offset, 0_usize..4, cut).prop_map(|(id, total, offset, bytes, cut)| Piece {
        id,
        total,
        offset,
        bytes,
        cut,
    })
}

#[test]
fn content_of_any_pieces_matches_the_reference() {
    let strategy = (prop::collection::vec(a_piece(), 1..60), 0_usize..6);
    check("pieces", 2_000, &strategy, |(pieces, limit)| {
        models::content::receive(&pieces, limit);
        Ok(())
    });
}

// ---- address budgets ----------------------------------------------------------------------------

fn a_budget_step() -> impl Strategy<Value = BudgetStep> {
    let pause = prop_oneof![3 => 0_u64..50, 1 => 0_u64..3_000];
    prop_oneof![
        8 => (any::<usize>(), any::<u64>()).prop_map(|(owner, host)| BudgetStep::Take(owner, host)),
        2 => pause.prop_map(BudgetStep::Pass),
    ]
}

#[test]
fn few_addresses_have_own_rate_limiters_and_many_get_at_most_twice_the_rate() {
    let steps = || prop::collection::vec(a_budget_step(), 1..400);
    for owners in [6, 2_000] {
        let strategy = (0_u32..8, steps());
        check("address budgets", 200, &strategy, |(rate, steps)| {
            let mut machine = models::address_budgets::Machine::new(rate, owners);
            steps.into_iter().for_each(|step| machine.step(step));
            Ok(())
        });
    }
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
        5 => (0..SESSIONS, 0_u64..500).prop_map(|(slot, millis)| TimeoutStep::Arm(slot, millis)),
        1 => (0..SESSIONS).prop_map(TimeoutStep::Disarm),
        2 => (0_u64..200).prop_map(TimeoutStep::Pass),
    ];
    let strategy = prop::collection::vec(step, 1..200);
    check("timeout queue", 400, &strategy, |steps| {
        let id = |slot: usize| SessionId::new(1 + slot as u32 % 3, 0, slot as u32);
        let mut queue = TimeoutQueue::default();
        let mut alarms: Vec<TimerSlot> = (0..SESSIONS).map(|_| TimerSlot::default()).collect();
        let mut model: HashMap<usize, Instant> = HashMap::new();
        let mut now = Instant::now();
        for step in steps {
            match step {
                TimeoutStep::Arm(slot, millis) => {
                    let at = now + Duration::from_millis(millis);
                    queue.arm(id(slot), &mut alarms[slot], at);
                    let armed = model.entry(slot).or_insert(at);
                    *armed = (*armed).min(at);
                }
                TimeoutStep::Disarm(slot) => {
                    queue.disarm(id(slot), &mut alarms[slot]);
                    model.remove(&slot);
                }
                TimeoutStep::Pass(millis) => {
                    now += Duration::from_millis(millis);
                    let mut last = None;
                    while let Some(due) = queue.pop_due(now) {
                        let slot = due.slot();
                        prop_assert_eq!(due, id(slot));
                        queue.disarm(due, &mut alarms[slot]);
                        let at = model.remove(&slot);
                        prop_assert!(at.is_some_and(|at| at <= now), "too early, or not armed");
                        prop_assert!(last <= at, "out of order");
                        last = at;
                    }
                    prop_assert!(
                        model.values().all(|at| *at > now),
                        "a due timeout was not popped"
                    );
                }
            }
            prop_assert_eq!(queue.next_at(), model.values().min().copied());
        }
        Ok(())
    });
}
