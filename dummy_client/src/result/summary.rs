//! The result of a run: for people, for machines, and as an exit status.

use crate::args::Args;
use crate::load::Failure;
use crate::measure::board::Board;
use crate::measure::meter::{Meter, Second, quantile_ms};
use crate::measure::recorder::Micros;
use crate::measure::self_check::Findings;
use game_server::process::human_bytes;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::time::Duration;

/// Rises when a field changes its meaning or goes; new fields may come without that.
const SCHEMA_VERSION: u32 = 1;

/// Everything that a run has found out.
#[derive(Debug, Serialize)]
pub struct Summary {
    schema: &'static str,
    schema_version: u32,
    /// `ok`, `failed`, or `client_limited`: nothing failed, but the figures may be this program's
    /// own.
    verdict: &'static str,
    /// Why it failed; empty if it did not.
    failures: Vec<String>,
    settings: Settings,
    elapsed_secs: f64,
    sessions: Sessions,
    packets: Packets,
    ticks: Ticks,
    echoes: Echoes,
    /// The period of the server's tick, told from the ticks themselves; 0 if it is not known.
    tick_period_ms: f64,
    /// How late each tick reached each session, against the server's own schedule.
    tick_delay_ms: Quantiles,
    /// For each tick, from the first session that it reached to the last.
    tick_spread_ms: Quantiles,
    /// Echoes, from when they were due.
    rtt_ms: Quantiles,
    /// From connect to connected.
    connect_ms: Quantiles,
    /// This program itself.
    client: Findings,
    /// Lost sessions and failed connects by reason.
    losses: BTreeMap<String, u64>,
    /// Goodbyes of the server.
    byes: Vec<Bye>,
    /// One point a second, or fewer in a long run.
    timeline: Vec<Second>,
}

/// What a run leaves behind for its summary.
pub struct Outcome {
    /// From start to end.
    pub elapsed: Duration,
    /// What became of the sessions.
    pub sessions: Sessions,
    /// Echoes that were not answered at the end.
    pub echoes_unanswered: u64,
    /// Lost sessions and failed connects by reason.
    pub losses: BTreeMap<String, u64>,
    /// Goodbyes of the server by code: text and count.
    pub byes: BTreeMap<u16, (String, u64)>,
    /// This program itself.
    pub client: Findings,
    /// The measurements.
    pub meter: Meter,
}

#[derive(Debug, Serialize)]
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

#[derive(Debug, Serialize)]
struct Settings {
    addr: String,
    count: usize,
    duration_secs: Option<f64>,
    ramp_per_sec: u32,
    threads: usize,
    echo_hz: f64,
    payload_bytes: usize,
    reconnect: bool,
    seed: u64,
}

/// What became of the sessions.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sessions {
    /// What the command line asked for.
    pub asked: usize,
    /// Those that stood at least once.
    pub connected: usize,
    /// Those that never did.
    pub never_connected: usize,
    /// Attempts that failed.
    pub failed_connects: u64,
    /// Times that one was lost.
    pub lost: u64,
    /// … and was back within ten seconds.
    pub came_back: u64,
    /// … or later.
    pub came_back_late: u64,
    /// Those that stood at the end.
    pub live: usize,
    /// The most at a time.
    pub max_live: usize,
    /// Those that were gone at the end.
    pub gone: usize,
    /// Those that had not seen the newest tick at the end, although it was waited for.
    pub behind: usize,
    /// Those that had not seen any tick, while others had.
    pub silent: usize,
    /// Attempts that the server refused because it was full; they count as failed connects.
    pub refused: u64,
    /// Seconds for which the whole server had been silent at the end, if that was too long.
    pub server_silent_secs: f64,
}

#[derive(Debug, Serialize)]
struct Packets {
    received: u64,
    bytes: u64,
    malformed: u64,
    unknown_ids: u64,
    chats: u64,
}

#[derive(Debug, Serialize)]
struct Ticks {
    received: u64,
    gaps: u64,
    missing: u64,
    repeats: u64,
    reordered: u64,
    wrong_texts: u64,
}

#[derive(Debug, Serialize)]
struct Echoes {
    sent: u64,
    answered: u64,
    wrong: u64,
    unanswered: u64,
    /// Under way when their session was lost; that loss is judged, not they.
    lost_with_session: u64,
}

#[derive(Debug, Serialize)]
struct Bye {
    code: u16,
    text: String,
    count: u64,
}

impl Summary {
    /// Puts the numbers together and judges them.
    pub fn new(args: &Args, board: &Board, outcome: Outcome) -> Self {
        let Outcome {
            elapsed,
            sessions,
            echoes_unanswered,
            losses,
            byes,
            client,
            meter,
        } = outcome;
        let mut summary = Self {
            schema: "dummy_client.summary",
            schema_version: SCHEMA_VERSION,
            verdict: "ok",
            failures: Vec::new(),
            settings: Settings {
                addr: args.addr.to_string(),
                count: args.count,
                duration_secs: args.duration_secs.map(|duration| duration.as_secs_f64()),
                ramp_per_sec: args.ramp_per_sec,
                threads: args.threads,
                echo_hz: args.echo_hz,
                payload_bytes: args.payload_bytes,
                reconnect: args.reconnect,
                seed: args.seed(),
            },
            elapsed_secs: elapsed.as_secs_f64(),
            sessions,
            packets: Packets {
                received: board.sum(|counters| &counters.packets),
                bytes: board.sum(|counters| &counters.bytes),
                malformed: board.sum(|counters| &counters.malformed),
                unknown_ids: board.sum(|counters| &counters.unknown_ids),
                chats: board.sum(|counters| &counters.chats),
            },
            ticks: Ticks {
                received: board.sum(|counters| &counters.ticks),
                gaps: board.sum(|counters| &counters.gaps),
                missing: board.sum(|counters| &counters.missing_ticks),
                repeats: board.sum(|counters| &counters.repeats),
                reordered: board.sum(|counters| &counters.reordered),
                wrong_texts: board.sum(|counters| &counters.wrong_texts),
            },
            echoes: Echoes {
                sent: board.sum(|counters| &counters.echoes_sent),
                answered: board.sum(|counters| &counters.echoes_answered),
                wrong: board.sum(|counters| &counters.wrong_echoes),
                unanswered: echoes_unanswered,
                lost_with_session: board
                    .sum(|counters| &counters.echoes_lost)
                    .saturating_sub(echoes_unanswered),
            },
            tick_period_ms: meter
                .period()
                .map_or(0.0, |period| period.as_secs_f64() * 1e3),
            tick_delay_ms: (&meter.delays).into(),
            tick_spread_ms: (&meter.spreads).into(),
            rtt_ms: (&meter.round_trips).into(),
            connect_ms: (&meter.connects).into(),
            client,
            timeline: meter.timeline,
            losses,
            byes: byes
                .into_iter()
                .map(|(code, (text, count))| Bye { code, text, count })
                .collect(),
        };
        summary.judge();
        summary
    }

    fn judge(&mut self) {
        let sessions = &self.sessions;
        // With --reconnect a loss that came back in time is no failure; without, none comes back.
        let lost_for_good = sessions.lost - sessions.came_back.min(sessions.lost);
        let faults = [
            (sessions.never_connected as u64, "sessions never connected"),
            (lost_for_good, "sessions were lost and not back within 10 s"),
            (
                sessions.behind as u64,
                "sessions had not seen the newest tick",
            ),
            (sessions.silent as u64, "sessions had not seen any tick"),
            (self.ticks.missing, "ticks were missing"),
            (self.ticks.repeats, "ticks were repeated"),
            (self.ticks.reordered, "ticks were out of order"),
            (self.ticks.wrong_texts, "hellos had another text"),
            (self.packets.malformed, "packets were malformed"),
            (self.packets.unknown_ids, "packets had an unknown id"),
            (self.echoes.wrong, "echoes were not what was sent"),
            (self.echoes.unanswered, "echoes were not answered"),
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
        if !self.failures.is_empty() {
            self.verdict = "failed";
        } else if self.client.client_limited {
            self.verdict = "client_limited";
        }
    }

    /// 0 or 1.
    pub fn exit_code(&self) -> ExitCode {
        match self.failures.is_empty() {
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
        for failure in &self.failures {
            text += &format!("failed    {failure}\n");
        }
        text += &format!(
            "verdict   {} after {:.1} s\n",
            self.verdict, self.elapsed_secs
        );
        text
    }
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
