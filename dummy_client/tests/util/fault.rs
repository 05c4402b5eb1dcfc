//! A run of three sessions against a stub that plants one fault.

use super::{Run, Stub, hello};
use serde_json::Value;

pub const TEXT: &str = "Hello World";

/// Ticks come every 20 ms, so faults planted around tick 15 to 25 are seen by all.
pub const ARGS: [&str; 4] = ["--count", "3", "--duration-secs", "0.8"];

/// Runs three sessions against a stub in which session 1 gets something else for some ticks.
pub fn with_fault(fault: impl Fn(u64) -> Option<Vec<u8>> + Send + Sync + 'static) -> (Run, Value) {
    let stub = Stub::start(move |session, tick| match session {
        1 => fault(tick),
        _ => Some(hello(tick, TEXT)),
    });
    Run::json(stub.addr, &ARGS)
}

/// Every tick that came is measured, and so is every slot that somebody waited for in vain.
pub fn check_counts(json: &Value) {
    let count = |value: &Value| value.as_u64().unwrap();
    let ticks = &json["ticks"];
    assert_eq!(
        count(&json["tick_delay_ms"]["count"]),
        count(&ticks["received"]) + count(&ticks["charged"]),
        "{json}"
    );
}

pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

pub fn clean_stub() -> Stub {
    Stub::start(|_, tick| Some(hello(tick, TEXT)))
}
