//! The verdict of a run, and the exit status that says it.

use super::data::{AssertionResult, MAX_EXACT, Metric, Report, Verdict};
use super::step::Step;
use crate::attack::{AttackReport, IntervalReport, NEIGHBOURS};
use crate::executor::capacity::{CapacityReport, Outcome};

/// A client that stalled for longer cannot blame the server for what did not arrive, or for a kick.
const MAX_EXCUSED_LAG_MS: f64 = 1_000.0;

/// The largest rise of the healthy sessions' p99 tick delay under an attack.
const MAX_RISE_MS: f64 = 20.0;
/// By this much the latest tick of a single session may be later than the latest one before the attack: a
/// percentile of many sessions does not show one.
const MAX_WAIT_MS: f64 = 1_000.0;

/// Failures that only the owner of a run knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct OtherFailures {
    /// Failures of the server that a stall of the client may explain.
    pub excusable: Vec<String>,
}

impl Report {
    /// Computes `lost`, the failures, the assertions and the verdict from the figures. `assert` evaluates the
    /// assertions; its argument is the longest lag of the client in milliseconds.
    pub(crate) fn evaluate(
        &mut self,
        others: &OtherFailures,
        assert: impl FnOnce(&Self, f64) -> Vec<AssertionResult>,
    ) {
        let (wrong, late) = self.failed_checks(others);
        let own_lag_ms = self.client.worst_lag_ms();
        self.failures = [wrong.clone(), late.clone()].concat();
        self.assertions = assert(self, own_lag_ms);
        let mut broken = self.assertions.iter().filter(|result| !result.holds);
        let is_broken = broken.any(|result| !result.may_be_own_lag);
        let is_limited = self.client.client_limited;
        let is_excused = own_lag_ms > MAX_EXCUSED_LAG_MS || self.client.own_limits > 0;
        let is_late = !late.is_empty() && !is_excused;
        self.verdict = if !wrong.is_empty() || is_late || is_broken && !is_limited {
            Verdict::Failed
        } else if is_limited || !late.is_empty() || !self.all_hold() {
            Verdict::ClientLimited
        } else {
            Verdict::Ok
        };
    }

    /// The sum of all losses: lost sessions that were not back within 10 s, every check that is a loss, and the
    /// lost neighbours and missed ticks of an attack run.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let losses = self.metrics.iter().map(|(_, metric)| match metric {
            Metric::Check {
                value,
                is_loss: true,
                ..
            } => *value,
            _ => 0,
        });
        let neighbours = self.attack.as_ref().map(|attack| &attack.neighbours);
        let of_neighbours = neighbours.map(|seen| [seen.lost as u64, seen.missing_ticks]);
        let all = losses.chain(of_neighbours.into_iter().flatten());
        let lost = all.fold(self.lost_for_good(), u64::saturating_add);
        lost.min(MAX_EXACT)
    }

    /// The result of a capacity search is the verdict of its run: what breaks in a step is what is searched for.
    pub(crate) fn set_capacity(&mut self, capacity: CapacityReport<Step>) {
        self.failures.clear();
        self.assertions.clear();
        self.verdict = match capacity.outcome {
            Outcome::Found | Outcome::AtLeast => Verdict::Ok,
            Outcome::ClientLimited => Verdict::ClientLimited,
            Outcome::None | Outcome::Interrupted => Verdict::Failed,
        };
        self.capacity = Some(capacity);
    }

    /// Lost sessions that were not back within 10 s.
    fn lost_for_good(&self) -> u64 {
        (self.sessions.lost).saturating_sub(self.sessions.reconnected)
    }

    /// Failures that the server alone can have made, and those that a stall of the client may explain.
    fn failed_checks(&self, others: &OtherFailures) -> (Vec<String>, Vec<String>) {
        let (mut wrong, mut late) = (Vec::new(), Vec::new());
        let sessions = &self.sessions;
        let of_sessions = [
            (sessions.never_connected as u64, "sessions never connected"),
            (
                self.lost_for_good(),
                "sessions were lost and did not reconnect within 10 s",
            ),
            (
                sessions.not_reconnected as u64,
                "sessions did not reconnect",
            ),
        ];
        let of_sessions = of_sessions.into_iter().filter(|(count, _)| *count > 0);
        late.extend(of_sessions.map(|(count, what)| format!("{count} {what}")));
        for (_, metric) in self.metrics.iter() {
            if let Metric::Check {
                value: value @ 1..,
                failure,
                is_excusable,
                ..
            } = metric
            {
                let list = if *is_excusable { &mut late } else { &mut wrong };
                list.push(format!("{value} {failure}"));
            }
        }
        if sessions.server_silent_secs > 0.0 {
            let secs = sessions.server_silent_secs;
            late.push(format!("no tick arrived in the last {secs:.1} s"));
        }
        if sessions.connected == 0 {
            late.push("no session was ever connected".into());
        } else if self.metrics.count("packets_received") == 0 {
            late.push("no packet was received".into());
        }
        late.extend(others.excusable.iter().cloned());
        (wrong, late)
    }

    /// Whether every assertion holds.
    #[must_use]
    pub fn all_hold(&self) -> bool {
        self.assertions.iter().all(|result| result.holds)
    }

    /// 0 or 1. A failed check and a broken assertion are 1 even if the client was limited; so is a limited run
    /// with `limited_is_failure`, and a capacity search without a result.
    #[must_use]
    pub fn exit_status(&self, limited_is_failure: bool) -> u8 {
        let is_good = match self.verdict {
            Verdict::Ok => true,
            Verdict::ClientLimited => {
                let has_result = self.capacity.is_none();
                has_result && self.failures.is_empty() && self.all_hold() && !limited_is_failure
            }
            Verdict::Failed => false,
        };
        u8::from(!is_good)
    }
}

impl OtherFailures {
    /// What an attack must not do. `report` has everything but the failures.
    pub fn of_attack(attack: Option<&AttackReport>, report: &Report) -> Self {
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
        Self { excusable }
    }
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
    if attack.elapsed_secs == 0.0 {
        failures.push("the run was over before the attack began".into());
    }
    let needed = attack.timeout_secs;
    if attack.elapsed_secs > 0.0 && stats.attempted == 0 {
        failures.push("nothing was attacked: no attacker was accepted".into());
    } else if needed > 0.0 && !stats.is_conclusive() {
        failures.push(format!(
            "the attack was too short to tell whether attackers are kicked: it needs {needed} s"
        ));
    }
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
    if attack.elapsed_secs > 0.0 && attack.tick_delay_p99_rise_ms.is_none() {
        failures.push("too few ticks arrived to compare the tick delay under the attack".into());
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

impl Report {
    /// The report for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        crate::output::console::render(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Metrics;

    /// A run of one session that received a packet.
    fn report() -> Report {
        let counter = |value| Metric::Counter {
            value,
            unit: crate::metrics::Unit::Count,
            by_packet: Default::default(),
        };
        let mut report = Report {
            metrics: Metrics(vec![("packets_received".into(), counter(9))]),
            ..Report::default()
        };
        report.sessions.requested = 1;
        report.sessions.connected = 1;
        report
    }

    fn with_check(value: u64, is_excusable: bool) -> Report {
        let mut report = report();
        report.metrics.0.push((
            "moves_lost".into(),
            Metric::Check {
                value,
                failure: "moves were lost".into(),
                is_loss: true,
                is_excusable,
            },
        ));
        report
    }

    fn evaluated(mut report: Report) -> (Verdict, Vec<String>, u8) {
        report.evaluate(&OtherFailures::default(), |_, _| Vec::new());
        let status = report.exit_status(false);
        (report.verdict, report.failures, status)
    }

    /// The server chooses the tick numbers that its neighbours count.
    #[test]
    fn absurd_losses_of_neighbours_add_up() {
        let mut report = with_check(3, false);
        let mut attack = crate::attack::AttackReport::default();
        (attack.neighbours.lost, attack.neighbours.missing_ticks) = (1, u64::MAX);
        report.attack = Some(attack);
        assert_eq!(report.lost(), MAX_EXACT);
    }

    #[test]
    fn a_check_above_zero_fails_the_run() {
        assert_eq!(evaluated(with_check(0, false)), (Verdict::Ok, vec![], 0));
        let failures = vec!["3 moves were lost".to_string()];
        assert_eq!(with_check(3, false).lost(), 3);
        assert_eq!(
            evaluated(with_check(3, false)),
            (Verdict::Failed, failures, 1)
        );
    }

    #[test]
    fn a_run_without_a_session_or_a_packet_is_never_ok() {
        let mut nothing = report();
        nothing.sessions.connected = 0;
        let (verdict, failures, status) = evaluated(nothing);
        assert_eq!((verdict, status), (Verdict::Failed, 1));
        assert_eq!(failures, ["no session was ever connected"]);
        let mut silent = report();
        silent.metrics = Metrics::default();
        assert_eq!(evaluated(silent).1, ["no packet was received"]);
    }

    #[test]
    fn a_stall_of_the_client_excuses_what_did_not_arrive_and_nothing_else() {
        for (is_excusable, verdict) in [(true, Verdict::ClientLimited), (false, Verdict::Failed)] {
            let mut report = with_check(1, is_excusable);
            report.client.worst_stall_ms = 1_500.0;
            report.client.client_limited = true;
            let (found, _, status) = evaluated(report);
            assert_eq!((found, status), (verdict, 1));
        }
    }

    #[test]
    fn a_limited_run_without_a_failure_passes_unless_it_is_asked_not_to() {
        let mut limited = report();
        limited.client.client_limited = true;
        limited.evaluate(&OtherFailures::default(), |_, _| Vec::new());
        assert_eq!(limited.verdict, Verdict::ClientLimited);
        assert_eq!(
            (limited.exit_status(false), limited.exit_status(true)),
            (0, 1)
        );
    }

    #[test]
    fn a_broken_assertion_of_a_time_is_excused_by_the_lag_of_the_client() {
        for (may_be_own_lag, is_limited, verdict) in [
            (false, false, Verdict::Failed),
            (true, false, Verdict::ClientLimited),
            (false, true, Verdict::ClientLimited),
        ] {
            let mut report = report();
            report.client.client_limited = is_limited;
            report.evaluate(&OtherFailures::default(), |_, _| {
                vec![AssertionResult {
                    may_be_own_lag,
                    ..AssertionResult::default()
                }]
            });
            assert_eq!(report.verdict, verdict);
            assert_eq!(report.exit_status(false), 1);
        }
    }

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
            let others = OtherFailures::of_attack(Some(&attack), &report);
            report.evaluate(&others, |_, _| Vec::new());
            let verdict = [Verdict::Failed, Verdict::Ok][usize::from(expected.is_empty())];
            assert_eq!(report.verdict, verdict, "{expected}: {:?}", report.failures);
            let failures = report.failures.join("; ");
            assert!(failures.contains(expected), "{expected}: {failures}");
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
        let others = OtherFailures::of_attack(Some(&attack), &limited);
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
            let others = OtherFailures::of_attack(Some(&attack), &report);
            let failures = others.excusable.join("; ");
            assert_eq!(
                failures.contains("which reads every 33 ms"),
                is_found,
                "{failures}"
            );
        }
    }
}
