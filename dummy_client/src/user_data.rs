//! Data of single users: accounts, names, tokens.

use crate::error::Error;
use crate::scenario::UserId;
use std::fs;
use std::path::Path;

/// One line of text for each user.
///
/// ```
/// use dummy_client::{UserData, UserId};
///
/// let accounts = UserData::from_lines(["ann secret1", "bob secret2"]);
/// let (name, password) = accounts.get(UserId(1)).split_once(' ').unwrap_or_default();
/// assert_eq!((name, password), ("bob", "secret2"));
/// assert!(accounts.check_users(2).is_ok());
/// assert!(accounts.check_users(3).is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserData {
    lines: Vec<String>,
}

impl UserData {
    /// The lines, in the order of the users.
    #[must_use]
    pub fn from_lines(lines: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            lines: lines.into_iter().map(Into::into).collect(),
        }
    }

    /// The lines of a file, without empty lines.
    ///
    /// # Errors
    /// If the file cannot be read, or is not UTF-8. The exit status is 2.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let text = fs::read_to_string(path)
            .map_err(|error| Error::usage(format!("{}: {error}", path.display())))?;
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        Ok(Self::from_lines(lines))
    }

    /// The line of a user; empty for a user beyond the last line: see [`check_users`](Self::check_users).
    #[must_use]
    pub fn get(&self, user: UserId) -> &str {
        self.lines.get(user.0).map_or("", String::as_str)
    }

    /// For [`Scenario::check_users`](crate::Scenario::check_users).
    ///
    /// # Errors
    /// There are fewer lines than users.
    pub fn check_users(&self, users: usize) -> Result<(), String> {
        let lines = self.lines.len();
        if lines < users {
            return Err(format!(
                "{users} users need {users} lines of data, and there are {lines}"
            ));
        }
        Ok(())
    }
}
