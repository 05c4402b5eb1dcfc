//! `dummy_client report A.json --out page.html`: the page of a JSON report.

use dummy_client::Error;
use dummy_client::output::file::ResultFile;
use dummy_client::output::json;
use std::path::PathBuf;

/// Render the JSON report of a run as an HTML page
#[derive(Debug, clap::Args)]
pub struct ReportPage {
    /// The JSON report
    #[arg(value_name = "REPORT.json")]
    pub json: PathBuf,

    /// The page
    #[arg(long, value_name = "FILE.html")]
    pub out: String,
}

/// Writes the page.
///
/// # Errors
/// Status 2: the file is not a JSON report of this schema, or the page cannot be created. Status 1: the page
/// cannot be written.
pub fn run(page: &ReportPage) -> Result<(), Error> {
    let target = ResultFile::open(&page.out)?;
    target.write(&json::read(&page.json)?.to_html()?)
}
