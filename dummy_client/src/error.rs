//! Why a run does not begin, or has no result.

use std::process::ExitCode;
use std::{error, fmt};

/// An error in one line for the user, and the exit status that a program ends with.
///
/// `Debug` is the message too, so that a `main` that returns it prints one line.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    /// One line.
    pub message: String,
    /// 2 for bad usage and for a machine whose limits are too low, 1 for anything else.
    pub exit_status: u8,
}

impl Error {
    /// Status 1: something failed.
    pub fn failure(message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            exit_status: 1,
        }
    }

    /// Status 2: the run cannot be made as it is asked for.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            exit_status: 2,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl error::Error for Error {}

/// For a `main` that ends with the status of a failed run.
impl From<Error> for ExitCode {
    fn from(error: Error) -> Self {
        Self::from(error.exit_status)
    }
}
