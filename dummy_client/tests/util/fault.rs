//! A run of three sessions against a stub that plants one fault.

use super::{Run, Stub, counts, hello};
use dummy_client::Report;
use std::sync::Arc;

pub const TEXT: &str = "Hello World";

/// Ticks come every 20 ms, so all sessions see a fault that is planted around tick 15 to 25.
pub const ARGS: [&str; 4] = ["--count", "3", "--duration-secs", "0.8"];

/// Runs three sessions against a stub. Session 1 gets other bytes for some ticks.
pub fn with_fault(fault: impl Fn(u64) -> Option<Vec<u8>> + Send + Sync + 'static) -> (Run, Report) {
    let fault = Arc::new(fault);
    Run::undisturbed(&ARGS, || {
        let fault = Arc::clone(&fault);
        faulty_stub(move |tick| fault(tick))
    })
}

/// A stub that sends other bytes to session 1.
pub fn faulty_stub(fault: impl Fn(u64) -> Option<Vec<u8>> + Send + Sync + 'static) -> Stub {
    Stub::start(move |session, tick| match session {
        1 => fault(tick),
        _ => Some(hello(tick, TEXT)),
    })
}

/// The client measures every tick that arrives, and every slot whose tick a session did not receive.
pub fn check_counts(report: &Report) {
    let [received, synthetic] = counts(report, ["ticks_received", "ticks_synthetic"]);
    let delays = report.metrics.trend("tick_delay").unwrap();
    assert_eq!(delays.count, received + synthetic, "{report:?}");
}

pub fn clean_stub() -> Stub {
    Stub::start(|_, tick| Some(hello(tick, TEXT)))
}
