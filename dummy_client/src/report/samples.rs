//! A report for tests, with a metric of each kind.

use super::*;
use crate::metrics::{Histogram, Unit};
use serde_json::Value;

/// Of a failed run of 5 s.
pub fn report() -> Report {
    let counter = |value| Metric::Counter {
        value,
        unit: Unit::Count,
        by_packet: Default::default(),
    };
    let check = |value, failure: &str, is_loss| Metric::Check {
        value,
        failure: failure.into(),
        is_loss,
        is_excusable: is_loss,
    };
    let mut delays = Histogram::default();
    for micros in 1..=200 {
        delays.record_micros(micros * 100, 1);
    }
    let packets = [("S_HELLO".to_owned(), 200), ("S_ECHO".to_owned(), 7)];
    let metrics = [
        (
            "packets_received",
            Metric::Counter {
                value: 207,
                unit: Unit::Count,
                by_packet: packets.into(),
            },
        ),
        (
            "bytes_received",
            Metric::Counter {
                value: 2_000_000,
                unit: Unit::Bytes,
                by_packet: Default::default(),
            },
        ),
        (
            "tick_delay",
            Metric::Trend(TrendValue::new("tick against the schedule", &delays)),
        ),
        ("ticks_received", counter(200)),
        ("ticks_skipped", counter(3)),
        ("ticks_missing", check(1, "ticks were missing", true)),
        ("ticks_repeated", check(0, "ticks were repeated", false)),
        (
            "tick_period",
            Metric::Gauge {
                value: None,
                unit: Unit::Milliseconds,
            },
        ),
        (
            "longest_tick_gap",
            Metric::Gauge {
                value: Some(250.5),
                unit: Unit::Milliseconds,
            },
        ),
        ("echoes_sent", counter(10)),
        ("echoes_answered", counter(7)),
        ("echoes_waiting", counter(1)),
        ("echoes_lost", check(2, "echoes were lost", true)),
        ("echoes_corrupted", check(0, "echoes were corrupted", false)),
        (
            "chat_delay",
            Metric::Trend(TrendValue::new("chat", &Histogram::default())),
        ),
        (
            "moves_in_time",
            Metric::Rate {
                passes: 98,
                total: 100,
                value: Some(0.98),
            },
        ),
    ];
    let metrics = metrics.map(|(name, metric)| (name.to_owned(), metric));
    let settings = [
        ("count", serde_json::json!(10)),
        ("echo_hz", 0.5.into()),
        ("attack", Value::Null),
        ("assertions", serde_json::json!(["lost==0"])),
    ];
    let point = |at_secs| Point {
        at_secs,
        sessions: 9,
        sessions_lost: 1,
        packets_per_sec: 40.0,
        bytes_per_sec: 4e5,
        trends: [(
            "tick_delay".to_owned(),
            PointTrend {
                count: 40,
                p50: 10.0,
                p99: 19.8,
                max: 20.0,
            },
        )]
        .into(),
    };
    Report {
        schema: SCHEMA.into(),
        schema_version: SCHEMA_VERSION,
        verdict: Verdict::Failed,
        failures: vec!["1 ticks were missing".into(), "2 echoes were lost".into()],
        not_checked: vec!["no chat was sent".into()],
        assertions: vec![AssertionResult {
            expr: "lost==0".into(),
            metric: "lost".into(),
            limit: 0.0,
            value: Some(5.0),
            unit: Some(Unit::Count),
            holds: false,
            may_be_own_lag: false,
        }],
        run: RunInfo {
            started_at: "2026-11-28T12:00:00Z".into(),
            elapsed_secs: 5.0,
            host: "host".into(),
            addr: "127.0.0.1:7777".into(),
            version: "0.1.0".into(),
            scenario: "game".into(),
            seed: u64::MAX.to_string(),
            share: None,
            settings: settings.map(|(name, value)| (name.into(), value)).into(),
        },
        metrics: Metrics(metrics.into()),
        machine: MachineFacts {
            system: "Linux 6.1".into(),
            cores: 2,
            ..MachineFacts::default()
        },
        sessions: Sessions {
            requested: 10,
            connected: 9,
            never_connected: 1,
            max_connected: 9,
            connected_at_end: 8,
            disconnected_at_end: 2,
            failed_connects: 1,
            lost: 2,
            ..Sessions::default()
        },
        disconnects: vec![
            ReasonCount {
                reason: "peer_closed".into(),
                count: 2,
            },
            ReasonCount {
                reason: "connect_refused".into(),
                count: 1,
            },
        ],
        timeline: (1..=5).map(|second| point(f64::from(second))).collect(),
        ..Report::default()
    }
}

/// Of a run of one session that received 9 packets.
pub fn one_session() -> Report {
    let packets = Metric::Counter {
        value: 9,
        unit: Unit::Count,
        by_packet: Default::default(),
    };
    let mut report = Report {
        metrics: Metrics(vec![("packets_received".into(), packets)]),
        ..Report::default()
    };
    report.sessions.requested = 1;
    report.sessions.connected = 1;
    report
}
