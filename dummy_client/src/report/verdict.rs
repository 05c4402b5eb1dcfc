//! The verdict of a run, and the exit status that says it.

use super::data::{AssertionResult, MAX_EXACT, Metric, Report, Verdict};
use super::step::Step;
use crate::executor::capacity::{CapacityReport, Outcome};

/// A client that stalled for longer cannot blame the server for what did not arrive, or for a kick.
const MAX_EXCUSED_LAG_MS: f64 = 1_000.0;

/// Failures that only the owner of a run knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct OtherFailures {
    /// Failures of the server that a stall of the client may explain.
    pub excusable: Vec<String>,
    /// What the run did not check.
    pub not_checked: Vec<String>,
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
        let is_excused = own_lag_ms > MAX_EXCUSED_LAG_MS
            || self.client.is_saturated()
            || self.client.own_limits > 0;
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

    /// Lost sessions without a new session within 10 s, of which some may have reconnected later.
    fn lost_for_good(&self) -> u64 {
        (self.sessions.lost).saturating_sub(self.sessions.reconnected)
    }

    /// Failures that the server alone can have made, and those that a stall of the client may explain.
    fn failed_checks(&self, others: &OtherFailures) -> (Vec<String>, Vec<String>) {
        let (wrong, mut late) = self.counted_failures();
        if self.sessions.connected == 0 {
            late.push("no session was ever connected".into());
        } else if self.metrics.count("packets_received") == 0 {
            late.push("no packet was received".into());
        }
        late.extend(others.excusable.iter().cloned());
        (wrong, late)
    }

    /// The failures that are not a figure of this report: the sums of several reports do not show them.
    pub(crate) fn uncounted_failures(&self) -> impl Iterator<Item = &String> {
        let (wrong, late) = self.counted_failures();
        let failures = self.failures.iter();
        failures.filter(move |failure| !wrong.contains(failure) && !late.contains(failure))
    }

    /// Sessions, checks and the silence of the server: failures that the server alone can have made, and those
    /// that a stall of the client may explain.
    fn counted_failures(&self) -> (Vec<String>, Vec<String>) {
        let (mut wrong, mut late) = (Vec::new(), Vec::new());
        let sessions = &self.sessions;
        let [never_connected, not_reconnected] = sessions.blamed();
        let late_reconnects = sessions.reconnected_late.min(self.lost_for_good());
        let of_sessions = [
            (never_connected as u64, "sessions never connected"),
            (
                self.lost_for_good() - late_reconnects,
                "sessions were lost and did not reconnect",
            ),
            (
                late_reconnects,
                "sessions were lost and reconnected after more than 10 s",
            ),
            (not_reconnected as u64, "sessions did not reconnect"),
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
            late.push(format!("no tick arrived for {secs:.1} s"));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Metrics;
    use crate::report::samples::one_session as report;

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
    fn lost_sessions_fail_the_run_by_whether_they_reconnected() {
        let mut report = report();
        report.sessions.lost = 6;
        report.sessions.reconnected = 3;
        report.sessions.reconnected_late = 1;
        assert_eq!(report.lost(), 3);
        let failures = [
            "2 sessions were lost and did not reconnect",
            "1 sessions were lost and reconnected after more than 10 s",
        ];
        assert_eq!(evaluated(report).1, failures);
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

    /// The ports of this machine are used up: 3 users had left and could not come back, 2 never connected.
    #[test]
    fn users_without_a_port_are_no_failure_of_the_server() {
        for (limited, failures, status) in [
            (5, vec![], 0),
            (4, vec!["1 sessions never connected"], 1),
            (
                2,
                vec!["2 sessions never connected", "1 sessions did not reconnect"],
                1,
            ),
        ] {
            let mut report = report();
            (
                report.sessions.never_connected,
                report.sessions.not_reconnected,
            ) = (2, 3);
            report.sessions.limited_by_client = limited;
            (report.client.own_limits, report.client.client_limited) = (9, true);
            let failures: Vec<String> = failures.into_iter().map(Into::into).collect();
            assert_eq!(
                evaluated(report),
                (Verdict::ClientLimited, failures, status)
            );
        }
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

    /// Turns of half a second, one behind the other: a packet waits for many of them.
    #[test]
    fn a_loop_without_a_pause_excuses_what_did_not_arrive() {
        for (busiest_loop, verdict) in [(0.95, Verdict::ClientLimited), (0.5, Verdict::Failed)] {
            let mut report = report();
            report.sessions.lost = 1;
            report.client.worst_loop_lag_ms = 500.0;
            report.client.busiest_loop = busiest_loop;
            report.client.client_limited = true;
            let failures = vec!["1 sessions were lost and did not reconnect".into()];
            assert_eq!(evaluated(report), (verdict, failures, 1));
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
}
