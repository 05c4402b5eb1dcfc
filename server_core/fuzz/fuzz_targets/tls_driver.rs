//! Fuzzes the TLS driver: handshake, records, garbage and ends in any order, cut in any way.
#![no_main]

use libfuzzer_sys::fuzz_target;
use server_core_fuzz::models::tls::{Machine, Step};
use server_core_fuzz::{Result, Unstructured, bytes, each_step, number};

fuzz_target!(|data: &[u8]| {
    // Bytes that are missing at the end of the input count as zeros, so `run` does not fail.
    let _ = run(&mut Unstructured::new(data));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let mut machine = Machine::default();
    each_step(input, |which, input| {
        machine.step(match which % 12 {
            0 => Step::Record(bytes(input)?),
            1 => Step::Record(vec![input.arbitrary()?; number(input)?.min(40_000)]),
            2 => Step::Handshake,
            3 => Step::Garbage,
            4 => Step::End {
                in_band: input.arbitrary()?,
            },
            5 => Step::Arrive(number(input)?),
            6 => Step::Room(number(input)?),
            7 => Step::Queue {
                bytes: bytes(input)?,
                slice: number(input)?,
            },
            8 => Step::Queue {
                bytes: vec![input.arbitrary()?; number(input)?],
                slice: number(input)?,
            },
            9 => Step::Read(number(input)?),
            10 => Step::Write,
            _ => Step::Close,
        });
        Ok(())
    })?;
    machine.finish();
    Ok(())
}
