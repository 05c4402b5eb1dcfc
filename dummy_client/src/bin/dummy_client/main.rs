//! The load client of `game_server`: a program on the engine of this crate.

mod args;
mod game_attacks;
mod game_scenario;
mod outputs;
mod preflight;
mod report_page;

use args::{Args, Command};
use dummy_client::output::progress::StatusLine;
use dummy_client::output::{file, json};
use dummy_client::{Error, Run, Scenario};
use game_attacks::GameProtocol;
use game_scenario::GameScenario;
use outputs::Outputs;
use server_core::host::{self, signals};
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let mut args = Args::from_command_line();
    let outcome = match args.command.take() {
        Some(Command::Report(page)) => report_page::run(&page).map(|()| ExitCode::SUCCESS),
        Some(Command::Schema) => file::print(&json::schema()).map(|()| ExitCode::SUCCESS),
        None if args.check => Ok(preflight::check(&args)),
        None => run(&args),
    };
    outcome.unwrap_or_else(|error| {
        host::print_error("dummy_client", &error.message);
        ExitCode::from(error.exit_status)
    })
}

fn run(args: &Args) -> Result<ExitCode, Error> {
    run_scenario(args, GameScenario::new(args.workload()))
}

fn run_scenario(args: &Args, mut scenario: impl Scenario) -> Result<ExitCode, Error> {
    dummy_client::check_assertions(&mut scenario, &args.assertions)?;
    let status = StatusLine::new();
    // The run logs losses itself; the library would log the sessions that the run closes too.
    host::init_logs_through("info,server_core=warn", status.log_writer());
    let outputs = Outputs::open(args)?;
    let limits = preflight::require(args)?;
    let config = args.run_config(args.addr.clone(), preflight::max_sessions(args, &limits));
    let mut run = Run::new(scenario).config(config);
    for assertion in &args.assertions {
        run = run.assert(assertion);
    }
    if let Some(attack) = args.attack {
        let attackers = Some(args.attackers(attack));
        run = run.attack(Arc::new(attack), Arc::new(GameProtocol), attackers);
    }
    let stop = run.stop_handle();
    signals::on_stop(move |_| stop.stop()).map_err(Error::failure)?;
    status.begin();
    let line = status.clone();
    let report = run
        .observe(move |progress| line.show(&progress.into()))
        .run()?;
    status.end();
    outputs.publish(&report)?;
    Ok(ExitCode::from(report.exit_status(args.limited_is_failure)))
}
