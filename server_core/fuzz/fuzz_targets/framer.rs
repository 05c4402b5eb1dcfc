//! Fuzzes the framer with any bytes, cut in any way. It must return the same packets, up to the same first
//! offence.
#![no_main]

use libfuzzer_sys::fuzz_target;
use server_core_fuzz::models::framer::check;
use server_core_fuzz::{Result, Unstructured, number};

fuzz_target!(|data: &[u8]| {
    // Bytes that are missing at the end of the input count as zeros, so `run` does not fail.
    let _ = run(&mut Unstructured::new(data));
});

/// Reads the limit, the number of cuts and the cuts. All bytes that follow are the stream.
fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let max_packet_bytes = number(input)?.max(4);
    let count = input.arbitrary::<u8>()? % 16 + 1;
    let cuts: Result<Vec<usize>> = (0..count).map(|_| Ok(number(input)?.max(1))).collect();
    check(input.bytes(input.len())?, &cuts?, max_packet_bytes);
    Ok(())
}
