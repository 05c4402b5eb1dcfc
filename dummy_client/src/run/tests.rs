//! A run in virtual time, against a server with planted faults.

use super::seed_of;
use super::world::{TICKS, World, gauge, trend};
use crate::context::BotContext;
use crate::executor::LoadProfile;
use crate::metrics::Check;
use crate::report::{Report, Verdict};
use crate::scenario::{Bot, BotResult, UserId, Violation};
use crate::users::UserSettings;
use server_core::testing::packet;
use server_core::{DisconnectReason, Packet};
use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

/// From one tick of the server to the next.
const PERIOD_MS: u64 = 20;
/// The same of a server whose ticks are late.
const SLOT_MS: u64 = 100;

/// Three sessions for 0.8 s. Session 1 gets the ticks of `fault`, the others get each tick when it is due.
fn with_fault(fault: impl Fn(u64) -> Vec<u64>) -> Report {
    let mut world = World::connected(3);
    for tick in 1..=40 {
        world.at(tick * PERIOD_MS);
        for user in [0, 2] {
            world.tick(user, tick);
        }
        for number in fault(tick) {
            world.tick(1, number);
        }
    }
    world.end(41 * PERIOD_MS)
}

/// Three sessions. For each of them and for each slot (1, 2, 3 …), `plan` returns the tick number to send and the delay
/// in milliseconds. `None` leaves the slot empty.
fn with_schedule(slots: u64, plan: impl Fn(usize, u64) -> Option<(u64, u64)>) -> Report {
    let mut arrivals = Vec::new();
    for user in 0..3 {
        // A tick that is delayed also delays the ticks behind it.
        let mut at = 0;
        for slot in 1..=slots {
            if let Some((number, late_ms)) = plan(user, slot) {
                at = at.max(slot * SLOT_MS + late_ms);
                arrivals.push((at, user, number));
            }
        }
    }
    arrivals.sort_unstable();
    let mut world = World::connected(3);
    for (at, user, number) in arrivals {
        world.at(at).tick(user, number);
    }
    world.end(slots * SLOT_MS + 90)
}

fn counts<const N: usize>(report: &Report, names: [&str; N]) -> [u64; N] {
    names.map(|name| report.metrics.count(name))
}

/// The ticks of these slots, each on time, to all sessions.
fn send(world: &mut World, slots: RangeInclusive<u64>, period_ms: u64) {
    for slot in slots {
        world.at(slot * period_ms).tick_all(slot);
    }
}

fn settings(reconnect: bool) -> UserSettings {
    UserSettings {
        reconnect,
        ..UserSettings::default()
    }
}

/// Each session leaves by plan after this time.
fn churn(millis: RangeInclusive<u64>) -> UserSettings {
    let [min, max] = [*millis.start(), *millis.end()].map(Duration::from_millis);
    UserSettings {
        churn: Some(min..=max),
        ..UserSettings::default()
    }
}

#[test]
fn server_without_fault_passes() {
    let report = with_fault(|tick| vec![tick]);
    assert_eq!(
        (report.verdict, &report.failures[..]),
        (Verdict::Ok, &[][..])
    );
    assert_eq!(
        counts(&report, ["ticks_received", "ticks_skipped"]),
        [120, 0]
    );
    assert_eq!(report.lost(), 0);
}

#[test]
fn missing_repeated_and_reordered_ticks_fail_the_run() {
    let names = [
        "tick_gaps",
        "ticks_missing",
        "ticks_repeated",
        "ticks_reordered",
    ];
    let missing = with_fault(|tick| match tick {
        20 | 21 => vec![],
        _ => vec![tick],
    });
    let repeated = with_fault(|tick| match tick {
        20 => vec![20, 20],
        _ => vec![tick],
    });
    let reordered = with_fault(|tick| match tick {
        20 => vec![],
        21 => vec![21, 20],
        _ => vec![tick],
    });
    for (report, expected, lost) in [
        (missing, [1, 2, 0, 0], 2),
        (repeated, [0, 0, 1, 0], 0),
        (reordered, [1, 1, 0, 1], 1),
    ] {
        assert_eq!(counts(&report, names), expected);
        assert_eq!(report.verdict, Verdict::Failed, "{:?}", report.failures);
        assert_eq!(report.lost(), lost);
    }
}

/// The first number is the one that the others are compared with, 0 too.
#[test]
fn tick_0_is_repeated_and_leaves_gaps_as_any_other() {
    let names = [
        "tick_gaps",
        "ticks_missing",
        "ticks_repeated",
        "sessions_lagging_tick",
        "sessions_without_tick",
    ];
    let newest = 39;
    for (numbers, expected) in [
        (&[0, 0, 0][..], [0, 0, 2, 1, 0]),
        (&[0, 5, newest], [2, 37, 0, 0, 0]),
        (&[0], [0, 0, 0, 1, 0]),
    ] {
        let mut world = World::connected(2);
        for tick in 0..=newest {
            world.at((tick + 1) * PERIOD_MS).tick(0, tick);
            if let Some(&number) = numbers.get(tick as usize) {
                world.tick(1, number);
            }
        }
        let report = world.end((newest + 2) * PERIOD_MS);
        assert_eq!(counts(&report, names), expected, "{numbers:?}");
        assert_eq!(report.verdict, Verdict::Failed, "{numbers:?}");
    }
}

#[test]
fn jump_to_the_highest_tick_number_fails_the_run() {
    let report = with_fault(|tick| vec![if tick == 20 { u64::MAX } else { tick }]);
    assert_eq!(report.verdict, Verdict::Failed);
    assert!(report.metrics.count("ticks_missing") > 1_000_000);
}

/// The run is long enough for the client to evaluate the highest tick number during the run.
#[test]
fn highest_tick_number_from_the_start_is_counted_as_repeats() {
    let mut world = World::connected(2);
    for tick in 1..=150 {
        world.at(tick * PERIOD_MS).tick(0, u64::MAX);
        world.tick(1, tick);
    }
    let report = world.end(151 * PERIOD_MS);
    assert_eq!(report.verdict, Verdict::Failed);
    assert_eq!(report.metrics.count("ticks_repeated"), 149);
    assert_eq!(report.sessions.lost, 0);
}

/// All ticks come within one second, and are evaluated at its end.
#[test]
fn ticks_that_are_too_many_to_be_evaluated_limit_the_client() {
    let reason = "10000 ticks came faster than they can be evaluated";
    for (ticks, verdict, reasons) in [
        (20_000, Verdict::Ok, &[][..]),
        (30_000, Verdict::ClientLimited, &[reason.to_string()]),
    ] {
        let mut world = World::connected(1);
        for tick in 0..ticks {
            world.at(500 + tick / 100).tick(0, tick);
        }
        let report = world.end(1_100);
        assert_eq!(report.metrics.count("ticks_received"), ticks);
        assert_eq!(
            (report.verdict, &report.client.reasons[..]),
            (verdict, reasons)
        );
    }
}

#[test]
fn tick_every_two_seconds_passes() {
    let mut world = World::connected(2);
    send(&mut world, 1..=3, 2_000);
    let report = world.end(7_000);
    assert_eq!(report.verdict, Verdict::Ok, "{:?}", report.failures);
    assert_eq!(gauge(&report, "tick_period"), Some(2_000.0));
}

#[test]
fn session_that_lags_at_the_end_fails_the_run() {
    let report = with_fault(|tick| if tick > 25 { vec![] } else { vec![tick] });
    assert_eq!(report.verdict, Verdict::Failed);
    let names = ["sessions_lagging_tick", "ticks_missing"];
    assert_eq!(counts(&report, names), [1, 0]);
}

#[test]
fn session_without_ticks_fails_the_run() {
    let report = with_fault(|_| vec![]);
    assert_eq!(report.verdict, Verdict::Failed);
    assert_eq!(counts(&report, ["sessions_without_tick"]), [1]);
    assert_eq!(report.lost(), 1);
}

/// Session 1 of three gets no tick, closes by plan after 1.5 s, and connects again.
#[test]
fn session_without_ticks_fails_the_run_though_it_leaves_by_plan() {
    let mut world = World::new(3, churn(1_500..=1_500));
    world.accept_all();
    for tick in 1..=76 {
        world.at(tick * PERIOD_MS).end_closed();
        world.accept_all();
        for user in [0, 2] {
            world.tick(user, tick);
        }
    }
    let report = world.end(77 * PERIOD_MS);
    assert_eq!(report.verdict, Verdict::Failed);
    assert_eq!(counts(&report, ["sessions_without_tick"]), [1]);
    assert_eq!((report.sessions.closed, report.sessions.lost), (3, 0));
}

/// Every second connection gets no tick while it is connected.
#[test]
fn sessions_without_ticks_fail_the_run_under_churn() {
    let mut world = World::new(4, churn(700..=900));
    let (mut connections, mut found) = (0, 0);
    // The tick since which a user is connected and gets none.
    let mut silent_since: [Option<u64>; 4] = [None; 4];
    for tick in 1..=150 {
        world.at(tick * PERIOD_MS);
        // The client looks at the ticks once a second: it needs a look at those that the others get meanwhile.
        let looked_at = tick / 50 * 50;
        let silent = world
            .network
            .closed
            .iter()
            .map(|id| silent_since[id.slot()]);
        found += silent
            .flatten()
            .filter(|since| since + 2 < looked_at)
            .count();
        world.end_closed();
        for &user in &world.network.begun {
            connections += 1;
            silent_since[user] = (connections % 2 == 0).then_some(tick);
        }
        world.accept_all();
        for user in (0..4).filter(|user| silent_since[*user].is_none()) {
            world.tick(user, tick);
        }
    }
    let report = world.end(150 * PERIOD_MS);
    assert_eq!(report.verdict, Verdict::Failed);
    // A session that is connected waits for more than half a second before it counts.
    let waits = |since: &&u64| (150 - **since) * PERIOD_MS > 500;
    let at_end = silent_since.iter().flatten().filter(waits).count();
    assert!(found > 1 && at_end > 0, "{found} {at_end}");
    let without = (found + at_end) as u64;
    assert_eq!(counts(&report, ["sessions_without_tick"]), [without]);
}

/// The server only accepts.
#[test]
fn server_that_sends_nothing_fails_every_load() {
    let constant = |users| LoadProfile::constant(users, 0, None);
    let stages = "5:300ms,5:500ms,0:200ms".parse().expect("stages");
    let stages = LoadProfile::stages(&stages, None);
    for (load, settings, end_ms) in [
        (constant(3), settings(false), 1_000),
        (constant(2), churn(100..=300), 2_000),
        (stages, settings(false), 1_000),
        (constant(2), settings(true), 1_000),
    ] {
        let context = format!("{load}, {settings:?}");
        let users = load.max();
        let mut world = World::with_load(load, settings);
        for at in (0..=end_ms).step_by(PERIOD_MS as usize) {
            world.at(at).end_closed();
            world.accept_all();
        }
        let report = world.end(end_ms);
        assert_eq!(report.verdict, Verdict::Failed, "{context}");
        assert_eq!(report.sessions.connected, users, "{context}");
        assert_eq!(report.failures, ["no packet was received"], "{context}");
    }
}

/// The packets of another game pass every check of a packet, and prove nothing.
#[test]
fn server_that_sends_neither_ticks_nor_answers_fails_the_run() {
    let mut world = World::connected(2);
    for at in 1..=25 {
        world.at(at * PERIOD_MS);
        (0..2).for_each(|user| world.receive(user));
    }
    let report = world.end(510);
    assert_eq!(report.verdict, Verdict::Failed);
    let failures = report.failures.join("; ");
    assert!(failures.contains("nothing was checked"), "{failures}");
}

#[derive(Clone, Copy)]
struct TextReader {
    wrong: Check,
}

server_core::packets! {
    server 1 => STick { tick: u64 };
}

impl Bot for TextReader {
    fn on_packet(&mut self, ctx: &mut BotContext<'_, '_>, packet: Packet<'_>) -> BotResult {
        if packet.id() != STick::ID {
            return Err(Violation::UnknownId);
        }
        let (_, text) = packet.parse::<STick>()?;
        ctx.check(self.wrong, text == b"Hello World");
        Ok(())
    }
}

#[test]
fn wrong_malformed_and_unknown_packets_fail_the_run() {
    let names = [
        "packets_received",
        "texts_wrong",
        "packets_malformed",
        "packets_unknown",
    ];
    let tick = |text: &[u8]| packet(1, [&[0; 8], text].concat());
    let good = tick(b"Hello World");
    for (bytes, expected, failure) in [
        (&good, [2, 0, 0, 0], None),
        (
            &tick(b"Hello W0rld"),
            [2, 1, 0, 0],
            Some("1 texts were wrong"),
        ),
        (
            &packet(1, b"short"),
            [2, 0, 1, 0],
            Some("1 packets were malformed"),
        ),
        (
            &packet(77, b""),
            [2, 0, 0, 1],
            Some("1 packets had an unknown id"),
        ),
    ] {
        let mut world = World::new(1, settings(false));
        let bot = TextReader { wrong: world.wrong };
        let (mut client, server) = world.accept_bot(bot);
        server.send_bytes(&[&good[..], bytes].concat());
        client.advance(Duration::ZERO);
        let report = world.end(20);
        assert_eq!(counts(&report, names), expected);
        assert!(
            report.failures.iter().map(String::as_str).eq(failure),
            "{:?}",
            report.failures
        );
    }
}

/// Takes each packet for the refusal of a full server, and packet 1 for a tick.
#[derive(Clone, Copy)]
struct RefusalReader;

impl Bot for RefusalReader {
    fn on_packet(&mut self, ctx: &mut BotContext<'_, '_>, packet: Packet<'_>) -> BotResult {
        match packet.id() {
            STick::ID => ctx.tick(TICKS, packet.decode::<STick>()?.tick()),
            _ => ctx.refused(),
        }
        Ok(())
    }
}

#[test]
fn session_is_refused_if_the_refusal_is_its_only_packet() {
    let (refusal, tick) = (&packet(6, b"")[..], &packet(1, [1; 8])[..]);
    for (packets, refused) in [
        (&[refusal][..], 1),
        (&[refusal, tick], 0),
        (&[refusal, refusal], 0),
        (&[tick, refusal], 0),
    ] {
        let mut world = World::new(1, settings(false));
        let (mut client, server) = world.accept_bot(RefusalReader);
        for packet in packets {
            server.send_bytes(packet);
            client.advance(Duration::ZERO);
        }
        server.reset();
        client.advance(Duration::ZERO);
        world.accept_all();
        let sessions = &world.state.users.sessions;
        let expected = (refused, 1 - refused);
        assert_eq!((sessions.refused, sessions.lost), expected, "{packets:?}");
    }
}

#[test]
fn server_that_sends_nothing_fails_the_run_and_its_silence_is_named_after_5_s() {
    for (millis, silent_secs) in [(1_000, 0.0), (5_500, 5.5)] {
        let report = World::connected(2).end(millis);
        assert_eq!(report.verdict, Verdict::Failed);
        assert_eq!(report.sessions.server_silent_secs, silent_secs);
        let failures = report.failures.join("; ");
        assert!(failures.contains("no packet was received"), "{failures}");
    }
}

/// The server was silent for this time, and a silence fails the run.
fn assert_silence(report: &Report, secs: f64) {
    let silent = report.sessions.server_silent_secs;
    assert!((silent - secs).abs() < 1e-6, "{silent}");
    let verdict = if secs == 0.0 {
        Verdict::Ok
    } else {
        Verdict::Failed
    };
    assert_eq!(report.verdict, verdict, "{:?}", report.failures);
}

/// No number is missing: the time without a tick is all that tells.
#[test]
fn server_that_stops_sending_is_silent_after_1_s() {
    for (end_ms, silent_secs) in [(1_700, 0.0), (1_900, 1.1)] {
        let mut world = World::connected(3);
        send(&mut world, 1..=40, PERIOD_MS);
        let report = world.end(end_ms);
        assert_silence(&report, silent_secs);
    }
}

/// All ticks come in the end, and none is skipped: only the time without them tells that the server hung.
#[test]
fn silence_in_the_middle_of_a_run_fails_it() {
    for (hang_ms, verdict) in [(0, Verdict::Ok), (2_000, Verdict::Failed)] {
        let mut world = World::connected(3);
        for tick in 1..=400 {
            let due = tick * PERIOD_MS;
            let hangs = (150..250).contains(&tick);
            world.at(if hangs {
                due.max(150 * PERIOD_MS + hang_ms)
            } else {
                due
            });
            world.tick_all(tick);
        }
        let report = world.end(400 * PERIOD_MS + 10);
        assert_eq!(report.verdict, verdict, "{hang_ms}: {:?}", report.failures);
    }
}

/// The client is stopped across the end of a second, and reads the ticks of this time behind it. A server that hangs
/// for longer than the client is found all the same.
#[test]
fn stop_of_the_client_is_no_silence_of_the_server() {
    let period_ms = 250;
    for at_end in [false, true] {
        for (hang_ms, silent_secs) in [(0, 0.0), (1_000, 1.24)] {
            let mut world = World::connected(3);
            send(&mut world, 1..=12, period_ms);
            // The stop lasts from 3.24 s to 4.05 s, and the hang behind it.
            world.lag = Duration::from_millis(810);
            let looks_at = 4_050 + hang_ms;
            let report = if at_end {
                world.end(looks_at)
            } else {
                world.end_second(looks_at);
                world.lag = Duration::ZERO;
                let newest = looks_at / period_ms;
                (13..=newest).for_each(|tick| world.tick_all(tick));
                send(&mut world, newest + 1..=newest + 4, period_ms);
                world.end((newest + 4) * period_ms)
            };
            assert_silence(&report, silent_secs);
        }
    }
}

/// A server that hangs after one tick, and one that answers and never sends a tick.
#[test]
fn server_without_a_period_is_silent_after_5_s() {
    for (ticks, end_ms, silent_secs) in [
        (1, 4_900, 0.0),
        (1, 60_020, 60.0),
        (0, 4_900, 0.0),
        (0, 60_020, 60.02),
    ] {
        let mut world = World::connected(3);
        world.move_and_answer(0);
        send(&mut world, 1..=ticks, PERIOD_MS);
        let report = world.end(end_ms);
        assert_silence(&report, silent_secs);
    }
}

#[test]
fn server_that_stops_its_ticks_is_silent_though_it_answers() {
    let mut world = World::connected(3);
    for tick in 1..=200 {
        world.at(tick * PERIOD_MS);
        if tick <= 40 {
            world.tick_all(tick);
        }
        (0..3).for_each(|user| world.move_and_answer(user));
    }
    assert_silence(&world.end(4_000), 3.2);
}

/// Of a server with a tick each second, 4 s without one are no silence.
#[test]
fn silence_is_measured_in_periods_of_a_slow_server() {
    for (end_ms, verdict) in [(9_900, Verdict::Ok), (10_100, Verdict::Failed)] {
        let mut world = World::connected(1);
        send(&mut world, 1..=6, 1_000);
        let report = world.end(end_ms);
        assert_eq!(report.verdict, verdict, "{:?}", report.failures);
    }
}

/// The server is away for 3 s. No figure hides it: the outage of each user, and the gap between two ticks.
#[test]
fn outage_that_reconnects_bridge_is_in_the_figures() {
    let mut world = World::new(10, settings(true));
    world.accept_all();
    send(&mut world, 1..=200, PERIOD_MS);
    for user in 0..10 {
        world.end_session(user, DisconnectReason::PeerReset);
    }
    world.at(7_000).accept_all();
    for tick in 1..=200 {
        world.at(7_000 + tick * PERIOD_MS).tick_all(tick);
    }
    let report = world.end(11_010);
    assert_eq!(report.verdict, Verdict::Ok, "{:?}", report.failures);
    assert_eq!(
        (report.sessions.lost, report.sessions.reconnected),
        (10, 10)
    );
    let outage = trend(&report, "outage");
    assert_eq!((outage.count, report.lost()), (10, 0));
    assert!((outage.min - 3_000.0).abs() < 5.0, "{outage:?}");
    let gap = gauge(&report, "longest_tick_gap").unwrap();
    assert!((gap - 3_020.0).abs() < 1.0, "{gap}");
    assert_eq!(report.metrics.count("ticks_skipped"), 0);
    assert!(trend(&report, "tick_delay").max < 1.0);
}

/// A server sends its ticks to everybody, also to users that are about to log in. After its restart, their first
/// tick comes before their login.
#[test]
fn ticks_before_the_login_belong_to_the_new_server() {
    let mut world = World::new(4, settings(true));
    world.has_login = true;
    let connect = |world: &mut World, from_ms: u64| {
        world.at(from_ms).accept_all();
        for tick in 1..=100 {
            world.at(from_ms + tick * PERIOD_MS).tick_all(tick);
            if tick == 3 {
                (0..4).for_each(|user| world.log_in(user));
            }
        }
    };
    connect(&mut world, 0);
    for user in 0..4 {
        world.end_session(user, DisconnectReason::PeerReset);
    }
    connect(&mut world, 5_000);
    let report = world.end(7_010);
    assert_eq!(report.verdict, Verdict::Ok, "{:?}", report.failures);
    let delay = trend(&report, "tick_delay");
    assert!(delay.max < 1.0, "{delay:?}");
    assert_eq!(counts(&report, ["ticks_skipped", "ticks_repeated"]), [0, 0]);
    let gap = gauge(&report, "longest_tick_gap").unwrap();
    assert!((gap - 3_020.0).abs() < 1.0, "{gap}");
}

/// The users are away at the end: the run fails, and no time to a next session is invented.
#[test]
fn outage_that_lasts_until_the_end_fails_the_run_and_is_no_sample() {
    for reconnects in [true, false] {
        let mut world = World::new(2, settings(reconnects));
        world.accept_all();
        send(&mut world, 1..=50, PERIOD_MS);
        for user in 0..2 {
            world.end_session(user, DisconnectReason::PeerReset);
        }
        let report = world.end(4_000);
        assert_eq!(report.verdict, Verdict::Failed);
        let lost = "2 sessions were lost and did not reconnect".to_owned();
        assert!(report.failures.contains(&lost), "{:?}", report.failures);
        assert_eq!((report.lost(), report.sessions.reconnected), (2, 0));
        assert_eq!(trend(&report, "outage").count, 0);
        // Without reconnects, no session waits for a tick.
        let waited_ms = if reconnects { 3_000.0 } else { 20.0 };
        let gap = gauge(&report, "longest_tick_gap").unwrap();
        assert!((gap - waited_ms).abs() < 1.0, "{gap}");
    }
}

/// The server has stopped sending, and the sessions that close at the end hide nothing of that.
#[test]
fn gap_that_lasts_until_the_end_is_in_the_figures() {
    let mut world = World::connected(2);
    send(&mut world, 1..=50, PERIOD_MS);
    let report = world.end(1_700);
    let gap = gauge(&report, "longest_tick_gap").unwrap();
    assert!((gap - 700.0).abs() < 1.0, "{gap}");
    assert_eq!(report.metrics.count("ticks_skipped"), 34);
}

/// A server that was stopped at the end of the run goes on while the sessions close: its slots count once, and each
/// tick is one delay.
#[test]
fn slots_at_the_end_are_skipped_once() {
    let skipped = |late: fn(&mut World)| {
        let mut world = World::connected(2);
        send(&mut world, 1..=50, PERIOD_MS);
        let report = world.end_with(1_700, late);
        counts(&report, ["ticks_skipped", "ticks_received"])
    };
    assert_eq!(skipped(|_| {}), [34, 100]);
    assert_eq!(skipped(|world| world.tick_all(51)), [34, 102]);
}

/// The answer comes when the run is over, before the sessions end.
#[test]
fn each_time_of_an_answer_belongs_to_an_answered_request() {
    for is_late in [false, true] {
        let world = World::connected(1);
        let moves = world.moves;
        world.state.collector.recorder(0).counters()[moves.sent.0].add(1);
        let report = world.end_with(2_100, |world| {
            let recorder = world.state.collector.recorder(0);
            if is_late {
                recorder.counters()[moves.answered.0].add(1);
                recorder.record(moves.time, Duration::from_secs(2));
            }
        });
        let names = [
            "moves_sent",
            "moves_answered",
            "moves_lost",
            "moves_waiting",
        ];
        let answered = u64::from(is_late);
        assert_eq!(counts(&report, names), [1, answered, 1 - answered, 0]);
        assert_eq!(trend(&report, "move_rtt").count, answered);
    }
}

/// An outage is in the figures when the new session was not refused for a second.
#[test]
fn outage_is_in_the_figures_while_the_next_session_lives() {
    let mut world = World::new(2, settings(true));
    world.accept_all();
    world.end_session(1, DisconnectReason::PeerReset);
    world.at(3_000).accept_all();
    world.at(4_000).measure();
    let outage = world.state.collector.engine.outage;
    assert_eq!(world.state.measurement.run.trends[outage.0].len(), 1);
}

/// A tick that is late on one session has its real delay, and the other ticks have no delay.
#[test]
fn late_tick_is_delayed_against_the_schedule() {
    let late_ms = |user, slot| if (user, slot) == (1, 15) { 200 } else { 0 };
    let report = with_schedule(30, |user, slot| Some((slot, late_ms(user, slot))));
    assert_eq!(report.verdict, Verdict::Ok, "{:?}", report.failures);
    let (delay, spread) = (trend(&report, "tick_delay"), trend(&report, "tick_spread"));
    assert!((delay.max - 200.0).abs() < 1.0, "{delay:?}");
    assert!((spread.max - 200.0).abs() < 1.0, "{spread:?}");
    assert!(delay.p90 < 1.0, "{delay:?}");
    let period = gauge(&report, "tick_period").unwrap();
    assert!((period - 100.0).abs() < 0.1, "{period}");
}

/// The sessions of one worker of the server get each tick later than the other sessions: no tick is lost, and the
/// spread shows the delay.
#[test]
fn late_worker_shows_in_delay_and_spread() {
    let late_ms = |user| if user == 1 { 80 } else { 20 };
    let report = with_schedule(20, |user, slot| Some((slot, late_ms(user))));
    assert_eq!(report.verdict, Verdict::Ok, "{:?}", report.failures);
    let (delay, spread) = (trend(&report, "tick_delay"), trend(&report, "tick_spread"));
    assert!((spread.p50 - 60.0).abs() < 1.0, "{spread:?}");
    assert!((delay.p90 - 60.0).abs() < 1.0, "{delay:?}");
}

/// The server sends nothing from 2 s to 4 s; the tick numbers continue without a gap.
#[test]
fn stalled_server_counts_skipped_ticks_and_synthetic_delays() {
    let report = with_schedule(60, |_, slot| match slot {
        ..=20 => Some((slot, 0)),
        21..40 => None,
        _ => Some((slot - 19, 0)),
    });
    assert_silence(&report, 2.0);
    assert_eq!(report.failures, ["no tick arrived for 2.0 s"]);
    let names = ["ticks_skipped", "ticks_synthetic"];
    assert_eq!(counts(&report, names), [19, 57]);
    let delay = trend(&report, "tick_delay");
    assert!((delay.max - 1_900.0).abs() < 2.0, "{delay:?}");
    assert!((1_299.0..1_402.0).contains(&delay.p90), "{delay:?}");
    assert!(delay.p50 < 1.0, "{delay:?}");
    let gap = gauge(&report, "longest_tick_gap").unwrap();
    assert!((gap - 2_000.0).abs() < 1.0, "{gap}");
    // The time of the pause, and not the time of its detection.
    let second = |index: usize| report.timeline[index].trends["tick_delay"];
    assert!(second(1).max < 1.0, "{:?}", report.timeline);
    assert!(second(2).p50 > 1_000.0, "{:?}", report.timeline);
    assert!(second(4).p50 < 1.0, "{:?}", report.timeline);
}

/// The server is away for 0.1 s. The next server counts from 1, and its schedule is 40 ms off.
#[test]
fn restarted_server_is_measured_by_its_own_schedule() {
    let mut world = World::new(3, settings(true));
    world.accept_all();
    send(&mut world, 1..=10, SLOT_MS);
    let restart_ms = 1_040;
    world.at(restart_ms);
    for user in 0..3 {
        world.end_session(user, DisconnectReason::PeerClosed);
    }
    for slot in 1..=39 {
        world.at(restart_ms + slot * SLOT_MS).accept_all();
        world.tick_all(slot);
    }
    let report = world.end(5_000);
    assert_eq!(report.verdict, Verdict::Ok, "{:?}", report.failures);
    assert_eq!(report.sessions.reconnected, 3);
    assert_eq!(counts(&report, ["ticks_skipped"]), [0]);
    // On the old schedule each tick of the new server would be 40 ms or 60 ms off.
    let delay = trend(&report, "tick_delay");
    assert!(delay.max < 1.0, "{delay:?}");
}

#[test]
fn session_behind_throughout_shows_in_delay_and_spread() {
    let mut world = World::connected(3);
    for slot in 1..=250 {
        world.at(slot * PERIOD_MS);
        for user in [0, 1] {
            world.tick(user, slot);
        }
        if slot > 20 {
            world.tick(2, slot - 20);
        }
    }
    let report = world.end(251 * PERIOD_MS);
    let (delay, spread) = (trend(&report, "tick_delay"), trend(&report, "tick_spread"));
    assert!(delay.p50 < 1.0, "{delay:?}");
    assert!((delay.p90 - 400.0).abs() < 2.0, "{delay:?}");
    assert!((spread.p50 - 400.0).abs() < 2.0, "{spread:?}");
}

/// A percentile of sixty sessions does not show one wait of one session; the maximum does.
#[test]
fn single_long_wait_of_one_session_is_the_maximum_of_its_window() {
    let mut world = World::connected(60);
    send(&mut world, 1..=100, PERIOD_MS);
    world.measure();
    let from = world.now();
    world.state.measurement.begin_window(from);
    let waits = |tick: u64| (101..=250).contains(&tick);
    for tick in 101..=400 {
        world.at(tick * PERIOD_MS);
        for user in (0..60).filter(|user| *user != 7 || !waits(tick)) {
            world.tick(user, tick);
        }
        if tick == 250 {
            (101..=250).for_each(|late| world.tick(7, late));
        }
    }
    world.measure();
    let window = &world.state.measurement.window.trends[0..];
    let registry = &world.state.collector.registry;
    let delays = &window[registry.ticks()[TICKS.0].delay.0];
    assert!((delays.quantile_ms(1.0) - 2_980.0).abs() < 5.0);
    assert!(delays.quantile_ms(0.5) < 1.0);
    assert_eq!(world.end(401 * PERIOD_MS).verdict, Verdict::Ok);
}

#[test]
fn histograms_have_every_measurement() {
    let report = with_fault(|tick| vec![tick]);
    for name in ["tick_delay", "tick_spread"] {
        let trend = trend(&report, name);
        let sum: u64 = trend.histogram.iter().map(|(_, count)| count).sum();
        assert_eq!(sum, trend.count, "{name}");
        assert!(sum > 0, "{name}");
    }
    assert_eq!(trend(&report, "outage").histogram, []);
}

/// Churn counts neither as a loss nor as an outage.
#[test]
fn sessions_that_leave_by_plan_lose_nothing() {
    let mut world = World::new(20, churn(100..=300));
    for tick in 1..=100 {
        world.at(tick * PERIOD_MS).end_closed();
        world.accept_all();
        world.tick_all(tick);
    }
    let report = world.end(101 * PERIOD_MS);
    assert_eq!(report.verdict, Verdict::Ok, "{:?}", report.failures);
    let sessions = &report.sessions;
    // Each session stays for 0.2 s on average, and the run for 2 s: about 200 sessions.
    assert!(sessions.closed > 120, "{sessions:?}");
    assert_eq!((sessions.lost, sessions.connected), (0, 20));
    assert_eq!((report.lost(), trend(&report, "outage").count), (0, 0));
}

#[test]
fn every_connection_of_every_user_has_a_seed_of_its_own() {
    let users = (0..100).flat_map(|user| (1..10).map(move |number| (user, number)));
    let seeds: HashSet<u64> = users
        .map(|(user, number)| seed_of(7, UserId(user), number))
        .collect();
    assert_eq!(seeds.len(), 900);
    assert_eq!(seed_of(7, UserId(3), 1), seed_of(7, UserId(3), 1));
    assert_ne!(seed_of(7, UserId(3), 1), seed_of(8, UserId(3), 1));
}
