//! The results: medians, their spread, and ratios of runs that were made in the same round.

use crate::Results;
use crate::case::{Case, Load, Server, Set};
use crate::machine::Machine;
use crate::run::Outcome;
use serde_json::{Value, json};
use std::fmt;
use std::time::{Duration, SystemTime};

/// All measurements. `Display` writes them as Markdown.
pub struct Report<'a> {
    pub set: Set,
    pub cases: &'a [Case],
    pub results: &'a Results,
    pub machine: &'a Machine,
    pub rounds: u32,
    pub elapsed: Duration,
}

/// The title and the format of a figure's table.
#[derive(Clone, Copy)]
struct Table {
    title: &'static str,
    figure: &'static str,
    decimals: usize,
    /// Shows the ratios of the other servers to the first server.
    has_ratios: bool,
    of: fn(&Load) -> bool,
}

const TABLES: [Table; 11] = [
    Table {
        title: "Broadcast: CPU time of the server for each delivered packet, µs; ratios to the bare loop",
        figure: "cpu_us_per_packet",
        decimals: 2,
        has_ratios: true,
        of: is_broadcast,
    },
    Table {
        title: "Echo, one in flight for each session: CPU time of the server for each round trip, µs; \
                ratios to the bare loop",
        figure: "cpu_us_per_packet",
        decimals: 2,
        has_ratios: true,
        of: |load| matches!(load, Load::Echo { .. }),
    },
    Table {
        title: "Saturation, 8 rounds in flight: delivered packets per second; ratios to the bare loop",
        figure: "packets_per_sec",
        decimals: 0,
        has_ratios: true,
        of: is_saturation,
    },
    Table {
        title: "Saturation: CPU time of the busiest thread of the server for each delivered packet, µs; \
                this thread bounds the throughput if the client has cores of its own",
        figure: "thread_us_per_packet",
        decimals: 3,
        has_ratios: true,
        of: is_saturation,
    },
    Table {
        title: "Connect, 256 in flight, until the first echo is back: sessions per second; ratios to \
                the bare loop",
        figure: "packets_per_sec",
        decimals: 0,
        has_ratios: true,
        of: is_connect,
    },
    Table {
        title: "Connect: CPU time of the server for each session, µs; ratios to the bare loop",
        figure: "cpu_us_per_packet",
        decimals: 1,
        has_ratios: true,
        of: is_connect,
    },
    Table {
        title: "From the first session of a tick to the last, p99, ms; ratios to the bare loop",
        figure: "tick_spread_p99_ms",
        decimals: 2,
        has_ratios: true,
        of: is_broadcast,
    },
    Table {
        title: "Metrics of game_server: delay of the loop at a tick, p99, upper bound in ms",
        figure: "tick_lag_p99_ms",
        decimals: 2,
        has_ratios: false,
        of: is_plain_broadcast,
    },
    Table {
        title: "Metrics of game_server: from the tick to the last session's write, p99, upper bound in ms",
        figure: "broadcast_p99_ms",
        decimals: 1,
        has_ratios: false,
        of: is_plain_broadcast,
    },
    Table {
        title: "Memory of the server for each session, between two ticks, bytes (few sessions: mostly \
                the memory that the process needs once)",
        figure: "memory_bytes_per_session",
        decimals: 0,
        has_ratios: false,
        of: is_broadcast,
    },
    Table {
        title: "The load client's own CPU time for each packet received, µs",
        figure: "client_us_per_packet",
        decimals: 2,
        has_ratios: false,
        of: |_| true,
    },
];

fn is_broadcast(load: &Load) -> bool {
    matches!(load, Load::Broadcast { .. })
}

fn is_plain_broadcast(load: &Load) -> bool {
    matches!(
        load,
        Load::Broadcast {
            packets_per_tick: 1,
            ..
        }
    )
}

fn is_saturation(load: &Load) -> bool {
    matches!(load, Load::Saturate { .. })
}

fn is_connect(load: &Load) -> bool {
    matches!(load, Load::Connect { .. })
}

impl Report<'_> {
    /// The number of failed runs.
    pub fn failures(&self) -> usize {
        let outcomes = self.results.values().flatten().flatten();
        outcomes
            .filter(|outcome| matches!(outcome, Outcome::Failed { .. }))
            .count()
    }

    /// All figures, round by round.
    pub fn to_json(&self) -> String {
        let cases: Vec<Value> = self
            .cases
            .iter()
            .map(|case| {
                let servers = case.servers.iter().zip(&self.results[&case.name]);
                let servers: Vec<Value> = servers
                    .map(|(server, rounds)| json!({ "server": server.label(), "rounds": rounds }))
                    .collect();
                json!({ "case": case.name, "servers": servers })
            })
            .collect();
        let all = json!({
            "schema": "bench",
            "schema_version": 1,
            "machine": self.machine,
            "rounds": self.rounds,
            "elapsed_secs": self.elapsed.as_secs_f64(),
            "cases": cases,
        });
        format!("{all:#}\n")
    }

    fn outcomes(&self, case: &Case, server: Server) -> &[Outcome] {
        let index = case.servers.iter().position(|one| *one == server);
        let of_case = self.results.get(&case.name);
        of_case
            .zip(index)
            .map_or(&[], |(of_case, index)| &of_case[index])
    }

    /// The ratio to another run of the same round, for each round in which both runs are valid.
    fn ratios(
        &self,
        figure: &str,
        (case, server): (&Case, Server),
        (to_case, to_server): (&Case, Server),
    ) -> Option<Spread> {
        let ours = self.outcomes(case, server);
        let theirs = self.outcomes(to_case, to_server);
        let pairs = ours.iter().zip(theirs);
        Spread::of(pairs.filter_map(|(a, b)| Some(a.figure(figure)? / b.figure(figure)?)))
    }

    fn cell(&self, table: &Table, case: &Case, server: Server) -> String {
        let outcomes = self.outcomes(case, server);
        if outcomes.is_empty() {
            return NOT_MEASURED.into();
        }
        let first = case.servers[0];
        let spread = match table.has_ratios && server != first {
            true => self
                .ratios(table.figure, (case, server), (case, first))
                .map(|spread| spread.show(2)),
            false => Spread::of(outcomes.iter().filter_map(|one| one.figure(table.figure)))
                .map(|spread| spread.show(table.decimals)),
        };
        let to = match table.has_ratios {
            true => self.outcomes(case, first),
            false => outcomes,
        };
        spread.unwrap_or_else(|| self.why_not(table.figure, outcomes, to))
    }

    fn why_not(&self, figure: &str, outcomes: &[Outcome], to: &[Outcome]) -> String {
        let is = |outcomes: &[Outcome], test: fn(&Outcome) -> bool| outcomes.iter().any(test);
        let has_no_use = |outcomes: &[Outcome]| {
            let mut figures = outcomes.iter().filter_map(|one| one.figure(figure));
            figures.any(|value| !value.is_finite())
        };
        if is(outcomes, |one| matches!(one, Outcome::Failed { .. })) {
            "failed".into()
        } else if !outcomes.iter().any(|one| one.has(figure)) {
            NOT_MEASURED.into()
        } else if is(outcomes, |one| matches!(one, Outcome::Limited { .. })) || has_no_use(outcomes)
        {
            "limited".into()
        } else if is(to, |one| !matches!(one, Outcome::Measured { .. })) || has_no_use(to) {
            "limited (bare loop)".into()
        } else {
            NOT_MEASURED.into()
        }
    }

    fn write_table(&self, f: &mut fmt::Formatter<'_>, table: &Table) -> fmt::Result {
        let cases: Vec<&Case> = self
            .cases
            .iter()
            .filter(|case| (table.of)(&case.load))
            .collect();
        if cases.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n{}:\n", table.title)?;
        write_head(f, "case")?;
        for case in cases {
            write!(f, "| {} |", case.name)?;
            for server in SERVERS {
                write!(f, " {} |", self.cell(table, case, server))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    /// Compares the cost of a packet at several packets a tick with one `send` of the bare loop for one
    /// packet.
    fn write_gathering(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<(&Case, &Case)> = self
            .cases
            .iter()
            .filter_map(|case| match case.load {
                Load::Broadcast {
                    sessions,
                    packet_bytes,
                    packets_per_tick: 2..,
                    ..
                } => {
                    let single = self.cases.iter().find(|other| {
                        other.workers == case.workers
                            && matches!(other.load, Load::Broadcast {
                                sessions: its_sessions,
                                packet_bytes: its_bytes,
                                packets_per_tick: 1,
                                ..
                            } if (its_sessions, its_bytes) == (sessions, packet_bytes))
                    });
                    Some((case, single?))
                }
                _ => None,
            })
            .collect();
        if pairs.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\nSeveral packets a tick: CPU time for each, as a ratio to the bare loop's single packet:\n"
        )?;
        write_head(f, "case")?;
        for (case, single) in pairs {
            write!(f, "| {} |", case.name)?;
            for server in SERVERS {
                let (figure, bare) = ("cpu_us_per_packet", single.servers[0]);
                let ratio = self.ratios(figure, (case, server), (single, bare));
                let outcomes = self.outcomes(case, server);
                let shown = ratio.map_or_else(
                    || self.why_not(figure, outcomes, self.outcomes(single, bare)),
                    |ratio| ratio.show(3),
                );
                write!(f, " {shown} |")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    /// Writes the growth of the cost of a packet with the number of sessions.
    fn write_growth(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |case: &&Case| {
            matches!(
                case.load,
                Load::Broadcast {
                    packet_bytes: 64,
                    packets_per_tick: 1,
                    ..
                }
            ) && case.workers == 1
        };
        let mut cases = self.cases.iter().filter(plain);
        let (Some(least), Some(most)) = (cases.next(), cases.next_back()) else {
            return Ok(());
        };
        writeln!(
            f,
            "\nGrowth of the cost of a packet from \"{}\" to \"{}\":\n",
            least.name, most.name
        )?;
        write_head(f, "cost")?;
        write!(f, "| growth |")?;
        for server in SERVERS {
            let growth = self.ratios("cpu_us_per_packet", (most, server), (least, server));
            let shown = growth.map_or("limited".into(), |growth| growth.show(2));
            write!(f, " {shown} |")?;
        }
        writeln!(f)
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = format!("{:?}", self.set).to_lowercase();
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let day = now.split('T').next().unwrap_or_default();
        writeln!(
            f,
            "`scripts/bench.sh {command}` on {day}, {} rounds in {:.0} minutes; {}.\n\
             Medians, with the least and the greatest value of the rounds in brackets; every ratio \
             compares two runs of the same round. A broadcast case is sessions x size of a packet x \
             packets a tick, and workers (w). *limited*: the load client or other processes were the bottleneck.",
            self.rounds,
            (self.elapsed.as_secs_f64() / 60.0).ceil(),
            self.machine
        )?;
        for (index, table) in TABLES.iter().enumerate() {
            self.write_table(f, table)?;
            if index == 0 {
                self.write_gathering(f)?;
                self.write_growth(f)?;
            }
        }
        Ok(())
    }
}

/// The cell of a figure that the runs did not measure, or of a server that the case does not run.
const NOT_MEASURED: &str = "–";

const SERVERS: [Server; 4] = [
    Server::Bare,
    Server::Ours,
    Server::PlainMio,
    Server::TokioBroadcast,
];

fn write_head(f: &mut fmt::Formatter<'_>, first: &str) -> fmt::Result {
    write!(f, "| {first} |")?;
    for server in SERVERS {
        write!(f, " {} |", server.label())?;
    }
    writeln!(f, "\n|---|{}", "---:|".repeat(SERVERS.len()))
}

/// The median, the least and the greatest of the values.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// `None` if no value is finite.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[middle],
            _ => (values.get(middle.checked_sub(1)?)? + values[middle]) / 2.0,
        };
        Some(Self {
            median,
            least: *values.first()?,
            most: *values.last()?,
        })
    }

    fn show(self, decimals: usize) -> String {
        let number = |value: f64| match decimals {
            0 => thousands(value),
            _ => format!("{value:.decimals$}"),
        };
        let [median, least, most] = [self.median, self.least, self.most].map(number);
        match least == most {
            true => median,
            false => format!("{median} ({least}–{most})"),
        }
    }
}

/// Formats a whole number with commas.
fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut shown = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_their_spread() {
        let spread =
            |values: &[f64]| Spread::of(values.iter().copied()).map(|spread| spread.show(1));
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[f64::NAN]), None);
        assert_eq!(spread(&[2.0]).as_deref(), Some("2.0"));
        assert_eq!(spread(&[3.0, 1.0, 2.0]).as_deref(), Some("2.0 (1.0–3.0)"));
        assert_eq!(spread(&[1.0, 2.0]).as_deref(), Some("1.5 (1.0–2.0)"));
    }

    #[test]
    fn whole_numbers_have_commas() {
        let shown = [0.0, 12.4, 999.6, 1_234_567.0].map(thousands);
        assert_eq!(shown, ["0", "12", "1,000", "1,234,567"]);
    }
}
