//! The result of a run, as it is written for machines.

use super::assertion::Asserted;
use super::machine::MachineFacts;
use super::metric::Metrics;
use super::output;
use super::verdict::Verdict;
use crate::args::Args;
use crate::load::capacity::{Capacity, Step};
use crate::load::life::Sessions;
use crate::measure::board::Counts;
use crate::measure::distribution::{Bucket, distribution};
use crate::measure::groups::{Groups, More};
use crate::measure::meter::{Second, quantile_ms};
use crate::measure::recorder::{Micros, Samples};
use crate::measure::self_check::Findings;
use dummy_client::attack::{AttackReport, NewcomersReport};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Rises when a field changes its meaning or goes; new fields may come without that.
pub const SCHEMA_VERSION: u32 = 1;
/// So many reasons and goodbyes are listed; a server that makes up more makes nothing longer.
const MAX_GROUPS: usize = 50;

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
    /// did not come back. The neighbours of an attack are among the sessions.
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
    pub attack: Option<AttackReport>,
    /// The outcome of `--find-capacity`.
    pub capacity: Option<Capacity>,
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
    pub attack: Option<AttackReport>,
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
            attack: Some(AttackReport {
                tick_delay_p99_rise_ms: Some(0.0),
                newcomers: Some(NewcomersReport {
                    longest_wait_ms: Some(0.0),
                    ..NewcomersReport::default()
                }),
                ..AttackReport::default()
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

    /// For machines.
    ///
    /// # Errors
    /// One line for the user.
    pub fn to_json(&self) -> Result<String, String> {
        output::to_json(self, true).map(|json| json + "\n")
    }
}

impl Settings {
    fn of(args: &Args) -> Self {
        Self {
            addr: args.addr.first().to_string(),
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
