//! Fuzzes the parser of PROXY headers with any bytes, cut in any way. It must name the same peer as a parser
//! of the whole header, and take no byte behind the header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use server_core_fuzz::models::proxy_header::check;
use server_core_fuzz::{Result, Unstructured, number};

fuzz_target!(|data: &[u8]| {
    // Bytes that are missing at the end of the input count as zeros, so `run` does not fail.
    let _ = run(&mut Unstructured::new(data));
});

/// Reads the number of cuts and the cuts. All bytes that follow are the stream.
fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let count = input.arbitrary::<u8>()? % 16 + 1;
    let cuts: Result<Vec<usize>> = (0..count).map(|_| Ok(number(input)?.max(1))).collect();
    check(input.bytes(input.len())?, &cuts?);
    Ok(())
}
