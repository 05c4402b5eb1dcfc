//! What is to be thought of a run, and the exit status that says so.

use super::metric::Metrics;
use super::summary::Summary;
use crate::args::Args;
use crate::load::capacity::Answer;
use dummy_client::attack::{AttackReport, NEIGHBOURS};
use schemars::JsonSchema;
use serde::Serialize;
use std::process::ExitCode;

/// By how much the 99th percentile of the healthy sessions' tick delay may rise under an attack.
const MAX_RISE_MS: f64 = 20.0;
/// By how much the latest tick of any one of them may be later than the latest one before the attack:
/// who is one of many is not seen in a percentile.
const MAX_WAIT_MS: f64 = 1_000.0;
/// Who was away for longer than this cannot hold it against the server that something did not come,
/// or that it was thrown out.
const MAX_EXCUSED_LAG_MS: f64 = 1_000.0;

/// What is to be thought of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything was as it should be.
    #[default]
    Ok,
    /// The server did something wrong, or an assertion broke.
    Failed,
    /// The server did nothing wrong, but the figures may be this program's own: they are not held
    /// against the server.
    ClientLimited,
}

impl Verdict {
    const fn of_search(answer: Answer) -> Self {
        match answer {
            Answer::Found | Answer::AtLeast => Self::Ok,
            Answer::ClientLimited => Self::ClientLimited,
            Answer::None | Answer::Interrupted => Self::Failed,
        }
    }

    /// As in the JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::ClientLimited => "client_limited",
        }
    }
}

impl Summary {
    pub(super) fn judge(&mut self, args: &Args) {
        let sessions = &self.sessions;
        // With --reconnect a loss that came back in time is no failure; without, none comes back.
        let lost_for_good = sessions.lost - sessions.came_back.min(sessions.lost);
        let neighbours = self.attack.as_ref().map(|attack| &attack.neighbours);
        let (behind, silent) = (sessions.behind as u64, sessions.silent as u64);
        self.lost = lost_for_good
            + self.ticks.missing
            + behind
            + silent
            + self.echoes.unanswered
            + self.chats.unheard
            + neighbours.map_or(0, |seen| seen.lost as u64 + seen.missing_ticks);
        let packets_were_due = sessions.connected > 0 && self.packets.received == 0;
        // What was sent is wrong whoever had to wait for it.
        let wrong = [
            (self.ticks.missing, "ticks were missing"),
            (self.ticks.repeats, "ticks were repeated"),
            (self.ticks.reordered, "ticks were out of order"),
            (self.ticks.wrong_texts, "hellos had a wrong text"),
            (self.packets.malformed, "packets were malformed"),
            (self.packets.unknown_ids, "packets had an unknown id"),
            (self.echoes.wrong, "echoes were corrupted"),
            (self.chats.wrong, "chats were corrupted"),
        ];
        let late = [
            (sessions.never_connected as u64, "sessions never connected"),
            (
                lost_for_good,
                "sessions were lost and did not reconnect within 10 s",
            ),
            (sessions.missing as u64, "sessions did not reconnect"),
            (behind, "sessions had not seen the newest tick"),
            (silent, "sessions had not seen any tick"),
            (self.echoes.unanswered, "echoes were lost"),
            (self.chats.unheard, "chats were lost"),
        ];
        let told = |faults: &[(u64, &str)]| -> Vec<String> {
            let faults = faults.iter().filter(|(count, _)| *count > 0);
            faults
                .map(|(count, what)| format!("{count} {what}"))
                .collect()
        };
        let (wrong, mut late) = (told(&wrong), told(&late));
        let silent_secs = sessions.server_silent_secs;
        if silent_secs > 0.0 {
            late.push(format!("no tick arrived in the last {silent_secs:.1} s"));
        }
        if packets_were_due {
            late.push("no packet was received".into());
        }
        if let Some(attack) = &self.attack {
            late.extend(attack_failures(attack, self.client.client_limited));
            late.extend(neighbour_failures(attack, self.longest_tick_gap_ms));
        }
        // Whoever was not there to read cannot say that nothing came.
        let was_away = self.client.worst_lag_ms() > MAX_EXCUSED_LAG_MS;
        let is_wrong = !wrong.is_empty();
        let is_late = !late.is_empty();
        self.failures = [wrong, late].concat();
        self.verdict = match self.capacity.as_ref().map(|capacity| capacity.outcome) {
            Some(answer) => {
                // What broke in its steps is what was searched for.
                self.failures.clear();
                Verdict::of_search(answer)
            }
            None => {
                let metrics = Metrics::of(&serde_json::to_value(&*self).unwrap_or_default());
                let assertions = args.assertions().iter();
                let own_lag_ms = self.client.worst_lag_ms();
                self.assertions = (assertions.map(|one| one.judge(&metrics, own_lag_ms))).collect();
                let mut broken = self.assertions.iter().filter(|asserted| !asserted.holds);
                let is_broken = broken.any(|asserted| !asserted.may_be_own_lag);
                let is_limited = self.client.client_limited;
                match () {
                    () if is_wrong || is_late && !was_away => Verdict::Failed,
                    () if is_broken && !is_limited => Verdict::Failed,
                    () if is_limited || is_late || !self.holds_all() => Verdict::ClientLimited,
                    () => Verdict::Ok,
                }
            }
        };
    }

    fn holds_all(&self) -> bool {
        self.assertions.iter().all(|asserted| asserted.holds)
    }

    /// 0 or 1. What was lost, or an assertion that broke, is 1 whoever is to blame; a search that
    /// was refused an answer, too.
    pub fn exit_code(&self) -> ExitCode {
        let is_good = match (self.verdict, &self.capacity) {
            (Verdict::Ok, _) => true,
            (Verdict::ClientLimited, None) => self.failures.is_empty() && self.holds_all(),
            _ => false,
        };
        match is_good {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }
}

/// What a neighbour must not see. `healthy_gap_ms`: the longest time between two ticks of the server.
fn neighbour_failures(attack: &AttackReport, healthy_gap_ms: f64) -> Vec<String> {
    let seen = &attack.neighbours;
    let mut failures = seen.faults.clone();
    if attack.elapsed_secs > 0.0 && seen.sessions < NEIGHBOURS {
        let missing = NEIGHBOURS - seen.sessions;
        failures.push(format!("{missing} neighbours were never connected"));
    }
    for group in &seen.by_interval {
        let (gap, every) = (group.longest_tick_gap_ms, group.read_interval_ms);
        // A reader that this program held up waits as long.
        if gap > healthy_gap_ms + MAX_WAIT_MS + group.longest_pause_ms {
            failures.push(format!(
                "a neighbour, which reads every {every} ms, waited {gap:.0} ms for a tick; the longest \
                 gap between two ticks of the server is {healthy_gap_ms:.0} ms"
            ));
        }
    }
    failures
}

/// What an attack must not do. A rise that may be this program's own is none of the server's.
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
    if stats.not_kicked > 0 {
        let count = stats.not_kicked;
        failures.push(format!(
            "{count} attackers should have been kicked and were not"
        ));
    }
    if stats.wrong_reason > 0 {
        let count = stats.wrong_reason;
        failures.push(format!("{count} attackers were kicked for another reason"));
    }
    if stats.closed_without_reason > 0 && !client_limited {
        let count = stats.closed_without_reason;
        failures.push(format!(
            "{count} attackers that read on were kicked without a reason"
        ));
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
