//! Bots that do what bots of a game may do, in runs over loopback.

use super::Run;
use crate::context::BotContext;
use crate::executor::Executor;
use crate::metrics::{Counter, Registry, Unit};
use crate::report::{Report, Verdict};
use crate::scenario::{Bot, Scenario, UserId, Violation};
use server_core::{DisconnectReason, Packet};
use std::net::TcpListener;
use std::time::Duration;

/// What a bot does 20 ms after its connect.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    /// Uses its timer, and never logs in.
    ForgetLogin,
    /// Closes its session, and panics when the session has ended.
    PanicAtTheEnd,
    PanicInTimer,
    Close,
}

const MS: Duration = Duration::from_millis(1);
const MAX_TIME: Duration = Duration::from_secs(60);

/// A scenario, and each of its bots.
#[derive(Clone, Copy)]
struct Actor {
    act: Act,
    /// Ended connections.
    ends: Option<Counter>,
}

impl Scenario for Actor {
    type Bot = Self;

    fn register(&mut self, metrics: &mut Registry) {
        self.ends = Some(metrics.counter("ends", Unit::Count));
    }

    fn bot(&self, _: UserId, _: u64) -> Self {
        *self
    }

    fn has_login(&self) -> bool {
        self.act == Act::ForgetLogin
    }
}

impl Bot for Actor {
    fn on_connected(&mut self, ctx: &mut BotContext<'_, '_>) {
        ctx.set_timer(ctx.now() + MS * 20);
    }

    fn on_packet(&mut self, _: &mut BotContext<'_, '_>, _: Packet<'_>) -> Result<(), Violation> {
        Ok(())
    }

    fn on_timer(&mut self, ctx: &mut BotContext<'_, '_>) {
        match self.act {
            Act::ForgetLogin => {}
            Act::PanicInTimer => panic!("a fault of the bot"),
            Act::PanicAtTheEnd | Act::Close => ctx.close(),
        }
    }

    fn on_disconnected(&mut self, ctx: &mut BotContext<'_, '_>, _: DisconnectReason) {
        ctx.add(self.ends.expect("registered"), 1);
        assert_ne!(self.act, Act::PanicAtTheEnd, "a fault of the bot");
    }
}

/// One user against a server that accepts and sends nothing. The run ends with its only user, or when the user has
/// connected again after an end, and that connection has ended too.
fn run(act: Act) -> Report {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("an address").to_string();
    let actor = Actor { act, ends: None };
    let mut run = Run::new(actor).target(&addr).expect("an address");
    run.config.login_timeout = MS * 100;
    let stop = run.stop_handle();
    let run = run.observe(move |progress| {
        if progress.metrics().count("ends") >= 2 {
            stop.stop();
        }
    });
    let run = run.executor(Executor::constant(1, Some(MAX_TIME)));
    let report = run.run().expect("a run");
    assert!(report.run.elapsed_secs < MAX_TIME.as_secs_f64(), "{act:?}");
    report
}

#[test]
fn login_times_out_though_the_bot_has_used_its_timer() {
    let report = run(Act::ForgetLogin);
    assert_eq!(report.sessions.failed_logins, 1);
    assert_eq!(report.disconnects[0].reason, "login failed: timed out");
}

#[test]
fn session_of_a_bot_that_panics_ends_and_the_bot_is_named() {
    for act in [Act::PanicAtTheEnd, Act::PanicInTimer] {
        let report = run(act);
        assert_eq!(report.verdict, Verdict::Failed);
        let failures = report.failures.join("; ");
        assert!(failures.contains("bots panicked"), "{act:?}: {failures}");
        let sessions = &report.sessions;
        assert!(sessions.closed >= 1, "{act:?}: {sessions:?}");
        assert_eq!(sessions.lost, 0, "{act:?}");
    }
}

#[test]
fn session_that_its_bot_closes_is_not_lost() {
    let report = run(Act::Close);
    let sessions = &report.sessions;
    assert!(sessions.closed >= 1, "{sessions:?}");
    assert_eq!((sessions.lost, sessions.failed_connects), (0, 0));
    assert_eq!(report.disconnects, []);
}
