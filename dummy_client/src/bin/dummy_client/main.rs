//! The load client of `game_server`: a program on the engine of this crate.

mod args;
mod game_attacks;
mod game_scenario;
mod preflight;
mod profile;
mod report_page;

use args::{Args, Command};
use dummy_client::{Error, Run, RunConfig, Scenario};
use game_attacks::GameProtocol;
use game_scenario::GameScenario;
use profile::{Profile, ProfileScenario};
use server_core::host::{self, signals};
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let mut args = Args::from_command_line();
    let outcome = match args.command.take() {
        Some(Command::Report(page)) => report_page::run(&page).map(|()| ExitCode::SUCCESS),
        Some(Command::Schema) => Ok(ExitCode::SUCCESS),
        None if args.check => profile(&args).map(|_| preflight::check(&args)),
        None => run(&args),
    };
    outcome.unwrap_or_else(|error| {
        host::print_error("dummy_client", &error.message);
        ExitCode::from(error.exit_status)
    })
}

fn run(args: &Args) -> Result<ExitCode, Error> {
    let Some(profile) = profile(args)? else {
        return run_scenario(args, GameScenario::new(args.workload()), |_| {});
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
    args: &Args,
    mut scenario: impl Scenario,
    configure: impl FnOnce(&mut RunConfig),
) -> Result<ExitCode, Error> {
    dummy_client::check_assertions(&mut scenario, &args.assertions)?;
    // The run logs losses itself; the library would log the sessions that the run closes too.
    host::init_logs("info,server_core=warn");
    let mut addrs = args.addr.clone();
    preflight::choose_address(&mut addrs);
    let limits = preflight::require(args)?;
    let mut config = args.run_config(addrs, preflight::max_sessions(args, &limits));
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
    let report = run.run()?;
    println!(
        "{}",
        serde_json::to_string_pretty(&report).unwrap_or_default()
    );
    Ok(ExitCode::from(report.exit_status(args.limited_is_failure)))
}
