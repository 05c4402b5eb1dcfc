//! `dummy_client report A.json --out page.html`: the page of a JSON report.

use dummy_client::Error;
use dummy_client::output::html;
use dummy_client::report::{Report, SCHEMA, SCHEMA_VERSION};
use std::fs;
use std::path::{Path, PathBuf};

/// Render the JSON report of a run as an HTML page
#[derive(Debug, clap::Args)]
pub struct ReportPage {
    /// The JSON report
    #[arg(value_name = "REPORT.json")]
    pub json: PathBuf,

    /// The page
    #[arg(long, value_name = "FILE.html")]
    pub out: PathBuf,
}

/// Writes the page.
///
/// # Errors
/// Status 2: the file is not a JSON report of this schema, or the page cannot be written.
pub fn run(page: &ReportPage) -> Result<(), Error> {
    let html = html::render(&read(&page.json)?)?;
    fs::write(&page.out, html)
        .map_err(|error| Error::usage(format!("cannot write {}: {error}", page.out.display())))
}

fn read(path: &Path) -> Result<Report, Error> {
    let named =
        |error: &dyn std::fmt::Display| Error::usage(format!("{}: {error}", path.display()));
    let json = fs::read(path).map_err(|error| named(&error))?;
    let report: Report = serde_json::from_slice(&json).map_err(|error| {
        named(&format!(
            "not a report of {SCHEMA} {SCHEMA_VERSION}: {error}"
        ))
    })?;
    if (report.schema.as_str(), report.schema_version) != (SCHEMA, SCHEMA_VERSION) {
        return Err(named(&format!("not a report of {SCHEMA} {SCHEMA_VERSION}")));
    }
    Ok(report)
}
