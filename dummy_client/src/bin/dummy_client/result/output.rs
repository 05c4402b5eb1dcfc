//! Where results go. Places are tried before the run, so that a bad path does not cost one.

use super::report;
use super::summary::Summary;
use crate::load::Failure;
use serde::Serialize;
use server_core::host::exit;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

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
                exit_status: exit::USAGE,
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
                exit_status: exit::FAILURE,
            }),
        }
    }
}

/// A place that can be written. What a file holds already stays until there is something new, and
/// where there was none, there is none until then: a run that is killed leaves nothing behind.
#[derive(Debug)]
struct Target {
    place: String,
    /// If there was one.
    file: Option<File>,
}

impl Target {
    fn open(place: &str) -> Result<Self, Failure> {
        let mut options = OpenOptions::new();
        let opened = match options.write(true).create_new(true).open(place) {
            Ok(_) => fs::remove_file(place).map(|()| None),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                options.create_new(false).open(place).map(Some)
            }
            Err(error) => Err(error),
        };
        let file = opened.map_err(|error| Failure {
            why: cannot_write(place, &error),
            exit_status: exit::FAILURE,
        })?;
        Ok(Self {
            place: place.into(),
            file,
        })
    }

    fn is_same_file(&self, other: &Self) -> bool {
        self.path().is_some() && self.path() == other.path()
    }

    /// By which a file is known. Devices and pipes have none: they may be written twice.
    fn path(&self) -> Option<PathBuf> {
        match &self.file {
            Some(file) => fs::canonicalize(&self.place)
                .ok()
                .filter(|_| file.metadata().is_ok_and(|meta| meta.is_file())),
            None => {
                let place = Path::new(&self.place);
                let folder = place
                    .parent()
                    .filter(|folder| !folder.as_os_str().is_empty());
                let folder = fs::canonicalize(folder.unwrap_or(Path::new("."))).ok()?;
                Some(folder.join(place.file_name()?))
            }
        }
    }

    fn write(self, text: &str) -> Result<(), String> {
        let written = match self.file {
            Some(file) => replace(file, text),
            None => File::create(&self.place).and_then(|mut file| {
                file.write_all(text.as_bytes()).inspect_err(|_| {
                    // Half a file: should it stay, nothing depends on it.
                    let _ = fs::remove_file(&self.place);
                })
            }),
        };
        check_written(written, &self.place)
    }
}

fn replace(mut file: File, text: &str) -> io::Result<()> {
    // Devices and pipes have no length.
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(text.as_bytes())
}

/// A value as JSON for a file, a terminal or a page, and whoever reads it there: characters that
/// control a terminal or turn a line around are spelled out, as `\u009b`. A server can send them.
///
/// # Errors
/// One line for the user.
pub fn to_json(value: &impl Serialize, is_pretty: bool) -> Result<String, String> {
    let json = match is_pretty {
        true => serde_json::to_string_pretty(value),
        false => serde_json::to_string(value),
    };
    json.map(|json| without_controls(&json))
        .map_err(|error| format!("the result cannot be written as JSON: {error}"))
}

/// JSON with those characters spelled out. They are part of its strings: between these, it is ASCII.
/// Those below U+0020 are spelled out in its strings already.
pub fn without_controls(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => text += &format!("\\u{:04x}", u32::from(c)),
            other => text.push(other),
        }
    }
    text
}

/// Writes a result to standard output.
///
/// # Errors
/// If it cannot be written. A reader that has gone is no error.
pub fn print(text: &str) -> Result<(), Failure> {
    write_stdout(text).map_err(|why| Failure {
        why,
        exit_status: exit::FAILURE,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_no_controls_and_reads_as_it_was() {
        let all: String = ('\0'..='\u{ffff}').collect();
        for is_pretty in [true, false] {
            let json = to_json(&[&all], is_pretty).unwrap();
            let is_turn = |c: char| {
                matches!(
                    c,
                    '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
                ) || matches!(c, '\u{2066}'..='\u{2069}')
            };
            let bad = |c: &char| (c.is_control() && *c != '\n') || is_turn(*c);
            assert_eq!(json.chars().find(bad), None);
            assert_eq!(json.contains('\n'), is_pretty);
            assert_eq!(
                serde_json::from_str::<[String; 1]>(&json).unwrap(),
                [all.as_str()]
            );
            assert!(
                json.contains("\\u009b") && json.contains("\\u202e"),
                "as \\u and four digits"
            );
        }
    }
}
