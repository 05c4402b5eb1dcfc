//! What an attack did to the healthy sessions, and how its connections ended.

use super::connection::End;
use super::newcomers::NewcomersReport;
use super::protocol::Protocol;
use super::readers::NeighboursReport;
use super::script::{AttackScript, Expect};
use crate::metrics::Histogram;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The result of an attack run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AttackReport {
    /// The name of the attack.
    pub name: String,
    /// The number of attackers.
    pub attackers: usize,
    /// How long the attack lasted; 0 if the run ended before it began.
    pub elapsed_secs: f64,
    /// How long the attack has to last to have a result.
    pub timeout_secs: f64,
    /// The tick delay before the attack.
    pub baseline: Delays,
    /// The tick delay under the attack.
    pub during: Delays,
    /// The rise of the 99th percentile from the baseline to the attack; `null` if one of them has no tick.
    pub tick_delay_p99_rise_ms: Option<f64>,
    /// The connections of the attackers.
    pub stats: AttackStats,
    /// Healthy sessions that read every 10, 20, 33 or 50 ms, from before the attack to its end.
    pub neighbours: NeighboursReport,
    /// Sessions that connect while the attack takes the places; `null` in other attacks.
    pub newcomers: Option<NewcomersReport>,
}

/// The distribution of tick delays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Delays {
    /// The number of ticks.
    pub count: u64,
    /// The median; 0 without a tick, like the others.
    pub p50_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The longest delay.
    pub max_ms: f64,
}

/// The connections of the attackers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AttackStats {
    /// Connections that were established.
    pub connections: u64,
    /// Connections on which the attack was made. A connection that the server refused because it is full
    /// counts if connecting is the attack. A connection that was younger than 1 s at the end does not count.
    pub attempted: u64,
    /// Connections that failed, or that the server refused because it is full.
    pub refused: u64,
    /// Connections that the server ended with a reason, by reason.
    pub kicked: BTreeMap<String, u64>,
    /// Connections that the server ended, and on which the attacker read no reason.
    pub closed_without_message: u64,
    /// Of `closed_without_message`: the attacker read to the end, and its script expects a reason.
    pub closed_without_reason: u64,
    /// Of `kicked`: the script expects another reason.
    pub wrong_reason: u64,
    /// Connections that the server did not end before their timeout.
    pub not_kicked: u64,
    /// Attackers that waited for their first end when the attack was over.
    pub inconclusive: u64,
    /// Bytes that the attackers sent.
    pub bytes_sent: u64,
    /// Packets that the attackers received.
    pub packets_received: u64,
}

impl AttackReport {
    /// Adds the tick delays under the attack, in microseconds.
    #[must_use]
    pub fn with_delays(mut self, delays: &Histogram) -> Self {
        if self.elapsed_secs > 0.0 {
            self.during = delays.into();
        }
        let is_comparable = self.baseline.count > 0 && self.during.count > 0;
        self.tick_delay_p99_rise_ms =
            is_comparable.then_some(self.during.p99_ms - self.baseline.p99_ms);
        self
    }
}

impl AttackStats {
    /// Whether the server had to show what it does with an attacker, and did so with each one.
    #[must_use]
    pub fn is_conclusive(&self) -> bool {
        let ended = self.closed_without_message + self.not_kicked;
        self.inconclusive == 0 && (ended > 0 || !self.kicked.is_empty())
    }

    /// Counts the end of a connection. `targets_accept`: connecting is the attack.
    pub(super) fn count_end(
        &mut self,
        script: &AttackScript,
        end: End,
        targets_accept: bool,
        protocol: &dyn Protocol,
    ) {
        let is_refused = end.is_refused(protocol);
        self.attempted += u64::from(!is_refused || targets_accept);
        match end {
            End::AsScripted | End::Left => {}
            End::TimedOut => self.not_kicked += 1,
            End::ByServer(Some(_)) if is_refused => self.refused += 1,
            End::ByServer(Some(code)) => {
                let label = protocol.reason_label(code).into_owned();
                *self.kicked.entry(label).or_default() += 1;
                if let Expect::Reason(codes) = &script.expect
                    && !codes.contains(&code)
                    && !protocol.is_shutdown(code)
                {
                    self.wrong_reason += 1;
                }
            }
            End::ByServer(None) => {
                self.closed_without_message += 1;
                let expects_reason = matches!(script.expect, Expect::Reason(_));
                self.closed_without_reason += u64::from(script.reads && expects_reason);
            }
        }
    }
}

impl From<&Histogram> for Delays {
    fn from(delays: &Histogram) -> Self {
        Self {
            count: delays.len(),
            p50_ms: delays.quantile_ms(0.5),
            p99_ms: delays.quantile_ms(0.99),
            max_ms: delays.quantile_ms(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::testing::TestProtocol;

    /// Counts one end of a script that reads.
    fn count(expect: Expect, end: End, targets_accept: bool) -> AttackStats {
        let mut stats = AttackStats::default();
        let script = AttackScript::new(&[][..], expect);
        stats.count_end(&script, end, targets_accept, &TestProtocol);
        stats
    }

    #[test]
    fn expected_reason_is_a_kick_and_another_is_wrong() {
        let expect = || Expect::Reason((&[3, 4]).into());
        for (code, wrong) in [(3, 0), (4, 0), (5, 1), (TestProtocol::SHUTDOWN, 0)] {
            let stats = count(expect(), End::ByServer(Some(code)), false);
            let kicked = BTreeMap::from([(format!("reason {code}"), 1)]);
            assert_eq!((stats.wrong_reason, stats.kicked), (wrong, kicked));
            assert_eq!(stats.attempted, 1);
        }
        let any = count(Expect::Any, End::ByServer(Some(5)), false);
        assert_eq!((any.wrong_reason, any.kicked.len()), (0, 1));
    }

    #[test]
    fn refused_connection_is_no_attack_unless_connecting_is_the_attack() {
        let full = End::ByServer(Some(TestProtocol::FULL));
        for (targets_accept, attempted) in [(false, 0), (true, 1)] {
            let stats = count(Expect::Close, full, targets_accept);
            assert_eq!((stats.refused, stats.attempted), (1, attempted));
            assert!(stats.kicked.is_empty() && !stats.is_conclusive());
        }
    }

    #[test]
    fn missing_reason_counts_where_the_attacker_reads_and_expects_one() {
        let reason = || Expect::Reason((&[3]).into());
        for (expect, reads, expected) in [
            (reason(), true, 1),
            (reason(), false, 0),
            (Expect::Close, true, 0),
            (Expect::Any, true, 0),
        ] {
            let mut stats = AttackStats::default();
            let script = AttackScript {
                reads,
                ..AttackScript::new(&[][..], expect)
            };
            stats.count_end(&script, End::ByServer(None), false, &TestProtocol);
            assert_eq!(stats.closed_without_reason, expected, "{script:?}");
            assert_eq!(stats.closed_without_message, 1);
            assert!(stats.is_conclusive());
        }
    }

    #[test]
    fn attackers_without_an_end_leave_the_attack_inconclusive() {
        let mut stats = count(Expect::Close, End::TimedOut, false);
        assert_eq!((stats.not_kicked, stats.is_conclusive()), (1, true));
        stats.inconclusive = 1;
        assert!(!stats.is_conclusive());
        for end in [End::AsScripted, End::Left] {
            let stats = count(Expect::Any, end, false);
            assert_eq!((stats.attempted, stats.is_conclusive()), (1, false));
        }
    }

    #[test]
    fn rise_needs_ticks_before_and_under_the_attack() {
        let micros = |values: &[u64]| {
            let mut histogram = Histogram::default();
            for value in values {
                histogram.record_micros(*value, 1);
            }
            histogram
        };
        let rise = |before: &[u64], during: &[u64], elapsed_secs| {
            let report = AttackReport {
                baseline: (&micros(before)).into(),
                elapsed_secs,
                ..AttackReport::default()
            };
            let report = report.with_delays(&micros(during));
            (report.tick_delay_p99_rise_ms, report.during.count)
        };
        assert_eq!(rise(&[1000], &[1500, 1500], 1.0), (Some(0.5), 2));
        assert_eq!(rise(&[], &[1500], 1.0), (None, 1));
        assert_eq!(rise(&[1000], &[], 1.0), (None, 0));
        // The ticks are not those of an attack that never began.
        assert_eq!(rise(&[1000], &[1500], 0.0), (None, 0));
        let empty = Delays::from(&micros(&[]));
        assert_eq!((empty.count, empty.p50_ms, empty.max_ms), (0, 0.0, 0.0));
    }
}
