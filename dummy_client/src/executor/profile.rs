//! The number of users at each moment of a run. A pure function of the elapsed time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The number of users over time: linear between two points, constant behind the last point.
#[derive(Clone, Debug)]
pub struct LoadProfile {
    points: Vec<Point>,
    ends_at: Option<Duration>,
    is_requested_at_once: bool,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    at: Duration,
    sessions: f64,
}

/// One stage of a ramp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Users at the end of the stage.
    pub sessions: usize,
    /// Length of the stage.
    pub duration: Duration,
}

/// Stages, as text `1000:30s,5000:60s,0:10s`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stages(pub Vec<Stage>);

impl LoadProfile {
    /// `count` users (at least 1), `ramp_per_sec` new users a second; 0: all at once.
    #[must_use]
    pub fn constant(count: usize, ramp_per_sec: u32, duration: Option<Duration>) -> Self {
        let mut points = Vec::new();
        if ramp_per_sec > 0 {
            points.push(Point {
                at: Duration::ZERO,
                sessions: 1.0,
            });
        }
        let ramp_secs = match ramp_per_sec {
            0 => 0.0,
            rate => count.saturating_sub(1) as f64 / f64::from(rate),
        };
        points.push(Point {
            at: Duration::try_from_secs_f64(ramp_secs).unwrap_or(Duration::MAX),
            sessions: count as f64,
        });
        Self {
            points,
            ends_at: duration,
            is_requested_at_once: true,
        }
    }

    /// Stage by stage, from 0 users. Ends with the last stage, or after `duration`.
    #[must_use]
    pub fn stages(stages: &Stages, duration: Option<Duration>) -> Self {
        let mut at = Duration::ZERO;
        let mut points = vec![Point { at, sessions: 0.0 }];
        for stage in &stages.0 {
            at = at.saturating_add(stage.duration);
            points.push(Point {
                at,
                sessions: stage.sessions as f64,
            });
        }
        Self {
            points,
            ends_at: Some(duration.map_or(at, |duration| duration.min(at))),
            is_requested_at_once: false,
        }
    }

    /// The number of users now.
    #[must_use]
    pub fn target(&self, elapsed: Duration) -> usize {
        // The addition keeps rounding from missing a number that is reached.
        (self.value(elapsed) + 1e-6) as usize
    }

    /// The elapsed time at which the number may be another one; `None`: it stays.
    #[must_use]
    pub fn next_change(&self, elapsed: Duration) -> Option<Duration> {
        let next = self.points.iter().find(|point| point.at > elapsed)?;
        let left = next.at - elapsed;
        let value = self.value(elapsed);
        let per_sec = (next.sessions - value) / left.as_secs_f64();
        let distance = if per_sec > 0.0 {
            (value + 1e-6).floor() + 1.0 - value
        } else {
            value - (value + 1e-6).floor() + 1e-3
        };
        let secs = (distance / per_sec.abs()).clamp(1e-3, left.as_secs_f64().max(1e-3));
        Some(elapsed + Duration::from_secs_f64(secs))
    }

    /// The largest number of users behind `from` and up to `to`. A peak that lasts for no time counts.
    #[must_use]
    pub fn peak(&self, from: Duration, to: Duration) -> usize {
        let passed = self
            .points
            .iter()
            .filter(|point| from < point.at && point.at <= to);
        let most = passed.map(|point| point.sessions as usize).max();
        most.unwrap_or(0).max(self.target(to))
    }

    /// The length of the run; `None`: without an end.
    #[must_use]
    pub fn ends_at(&self) -> Option<Duration> {
        self.ends_at
    }

    /// The largest number of users.
    #[must_use]
    pub fn max(&self) -> usize {
        let most = self.points.iter().map(|point| point.sessions);
        most.fold(0.0, f64::max) as usize
    }

    /// Whether all users are requested from the start, even if they connect one after the other.
    #[must_use]
    pub fn is_requested_at_once(&self) -> bool {
        self.is_requested_at_once
    }

    fn value(&self, elapsed: Duration) -> f64 {
        let next = self.points.iter().position(|point| point.at > elapsed);
        let last = self.points.last().map_or(0.0, |point| point.sessions);
        match next {
            None => last,
            Some(0) => 0.0,
            Some(next) => {
                let (from, to) = (self.points[next - 1], self.points[next]);
                let part = (elapsed - from.at).div_duration_f64(to.at - from.at);
                from.sessions + (to.sessions - from.sessions) * part
            }
        }
    }
}

/// `0 at 0s, 1000 at 30s, until 1m 30s`.
impl fmt::Display for LoadProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, point) in self.points.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let at = humantime::format_duration(point.at);
            write!(f, "{comma}{} at {at}", point.sessions)?;
        }
        match self.ends_at {
            Some(end) => write!(f, ", until {}", humantime::format_duration(end)),
            None => Ok(()),
        }
    }
}

/// As it is parsed.
impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, stage) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let duration = humantime::format_duration(stage.duration);
            write!(f, "{comma}{}:{duration}", stage.sessions)?;
        }
        Ok(())
    }
}

impl FromStr for Stages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let stages = text.split(',').map(|part| {
            let (sessions, duration) = part.trim().split_once(':').ok_or_else(|| {
                format!("expected SESSIONS:DURATION, for example 1000:30s, and not {part:?}")
            })?;
            let sessions = sessions
                .parse()
                .ok()
                .filter(|sessions| *sessions <= MAX_SESSIONS)
                .ok_or_else(|| format!("expected 0 to {MAX_SESSIONS} sessions in {part:?}"))?;
            let duration = humantime::parse_duration(duration)
                .map_err(|error| format!("no duration in {part:?}: {error}"))?;
            Ok(Stage { sessions, duration })
        });
        let stages: Vec<Stage> = stages.collect::<Result<_, String>>()?;
        let total = stages.iter().try_fold(Duration::ZERO, |sum, stage| {
            sum.checked_add(stage.duration)
                .filter(|sum| *sum <= MAX_DURATION)
        });
        match total {
            None => Err("the stages together take too long".into()),
            Some(_) if stages.iter().all(|stage| stage.sessions == 0) => {
                Err("at least one stage needs a session".into())
            }
            Some(_) => Ok(Self(stages)),
        }
    }
}

/// The largest number of users of a run.
pub const MAX_SESSIONS: usize = 10_000_000;
/// The longest run.
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(100_000_000);

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: f64) -> Duration {
        Duration::from_secs_f64(secs)
    }

    #[test]
    fn without_a_ramp_all_users_are_requested_at_once() {
        let profile = LoadProfile::constant(1000, 0, None);
        assert_eq!(profile.target(Duration::ZERO), 1000);
        assert_eq!(profile.next_change(Duration::ZERO), None);
        assert!(profile.is_requested_at_once());
        assert_eq!(profile.max(), 1000);
    }

    #[test]
    fn a_ramp_begins_with_one_user_and_is_linear() {
        let profile = LoadProfile::constant(100, 40, Some(secs(9.0)));
        let targets =
            [0.0, 0.024, 0.025, 1.0, 2.474, 2.475, 100.0].map(|at| profile.target(secs(at)));
        assert_eq!(targets, [1, 1, 2, 41, 99, 100, 100]);
        assert_eq!(profile.max(), 100);
        assert_eq!(profile.ends_at(), Some(secs(9.0)));
    }

    #[test]
    fn stages_go_up_and_down() {
        let stages: Stages = "1000:30s, 5000:1m,5000:0s,0:10s".parse().unwrap();
        let profile = LoadProfile::stages(&stages, None);
        let targets = [0.0, 15.0, 30.0, 60.0, 90.0, 95.0, 100.0, 200.0];
        let targets = targets.map(|at| profile.target(secs(at)));
        assert_eq!(targets, [0, 500, 1000, 3000, 5000, 2500, 0, 0]);
        assert_eq!(profile.ends_at(), Some(secs(100.0)));
        assert_eq!(profile.max(), 5000);
        assert!(!profile.is_requested_at_once());
    }

    #[test]
    fn polling_at_each_change_misses_no_number() {
        let up_and_down = "7:1s,3:500ms,9:100ms,0:1s".parse().unwrap();
        for profile in [
            LoadProfile::stages(&up_and_down, None),
            LoadProfile::constant(50, 33, None),
        ] {
            let (mut at, mut seen) = (Duration::ZERO, vec![profile.target(Duration::ZERO)]);
            while let Some(next) = profile.next_change(at) {
                assert!(next > at);
                at = next;
                seen.push(profile.target(at));
            }
            for pair in seen.windows(2) {
                assert!(pair[0].abs_diff(pair[1]) <= 1, "{seen:?}");
            }
            assert!(seen.len() < 400);
        }
    }

    #[test]
    fn a_text_without_stages_is_refused() {
        for bad in [
            "",
            "10",
            "10:",
            ":5s",
            "x:5s",
            "10:5",
            "-1:5s",
            "0:5s",
            "1:1y,1:90y,1:9y",
        ] {
            assert!(bad.parse::<Stages>().is_err(), "{bad}");
        }
    }
}
