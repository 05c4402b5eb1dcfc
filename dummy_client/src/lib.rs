//! A load-test engine for servers that push: your bots, your packets, and figures that can be trusted.
//!
//! A [`Scenario`] makes one [`Bot`] for each connection of a user, and registers what the bots measure. A
//! [`Run`] connects the users, calls the bots, and returns a [`Report`]. A new measurement is one line in a bot:
//! the text, the JSON, the page, assertions and comparisons show it by themselves, with its unit.
//!
//! ```no_run
//! use dummy_client::metrics::Trend;
//! use dummy_client::{Bot, BotContext, Executor, Registry, Run, Scenario, UserId, Violation};
//! use server_core::Packet;
//! use std::time::{Duration, Instant};
//!
//! server_core::packets! {
//!     /// A move to this place.
//!     client 1 => CMove { x: i32 };
//!     /// The same move, back from the server.
//!     server 2 => SMoved { x: i32 };
//! }
//!
//! #[derive(Default)]
//! struct Movers(Option<Trend>);
//!
//! impl Scenario for Movers {
//!     type Bot = Mover;
//!
//!     fn register(&mut self, metrics: &mut Registry) {
//!         self.0 = Some(metrics.trend("move_rtt", "move, to its answer"));
//!     }
//!
//!     fn bot(&self, _user: UserId, _seed: u64) -> Mover {
//!         Mover { rtt: self.0.expect("registered"), moved_at: None }
//!     }
//! }
//!
//! struct Mover {
//!     rtt: Trend,
//!     moved_at: Option<Instant>,
//! }
//!
//! impl Bot for Mover {
//!     fn on_connected(&mut self, ctx: &mut BotContext<'_, '_>) {
//!         ctx.set_timer(ctx.now());
//!     }
//!
//!     fn on_timer(&mut self, ctx: &mut BotContext<'_, '_>) {
//!         self.moved_at = Some(ctx.now());
//!         ctx.send_packet(&CMove::new(7));
//!     }
//!
//!     fn on_packet(&mut self, ctx: &mut BotContext<'_, '_>, packet: Packet<'_>) -> Result<(), Violation> {
//!         packet.decode::<SMoved>()?; // Any other packet is a violation: the run fails.
//!         if let Some(at) = self.moved_at.take() {
//!             ctx.record(self.rtt, ctx.now() - at);
//!         }
//!         ctx.set_timer(ctx.now() + Duration::from_millis(250));
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> Result<(), dummy_client::Error> {
//!     let report = Run::new(Movers::default())
//!         .target("127.0.0.1:7777")?
//!         .executor(Executor::constant(1000, Some(Duration::from_secs(60))))
//!         .assert("move_rtt_p99<50ms")
//!         .run()?;
//!     std::process::exit(report.exit_status(false).into())
//! }
//! ```
//!
//! | part | what it is |
//! |---|---|
//! | [`Registry`] | the metrics: counters, [checks](metrics::Check) (must stay 0), rates, [trends](metrics::Trend), packet labels |
//! | [`metrics::TickSeries`] | a stream of numbered packets that the server pushes: delay against the server's schedule, gaps, order, spread, skipped ticks |
//! | [`BotContext::start_requests`] | requests on a fixed schedule that does not wait for answers, measured from the due time |
//! | [`Executor`] | the number of users over time: constant, ramp, stages, or a search for the capacity |
//! | [`Mix`] | several scenarios in one run, by weight |
//! | [`attack`] | attackers beside the users |
//! | [`Report`] | the result; its serde form is the JSON |
//!
//! A server is `HOST:PORT`; with the feature `tls` also `tls://HOST:PORT`, with `websocket` `ws://HOST:PORT/PATH`, and
//! with both `wss://HOST:PORT/PATH`: see [`Target`].
//!
//! The run watches itself: if it stalled, was too busy, or had no port left, the verdict is `client_limited` and
//! not `failed`.

pub mod analysis;
pub mod assertion;
pub mod attack;
mod channel;
mod collector;
mod config;
mod context;
mod error;
pub mod executor;
mod health;
mod measurement;
mod merge;
pub mod metrics;
pub mod output;
mod pacing;
pub mod report;
mod run;
mod scenario;
mod transport;
mod user_data;
mod users;

pub use assertion::Assertion;
pub use config::{RunConfig, Share};
pub use context::BotContext;
pub use error::Error;
pub use executor::Executor;
pub use merge::merge;
pub use metrics::Registry;
pub use report::{Progress, Report};
pub use run::{Run, Stop, check_assertions};
pub use scenario::{Bot, BotResult, FnScenario, Mix, Scenario, UserId, Violation, scenario};
pub use transport::{Target, Transport, Trust};
pub use user_data::UserData;
pub use users::MAX_CONNECTING;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;
