//! The schema of the JSON summary, made from the types that are written.

use super::output;
use super::summary::Summary;
use crate::load::Failure;
use std::process::ExitCode;

/// `dummy_client schema`: prints it.
///
/// # Errors
/// If it cannot be written.
pub fn print() -> Result<ExitCode, Failure> {
    output::print(&text())?;
    Ok(ExitCode::SUCCESS)
}

fn text() -> String {
    let schema = schemars::schema_for!(Summary);
    // A value of strings, numbers, lists and maps can always be written.
    let mut text = output::to_json(&schema, true).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file beside the sources is what other programs are built on.
    #[test]
    fn the_file_in_the_repository_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/summary.schema.json");
        let file = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(
            file,
            text(),
            "run: cargo run -p dummy_client -- schema > dummy_client/summary.schema.json"
        );
    }
}
