//! The driver of the benchmark: runs the cases in turn, A B A B, and prints the medians.
//!
//! ```text
//!   case: the servers, the load, the duration
//!     |
//!   run: one server, one load, one measurement  <---- process: children, cores, descriptors
//!     |                                         <---- probe: one more session, which sees the ticks
//!     |                                         <---- scrape: game_server's own metrics
//!   table: medians, spread, ratios within one round
//! ```

mod case;
mod machine;
mod probe;
mod process;
mod run;
mod scrape;
mod table;

use case::{Case, Set};
use clap::Parser;
use process::Context;
use run::Outcome;
use server_core::host;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Compares game_server with other servers of the same protocol; see scripts/bench.sh.
#[derive(Debug, Parser)]
struct Args {
    /// Set of cases
    #[arg(default_value = "quick")]
    set: Set,
    /// Run only the cases whose name contains one of these texts
    #[arg(long, env = "BENCH_CASES", value_delimiter = ';')]
    cases: Vec<String>,
    /// Number of rounds; each round runs every server of a case once [default: 2; full: 3; smoke: 1]
    #[arg(long, env = "ROUNDS", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// List the names of the cases, and exit
    #[arg(long)]
    list: bool,
    /// Write all figures of each round to this file as JSON
    #[arg(long, env = "BENCH_JSON")]
    json: Option<PathBuf>,
    /// Folder of game_server and dummy_client
    #[arg(long)]
    programs: PathBuf,
    /// Folder of the rivals and the load generator
    #[arg(long)]
    rivals: PathBuf,
}

/// The outcomes of each server, one outcome a round, in the order of the case's servers.
type Results = BTreeMap<String, Vec<Vec<Outcome>>>;

fn main() -> ExitCode {
    let args = Args::parse();
    let _ = host::raise_fd_limit();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            host::print_error("bench", why);
            ExitCode::FAILURE
        }
    }
}

/// Returns whether every run succeeded.
fn run(args: &Args) -> Result<bool, String> {
    let is_chosen = |case: &Case| {
        args.cases.is_empty() || args.cases.iter().any(|text| case.name.contains(text))
    };
    let cases: Vec<Case> = args.set.cases().into_iter().filter(is_chosen).collect();
    if args.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        return Ok(true);
    }
    let rounds = args.rounds.unwrap_or(args.set.rounds());
    let began = Instant::now();
    let machine = machine::Machine::look();
    let context = Context::new(&args.programs, &args.rivals)?;
    let mut results = Results::new();
    for case in &cases {
        let mut of_case: Vec<Vec<Outcome>> = vec![Vec::new(); case.servers.len()];
        for round in 1..=rounds {
            for (server, outcomes) in case.servers.iter().zip(&mut of_case) {
                let outcome = run::measure(&context, case, *server)?;
                eprintln!(
                    "{} {} {round}/{rounds}: {outcome}",
                    case.name,
                    server.label()
                );
                outcomes.push(outcome);
            }
        }
        results.insert(case.name.clone(), of_case);
    }
    let report = table::Report {
        set: args.set,
        cases: &cases,
        results: &results,
        machine: &machine,
        rounds,
        elapsed: began.elapsed(),
    };
    println!("{report}");
    if let Some(path) = &args.json {
        std::fs::write(path, report.to_json())
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    }
    Ok(report.failures() == 0)
}
