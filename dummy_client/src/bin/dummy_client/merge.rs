//! `dummy_client merge A.json B.json`: one report of the shares of a run.

use crate::compare;
use crate::outputs::{Outputs, Places};
use dummy_client::Error;
use std::path::PathBuf;
use std::process::ExitCode;

/// Merge the JSON reports of all parts of a run with --share
///
/// Histograms are added, so that percentiles are of all samples. Exit status: as the run itself would have, or 2
/// if a file is not a report of this version, or if the reports are not of all shares of one run.
#[derive(Debug, clap::Args)]
pub struct Merge {
    /// The report of each share, as --json wrote it
    #[arg(value_name = "SHARE.json", required = true)]
    shares: Vec<PathBuf>,

    /// Write the merged report as JSON; `-` writes it to standard output in place of the text
    #[arg(long, value_name = "FILE|-")]
    json: Option<String>,

    /// Write a page with plots that needs no network
    #[arg(long, value_name = "FILE.html")]
    report: Option<String>,

    /// Write the checks and assertions as JUnit XML
    #[arg(long, value_name = "FILE.xml")]
    junit: Option<String>,

    /// End a client_limited run with status 1
    #[arg(long)]
    limited_is_failure: bool,
}

/// Prints and writes the merged report.
///
/// # Errors
/// Status 2: a file cannot be read, is not a report, or is not a share of one run; a result cannot be written
/// there. Status 1: a result cannot be written.
pub fn run(merge: &Merge) -> Result<ExitCode, Error> {
    let outputs = Outputs::open(&Places {
        json: merge.json.as_deref(),
        report: merge.report.as_deref(),
        junit: merge.junit.as_deref(),
        limited_is_failure: merge.limited_is_failure,
    })?;
    let report = dummy_client::merge(compare::read(&merge.shares)?)?;
    outputs.publish(&report)?;
    Ok(ExitCode::from(report.exit_status(merge.limited_is_failure)))
}
