//! Any bytes, cut in any way: the same packets, up to the same first offence.
#![no_main]

use libfuzzer_sys::fuzz_target;
use server_core_fuzz::models::framer::check;
use server_core_fuzz::{Result, Unstructured, number};

fuzz_target!(|data: &[u8]| {
    // What is missing at the end of the input counts as zeros, so there is no other error.
    let _ = run(&mut Unstructured::new(data));
});

/// The limit, the number of cuts and the cuts; all that follows is the stream.
fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let max_packet_bytes = number(input)?.max(4);
    let count = input.arbitrary::<u8>()? % 16 + 1;
    let cuts: Result<Vec<usize>> = (0..count).map(|_| Ok(number(input)?.max(1))).collect();
    check(input.bytes(input.len())?, &cuts?, max_packet_bytes);
    Ok(())
}
