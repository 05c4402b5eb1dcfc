//! The result of a run: for people, for machines, and as an exit status.

use super::assertion::Asserted;
use super::machine::MachineFacts;
use super::metric::Metrics;
use crate::args::Args;
use crate::attack::Besieged;
use crate::load::capacity::{Answer, Capacity, Step};
use crate::load::life::Sessions;
use crate::measure::board::Counts;
use crate::measure::distribution::{Bucket, distribution};
use crate::measure::groups::{Groups, More};
use crate::measure::meter::{Second, quantile_ms};
use crate::measure::recorder::{Micros, Samples};
use crate::measure::self_check::Findings;
use game_server::process::human_bytes;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

/// Rises when a field changes its meaning or goes; new fields may come without that.
pub const SCHEMA_VERSION: u32 = 1;
/// So many reasons and goodbyes are listed; a server that makes up more makes nothing longer.
const MAX_GROUPS: usize = 50;
/// By how much the 99th percentile of the healthy sessions' tick delay may rise under an attack.
const MAX_RISE_MS: f64 = 20.0;
/// By how much the latest tick of any one of them may be later than the latest one before the attack:
/// who is one of many is not seen in a percentile.
const MAX_WAIT_MS: f64 = 1_000.0;
/// Who was away for longer than this cannot hold it against the server that something did not come,
/// or that it was thrown out.
const MAX_EXCUSED_LAG_MS: f64 = 1_000.0;

/// Everything that a run has found out.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Summary {
    /// `dummy_client.summary`
    pub schema: &'static str,
    pub schema_version: u32,
    pub verdict: Verdict,
    /// What was wrong with what the sessions got; empty if nothing was.
    pub failures: Vec<String>,
    /// What became of each `--assert`.
    pub assertions: Vec<Asserted>,
    pub settings: Settings,
    pub elapsed_secs: f64,
    /// All that was lost, added up: sessions that were not back in time, ticks that were missing,
    /// sessions that had not seen the newest tick at the end or none at all, echoes and chats that
    /// did not come back.
    pub lost: u64,
    pub sessions: Sessions,
    pub packets: Packets,
    pub ticks: Ticks,
    pub echoes: Echoes,
    pub chats: Chats,
    /// The period of the server's tick, told from the ticks themselves; 0 if it is not known.
    pub tick_period_ms: f64,
    /// How late each tick reached each session, against the server's own schedule; a slot that
    /// stayed empty counts as late until the next tick.
    pub tick_delay_ms: Quantiles,
    /// The longest time from the first arrival of a tick to that of the next one, or to the end.
    pub longest_tick_gap_ms: f64,
    /// For each tick, from the first session that it reached to the last.
    pub tick_spread_ms: Quantiles,
    /// Echoes, from when they were due.
    pub rtt_ms: Quantiles,
    /// Chats, from when they were due until their senders heard them.
    pub chat_ms: Quantiles,
    /// From connect to connected.
    pub connect_ms: Quantiles,
    pub distributions: Distributions,
    /// This program itself.
    pub client: Findings,
    /// The machine that this program ran on.
    pub machine: MachineFacts,
    /// Lost sessions and failed connects by reason.
    pub losses: BTreeMap<String, u64>,
    pub losses_more: More,
    /// Goodbyes of the server by code and text, the most frequent first.
    pub byes: Vec<Bye>,
    pub byes_more: More,
    /// One point a second, or fewer in a long run.
    pub timeline: Vec<Second>,
    /// What `--attack` has done.
    pub attack: Option<Besieged>,
    /// The outcome of `--find-capacity`.
    pub capacity: Option<Capacity>,
}

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

/// What a run, or a part of one, leaves behind for its summary.
pub struct Outcome<'a> {
    /// From start to end.
    pub elapsed: Duration,
    /// What became of the sessions.
    pub sessions: Sessions,
    /// What they have counted.
    pub counts: Counts,
    /// The counts at the end of the wait for what was under way.
    pub unanswered: Counts,
    /// Lost sessions and failed connects by reason.
    pub losses: Groups<String>,
    /// Goodbyes of the server by code and text.
    pub byes: Groups<(u16, String)>,
    /// This program itself.
    pub findings: Findings,
    /// The machine that this program ran on.
    pub machine: MachineFacts,
    /// The measurements.
    pub samples: &'a Samples,
    /// The period of the server's tick, if it is known.
    pub period: Option<Duration>,
    /// One point a second.
    pub timeline: Vec<Second>,
    /// How a search for the capacity has ended.
    pub capacity: Option<Capacity>,
    /// What an attack has done.
    pub attack: Option<Besieged>,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Quantiles {
    pub count: u64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl From<&Micros> for Quantiles {
    fn from(histogram: &Micros) -> Self {
        Self {
            count: histogram.len(),
            p50: quantile_ms(histogram, 0.5),
            p90: quantile_ms(histogram, 0.9),
            p99: quantile_ms(histogram, 0.99),
            p999: quantile_ms(histogram, 0.999),
            max: quantile_ms(histogram, 1.0),
        }
    }
}

/// How the measured values spread, in at most 60 buckets each.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Distributions {
    pub tick_delay: Vec<Bucket>,
    pub tick_spread: Vec<Bucket>,
    pub rtt: Vec<Bucket>,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Settings {
    pub addr: String,
    pub count: usize,
    pub duration_secs: Option<f64>,
    pub ramp_per_sec: u32,
    pub threads: usize,
    pub echo_hz: f64,
    pub chat_hz: f64,
    pub payload_bytes: usize,
    /// `MIN..MAX`, in milliseconds.
    pub churn_ms: Option<String>,
    /// As they were given.
    pub stages: Option<String>,
    pub reconnect: bool,
    pub seed: u64,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Packets {
    pub received: u64,
    pub bytes: u64,
    pub malformed: u64,
    pub unknown_ids: u64,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Ticks {
    pub received: u64,
    pub gaps: u64,
    pub missing: u64,
    pub repeats: u64,
    pub reordered: u64,
    pub wrong_texts: u64,
    /// Slots of the server's schedule that it left empty, as a server does that was stopped or has
    /// no time: its numbers go on as if nothing had been.
    pub skipped: u64,
    /// What was charged for them: for each session that waited, one delay for each slot. These are
    /// the delays that no tick belongs to: `tick_delay_ms.count` is `received` and these.
    pub charged: u64,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Echoes {
    pub sent: u64,
    pub answered: u64,
    pub wrong: u64,
    pub unanswered: u64,
    /// Under way when their session was lost; that loss is judged, not they.
    pub lost_with_session: u64,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Chats {
    pub sent: u64,
    /// Those of all sessions, received by all sessions.
    pub received: u64,
    /// Those that came back to the session that sent them.
    pub heard: u64,
    pub wrong: u64,
    pub unheard: u64,
    /// Under way when their session was lost; that loss is judged, not they.
    pub lost_with_session: u64,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Bye {
    pub code: u16,
    pub text: String,
    pub count: u64,
}

impl Summary {
    /// Puts the numbers together and judges them.
    pub fn new(args: &Args, outcome: Outcome<'_>) -> Self {
        let Outcome {
            elapsed,
            sessions,
            counts,
            unanswered,
            losses,
            byes,
            findings,
            machine,
            samples,
            period,
            timeline,
            capacity,
            attack,
        } = outcome;
        // Those at the end, and those that sessions which left had waited for far too long.
        let unanswered_echoes = unanswered.echoes_under_way() + unanswered.echoes_overdue;
        let unheard_chats = unanswered.chats_under_way() + unanswered.chats_overdue;
        let (losses, losses_more) = losses.into_largest(MAX_GROUPS);
        let (byes, byes_more) = byes.into_largest(MAX_GROUPS);
        let mut summary = Self {
            schema: "dummy_client.summary",
            schema_version: SCHEMA_VERSION,
            settings: Settings::of(args),
            elapsed_secs: elapsed.as_secs_f64(),
            sessions,
            packets: Packets {
                received: counts.packets,
                bytes: counts.bytes,
                malformed: counts.malformed,
                unknown_ids: counts.unknown_ids,
            },
            ticks: Ticks {
                received: counts.ticks,
                gaps: counts.gaps,
                missing: counts.missing_ticks,
                repeats: counts.repeats,
                reordered: counts.reordered,
                wrong_texts: counts.wrong_texts,
                skipped: samples.ticks_skipped,
                charged: samples.delays_charged,
            },
            echoes: Echoes {
                sent: counts.echoes_sent,
                answered: counts.echoes_answered,
                wrong: counts.wrong_echoes,
                unanswered: unanswered_echoes,
                lost_with_session: counts.echoes_lost.saturating_sub(unanswered_echoes),
            },
            chats: Chats {
                sent: counts.chats_sent,
                received: counts.chats,
                heard: counts.chats_heard,
                wrong: counts.wrong_chats,
                unheard: unheard_chats,
                lost_with_session: counts.chats_lost.saturating_sub(unheard_chats),
            },
            tick_period_ms: period.map_or(0.0, |period| period.as_secs_f64() * 1e3),
            tick_delay_ms: (&samples.tick_delays).into(),
            longest_tick_gap_ms: samples.longest_tick_gap.as_secs_f64() * 1e3,
            tick_spread_ms: (&samples.tick_spreads).into(),
            rtt_ms: (&samples.round_trips).into(),
            chat_ms: (&samples.chat_trips).into(),
            connect_ms: (&samples.connects).into(),
            distributions: Distributions {
                tick_delay: distribution(&samples.tick_delays),
                tick_spread: distribution(&samples.tick_spreads),
                rtt: distribution(&samples.round_trips),
            },
            client: findings.judged(quantile_ms(&samples.late_sends, 1.0), counts.packets),
            machine,
            timeline,
            capacity,
            attack,
            losses: losses.into_iter().collect(),
            losses_more,
            byes: byes
                .into_iter()
                .map(|((code, text), count)| Bye { code, text, count })
                .collect(),
            byes_more,
            ..Self::default()
        };
        summary.judge(args);
        summary
    }

    /// One with nothing in it: what there is to be measured.
    pub fn blank_metrics() -> Metrics {
        let blank = Self {
            attack: Some(Besieged {
                tick_delay_p99_rise_ms: Some(0.0),
                ..Besieged::default()
            }),
            ..Self::default()
        };
        Metrics::of(&serde_json::to_value(blank).unwrap_or_default())
    }

    /// As a step of the search for the capacity.
    pub fn as_step(&self, sessions: usize) -> Step {
        let broken = self.assertions.iter().filter(|asserted| !asserted.holds);
        let broken = broken.map(ToString::to_string);
        Step {
            sessions,
            holds: self.verdict == Verdict::Ok,
            client_limited: self.client.client_limited,
            broken: self.failures.iter().cloned().chain(broken).collect(),
            tick_delay_p50_ms: self.tick_delay_ms.p50,
            tick_delay_p99_ms: self.tick_delay_ms.p99,
            tick_delay_max_ms: self.tick_delay_ms.max,
            rtt_p99_ms: self.rtt_ms.p99,
            packets_per_sec: self.packets.received as f64 / self.elapsed_secs,
            bytes_per_sec: self.packets.bytes as f64 / self.elapsed_secs,
            cpu_cores: self.client.cpu_cores,
        }
    }

    fn judge(&mut self, args: &Args) {
        let sessions = &self.sessions;
        // With --reconnect a loss that came back in time is no failure; without, none comes back.
        let lost_for_good = sessions.lost - sessions.came_back.min(sessions.lost);
        let (behind, silent) = (sessions.behind as u64, sessions.silent as u64);
        self.lost = lost_for_good
            + self.ticks.missing
            + behind
            + silent
            + self.echoes.unanswered
            + self.chats.unheard;
        let packets_were_due = sessions.connected > 0 && self.packets.received == 0;
        // What was sent is wrong whoever had to wait for it.
        let wrong = [
            (self.ticks.missing, "ticks were missing"),
            (self.ticks.repeats, "ticks were repeated"),
            (self.ticks.reordered, "ticks were out of order"),
            (self.ticks.wrong_texts, "hellos had another text"),
            (self.packets.malformed, "packets were malformed"),
            (self.packets.unknown_ids, "packets had an unknown id"),
            (self.echoes.wrong, "echoes were not what was sent"),
            (self.chats.wrong, "chats were not what was sent"),
        ];
        let late = [
            (sessions.never_connected as u64, "sessions never connected"),
            (lost_for_good, "sessions were lost and not back within 10 s"),
            (sessions.missing as u64, "sessions could not come back"),
            (behind, "sessions had not seen the newest tick"),
            (silent, "sessions had not seen any tick"),
            (self.echoes.unanswered, "echoes were not answered"),
            (self.chats.unheard, "chats did not come back"),
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
            late.push(format!("no tick came for the last {silent_secs:.1} s"));
        }
        if packets_were_due {
            late.push("nothing at all was received".into());
        }
        if let Some(attack) = &self.attack {
            late.extend(attack_failures(attack, self.client.client_limited));
        }
        // Whoever was not there to read cannot say that nothing came.
        let was_away = self.client.worst_lag_ms() > MAX_EXCUSED_LAG_MS;
        let is_wrong = !wrong.is_empty();
        let is_late = !late.is_empty();
        self.failures = [wrong, late].concat();
        self.verdict = match self.capacity.as_ref().map(|capacity| capacity.answer) {
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

    /// For machines.
    ///
    /// # Errors
    /// One line for the user.
    pub fn to_json(&self) -> Result<String, String> {
        serde_json::to_string_pretty(self)
            .map(|text| text + "\n")
            .map_err(|error| format!("the summary cannot be written as JSON: {error}"))
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let Self {
            sessions,
            packets,
            ticks,
            echoes,
            chats,
            ..
        } = self;
        let mut text = format!(
            "sessions  {} of {} connected, {} live at the end, {} lost, {} came back\n\
             packets   {} received ({}), {} malformed, {} with an unknown id\n\
             ticks     {} received, {} missing, {} repeated, {} out of order, {} with another text\n",
            sessions.connected,
            sessions.asked,
            sessions.live,
            sessions.lost,
            sessions.came_back + sessions.came_back_late,
            packets.received,
            human_bytes(packets.bytes as f64),
            packets.malformed,
            packets.unknown_ids,
            ticks.received,
            ticks.missing,
            ticks.repeats,
            ticks.reordered,
            ticks.wrong_texts,
        );
        if ticks.skipped > 0 {
            text += &format!(
                "skipped   {} ticks that were due and never came; the longest gap was {:.0} ms\n",
                ticks.skipped, self.longest_tick_gap_ms
            );
        }
        if echoes.sent > 0 {
            text += &format!(
                "echoes    {} sent, {} answered, {} wrong, {} unanswered\n",
                echoes.sent, echoes.answered, echoes.wrong, echoes.unanswered
            );
        }
        if chats.sent > 0 {
            text += &format!(
                "chats     {} sent, {} heard by their senders, {} wrong, {} unheard\n",
                chats.sent, chats.heard, chats.wrong, chats.unheard
            );
        }
        let measured = [
            (
                "delay",
                &self.tick_delay_ms,
                "of ticks against their schedule",
            ),
            (
                "spread",
                &self.tick_spread_ms,
                "of a tick over the sessions",
            ),
            ("rtt", &self.rtt_ms, "of echoes, from when they were due"),
            ("chat", &self.chat_ms, "from due until heard"),
            ("connect", &self.connect_ms, ""),
        ];
        for (name, quantiles, what) in measured.into_iter().filter(|(_, q, _)| q.count > 0) {
            let Quantiles {
                p50,
                p90,
                p99,
                p999,
                max,
                ..
            } = quantiles;
            let line = format!(
                "{name:<9} p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2} ms  {what}"
            );
            text += line.trim_end();
            text.push('\n');
        }
        for why in &self.client.reasons {
            text += &format!("client    {why}\n");
        }
        for (why, count) in &self.losses {
            text += &format!("loss      {count} x {why}\n");
        }
        text += &more_line("loss", self.losses_more);
        for Bye {
            code,
            text: why,
            count,
        } in &self.byes
        {
            text += &format!("goodbye   {count} x code {code} ({why:?})\n");
        }
        text += &more_line("goodbye", self.byes_more);
        if let Some(attack) = &self.attack {
            text += &attack_text(attack);
        }
        if let Some(capacity) = &self.capacity {
            text += &capacity_text(capacity);
        } else {
            for failure in &self.failures {
                text += &format!("failed    {failure}\n");
            }
        }
        for asserted in &self.assertions {
            let outcome = if asserted.holds { "holds " } else { "BROKEN" };
            text += &format!("assert    {outcome}  {asserted}\n");
        }
        text += &format!(
            "verdict   {} after {:.1} s\n",
            self.verdict.label(),
            self.elapsed_secs
        );
        text
    }
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

impl Settings {
    fn of(args: &Args) -> Self {
        Self {
            addr: args.addr.to_string(),
            count: args.max_sessions().unwrap_or(0),
            duration_secs: args.duration_secs.map(|duration| duration.as_secs_f64()),
            ramp_per_sec: args.ramp_per_sec,
            threads: args.threads,
            echo_hz: args.echo_hz,
            chat_hz: args.chat_hz,
            payload_bytes: args.payload_bytes,
            churn_ms: args.churn_ms.map(|churn| churn.to_string()),
            stages: args.stages.as_ref().map(ToString::to_string),
            reconnect: args.reconnect,
            seed: args.seed(),
        }
    }
}

/// What an attack must not do. A rise that may be this program's own is none of the server's.
fn attack_failures(attack: &Besieged, client_limited: bool) -> Vec<String> {
    let tally = &attack.tally;
    let mut failures = Vec::new();
    if attack.elapsed_secs == 0.0 {
        failures.push("the run was over before the attack began".into());
    }
    let needed = attack.patience_secs;
    if attack.elapsed_secs > 0.0 && tally.fought == 0 {
        failures.push("nothing was attacked: no attacker was let in".into());
    } else if needed > 0.0 && !tally.is_telling() {
        failures.push(format!(
            "the attack was too short to tell whether attackers are kicked: it needs {needed} s"
        ));
    }
    if tally.not_kicked > 0 {
        let count = tally.not_kicked;
        failures.push(format!(
            "{count} attackers should have been kicked and were not"
        ));
    }
    if tally.wrong_reason > 0 {
        let count = tally.wrong_reason;
        failures.push(format!("{count} attackers were kicked for another reason"));
    }
    if tally.untold > 0 && !client_limited {
        let count = tally.untold;
        failures.push(format!(
            "{count} attackers that read on were kicked and not told why"
        ));
    }
    if attack.elapsed_secs > 0.0 && attack.tick_delay_p99_rise_ms.is_none() {
        failures.push("too few ticks came to tell whether the attack made them late".into());
    }
    let longest = attack.during.max_ms - attack.before.max_ms;
    if longest > MAX_WAIT_MS && !client_limited {
        failures.push(format!(
            "a tick was {:.0} ms late under the attack, and {:.0} ms at the most before",
            attack.during.max_ms, attack.before.max_ms
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

fn attack_text(attack: &Besieged) -> String {
    let tally = &attack.tally;
    let kicked: Vec<String> = (tally.kicked.iter())
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let kicked = match kicked.is_empty() {
        true => "none".into(),
        false => kicked.join(", "),
    };
    format!(
        "attack    {} by {} attackers for {:.1} s: {} connections, kicked {kicked}, {} ended without a \
         reason, {} turned away, {} not kicked in time\n\
         healthy   tick delay p99 {:.2} ms before, {:.2} ms under the attack\n",
        attack.name,
        attack.attackers,
        attack.elapsed_secs,
        tally.connections,
        tally.ended_without_reason,
        tally.turned_away,
        tally.not_kicked,
        attack.before.p99_ms,
        attack.during.p99_ms,
    )
}

/// A step a line, with a bar as long as its sessions are many, and the answer.
fn capacity_text(capacity: &Capacity) -> String {
    let most = capacity.steps.iter().map(|step| step.sessions).max();
    let most = most.unwrap_or(1).max(1);
    let mut text = String::new();
    for step in &capacity.steps {
        let outcome = match (step.client_limited, step.holds) {
            (true, _) => "limited",
            (false, true) => "holds",
            (false, false) => "breaks",
        };
        let bar = "#".repeat((step.sessions * 30).div_ceil(most));
        text += &format!(
            "step      {:>8} sessions  {outcome:<8} p99 {:>8.2} ms  {:>9.0} packets/s  {:>9}/s  {bar}\n",
            step.sessions,
            step.tick_delay_p99_ms,
            step.packets_per_sec,
            human_bytes(step.bytes_per_sec),
        );
    }
    let largest = match capacity.largest {
        Some(sessions) => format!("{sessions} sessions"),
        None => "nothing".into(),
    };
    text += &match capacity.answer {
        Answer::Found => format!("capacity  {largest}\n"),
        Answer::AtLeast => format!("capacity  at least {largest}: no more were to be tried\n"),
        Answer::None => "capacity  none: not even one session was served as it should be\n".into(),
        Answer::ClientLimited => format!(
            "capacity  unknown: this program was the bottleneck ({largest} held before); \
             give it more --threads, or a machine of its own\n"
        ),
        Answer::Interrupted => format!("capacity  unknown: ended too early ({largest} held)\n"),
    };
    text
}

fn more_line(name: &str, more: More) -> String {
    match more {
        More { count: 0, .. } => String::new(),
        More {
            groups_at_least,
            count,
        } => format!("{name:<9} {count} x others, of at least {groups_at_least} more kinds\n"),
    }
}
