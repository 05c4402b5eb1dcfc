//! Fuzzes the translation of other framings: any bytes as input, and any packets as output, cut in any way.
#![no_main]

use libfuzzer_sys::fuzz_target;
use server_core_fuzz::models::framing::{check_input, check_output, framings, id_of};
use server_core_fuzz::{Result, Unstructured, bytes, number};

fuzz_target!(|data: &[u8]| {
    // Bytes that are missing at the end of the input count as zeros, so `run` does not fail.
    let _ = run(&mut Unstructured::new(data));
});

/// Reads the limit, the framing, and four lists of sizes, then whether packets follow or, to the end, the
/// bytes of frames.
fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let all = framings(input.arbitrary::<u32>()? % (1 << 17));
    let framing = all[usize::from(input.arbitrary::<u8>()?) % all.len()];
    let (cuts, rooms) = (sizes(input)?, sizes(input)?);
    let takes = sizes(input)?;
    if input.arbitrary::<bool>()? {
        let mut packets = Vec::new();
        while !input.is_empty() {
            let id = number(input)? as u16;
            packets.push((id_of(&framing, id), bytes(input)?));
        }
        check_output(&packets, &framing, &cuts, &rooms, &takes);
    } else {
        check_input(input.bytes(input.len())?, &framing, &cuts, &rooms);
    }
    Ok(())
}

fn sizes(input: &mut Unstructured<'_>) -> Result<Vec<usize>> {
    let count = input.arbitrary::<u8>()? % 8 + 1;
    (0..count).map(|_| Ok(number(input)?.max(1))).collect()
}
