//! `dummy_client compare A.json B.json`: what changed from one side of runs to another.

use dummy_client::Error;
use dummy_client::output::{file, json};
use dummy_client::report::{self, Report};
use std::path::PathBuf;
use std::process::ExitCode;

/// Compare the JSON reports of runs: is B worse than A?
///
/// A loss and a failed check are never noise. A percentile differs if enough samples lie beyond it, if the
/// seconds of the runs agree, and if no run of one side reaches into the runs of the other side. Several runs on
/// a side find smaller differences.
///
/// Exit status: 0 if B is not worse; 1 if B is worse, or if the runs cannot be compared (a run was
/// client_limited, or the runs asked for different things); 2 if a file is not a report of this version.
#[derive(Debug, clap::Args)]
pub struct Compare {
    /// Runs before and after the change, as --json wrote them; several runs of a side are separated by commas
    #[arg(value_names = ["A.json[,A2.json...]", "B.json[,B2.json...]"], num_args = 2)]
    #[arg(required_unless_present = "before", conflicts_with_all = ["before", "after"])]
    sides: Vec<String>,

    /// A run before the change; repeatable, in place of A.json
    #[arg(long, value_name = "FILE", requires = "after")]
    before: Vec<PathBuf>,

    /// A run after the change; repeatable, in place of B.json
    #[arg(long, value_name = "FILE", requires = "before")]
    after: Vec<PathBuf>,

    /// Changes of times, rates and capacities up to this many percent are noise; twice as many with one run on a
    /// side
    #[arg(long, default_value_t = 10.0, value_parser = parse_percent)]
    #[arg(value_name = "PERCENT")]
    tolerance: f64,
}

/// Prints what changed.
///
/// # Errors
/// Status 2: a file cannot be read, or is not a report.
pub fn run(compare: &Compare) -> Result<ExitCode, Error> {
    let before = read(&compare.side(0, &compare.before))?;
    let after = read(&compare.side(1, &compare.after))?;
    let comparison = report::compare(&before, &after, compare.tolerance);
    file::print(&comparison.text)?;
    Ok(ExitCode::from(comparison.verdict.exit_status()))
}

/// Reads every report.
///
/// # Errors
/// Status 2: a file cannot be read, or is not a report.
pub fn read(files: &[PathBuf]) -> Result<Vec<Report>, Error> {
    files.iter().map(|file| json::read(file)).collect()
}

impl Compare {
    fn side(&self, index: usize, flags: &[PathBuf]) -> Vec<PathBuf> {
        let listed = self.sides.get(index).into_iter();
        let listed = listed.flat_map(|list| list.split(',')).map(PathBuf::from);
        listed.chain(flags.iter().cloned()).collect()
    }
}

fn parse_percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent @ 0.0..=1000.0) => Ok(percent),
        _ => Err("expected 0 to 1000 percent".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        compare: Compare,
    }

    fn parse(args: &[&str]) -> Result<Compare, clap::Error> {
        let args = ["compare"].iter().chain(args);
        Program::try_parse_from(args).map(|program| program.compare)
    }

    #[test]
    fn sides_are_two_lists_or_repeated_flags() {
        let sides = |args: &[&str]| {
            let compare = parse(args).unwrap();
            let names = |files: Vec<PathBuf>| {
                let names = files.iter().map(|path| path.to_str().unwrap());
                names.collect::<Vec<_>>().join(" ")
            };
            (
                names(compare.side(0, &compare.before)),
                names(compare.side(1, &compare.after)),
            )
        };
        let expected = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(sides(&["a", "b"]), expected("a", "b"));
        assert_eq!(sides(&["a,a2", "b,b2,b3"]), expected("a a2", "b b2 b3"));
        let flags = ["--before", "a,1", "--after=b", "--before=a2"];
        assert_eq!(sides(&flags), expected("a,1 a2", "b"));
        for bad in [
            &[][..],
            &["a"],
            &["a", "b", "c"],
            &["--before=a"],
            &["--after=b"],
            &["a", "--after=b"],
            &["a", "b", "--before=a", "--after=b"],
            &["a", "b", "--tolerance=-1"],
            &["a", "b", "--tolerance=nan"],
        ] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad:?}");
        }
    }
}
