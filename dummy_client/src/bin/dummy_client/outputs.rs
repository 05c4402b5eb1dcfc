//! Where the result of a run goes. The places are opened before the run, so that a bad path does not cost one.

use dummy_client::output::file::{ResultFile, print};
use dummy_client::output::junit;
use dummy_client::{Error, Report};

/// The files of a run, and whether standard output gets the JSON.
#[derive(Debug)]
pub struct Outputs {
    json_on_stdout: bool,
    limited_is_failure: bool,
    files: Vec<(Render, ResultFile)>,
}

/// The places that the flags name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Places<'a> {
    /// `-` is standard output.
    pub json: Option<&'a str>,
    pub report: Option<&'a str>,
    pub junit: Option<&'a str>,
    /// A `client_limited` run fails: the JUnit file agrees with the exit status.
    pub limited_is_failure: bool,
}

/// The text of a result file.
type Render = fn(&Report, limited_is_failure: bool) -> Result<String, Error>;

impl Outputs {
    /// Opens the files of the flags.
    ///
    /// # Errors
    /// Status 2: a file cannot be written, or two flags name the same file.
    pub fn open(places: &Places<'_>) -> Result<Self, Error> {
        let json_on_stdout = places.json == Some("-");
        let json_file = places.json.filter(|_| !json_on_stdout);
        let flags: [(&str, Option<&str>, Render); 3] = [
            ("--json", json_file, |report, _| report.to_json()),
            ("--report", places.report, |report, _| report.to_html()),
            ("--junit", places.junit, |report, limited_is_failure| {
                Ok(junit::render(report, limited_is_failure))
            }),
        ];
        let mut opened: Vec<(&str, Render, ResultFile)> = Vec::new();
        for (flag, place, render) in flags {
            let Some(place) = place else { continue };
            let file = ResultFile::open(place)?;
            if let Some((other, ..)) = opened.iter().find(|(_, _, one)| one.is_same_file(&file)) {
                return Err(Error::usage(format!(
                    "{other} and {flag} are the same file, {place}"
                )));
            }
            opened.push((flag, render, file));
        }
        let files = opened.into_iter().map(|(_, render, file)| (render, file));
        Ok(Self {
            json_on_stdout,
            limited_is_failure: places.limited_is_failure,
            files: files.collect(),
        })
    }

    /// Writes the result to standard output and to each file. A place that cannot be written keeps no other
    /// place from being written.
    ///
    /// # Errors
    /// Status 1: some of the places.
    pub fn publish(self, report: &Report) -> Result<(), Error> {
        let text = if self.json_on_stdout {
            report.to_json()
        } else {
            Ok(report.to_text())
        };
        let mut errors: Vec<String> = Vec::new();
        let printed = text.and_then(|text| print(&text));
        errors.extend(printed.err().map(|error| error.message));
        for (render, file) in self.files {
            let written =
                render(report, self.limited_is_failure).and_then(|text| file.write(&text));
            errors.extend(written.err().map(|error| error.message));
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(Error::failure(errors.join("; ")))
    }
}
