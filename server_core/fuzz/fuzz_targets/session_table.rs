//! Fuzzes the session table with inserts, visits and closes. It must give no id twice, visit no session after a
//! close, and keep the first reason.
#![no_main]

use libfuzzer_sys::fuzz_target;
use server_core_fuzz::models::session_table::{Machine, Step};
use server_core_fuzz::{Result, Unstructured, each_step, number};

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let mut machine = Machine::new(input.arbitrary()?);
    each_step(input, |which, input| {
        let flag = which >= 128;
        machine.step(match which % 8 {
            0 => Step::Insert,
            1 => Step::InsertFails,
            2 => Step::Close(number(input)?, flag),
            3 => Step::TryVisit(number(input)?, flag),
            4 => Step::Pop,
            5 => Step::Visit(number(input)?),
            6 => Step::VisitAll,
            _ => Step::CloseAll,
        });
        Ok(())
    })?;
    machine.finish();
    Ok(())
}
