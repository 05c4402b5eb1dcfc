//! Fuzzes chunk pools with buffers that are written, cloned, merged, cut and dropped. Contents must stay
//! intact, and every chunk must come back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use server_core_fuzz::models::chunk_pool::{Machine, Step};
use server_core_fuzz::{Result, Unstructured, each_step, number};

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let mut machine = Machine::default();
    each_step(input, |which, input| {
        let step = match which % 8 {
            0..3 => Step::Write {
                manager: usize::from(which / 8),
                capacity: number(input)? % 9_000,
                used: number(input)?,
            },
            3 => Step::Clone(number(input)?),
            4 => Step::Drop(number(input)?),
            5 => Step::Merge(number(input)?, number(input)?),
            6 => Step::Advance(number(input)?, number(input)?),
            _ => Step::Release(usize::from(which / 8)),
        };
        machine.step(step);
        Ok(())
    })?;
    machine.finish();
    Ok(())
}
