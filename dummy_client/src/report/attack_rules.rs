//! The rules of an attack run: what an attack must not do to the healthy sessions and to the neighbours.

use super::data::{Metric, Report};
use super::verdict::OtherFailures;
use crate::attack::{AttackReport, IntervalReport, NEIGHBOURS};

/// The largest rise of the healthy sessions' p99 tick delay under an attack.
const MAX_RISE_MS: f64 = 20.0;
/// By this much the latest tick of a single session may be later than the latest one before the attack: a
/// percentile of many sessions does not show one.
const MAX_WAIT_MS: f64 = 1_000.0;

impl OtherFailures {
    /// What an attack must not do. `report` has everything but the failures.
    /// `is_stopped`: before its time. A result that the run did not reach is not a failure.
    pub fn of_attack(attack: Option<&AttackReport>, report: &Report, is_stopped: bool) -> Self {
        let Some(attack) = attack else {
            return Self::default();
        };
        let gaps = report
            .metrics
            .iter()
            .filter_map(|(name, metric)| match metric {
                Metric::Gauge { value, .. } if name.starts_with("longest_") => *value,
                _ => None,
            });
        let longest_gap_ms = gaps.fold(0.0, f64::max);
        let mut excusable = attack_failures(attack, report.client.client_limited);
        excusable.extend(neighbour_failures(attack, longest_gap_ms));
        let mut not_shown = not_shown(attack);
        if is_stopped {
            let not_checked = not_shown.iter();
            let not_checked = not_checked.map(|what| format!("the run was stopped: {what}"));
            return Self {
                excusable,
                not_checked: not_checked.collect(),
            };
        }
        not_shown.append(&mut excusable);
        Self {
            excusable: not_shown,
            ..Self::default()
        }
    }
}

/// What the attack was too short for.
fn not_shown(attack: &AttackReport) -> Vec<String> {
    let (stats, needed) = (&attack.stats, attack.timeout_secs);
    if attack.elapsed_secs == 0.0 {
        return vec!["the run was over before the attack began".into()];
    }
    let mut not_shown = Vec::new();
    if stats.attempted == 0 {
        not_shown.push("nothing was attacked: no attacker was accepted".into());
    } else if needed > 0.0 && !stats.is_conclusive() {
        not_shown.push(format!(
            "the attack was too short to tell whether attackers are kicked: it needs {needed} s"
        ));
    }
    if attack.tick_delay_p99_rise_ms.is_none() {
        not_shown.push("too few ticks arrived to compare the tick delay under the attack".into());
    }
    not_shown
}

/// What a neighbour must not see. `server_gap_ms`: the longest time between two ticks of the server.
fn neighbour_failures(attack: &AttackReport, server_gap_ms: f64) -> Vec<String> {
    let seen = &attack.neighbours;
    let mut failures = seen.faults.clone();
    if attack.elapsed_secs > 0.0 && seen.sessions < NEIGHBOURS {
        let missing = NEIGHBOURS - seen.sessions;
        failures.push(format!("{missing} neighbours were never connected"));
    }
    for group in &seen.by_interval {
        let IntervalReport {
            longest_tick_gap_ms: gap,
            read_interval_ms: every,
            ..
        } = group;
        // A reader that this program held up waits as long.
        if *gap > server_gap_ms + MAX_WAIT_MS + group.longest_pause_ms {
            failures.push(format!(
                "a neighbour, which reads every {every} ms, waited {gap:.0} ms for a tick; the longest gap \
                 between two ticks of the server is {server_gap_ms:.0} ms"
            ));
        }
    }
    failures
}

/// What an attack must not do to the healthy sessions, and what the server must do to the attackers. A limited
/// client may explain a rise of the delay.
fn attack_failures(attack: &AttackReport, client_limited: bool) -> Vec<String> {
    let stats = &attack.stats;
    let mut failures = Vec::new();
    let mut counted = |count: u64, what: &str| {
        if count > 0 {
            failures.push(format!("{count} attackers {what}"));
        }
    };
    counted(stats.not_kicked, "should have been kicked and were not");
    counted(stats.wrong_reason, "were kicked for another reason");
    if !client_limited {
        counted(
            stats.closed_without_reason,
            "that read on were kicked without a reason",
        );
    }
    let longest = attack.during.max_ms - attack.baseline.max_ms;
    if longest > MAX_WAIT_MS && !client_limited {
        failures.push(format!(
            "a tick was {:.0} ms late under the attack, and {:.0} ms at the most before",
            attack.during.max_ms, attack.baseline.max_ms
        ));
    }
    let rise = attack.tick_delay_p99_rise_ms.unwrap_or(0.0);
    if rise > MAX_RISE_MS && !client_limited {
        failures.push(format!(
            "the p99 tick delay rose by {rise:.1} ms under the attack, and {MAX_RISE_MS} are allowed"
        ));
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Verdict;
    use crate::report::samples::one_session as report;

    /// An attack of 5 s with 5 attackers, which the server kicked.
    fn attack() -> AttackReport {
        let delays = |p99_ms, max_ms| crate::attack::Delays {
            count: 100,
            p50_ms: 1.0,
            p99_ms,
            max_ms,
        };
        let mut attack = AttackReport {
            elapsed_secs: 5.0,
            timeout_secs: 3.0,
            baseline: delays(2.0, 3.0),
            during: delays(4.0, 9.0),
            tick_delay_p99_rise_ms: Some(2.0),
            ..AttackReport::default()
        };
        attack.stats.attempted = 5;
        attack.stats.kicked.insert("bad_size".into(), 5);
        attack.neighbours.sessions = NEIGHBOURS;
        attack
    }

    #[test]
    fn what_an_attack_must_not_do_fails_the_run() {
        type Fault = fn(&mut AttackReport);
        let faults: [(&str, Fault); 11] = [
            ("", |_| {}),
            ("over before the attack", |attack| attack.elapsed_secs = 0.0),
            ("nothing was attacked", |attack| attack.stats.attempted = 0),
            ("was too short", |attack| attack.stats.inconclusive = 4),
            (
                "3 attackers should have been kicked and were not",
                |attack| {
                    attack.stats.not_kicked = 3;
                },
            ),
            ("2 attackers were kicked for another reason", |attack| {
                attack.stats.wrong_reason = 2;
            }),
            (
                "6 attackers that read on were kicked without a reason",
                |attack| {
                    attack.stats.closed_without_reason = 6;
                },
            ),
            ("too few ticks arrived", |attack| {
                attack.tick_delay_p99_rise_ms = None
            }),
            ("rose by 20.5 ms", |attack| {
                attack.tick_delay_p99_rise_ms = Some(20.5)
            }),
            ("a tick was 2900 ms late", |attack| {
                attack.during.max_ms = 2_900.0
            }),
            ("1 neighbours were never connected", |attack| {
                attack.neighbours.sessions = NEIGHBOURS - 1;
            }),
        ];
        for (expected, fault) in faults {
            let mut attack = attack();
            fault(&mut attack);
            let mut report = report();
            let others = OtherFailures::of_attack(Some(&attack), &report, false);
            report.evaluate(&others, |_, _| Vec::new());
            let verdict = [Verdict::Failed, Verdict::Ok][usize::from(expected.is_empty())];
            assert_eq!(report.verdict, verdict, "{expected}: {:?}", report.failures);
            let failures = report.failures.join("; ");
            assert!(failures.contains(expected), "{expected}: {failures}");
        }
    }

    /// Ctrl-C ends the run before the attack has shown anything. What the server did wrong until then counts.
    #[test]
    fn attack_that_is_stopped_is_not_checked_and_no_failure() {
        type Change = fn(&mut AttackReport);
        let changes: [(&str, Change); 4] = [
            ("over before the attack", |attack| attack.elapsed_secs = 0.0),
            ("nothing was attacked", |attack| attack.stats.attempted = 0),
            ("was too short", |attack| attack.stats.inconclusive = 4),
            ("too few ticks", |attack| {
                attack.tick_delay_p99_rise_ms = None
            }),
        ];
        for (expected, change) in changes {
            let mut attack = attack();
            change(&mut attack);
            let others = OtherFailures::of_attack(Some(&attack), &report(), true);
            assert_eq!(others.excusable, [""; 0], "{expected}");
            let [not_checked] = &others.not_checked[..] else {
                panic!("{expected}: {:?}", others.not_checked);
            };
            assert!(
                not_checked.starts_with("the run was stopped: "),
                "{not_checked}"
            );
            assert!(not_checked.contains(expected), "{not_checked}");
            attack.stats.wrong_reason = 1;
            let others = OtherFailures::of_attack(Some(&attack), &report(), true);
            assert_eq!(others.excusable.len(), 1, "{expected}");
        }
    }

    /// A client that was the bottleneck cannot tell these from its own delays.
    #[test]
    fn limited_client_does_not_blame_the_server_for_delays_under_an_attack() {
        let mut attack = attack();
        attack.stats.closed_without_reason = 1;
        attack.tick_delay_p99_rise_ms = Some(500.0);
        attack.during.max_ms = 3_000.0;
        let mut limited = report();
        limited.client.client_limited = true;
        let others = OtherFailures::of_attack(Some(&attack), &limited, false);
        assert_eq!(others.excusable, [""; 0]);
    }

    /// A neighbour may wait as long as the server was silent, as this program held it up, and 1 s more.
    #[test]
    fn neighbour_that_waits_longer_than_the_server_is_silent_fails_the_run() {
        for (gap_ms, is_found) in [(2_700.0, false), (2_800.0, true)] {
            let mut attack = attack();
            attack.neighbours.by_interval.push(IntervalReport {
                read_interval_ms: 33,
                longest_tick_gap_ms: gap_ms,
                longest_pause_ms: 500.0,
                ..IntervalReport::default()
            });
            let mut report = report();
            let gap = Metric::Gauge {
                value: Some(1_250.0),
                unit: crate::metrics::Unit::Milliseconds,
            };
            report.metrics.0.push(("longest_tick_gap".into(), gap));
            let others = OtherFailures::of_attack(Some(&attack), &report, false);
            let failures = others.excusable.join("; ");
            assert_eq!(
                failures.contains("which reads every 33 ms"),
                is_found,
                "{failures}"
            );
        }
    }
}
