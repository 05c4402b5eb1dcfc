//! The load client of `game_server`: a program on the engine of this crate.

mod args;
mod compare;
mod game_attacks;
mod game_scenario;
mod merge;
mod outputs;
mod preflight;
mod profile;
mod report_page;

use args::{Args, Command};
use dummy_client::output::progress::StatusLine;
use dummy_client::output::prometheus::MetricsEndpoint;
use dummy_client::output::{file, json};
use dummy_client::{Error, Run, RunConfig, Scenario};
use game_attacks::GameProtocol;
use game_scenario::GameScenario;
use outputs::{Outputs, Places};
use profile::{Profile, ProfileScenario};
use server_core::host::{self, signals};
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let mut args = Args::from_command_line();
    let outcome = match args.command.take() {
        Some(Command::Compare(compare)) => compare::run(&compare),
        Some(Command::Merge(merge)) => merge::run(&merge),
        Some(Command::Report(page)) => report_page::run(&page).map(|()| ExitCode::SUCCESS),
        Some(Command::Schema) => file::print(&json::schema()).map(|()| ExitCode::SUCCESS),
        None if args.check => profile(&args).map(|_| preflight::check(&args)),
        None => run(&mut args),
    };
    let status = outcome.unwrap_or_else(|error| {
        host::print_error("dummy_client", &error.message);
        ExitCode::from(error.exit_status)
    });
    host::flush_logs();
    status
}

fn run(args: &mut Args) -> Result<ExitCode, Error> {
    let Some(profile) = profile(args)? else {
        let scenario = GameScenario::new(args.workload());
        return run_scenario(args, scenario, |_| {});
    };
    let (framing, settings) = (profile.framing, profile.settings.clone());
    run_scenario(args, ProfileScenario::new(profile), |config| {
        config.framing = framing;
        config.settings.insert("profile".into(), settings);
    })
}

/// The server of `--profile`.
fn profile(args: &Args) -> Result<Option<Profile>, Error> {
    args.profile.as_deref().map(Profile::read).transpose()
}

fn run_scenario(
    args: &mut Args,
    mut scenario: impl Scenario,
    configure: impl FnOnce(&mut RunConfig),
) -> Result<ExitCode, Error> {
    args.retain_defaults(|one| {
        dummy_client::check_assertions(&mut scenario, std::slice::from_ref(one)).is_ok()
    });
    dummy_client::check_assertions(&mut scenario, &args.assertions)?;
    let transport = args.transport()?;
    let status = StatusLine::new();
    // The run logs losses itself; the library would log the sessions that the run closes too.
    host::init_logs_through("info,server_core=warn", || status.log_writer());
    let outputs = Outputs::open(&Places {
        json: args.json.as_deref(),
        report: args.report.as_deref(),
        junit: args.junit.as_deref(),
        limited_is_failure: args.limited_is_failure,
    })?;
    let endpoint = args.metrics_addr.map(MetricsEndpoint::start).transpose()?;
    if let Some(endpoint) = &endpoint {
        log::info!("metrics on {}", endpoint.local_addr());
    }
    let limits = preflight::require(args)?;
    let mut config = args.run_config(transport, preflight::max_sessions(args, &limits));
    configure(&mut config);
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
    let run = run.observe(move |progress| {
        line.show(&progress.into());
        if let Some(endpoint) = &endpoint {
            endpoint.publish(progress.metrics());
        }
    });
    let report = run.run()?;
    status.end();
    // The result comes last where both outputs are one file.
    host::flush_logs();
    outputs.publish(&report)?;
    Ok(ExitCode::from(report.exit_status(args.limited_is_failure)))
}
