//! How many users there are at each moment, for how long, and the windows in which a run measures.

pub mod capacity;
mod profile;
pub mod windowed;

use std::fmt;
use std::time::Duration;

pub(crate) use profile::MAX_DURATION;
pub use profile::{LoadProfile, MAX_SESSIONS, Stage, Stages};

/// Decides the number of users of a run.
#[derive(Clone, Debug)]
pub struct Executor(pub(crate) Plan);

#[derive(Clone, Debug)]
pub(crate) enum Plan {
    Profile(LoadProfile),
    /// The largest number to try.
    Capacity(usize),
}

impl Executor {
    /// This number of users (at least 1), until `duration` or [`Stop`](crate::Stop).
    #[must_use]
    pub fn constant(users: usize, duration: Option<Duration>) -> Self {
        Self(Plan::Profile(LoadProfile::constant(
            users.max(1),
            0,
            duration,
        )))
    }

    /// The same, with this number of new users a second; 0: all at once.
    #[must_use]
    pub fn ramp(users: usize, users_per_sec: u32, duration: Option<Duration>) -> Self {
        let profile = LoadProfile::constant(users.max(1), users_per_sec, duration);
        Self(Plan::Profile(profile))
    }

    /// Linear stages from 0 users. Ends with the last stage.
    #[must_use]
    pub fn ramping(stages: &Stages) -> Self {
        Self(Plan::Profile(LoadProfile::stages(stages, None)))
    }

    /// A load profile.
    #[must_use]
    pub fn profile(profile: LoadProfile) -> Self {
        Self(Plan::Profile(profile))
    }

    /// A search for the largest number of users with which all assertions hold, up to `max_users`.
    #[must_use]
    pub fn capacity(max_users: usize) -> Self {
        Self(Plan::Capacity(max_users.clamp(1, MAX_SESSIONS)))
    }

    /// The largest number of users.
    #[must_use]
    pub fn max_users(&self) -> usize {
        match &self.0 {
            Plan::Profile(profile) => profile.max(),
            Plan::Capacity(max) => *max,
        }
    }

    /// The length of the run, if it has one.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        match &self.0 {
            Plan::Profile(profile) => profile.ends_at(),
            Plan::Capacity(_) => None,
        }
    }
}

/// The number of users over time, as the settings of a report have it.
impl fmt::Display for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Plan::Profile(profile) => profile.fmt(f),
            Plan::Capacity(max) => write!(f, "capacity search up to {max}"),
        }
    }
}
