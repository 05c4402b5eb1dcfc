//! What the examples have in common: two flags, and the run of their bots with its verdict. A game needs
//! nothing from here and nothing from `bots/`.

use clap::Parser;
use crossbeam_channel::Sender;
use server_core::{Kick, Server, ServerHandle, Session};
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// An example of server_core: serves until Ctrl-C, or plays with bots of its own and ends
#[derive(Debug, Parser)]
pub struct Args {
    /// Where to listen [default: 127.0.0.1:7777, or with --bots a free port]
    #[arg(long, value_name = "IP:PORT")]
    addr: Option<SocketAddr>,

    /// Run N bots over real sockets; the exit status is 0 if each of them saw what it should
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub bots: Option<u16>,

    /// Whether the bots have no end of their own: the run ends with Ctrl-C, or when a bot fails.
    #[arg(skip)]
    pub stay: bool,
}

impl Args {
    /// Reads the flags; bad ones end the process with status 2. Sets up the log of the library.
    #[allow(dead_code)] // The examples `arena` and `web` have further flags.
    pub fn from_command_line() -> Self {
        let args = Self::parse();
        args.set_up_log();
        args
    }

    pub fn set_up_log(&self) {
        let default_level = if self.ends() { "warn" } else { "info" };
        let env = env_logger::Env::default().default_filter_or(default_level);
        env_logger::Builder::from_env(env).init();
    }

    /// Whether the bots of this run end, and the server with them.
    pub fn ends(&self) -> bool {
        self.bots.is_some() && !self.stay
    }

    pub fn addr(&self) -> SocketAddr {
        let port = if self.ends() { 0 } else { 7777 };
        self.addr
            .unwrap_or(SocketAddr::from(([127, 0, 0, 1], port)))
    }
}

/// The bots of this run, if the flags ask for some. When all bots have reported, or when the time is up,
/// the server is shut down.
#[derive(Debug)]
pub struct Bots {
    outcome: Option<JoinHandle<Result<String, String>>>,
}

/// What one bot has to tell in the end, once. A bot that is gone without a word has failed.
#[derive(Debug)]
pub struct Verdict<T> {
    /// The number of the bot, from 0.
    pub bot: u16,
    /// How many there are.
    pub bots: u16,
    teller: Option<Sender<Result<T, String>>>,
}

const PATIENCE: Duration = Duration::from_secs(30);
const DRAIN: Duration = Duration::from_secs(1);

impl Bots {
    /// Prints the address of the server, and connects the bots. `make_bot` makes the session of each bot;
    /// `sum_up` turns their reports into a line, or into an error.
    pub fn start<B: Session, T: Send + 'static>(
        args: &Args,
        server: &Server,
        make_bot: impl Fn(Verdict<T>) -> B + Send + Sync + 'static,
        sum_up: impl FnOnce(Vec<T>) -> Result<String, String> + Send + 'static,
    ) -> io::Result<Self> {
        say(format_args!("listening on {}", server.local_addr()));
        let Some(bots) = args.bots else {
            return Ok(Self { outcome: None });
        };
        let (teller, told) = crossbeam_channel::unbounded();
        // The client is a second user of the library: the same sessions, without a listener.
        let client = Server::builder().workers(1).start_client(move |peer| {
            make_bot(Verdict {
                bot: peer.tag.unwrap_or_default() as u16,
                bots,
                teller: Some(teller.clone()),
            })
        })?;
        for bot in 0..bots {
            client.handle().connect(server.local_addr(), bot.into())?;
        }
        let server = ShutdownWhenDone(server.handle());
        let stay = args.stay;
        let play = move || {
            let _server = server;
            let until = Instant::now() + PATIENCE;
            let mut found = Vec::new();
            for told_before in 0..bots {
                let report = if stay {
                    told.recv().ok()
                } else {
                    told.recv_deadline(until).ok()
                };
                found.push(report.ok_or_else(|| {
                    format!("only {told_before} of {bots} bots came to an end in {PATIENCE:?}")
                })??);
            }
            client.handle().shutdown(DRAIN);
            client.join().map_err(|error| error.to_string())?;
            sum_up(found)
        };
        let thread = thread::Builder::new().name("bots".into()).spawn(play)?;
        Ok(Self {
            outcome: Some(thread),
        })
    }

    /// The exit status of the example; prints a line with the reason.
    pub fn verdict(self) -> ExitCode {
        let Some(thread) = self.outcome else {
            return ExitCode::SUCCESS;
        };
        let outcome = thread.join();
        match outcome.unwrap_or_else(|_| Err("the bots panicked".into())) {
            Ok(summary) => {
                say(format_args!("passed: {summary}"));
                ExitCode::SUCCESS
            }
            Err(why) => {
                say(format_args!("FAILED: {why}"));
                ExitCode::FAILURE
            }
        }
    }
}

impl<T> Verdict<T> {
    /// The bot has seen all that it should.
    pub fn passed(&mut self, found: T) {
        self.tell(Ok(found));
    }

    /// The bot ends here, as a failure, unless this holds.
    pub fn check(&mut self, holds: bool, claim: impl Display) -> Result<(), Kick> {
        if holds {
            return Ok(());
        }
        self.tell(Err(format!("{self}: not so: {claim}")));
        Err(Kick::BadPayload)
    }

    fn tell(&mut self, found: Result<T, String>) {
        if let Some(teller) = self.teller.take() {
            // Without a receiver the time is up, and the verdict says so.
            let _ = teller.send(found);
        }
    }
}

impl<T> Drop for Verdict<T> {
    fn drop(&mut self) {
        self.tell(Err(format!("{self} was cut off")));
    }
}

impl<T> Display for Verdict<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bot {} of {}", self.bot, self.bots)
    }
}

/// However the bots end, the server does too.
struct ShutdownWhenDone(ServerHandle);

impl Drop for ShutdownWhenDone {
    fn drop(&mut self) {
        self.0.shutdown(DRAIN);
    }
}

/// Prints a line on standard output. A closed pipe is not an error here; `println!` would panic.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
