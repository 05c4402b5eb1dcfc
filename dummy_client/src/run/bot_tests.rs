//! Bots that do what bots of a game may do, in runs over loopback.

use super::Run;
use crate::context::BotContext;
use crate::executor::Executor;
use crate::metrics::Registry;
use crate::report::{Report, Verdict};
use crate::scenario::{Bot, Scenario, UserId, Violation};
use server_core::{DisconnectReason, Packet};
use std::net::TcpListener;
use std::time::Duration;

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

impl Scenario for Act {
    type Bot = Self;

    fn register(&mut self, _: &mut Registry) {}

    fn bot(&self, _: UserId, _: u64) -> Self {
        *self
    }

    fn has_login(&self) -> bool {
        *self == Self::ForgetLogin
    }
}

impl Bot for Act {
    fn on_connected(&mut self, ctx: &mut BotContext<'_, '_>) {
        ctx.set_timer(ctx.now() + MS * 20);
    }

    fn on_packet(&mut self, _: &mut BotContext<'_, '_>, _: Packet<'_>) -> Result<(), Violation> {
        Ok(())
    }

    fn on_timer(&mut self, ctx: &mut BotContext<'_, '_>) {
        match self {
            Self::ForgetLogin => {}
            Self::PanicInTimer => panic!("a fault of the bot"),
            Self::PanicAtTheEnd | Self::Close => ctx.close(),
        }
    }

    fn on_disconnected(&mut self, _: &mut BotContext<'_, '_>, _: DisconnectReason) {
        assert_ne!(*self, Self::PanicAtTheEnd, "a fault of the bot");
    }
}

/// One bot against a server that accepts and sends nothing.
fn run(act: Act, duration: Duration) -> Report {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("an address").to_string();
    let mut run = Run::new(act).target(&addr).expect("an address");
    run.config.login_timeout = MS * 100;
    let report = run.executor(Executor::constant(1, Some(duration))).run();
    report.expect("a run")
}

#[test]
fn login_times_out_though_the_bot_has_used_its_timer() {
    let report = run(Act::ForgetLogin, Duration::from_secs(20));
    assert_eq!(report.sessions.failed_logins, 1);
    assert_eq!(report.disconnects[0].reason, "login failed: timed out");
    // The run ends with its only user.
    assert!(report.run.elapsed_secs < 15.0);
}

#[test]
fn session_of_a_bot_that_panics_ends_and_the_bot_is_named() {
    for act in [Act::PanicAtTheEnd, Act::PanicInTimer] {
        let report = run(act, MS * 300);
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
    let report = run(Act::Close, MS * 300);
    let sessions = &report.sessions;
    assert!(sessions.closed >= 1, "{sessions:?}");
    assert_eq!((sessions.lost, sessions.failed_connects), (0, 0));
    assert_eq!(report.disconnects, []);
}
