//! The result of a run: for people, for machines, and as an exit status.

use super::assertion::Asserted;
use super::machine::MachineFacts;
use super::metric::Metrics;
use crate::args::Args;
use crate::load::Failure;
use crate::load::capacity::{Answer, Capacity, Step};
use crate::load::life::Sessions;
use crate::measure::board::Counts;
use crate::measure::meter::{Second, quantile_ms};
use crate::measure::recorder::{Micros, Samples};
use crate::measure::self_check::Findings;
use game_server::process::human_bytes;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::time::Duration;

/// Rises when a field changes its meaning or goes; new fields may come without that.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything that a run has found out.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Summary {
    /// `dummy_client.summary`
    schema: &'static str,
    schema_version: u32,
    verdict: Verdict,
    /// What was wrong with what the server did; empty if nothing was.
    failures: Vec<String>,
    /// What became of each `--assert`.
    assertions: Vec<Asserted>,
    settings: Settings,
    elapsed_secs: f64,
    /// All that was lost, added up: sessions that were not back in time, ticks that were missing,
    /// sessions that had not seen the newest tick at the end or none at all, echoes and chats that
    /// did not come back.
    lost: u64,
    sessions: Sessions,
    packets: Packets,
    ticks: Ticks,
    echoes: Echoes,
    chats: Chats,
    /// The period of the server's tick, told from the ticks themselves; 0 if it is not known.
    tick_period_ms: f64,
    /// How late each tick reached each session, against the server's own schedule.
    tick_delay_ms: Quantiles,
    /// For each tick, from the first session that it reached to the last.
    tick_spread_ms: Quantiles,
    /// Echoes, from when they were due.
    rtt_ms: Quantiles,
    /// Chats, from when they were due until their senders heard them.
    chat_ms: Quantiles,
    /// From connect to connected.
    connect_ms: Quantiles,
    /// This program itself.
    client: Findings,
    /// The machine that this program ran on.
    machine: MachineFacts,
    /// Lost sessions and failed connects by reason.
    losses: BTreeMap<String, u64>,
    /// Goodbyes of the server.
    byes: Vec<Bye>,
    /// One point a second, or fewer in a long run.
    timeline: Vec<Second>,
    /// The outcome of `--find-capacity`.
    capacity: Option<Capacity>,
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
    pub losses: BTreeMap<String, u64>,
    /// Goodbyes of the server by code: text and count.
    pub byes: BTreeMap<u16, (String, u64)>,
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
}

#[derive(Debug, Default, Serialize, JsonSchema)]
struct Quantiles {
    count: u64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
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

#[derive(Debug, Default, Serialize, JsonSchema)]
struct Settings {
    addr: String,
    count: usize,
    duration_secs: Option<f64>,
    ramp_per_sec: u32,
    threads: usize,
    echo_hz: f64,
    chat_hz: f64,
    payload_bytes: usize,
    /// `MIN..MAX`, in milliseconds.
    churn_ms: Option<String>,
    /// As they were given.
    stages: Option<String>,
    reconnect: bool,
    seed: u64,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
struct Packets {
    received: u64,
    bytes: u64,
    malformed: u64,
    unknown_ids: u64,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
struct Ticks {
    received: u64,
    gaps: u64,
    missing: u64,
    repeats: u64,
    reordered: u64,
    wrong_texts: u64,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
struct Echoes {
    sent: u64,
    answered: u64,
    wrong: u64,
    unanswered: u64,
    /// Under way when their session was lost; that loss is judged, not they.
    lost_with_session: u64,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
struct Chats {
    sent: u64,
    /// Those of all sessions, received by all sessions.
    received: u64,
    /// Those that came back to the session that sent them.
    heard: u64,
    wrong: u64,
    unheard: u64,
    /// Under way when their session was lost; that loss is judged, not they.
    lost_with_session: u64,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
struct Bye {
    code: u16,
    text: String,
    count: u64,
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
        } = outcome;
        let (unanswered_echoes, unheard_chats) =
            (unanswered.echoes_under_way(), unanswered.chats_under_way());
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
            tick_spread_ms: (&samples.tick_spreads).into(),
            rtt_ms: (&samples.round_trips).into(),
            chat_ms: (&samples.chat_trips).into(),
            connect_ms: (&samples.connects).into(),
            client: findings.judged(quantile_ms(&samples.late_sends, 1.0), counts.packets),
            machine,
            timeline,
            capacity,
            losses,
            byes: byes
                .into_iter()
                .map(|(code, (text, count))| Bye { code, text, count })
                .collect(),
            ..Self::default()
        };
        summary.judge(args);
        summary
    }

    /// One with nothing in it: what there is to be measured.
    pub fn blank_metrics() -> Metrics {
        Metrics::of(&serde_json::to_value(Self::default()).unwrap_or_default())
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
        let faults = [
            (sessions.never_connected as u64, "sessions never connected"),
            (lost_for_good, "sessions were lost and not back within 10 s"),
            (behind, "sessions had not seen the newest tick"),
            (silent, "sessions had not seen any tick"),
            (self.ticks.missing, "ticks were missing"),
            (self.ticks.repeats, "ticks were repeated"),
            (self.ticks.reordered, "ticks were out of order"),
            (self.ticks.wrong_texts, "hellos had another text"),
            (self.packets.malformed, "packets were malformed"),
            (self.packets.unknown_ids, "packets had an unknown id"),
            (self.echoes.wrong, "echoes were not what was sent"),
            (self.echoes.unanswered, "echoes were not answered"),
            (self.chats.wrong, "chats were not what was sent"),
            (self.chats.unheard, "chats did not come back"),
        ];
        self.failures = faults
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if self.sessions.server_silent_secs > 0.0 {
            let seconds = self.sessions.server_silent_secs;
            self.failures
                .push(format!("no tick came for the last {seconds:.1} s"));
        }
        let searched = self.capacity.as_ref().map(|capacity| capacity.answer);
        if searched.is_none() {
            let metrics = Metrics::of(&serde_json::to_value(&*self).unwrap_or_default());
            let assertions = args.assertions().iter();
            self.assertions = assertions.map(|one| one.judge(&metrics)).collect();
        }
        self.verdict = match searched {
            // What broke in its steps is what was searched for.
            Some(Answer::Found | Answer::AtLeast) => Verdict::Ok,
            Some(Answer::ClientLimited) => Verdict::ClientLimited,
            Some(Answer::None | Answer::Interrupted) => Verdict::Failed,
            None if !self.failures.is_empty() => Verdict::Failed,
            None if self.client.client_limited => Verdict::ClientLimited,
            None if self.holds_all() => Verdict::Ok,
            None => Verdict::Failed,
        };
    }

    fn holds_all(&self) -> bool {
        self.assertions.iter().all(|asserted| asserted.holds)
    }

    /// 0 or 1. An assertion that broke is 1 whoever is to blame; a search that was refused an
    /// answer, too.
    pub fn exit_code(&self) -> ExitCode {
        let is_good = match (self.verdict, &self.capacity) {
            (Verdict::Ok, _) => true,
            (Verdict::ClientLimited, None) => self.holds_all(),
            _ => false,
        };
        match is_good {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }

    /// Writes the text to standard output, and the JSON where it was asked for; `-` is standard
    /// output, in place of the text.
    ///
    /// # Errors
    /// If the file cannot be written. A reader of standard output that has gone is no error.
    pub fn publish(&self, json: Option<&str>) -> Result<(), Failure> {
        let mut json_text = serde_json::to_string_pretty(self).map_err(|error| Failure {
            why: format!("the summary cannot be written as JSON: {error}"),
            exit_status: 1,
        })?;
        json_text.push('\n');
        let (to_stdout, to_file) = match json {
            Some("-") => (json_text, None),
            Some(path) => (self.to_text(), Some((path, json_text))),
            None => (self.to_text(), None),
        };
        write_or_failure("standard output", || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(to_stdout.as_bytes())?;
            stdout.flush()
        })?;
        if let Some((path, text)) = to_file {
            write_or_failure(path, || File::create(path)?.write_all(text.as_bytes()))?;
        }
        Ok(())
    }

    fn to_text(&self) -> String {
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
        for Bye {
            code,
            text: why,
            count,
        } in &self.byes
        {
            text += &format!("goodbye   {count} x code {code} ({why:?})\n");
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

fn write_or_failure(place: &str, write: impl FnOnce() -> io::Result<()>) -> Result<(), Failure> {
    match write() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure {
            why: format!("cannot write to {place}: {error}"),
            exit_status: 1,
        }),
        _ => Ok(()),
    }
}
