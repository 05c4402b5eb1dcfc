//! The load client: opens N connections, logs what it receives, and proves what it got.
//!
//! ```text
//!   load: how many sessions when, reconnects, the end (main thread)
//!       |  connect                    ^ events: connected, lost, told goodbye
//!       v                             |
//!   bot: sessions of server_core, on its workers ----> measure: counters, last tick of each session,
//!                                                      arrivals, round trips, and this program itself
//!   attack: attackers beside them, in raw bytes              |
//!                                                         v
//!                                                      result: summary (text, JSON, report), assertions,
//!                                                      comparison of two runs, exit status
//! ```

mod args;
mod attack;
mod bot;
mod load;
mod measure;
mod preflight;
mod report_page;
mod result;

use args::{Args, Command};
use load::Failure;
use result::output::Outputs;
use server_core::host;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = Args::from_command_line();
    let outcome = match args.command.take() {
        Some(Command::Compare(compare)) => result::compare::run(&compare),
        Some(Command::Report(page)) => page_of_report(&page),
        Some(Command::Schema) => result::schema::print(),
        None if args.check => Ok(preflight::check(&args)),
        None => run(&mut args),
    };
    outcome.unwrap_or_else(|failure| {
        host::print_error("dummy_client", &failure.why);
        ExitCode::from(failure.exit_status)
    })
}

fn run(args: &mut Args) -> Result<ExitCode, Failure> {
    let bar = load::status_bar();
    // The conductor tells of losses itself; the library would tell of our own goodbyes too.
    host::init_logs_through("info,server_core=warn", load::LogWriter(bar.clone()));
    preflight::choose_address(&mut args.addr);
    let outputs = Outputs::open(args.json.as_deref(), args.report.as_deref())?;
    let summary = load::run(args, bar)?;
    outputs.publish(&summary)?;
    Ok(summary.exit_code())
}

fn page_of_report(page: &report_page::ReportPage) -> Result<ExitCode, Failure> {
    let failed = |error: dummy_client::Error| Failure {
        why: error.message,
        exit_status: error.exit_status,
    };
    report_page::run(page).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}
