//! Fuzzes a whole connection over a stream that reads and writes in parts, blocks and fails as the input
//! says. Both sides must get whole packets, in order.
#![no_main]

use libfuzzer_sys::fuzz_target;
use server_core::testing::Outcome;
use server_core_fuzz::models::connection::{Machine, Step};
use server_core_fuzz::{Result, Unstructured, bytes, each_step, number};
use std::io::ErrorKind;

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let mut machine = Machine::default();
    each_step(input, |which, input| {
        machine.step(match which % 16 {
            0 => Step::Bytes(bytes(input)?),
            1 | 2 => Step::Packet(u16::from(which / 16), bytes(input)?),
            3 => Step::Fin,
            4 | 5 => Step::Meets(Outcome::AtMost(number(input)?)),
            6 => Step::Meets(Outcome::WouldBlock),
            7 => Step::Meets(Outcome::Interrupted),
            8 => Step::Meets(Outcome::Fails(match which / 16 % 3 {
                0 => ErrorKind::ConnectionReset,
                1 => ErrorKind::BrokenPipe,
                _ => ErrorKind::TimedOut,
            })),
            9 => Step::Queue(number(input)? % 7_000),
            10 => Step::SendCommon(number(input)? % 2_000, which >= 128),
            11 => Step::Receive,
            12 => Step::Flush,
            13 => Step::Writable,
            14 => Step::Pass {
                millis: number(input)? as u64,
            },
            _ if which >= 128 => Step::Admit,
            _ => Step::Close,
        });
        Ok(())
    })?;
    machine.finish();
    Ok(())
}
