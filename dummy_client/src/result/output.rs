//! Where results go. Files are opened before the run, so that a bad path does not cost one.

use super::report;
use super::summary::Summary;
use crate::load::Failure;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};

/// What a run has to write at its end.
#[derive(Debug)]
pub struct Outputs {
    json: Json,
    report: Option<Target>,
}

#[derive(Debug)]
enum Json {
    None,
    /// In place of the text.
    Stdout,
    File(Target),
}

impl Outputs {
    /// Opens the files; `-` as the place of the JSON is standard output.
    ///
    /// # Errors
    /// If one cannot be written, or both are the same.
    pub fn open(json: Option<&str>, report: Option<&str>) -> Result<Self, Failure> {
        let outputs = Self {
            json: match json {
                None => Json::None,
                Some("-") => Json::Stdout,
                Some(place) => Json::File(Target::open(place)?),
            },
            report: report.map(Target::open).transpose()?,
        };
        if let (Json::File(json), Some(report)) = (&outputs.json, &outputs.report)
            && json.is_same_file(report)
        {
            return Err(Failure {
                why: format!("--json and --report are the same file, {}", report.place),
                exit_status: 2,
            });
        }
        Ok(outputs)
    }

    /// Writes the text to standard output, and what else was asked for where it was asked for.
    /// What cannot be written keeps nothing else from being written.
    ///
    /// # Errors
    /// If something could not be written. A reader that has gone is no error.
    pub fn publish(self, summary: &Summary) -> Result<(), Failure> {
        let (on_stdout, json) = match self.json {
            Json::None => (Ok(summary.to_text()), None),
            Json::Stdout => (summary.to_json(), None),
            Json::File(target) => (Ok(summary.to_text()), Some((target, summary.to_json()))),
        };
        let report = self.report.map(|target| (target, report::render(summary)));
        let mut troubles = Vec::new();
        let written = on_stdout.and_then(|text| write_stdout(&text));
        troubles.extend(written.err());
        for (target, text) in [json, report].into_iter().flatten() {
            troubles.extend(text.and_then(|text| target.write(&text)).err());
        }
        match troubles.is_empty() {
            true => Ok(()),
            false => Err(Failure {
                why: troubles.join("; "),
                exit_status: 1,
            }),
        }
    }
}

/// A file that can be written. What it holds already stays until there is something new.
#[derive(Debug)]
struct Target {
    place: String,
    file: File,
    /// It was not there before, and goes again if nothing is written.
    is_new: bool,
    is_written: bool,
}

impl Target {
    fn open(place: &str) -> Result<Self, Failure> {
        let open = |is_new| {
            OpenOptions::new()
                .write(true)
                .create_new(is_new)
                .open(place)
        };
        let (file, is_new) = match open(true) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => (open(false), false),
            opened => (opened, true),
        };
        let file = file.map_err(|error| Failure {
            why: cannot_write(place, &error),
            exit_status: 1,
        })?;
        Ok(Self {
            place: place.into(),
            file,
            is_new,
            is_written: false,
        })
    }

    fn is_same_file(&self, other: &Self) -> bool {
        let path = |target: &Self| {
            let is_file = target.file.metadata().is_ok_and(|meta| meta.is_file());
            fs::canonicalize(&target.place).ok().filter(|_| is_file)
        };
        path(self).is_some() && path(self) == path(other)
    }

    fn write(mut self, text: &str) -> Result<(), String> {
        let written = self.try_write(text);
        self.is_written = written.is_ok();
        check_written(written, &self.place)
    }

    fn try_write(&mut self, text: &str) -> io::Result<()> {
        // Devices and pipes have no length.
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.file.write_all(text.as_bytes())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.is_new && !self.is_written {
            // An empty file, or half of one: should it stay, nothing depends on it.
            let _ = fs::remove_file(&self.place);
        }
    }
}

/// Writes a result to standard output.
///
/// # Errors
/// If it cannot be written. A reader that has gone is no error.
pub fn print(text: &str) -> Result<(), Failure> {
    write_stdout(text).map_err(|why| Failure {
        why,
        exit_status: 1,
    })
}

fn write_stdout(text: &str) -> Result<(), String> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    check_written(written.and_then(|()| stdout.flush()), "standard output")
}

/// Makes an error one line for the user. A reader that has gone is none.
fn check_written(result: io::Result<()>, place: &str) -> Result<(), String> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(cannot_write(place, &error)),
        _ => Ok(()),
    }
}

fn cannot_write(place: &str, error: &io::Error) -> String {
    format!("cannot write to {place}: {error}")
}
