//! The page of built reports.

use super::*;
use crate::attack::{
    AttackReport, AttackStats, Delays, IntervalReport, NeighboursReport, NewcomersReport,
};
use crate::metrics::{Histogram, Registry, Unit};
use crate::report::{
    CloseMessageCount, Metric, Metrics, Point, PointTrend, ReasonCount, Values, Verdict,
};
use serde_json::json;

/// A registry with a tick series, a request series, and the metrics of a game.
fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.counter("packets_received", Unit::Count);
    registry.counter("bytes_received", Unit::Bytes);
    registry.tick_series("tick");
    registry.request_series("echoes", "answered", "rtt", "echo round trip");
    registry.trend("move_rtt", "from the move to its answer");
    registry.rate("moves_in_time");
    registry.check("moves_lost", "moves were lost");
    registry.counter("gold_found", Unit::Count);
    registry
}

/// The metrics of a registry. Every trend has the durations, every counter has the value.
fn metrics(registry: &Registry, micros: &[u64], value: u64) -> Metrics {
    let mut histogram = Histogram::default();
    for &micros in micros {
        histogram.record_micros(micros, 1);
    }
    let values = Values {
        counters: &vec![value; registry.counters()],
        trends: &vec![histogram; registry.trends()],
        gauges: &vec![Some(250.0); registry.gauges()],
    };
    let definitions = registry.definitions().iter();
    let metrics = definitions.map(|one| (one.name.clone(), Metric::new(one, values)));
    Metrics(metrics.collect())
}

fn set(report: &mut Report, name: &str, number: u64) {
    let mut metrics = report.metrics.0.iter_mut();
    let (_, metric) = metrics.find(|(known, _)| known == name).unwrap();
    match metric {
        Metric::Counter { value, .. } | Metric::Check { value, .. } => *value = number,
        _ => panic!("{name} has no sum"),
    }
}

/// A run without an event.
fn empty() -> Report {
    Report::default()
}

/// A run with content in each part of the page.
fn full() -> Report {
    let mut report = empty();
    report.verdict = Verdict::Ok;
    report.metrics = metrics(&registry(), &[800, 1_000, 50_000], 0);
    report.run.elapsed_secs = 3.0;
    report.run.started_at = "2026-11-28T12:00:05Z".into();
    report.run.host = "load-1".into();
    report.run.addr = "127.0.0.1:7777".into();
    report.run.scenario = "game".into();
    report.run.seed = u64::MAX.to_string();
    report.run.settings.insert("echo_hz".into(), json!(4));
    report.sessions.requested = 5;
    report.sessions.connected = 5;
    report.sessions.connected_at_end = 5;
    let trends = report.metrics.iter();
    let trends = trends.filter(|(_, metric)| matches!(metric, Metric::Trend(_)));
    let trends: Vec<_> = trends.map(|(name, _)| name.to_owned()).collect();
    let point = |at_secs: f64| Point {
        at_secs,
        sessions: 5,
        packets_per_sec: 20.0 * at_secs,
        trends: trends
            .iter()
            .map(|name| {
                let trend = PointTrend {
                    count: 9,
                    p50: 1.0,
                    p99: 3.0,
                    max: 50.0,
                };
                (name.clone(), trend)
            })
            .collect(),
        ..Point::default()
    };
    report.timeline = [1.0, 2.0, 3.0].map(point).into();
    report.disconnects.push(ReasonCount {
        reason: "peer_closed".into(),
        count: 3,
    });
    report.close_messages.push(CloseMessageCount {
        code: 7,
        text: "too much".into(),
        count: 2,
    });
    report
}

fn plots(html: &str) -> usize {
    html.matches("<svg class=\"plot\"").count()
}

#[test]
fn a_run_without_data_is_a_page_without_plots() {
    let html = render(&empty()).unwrap();
    assert_eq!(plots(&html), 0);
    assert!(!html.contains("NaN") && !html.contains("inf "), "{html}");
    assert!(html.contains("<h2>Checks</h2>"));
    assert!(!html.contains("<h2>Times") && !html.contains("close message"));
}

#[test]
fn a_full_run_has_all_plots_and_each_has_a_description() {
    let html = render(&full()).unwrap();
    // Sessions, packets, and two for each of tick_delay, tick_spread, rtt and move_rtt.
    assert_eq!(plots(&html), 2 + 4 * 2);
    for part in ["<title>", "<desc>", "role=\"img\""] {
        assert!(html.matches(part).count() >= 10, "{part}");
    }
    assert!(html.contains("7 rate_limit: too much"));
    for cell in [
        "p50\">1.00",
        "p95\">50.0",
        "p99.9\">50.0",
        "mean\">17.3",
        "samples\">3",
    ] {
        assert!(
            html.contains(&format!("<td data-name=\"{cell}</td>")),
            "{cell}"
        );
    }
}

#[test]
fn a_metric_of_a_game_has_what_the_metrics_of_the_engine_have() {
    let mut report = full();
    set(&mut report, "gold_found", 12_345);
    set(&mut report, "moves_lost", 2);
    let metric = report
        .metrics
        .0
        .iter_mut()
        .find(|(name, _)| name == "moves_in_time");
    let (_, metric) = metric.unwrap();
    *metric = Metric::Rate {
        passes: 982,
        total: 1_000,
        value: Some(0.982),
    };
    let html = render(&report).unwrap();
    for name in ["move rtt", "rtt"] {
        assert!(html.contains(&format!("<h2>{name} <small>")), "{name}");
        assert!(
            html.contains(&format!("<th scope=\"row\">{name} <small>")),
            "{name}"
        );
        for plot in ["over time", "distribution"] {
            assert!(
                html.contains(&format!("<title>{name} {plot}</title>")),
                "{name} {plot}"
            );
        }
    }
    assert!(html.contains(">gold found</th><td>12,345</td><td>4,115 per second</td>"));
    assert!(html.contains(">moves in time</th><td>98.2 %</td><td>982 of 1,000</td>"));
    assert!(html.contains("<span>moves lost</span><b>2</b>"));
}

#[test]
fn every_metric_is_on_the_page() {
    let report = full();
    let html = render(&report).unwrap();
    for (name, _) in report.metrics.iter() {
        let of_requests = ["echoes_sent", "echoes_answered", "echoes_waiting"];
        let shown = match of_requests.contains(&name) {
            true => "sent = answered + lost + waiting".into(),
            false => format!(">{}", format::words(name)),
        };
        assert!(html.contains(&shown), "{name}");
    }
}

#[test]
fn requests_add_up_or_the_page_says_so() {
    let mut report = full();
    for (name, count) in [
        ("sent", 1_000),
        ("answered", 990),
        ("lost", 3),
        ("waiting", 7),
    ] {
        set(&mut report, &format!("echoes_{name}"), count);
    }
    let html = render(&report).unwrap();
    for cell in ["sent\">1,000", "answered\">990", "lost\">3", "waiting\">7"] {
        assert!(
            html.contains(&format!("<td data-name=\"{cell}</td>")),
            "{cell}"
        );
    }
    assert!(!html.contains("the sum is"));
    set(&mut report, "echoes_lost", 4);
    assert!(render(&report).unwrap().contains("the sum is 1,001"));
}

#[test]
fn skipped_and_missing_are_explained_for_a_tick_series_alone() {
    let mut report = full();
    let html = render(&report).unwrap();
    for (name, meaning) in [
        ("ticks skipped", "empty slots of the server&#39;s schedule"),
        ("ticks missing", "numbers that a session does not receive"),
    ] {
        let (_, rest) = html.split_once(&format!(">{name}")).unwrap();
        assert!(
            rest.trim_start().starts_with(&format!("<small>{meaning}")),
            "{name}: {}",
            &rest[..80]
        );
    }
    let mut registry = Registry::default();
    registry.counter("offers_skipped", Unit::Count);
    registry.check("offers_missing", "offers were missing");
    report.metrics = metrics(&registry, &[], 0);
    let html = render(&report).unwrap();
    assert!(html.contains(">offers skipped</th>"), "{html}");
    assert!(html.contains("<span>offers missing</span>"), "{html}");
}

#[test]
fn a_trend_without_a_sample_has_a_row_and_no_plot() {
    let mut report = full();
    report.metrics = metrics(&registry(), &[], 0);
    report.timeline.clear();
    let html = render(&report).unwrap();
    assert_eq!(plots(&html), 0);
    assert!(html.contains("<td data-name=\"p99\">–</td>"));
}

#[test]
fn when_where_and_with_what_is_on_the_page() {
    let html = render(&full()).unwrap();
    for part in [
        "2026-11-28 12:00:05 UTC",
        "load-1",
        "127.0.0.1:7777",
        "18446744073709551615",
        "<dt>echo</dt><dd>4/s</dd>",
    ] {
        assert!(html.contains(part), "{part}");
    }
}

#[test]
fn what_was_not_checked_is_on_the_page() {
    let mut report = full();
    assert!(!render(&report).unwrap().contains("Not checked"));
    report
        .not_checked
        .push("The schedule of the ticks was not known.".into());
    let html = render(&report).unwrap();
    assert!(
        html.contains("Not checked") && html.contains("The schedule of the ticks was not known.")
    );
}

#[test]
fn one_second_is_enough_for_a_plot() {
    let mut report = full();
    report.timeline.truncate(1);
    let html = render(&report).unwrap();
    // The two areas, and three lines of each trend.
    assert_eq!(html.matches("<circle").count(), 2 + 3 * 4);
    report.timeline[0] = Point::default();
    assert!(render(&report).is_ok());
}

#[test]
fn every_class_of_the_plots_has_a_style() {
    let mut report = full();
    report.timeline[2].sessions_lost = 1;
    let html = render(&report).unwrap();
    let mut found = 0;
    for svg in html.split("<svg class=\"plot\"").skip(1) {
        let (svg, _) = svg.split_once("</svg>").unwrap();
        for part in svg.split(" class=\"").skip(1) {
            let (class, _) = part.split_once('"').unwrap();
            let is_styled = html.contains(&format!("\n.plot .{class} {{"));
            assert!(is_styled, "{class}");
            found += 1;
        }
    }
    assert!(found > 20, "{found}");
}

#[test]
fn texts_of_a_peer_stay_text() {
    let attack = "</script><img src=x onerror=alert(1)>'\"&{{7*7}}\u{202e}\u{1b}[31m<!--";
    let mut report = full();
    report.close_messages[0].text = attack.into();
    report.disconnects.push(ReasonCount {
        reason: attack.into(),
        count: 1,
    });
    report.failures.push(attack.into());
    report.not_checked.push(attack.into());
    report.client.reasons.push(attack.into());
    report.run.scenario = attack.into();
    report.run.settings.insert(attack.into(), json!(attack));
    report.attack = Some(AttackReport {
        name: attack.into(),
        stats: AttackStats {
            kicked: [(attack.into(), 1)].into(),
            ..AttackStats::default()
        },
        ..AttackReport::default()
    });
    report.metrics.0.push((
        attack.into(),
        Metric::Check {
            value: 1,
            failure: attack.into(),
            is_loss: false,
            is_excusable: false,
        },
    ));
    let mut trend = report.metrics.trend("rtt").unwrap().clone();
    trend.title = attack.into();
    report
        .metrics
        .0
        .push((format!("trend{attack}"), Metric::Trend(trend)));
    report.verdict = Verdict::Failed;
    let html = render(&report).unwrap();
    assert_eq!(html.matches("<script").count(), 1);
    assert_eq!(html.matches("</script").count(), 1);
    assert!(!html.contains("<img") && !html.contains("<!--"), "{html}");
    // In lists of reasons, invisible characters are spelled out.
    assert!(html.contains(r"\u{202e}\u{1b}[31m"), "{html}");
    let (_, json) = html.split_once("id=\"summary\">").unwrap();
    let (json, _) = json.split_once("</script>").unwrap();
    assert!(!json.contains(['<', '\u{202e}', '\u{1b}']), "{json}");
    let read: Value = serde_json::from_str(json).unwrap();
    assert_eq!(read["close_messages"][0]["text"], attack);
    let mut whole = serde_json::to_value(&report).unwrap();
    whole.as_object_mut().unwrap().remove("timeline");
    for metric in whole["metrics"].as_object_mut().unwrap().values_mut() {
        metric.as_object_mut().unwrap().remove("histogram");
    }
    assert_eq!(read, whole);
}

#[test]
fn the_page_loads_no_other_file() {
    let html = render(&full()).unwrap();
    for part in [
        " src=",
        "url(",
        "@import",
        "<a ",
        "javascript",
        "https:",
        "http:",
    ] {
        assert!(!html.contains(part), "{part}");
    }
    assert_eq!(
        html.matches(" href=").count(),
        html.matches("href=\"data:,\"").count()
    );
}

#[test]
fn a_limited_client_does_not_blame_the_server() {
    let mut report = full();
    report.verdict = Verdict::ClientLimited;
    report
        .client
        .reasons
        .push("this process was not run for 300 ms".into());
    let html = render(&report).unwrap();
    assert!(html.contains("say nothing about it"));
    assert!(html.contains("not run for 300 ms"));
    // A check failed and the client was limited: the page says both.
    report.verdict = Verdict::Failed;
    report.failures.push("2 ticks were missing".into());
    let html = render(&report).unwrap();
    assert!(html.contains("2 ticks were missing") && html.contains("not run for 300 ms"));
}

#[test]
fn a_list_says_how_much_it_leaves_out() {
    let mut report = full();
    report.other_close_messages = Others {
        kinds_at_least: 951,
        count: 59_950,
    };
    let html = render(&report).unwrap();
    assert!(
        html.contains("and at least 951 more kinds</bdi></td><td>59,950"),
        "{html}"
    );
}

#[test]
fn assertions_and_the_machine_are_shown() {
    let mut report = full();
    report.assertions.push(AssertionResult {
        expr: "tick_delay_p99<50ms".into(),
        metric: "tick_delay.p99".into(),
        limit: 50.0,
        value: Some(60.25),
        unit: Some(Unit::Milliseconds),
        holds: false,
        may_be_own_lag: false,
    });
    report.machine.cores = 2;
    report.verdict = Verdict::Failed;
    let html = render(&report).unwrap();
    assert!(html.contains("tick_delay_p99&#60;50ms"), "{html}");
    assert!(html.contains("<b>60.250 ms</b>") && html.contains("class=\"broken\""));
    assert!(html.contains("Its machine") && html.contains("not every assertion holds"));
    report.assertions[0].value = None;
    assert!(render(&report).unwrap().contains("<b>not measured</b>"));
}

#[test]
fn a_capacity_search_is_a_table_of_steps_and_an_answer() {
    let mut report = full();
    let step = |sessions, holds| Step {
        sessions,
        holds,
        p99_ms: [("tick_delay".into(), 12.0)].into(),
        ..Step::default()
    };
    report.capacity = Some(CapacityReport {
        outcome: Outcome::Found,
        largest: Some(1600),
        steps: vec![step(1600, true), step(3200, false)],
    });
    let html = render(&report).unwrap();
    assert!(html.contains("The server holds 1,600 sessions. A step with at most 5 % more failed."));
    let cells = [
        ("sessions\"", "3,200"),
        ("holds\" class=\"text\"", "no"),
        ("broken\" class=\"text\"", ""),
        ("tick delay p99\"", "12.0 ms"),
    ];
    for (name, cell) in cells {
        let cell = format!("<td data-name=\"{name}>{cell}</td>");
        assert!(html.contains(&cell), "{cell} in {html}");
    }
}

#[test]
fn an_attack_is_compared_with_its_baseline() {
    let mut report = full();
    let delays = |p99_ms| Delays {
        count: 40,
        p50_ms: 1.0,
        p99_ms,
        max_ms: 9.0,
    };
    report.attack = Some(AttackReport {
        name: "garbage".into(),
        attackers: 1000,
        timeout_secs: 5.0,
        baseline: delays(2.0),
        during: delays(3.5),
        stats: AttackStats {
            refused: 10,
            kicked: [("bad_size".into(), 990)].into(),
            ..AttackStats::default()
        },
        neighbours: NeighboursReport {
            by_interval: vec![IntervalReport::default()],
            ..NeighboursReport::default()
        },
        newcomers: Some(NewcomersReport {
            longest_wait_ms: Some(12.5),
            ..NewcomersReport::default()
        }),
        ..AttackReport::default()
    });
    let html = render(&report).unwrap();
    let table = "<th scope=\"col\">count</th><th scope=\"col\">p50</th><th scope=\"col\">p99</th>";
    assert!(html.contains(table), "{html}");
    let [before, during] = ["baseline", "during"].map(|name| {
        html.find(&format!(
            "<tr><td data-name=\"\" class=\"text\">{name}</td><td data-name=\"count\">40<"
        ))
    });
    assert!(before.unwrap() < during.unwrap());
    for part in [
        "<dt>timeout</dt><dd>5.00 s</dd>",
        "<dt>bad size</dt><dd>990</dd>",
        "<dt>refused</dt><dd>10</dd>",
        "<th scope=\"col\">read interval</th><th scope=\"col\">sessions</th>",
        "<dt>longest wait</dt><dd>12.5 ms</dd>",
    ] {
        assert!(html.contains(part), "{part}");
    }
}

#[test]
fn a_long_run_with_many_metrics_is_a_small_page() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut registry = Registry::default();
    for number in 0..30 {
        registry.trend(format!("trend_{number}"), "a trend of a game");
    }
    let micros: Vec<_> = (0..20_000)
        .map(|_| 10u64.pow(rng.u32(1..7)) * rng.u64(1..1_000))
        .collect();
    let mut report = full();
    report.metrics = metrics(&registry, &micros, 0);
    let mut random = || rng.f64() * 1e3;
    report.timeline = (0..2_000)
        .map(|second| Point {
            at_secs: f64::from(second),
            sessions: 10_000,
            packets_per_sec: 40_000.0 + random(),
            trends: (0..30)
                .map(|number| {
                    let trend = PointTrend {
                        count: 9,
                        p50: random(),
                        p99: random(),
                        max: random(),
                    };
                    (format!("trend_{number}"), trend)
                })
                .collect(),
            ..Point::default()
        })
        .collect();
    report.run.elapsed_secs = 2_000.0;
    let html = render(&report).unwrap();
    assert_eq!(plots(&html), 2 + 30 * 2);
    assert!(html.len() < 600_000, "{}", html.len());
}
