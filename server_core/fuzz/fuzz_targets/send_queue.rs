//! Fuzzes the send queue with pushes, partial writes and ends of turns. Bytes, their order, counts and ages
//! must be as in the model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use server_core_fuzz::models::send_queue::{Machine, Step};
use server_core_fuzz::{Result, Unstructured, each_step, number};

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let mut machine = Machine::default();
    each_step(input, |which, input| {
        machine.step(match which % 4 {
            0 | 1 => Step::Push {
                manager: usize::from(which / 4),
                bytes: match which {
                    // Some packets have any size. Most packets are small.
                    224.. => number(input)?.max(4),
                    _ => number(input)? % 2_000 + 4,
                },
            },
            2 => Step::Advance {
                limit: match number(input)? {
                    0 => usize::MAX,
                    limit => limit - 1,
                },
                share: number(input)? % 1_001,
            },
            _ => Step::Settle {
                after_millis: number(input)? as u64,
            },
        });
        Ok(())
    })?;
    machine.finish();
    Ok(())
}
