//! What the fuzz targets share: the models of the property tests, and steps read from bytes.
//!
//! An input is a list of steps: a byte that says which, then its numbers, little-endian. So a seed
//! can be written by hand, and a finding can be read with `xxd`.

#[path = "../../tests/models/mod.rs"]
pub mod models;

pub use libfuzzer_sys::arbitrary::{Result, Unstructured};

/// Reads steps until the input is used up. What is missing at its end counts as zeros.
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

/// A 16-bit number, as a size or an index.
pub fn number(input: &mut Unstructured<'_>) -> Result<usize> {
    input.arbitrary::<u16>().map(usize::from)
}

/// Up to 255 bytes, as many as the first one says.
pub fn bytes(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let count = usize::from(input.arbitrary::<u8>()?).min(input.len());
    input.bytes(count).map(<[u8]>::to_vec)
}
