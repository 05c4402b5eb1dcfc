//! Fuzzes WebSocket: any bytes as frames and as the heads of an upgrade, and any bytes as output, cut in any way.
#![no_main]

use libfuzzer_sys::fuzz_target;
use server_core::protocol::upgrade::{Answer, ClientUpgrade, MAX_HEAD_BYTES, answer};
use server_core::{Origin, WebSocketTarget};
use server_core_fuzz::models::websocket::{check_input, check_output};
use server_core_fuzz::{Result, Unstructured, number};

fuzz_target!(|data: &[u8]| {
    // Bytes that are missing at the end of the input count as zeros, so `run` does not fail.
    let _ = run(&mut Unstructured::new(data));
});

/// Reads what follows, then lists of sizes, then to the end the bytes.
fn run(input: &mut Unstructured<'_>) -> Result<()> {
    match input.arbitrary::<u8>()? % 4 {
        0 => {
            let cuts = sizes(input)?;
            check_input(input.bytes(input.len())?, &cuts);
        }
        which @ (1 | 2) => {
            let (offers, slices, takes) = (sizes(input)?, sizes(input)?, sizes(input)?);
            let bytes = input.bytes(input.len())?;
            check_output(bytes, &offers, &slices, &takes, which == 1);
        }
        _ => check_heads(input.bytes(input.len())?),
    }
    Ok(())
}

/// No head fails, and none of more than 8 KiB is waited for. A head that is complete is so with any bytes behind it.
fn check_heads(bytes: &[u8]) {
    if let Ok(origin) = String::from_utf8_lossy(bytes).parse::<Origin>() {
        assert_eq!(origin.to_string().parse(), Ok(origin));
    }
    let Ok(target) = WebSocketTarget::new("game.example", "/") else {
        return;
    };
    let _ = ClientUpgrade::new(&target).0.check(bytes);
    let more = [bytes, b"behind"].concat();
    match answer(bytes, &[]) {
        Answer::Incomplete => assert!(bytes.len() <= MAX_HEAD_BYTES),
        complete => assert_eq!(answer(&more, &[]), complete),
    }
}

fn sizes(input: &mut Unstructured<'_>) -> Result<Vec<usize>> {
    let count = input.arbitrary::<u8>()? % 8 + 1;
    (0..count).map(|_| Ok(number(input)?.max(1))).collect()
}
