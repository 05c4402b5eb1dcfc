//! The shared code of the fuzz targets: the models of the property tests, and a reader of steps from bytes.
//!
//! An input is a list of steps. A step is a byte that names its kind, then its numbers, little-endian. So a
//! person can write a seed by hand, and read a finding with `xxd`.

#[path = "../../tests/models/mod.rs"]
pub mod models;

pub use libfuzzer_sys::arbitrary::{Result, Unstructured};

/// Reads steps until the input is used up. Bytes that are missing at its end count as zeros.
pub fn each_step(
    input: &mut Unstructured<'_>,
    mut step: impl FnMut(u8, &mut Unstructured<'_>) -> Result<()>,
) -> Result<()> {
    while !input.is_empty() {
        let which = input.arbitrary()?;
        step(which, input)?;
    }
    Ok(())
}

/// Reads a 16-bit number, for a size or an index.
pub fn number(input: &mut Unstructured<'_>) -> Result<usize> {
    input.arbitrary::<u16>().map(usize::from)
}

/// Reads up to 255 bytes. The first byte is their number.
pub fn bytes(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let count = usize::from(input.arbitrary::<u8>()?).min(input.len());
    input.bytes(count).map(<[u8]>::to_vec)
}
