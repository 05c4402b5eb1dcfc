//! A server program around a game: flags, `--check`, logs, signals, admin port and the shutdown. Feature `app`.
//!
//! ```no_run
//! use server_core::app::App;
//! use server_core::{Game, GameContext, GameLoop, Kick, Packet, SessionId, tick::Tick};
//! # use std::process::ExitCode;
//! use std::time::Duration;
//!
//! struct World;
//!
//! impl Game for World {
//!     fn on_packet(&mut self, _: &mut GameContext<'_>, _: SessionId, _: Packet<'_>) -> Result<(), Kick> {
//!         Ok(())
//!     }
//!
//!     fn on_tick(&mut self, _: &mut GameContext<'_>, _: Tick) {}
//! }
//!
//! fn main() -> ExitCode {
//!     App::from_command_line("my_game").play(GameLoop::new(Duration::from_millis(50)), World)
//! }
//! ```
//!
//! That program has the flags of [`AppArgs`]: `my_game --help` lists them, and each has an environment variable,
//! for example `MY_GAME_MAX_SESSIONS`.
//!
//! | | what the program does |
//! |---|---|
//! | `--check` | compares the needs of the flags with the machine, prints a table and exits: status 0, or 2 if a check failed |
//! | `--metrics-addr` | serves the [admin port](crate::admin) |
//! | SIGINT, SIGTERM | shuts down within `--drain-secs`, with status 0; a second one ends the process at once |
//! | SIGHUP | reads `--ban-file`, `--tls-cert` and `--tls-key` again |
//! | a start that fails | prints one line on standard error, with status 1 |
//! | a game that panics | ends the server, with status 101 |
//! | bad usage | prints the error, with status 2 |
//! | logs | go to standard error, at level info; `RUST_LOG` changes the level. A program that has set a logger keeps it. A reader that stops costs log lines, and no tick: see [`init_logs`](crate::host::init_logs) |

mod args;
mod ban_file;
mod check;
mod run;

pub use args::{AppArgs, parse, parse_from, try_parse_from};
pub use ban_file::BanFile;
/// The crate of the command line, in the version of [`AppArgs`].
pub use clap;

use crate::admin::AdminBuilder;
use crate::game::{Game, GameLoop};
use crate::server::{Server, ServerBuilder, ServerHandle};
use crate::session::{Peer, Session};
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser};
use std::fmt;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

/// A server program that is set up: see the [module](self). [`play`](Self::play), [`play_rooms`](Self::play_rooms),
/// [`serve`](Self::serve) and [`run`](Self::run) run it until its end, and return its exit status.
#[must_use = "nothing is started before `play`, `serve` or `run`"]
pub struct App {
    name: &'static str,
    args: AppArgs,
    builder: ServerBuilder,
    requires_login: bool,
    tick_period: Option<Duration>,
    admin: Vec<SetUpAdmin>,
    on_start: Vec<OnStart>,
    on_hangup: Vec<Box<dyn Fn() + Send>>,
}

type SetUpAdmin = Box<dyn FnOnce(AdminBuilder) -> AdminBuilder>;
type OnStart = Box<dyn FnOnce(&ServerHandle) -> Result<(), String>>;

/// A server
///
/// 0 switches a timeout, rate or interval off. Every flag has an environment variable. SIGHUP reads --ban-file,
/// --tls-cert and --tls-key again.
#[derive(Parser)]
struct Program {
    #[command(flatten)]
    app: AppArgs,
}

impl App {
    /// A program with the flags of [`AppArgs`], which are read from the command line. Bad usage ends the process with
    /// status 2. The environment variables of `my_game` begin with `MY_GAME_`.
    pub fn from_command_line(name: &'static str) -> Self {
        let command = Program::command().name(name);
        let prefix = name.replace('-', "_").to_uppercase();
        let mut command = args::with_env(command, &prefix);
        let matches = command.get_matches_mut();
        let program = Program::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        if let Err(why) = program.app.validate() {
            command.error(ErrorKind::ValueValidation, why).exit();
        }
        Self::new(name, program.app)
    }

    /// A program with flags of its own: see [`AppArgs`].
    pub fn new(name: &'static str, args: AppArgs) -> Self {
        Self {
            name,
            args,
            builder: Server::builder(),
            requires_login: false,
            tick_period: None,
            admin: Vec::new(),
            on_start: Vec::new(),
            on_hangup: Vec::new(),
        }
    }

    /// Sets up the server: close message, labels, limits without a flag. The flags replace the other limits, and
    /// `--ban-file` the bans. The listeners of the flags are added to those of the builder.
    pub fn server(mut self, builder: ServerBuilder) -> Self {
        self.builder = builder;
        self
    }

    /// Sets whether the sessions [require a login](Session::requires_login): a start warns of silent peers from other
    /// machines if no timeout ends them. [`play`](Self::play) sets it by itself. Default: `false`.
    pub fn requires_login(mut self, requires_login: bool) -> Self {
        self.requires_login = requires_login;
        self
    }

    /// Sets the period of the ticks: a session whose oldest unsent byte is older than ten of them is a slow consumer.
    /// [`play`](Self::play) sets it by itself.
    pub fn tick_period(mut self, period: impl Into<Option<Duration>>) -> Self {
        self.tick_period = period.into();
        self
    }

    /// Sets up the admin port, if the flags ask for one: with the [registry](AdminBuilder::registry) of the game's
    /// metrics, for example. [`play`](Self::play) adds the metrics of the ticks by itself.
    pub fn admin(mut self, set_up: impl FnOnce(AdminBuilder) -> AdminBuilder + 'static) -> Self {
        self.admin.push(Box::new(set_up));
        self
    }

    /// Calls a function when the server listens, before the admin port serves: for threads of the game. An error ends
    /// the program.
    pub fn on_start(
        mut self,
        on_start: impl FnOnce(&ServerHandle) -> Result<(), String> + 'static,
    ) -> Self {
        self.on_start.push(Box::new(on_start));
        self
    }

    /// Calls a function at each SIGHUP, on the thread of the signals: for files of the game. A panic of the function is
    /// logged.
    pub fn on_hangup(mut self, on_hangup: impl Fn() + Send + 'static) -> Self {
        self.on_hangup.push(Box::new(on_hangup));
        self
    }

    /// Runs a game on this thread until a signal arrives, or until the server ends. Returns the exit status.
    pub fn play(self, game_loop: GameLoop, game: impl Game) -> ExitCode {
        let players = game_loop.players();
        let app = self.for_loop(&game_loop);
        app.run(players, |server| game_loop.run(server, game))
    }

    /// Runs one game for each room of the loop until a signal arrives, or until the server ends: see
    /// [`GameLoop::run_rooms`]. Returns the exit status: 1 too if the system starts no thread for a room.
    pub fn play_rooms<G: Game + Send>(
        self,
        game_loop: GameLoop,
        make_game: impl Fn(usize) -> G,
    ) -> ExitCode {
        let players = game_loop.players();
        let app = self.for_loop(&game_loop);
        app.run_work(players, |server| game_loop.run_rooms(server, make_game))
    }

    fn for_loop(self, game_loop: &GameLoop) -> Self {
        let metrics = game_loop.metrics();
        self.requires_login(game_loop.has_login())
            .tick_period(game_loop.period())
            .admin(|admin| admin.tick_metrics(metrics))
    }

    /// Runs a server of these sessions until a signal arrives, or until the server ends. Returns the exit status.
    pub fn serve<S: Session>(
        self,
        factory: impl Fn(Peer) -> S + Send + Sync + 'static,
    ) -> ExitCode {
        self.run(factory, |_| ())
    }

    /// Runs a server of these sessions, and `work` on this thread beside it. `work` has to return when the server
    /// [shuts down](ServerHandle::is_shutting_down); a signal unparks its thread. Returns the exit status when both
    /// have ended.
    pub fn run<S: Session>(
        self,
        factory: impl Fn(Peer) -> S + Send + Sync + 'static,
        work: impl FnOnce(&ServerHandle),
    ) -> ExitCode {
        self.run_work(factory, |server| {
            work(server);
            Ok(())
        })
    }

    fn run_work<S: Session>(
        self,
        factory: impl Fn(Peer) -> S + Send + Sync + 'static,
        work: impl FnOnce(&ServerHandle) -> io::Result<()>,
    ) -> ExitCode {
        crate::host::init_logs("info");
        let _flush = FlushLogs;
        if let Err(why) = self.args.validate() {
            crate::host::print_error(self.name, why);
            return crate::host::exit::USAGE.into();
        }
        if self.args.check {
            return check::check(self.name, &self.args);
        }
        let name = self.name;
        match self.try_run(factory, work) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                crate::host::print_error(name, error);
                crate::host::exit::FAILURE.into()
            }
        }
    }
}

/// Flushes the log at the end of a run, a panic included.
struct FlushLogs;

impl Drop for FlushLogs {
    fn drop(&mut self) {
        crate::host::flush_logs();
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("name", &self.name)
            .field("args", &self.args)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::bans::BanList;
    use crate::base::reason::Kick;
    use crate::protocol::packet::Packet;
    use crate::session::Context;
    use crate::testing::{RawClient, wait_until};

    struct Player;

    impl Session for Player {
        fn on_packet(&mut self, _: &mut Context<'_>, _: Packet<'_>) -> Result<(), Kick> {
            Ok(())
        }
    }

    fn args(flags: &[&str]) -> AppArgs {
        let flags = ["game", "--addr=127.0.0.1:0"].iter().chain(flags);
        let program: Program = try_parse_from("GAME", flags).unwrap();
        program.app
    }

    /// Whether a server with these flags accepts a connection, whose program has banned all of 127.0.0.0/8.
    fn accepts(flags: &[&str]) -> bool {
        let bans = BanList::read(&b"127.0.0.0/8"[..]).unwrap();
        let builder = args(flags).ban(Server::builder().bans(bans.into()));
        let server = builder.start("127.0.0.1:0", |_| Player).unwrap();
        let _client = RawClient::connect(server.local_addr());
        let metrics = server.handle();
        let totals = || metrics.metrics().totals();
        wait_until("the connection is decided", || {
            totals().accepted + totals().rejected > 0
        });
        totals().accepted > 0
    }

    #[test]
    fn bans_of_the_program_stay_without_a_file_of_bans() {
        assert!(!accepts(&[]));
        let file = std::env::temp_dir().join(format!("server_core_{}.bans", std::process::id()));
        std::fs::write(&file, "").unwrap();
        let accepted = accepts(&["--ban-file", file.to_str().unwrap()]);
        std::fs::remove_file(file).unwrap();
        assert!(accepted);
    }

    #[test]
    fn app_runs_in_a_program_that_has_a_logger() {
        for _ in 0..2 {
            let app = App::new("game", args(&[]));
            let status = app.run(|_| Player, |server| server.shutdown(Duration::ZERO));
            assert_eq!(status, ExitCode::SUCCESS);
        }
    }

    #[test]
    fn flags_that_the_build_cannot_serve_are_bad_usage() {
        let addr = "127.0.0.1:0";
        let bad = [
            #[cfg(not(feature = "tls"))]
            args(&["--tls-addr", addr, "--tls-cert=x", "--tls-key=x"]),
            #[cfg(not(feature = "websocket"))]
            args(&["--ws-addr", addr]),
            args(&["--ws-addr", addr, "--ws-origin=no origin"]),
        ];
        for args in bad {
            let status =
                App::new("game", args).run(|_| Player, |server| server.shutdown(Duration::ZERO));
            assert_eq!(status, ExitCode::from(2));
        }
    }
}
