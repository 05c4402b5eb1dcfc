//! How many sessions are wanted at which moment of a run. Knows no clock and no socket.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A line through points: from one to the next the number of sessions changes evenly, behind the
/// last one it stays.
#[derive(Clone, Debug)]
pub struct Shape {
    points: Vec<Point>,
    ends_at: Option<Duration>,
    is_asked_at_once: bool,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    at: Duration,
    sessions: f64,
}

/// One stage of `--stages`: go evenly to so many sessions in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    pub sessions: usize,
    pub duration: Duration,
}

/// The value of `--stages`: `1000:30s,5000:60s,0:10s`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stages(pub Vec<Stage>);

impl Shape {
    /// `count` sessions, new ones at `ramp_per_sec` if that is not 0.
    pub fn steady(count: usize, ramp_per_sec: u32, duration: Option<Duration>) -> Self {
        let mut points = Vec::new();
        if ramp_per_sec > 0 {
            points.push(Point {
                at: Duration::ZERO,
                sessions: 1.0,
            });
        }
        let ramp_secs = match ramp_per_sec {
            0 => 0.0,
            rate => (count - 1) as f64 / f64::from(rate),
        };
        points.push(Point {
            at: Duration::from_secs_f64(ramp_secs),
            sessions: count as f64,
        });
        Self {
            points,
            ends_at: duration,
            is_asked_at_once: true,
        }
    }

    /// Stage by stage, from nobody. Ends with the last stage, or after `duration`.
    pub fn stages(stages: &Stages, duration: Option<Duration>) -> Self {
        let mut at = Duration::ZERO;
        let mut points = vec![Point { at, sessions: 0.0 }];
        for stage in &stages.0 {
            at += stage.duration;
            points.push(Point {
                at,
                sessions: stage.sessions as f64,
            });
        }
        Self {
            points,
            ends_at: Some(duration.map_or(at, |duration| duration.min(at))),
            is_asked_at_once: false,
        }
    }

    /// Sessions that are wanted now.
    pub fn wanted(&self, elapsed: Duration) -> usize {
        // A hair more, so that a number which is reached is not missed by rounding.
        (self.value(elapsed) + 1e-6) as usize
    }

    /// When to ask again: the number may be another one then.
    pub fn next_change(&self, elapsed: Duration) -> Option<Duration> {
        let next = self.points.iter().find(|point| point.at > elapsed)?;
        let left = next.at - elapsed;
        let value = self.value(elapsed);
        let per_sec = (next.sessions - value) / left.as_secs_f64();
        let distance = match per_sec > 0.0 {
            true => (value + 1e-6).floor() + 1.0 - value,
            false => value - (value + 1e-6).floor() + 1e-3,
        };
        let secs = (distance / per_sec.abs()).clamp(1e-3, left.as_secs_f64().max(1e-3));
        Some(elapsed + Duration::from_secs_f64(secs))
    }

    /// When the run is over, if that is known before.
    pub fn ends_at(&self) -> Option<Duration> {
        self.ends_at
    }

    /// The most that are ever wanted.
    pub fn max(&self) -> usize {
        let most = self.points.iter().map(|point| point.sessions);
        most.fold(0.0, f64::max) as usize
    }

    /// Whether all of them are asked for from the start, even if they come one after the other.
    pub fn is_asked_at_once(&self) -> bool {
        self.is_asked_at_once
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

/// As it is given.
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

/// The most sessions that can be asked for.
pub const MAX_SESSIONS: usize = 10_000_000;
const MAX_DURATION: Duration = Duration::from_secs(100_000_000);

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: f64) -> Duration {
        Duration::from_secs_f64(secs)
    }

    #[test]
    fn without_a_ramp_all_are_wanted_at_once() {
        let shape = Shape::steady(1000, 0, None);
        assert_eq!(shape.wanted(Duration::ZERO), 1000);
        assert_eq!(shape.next_change(Duration::ZERO), None);
        assert!(shape.is_asked_at_once());
        assert_eq!(shape.max(), 1000);
    }

    #[test]
    fn a_ramp_begins_with_one_and_is_even() {
        let shape = Shape::steady(100, 40, Some(secs(9.0)));
        let wanted = [0.0, 0.024, 0.025, 1.0, 2.474, 2.475, 100.0].map(|at| shape.wanted(secs(at)));
        assert_eq!(wanted, [1, 1, 2, 41, 99, 100, 100]);
        assert_eq!(shape.max(), 100);
        assert_eq!(shape.ends_at(), Some(secs(9.0)));
    }

    #[test]
    fn stages_go_up_and_down() {
        let stages: Stages = "1000:30s, 5000:1m,5000:0s,0:10s".parse().unwrap();
        let shape = Shape::stages(&stages, None);
        let wanted = [0.0, 15.0, 30.0, 60.0, 90.0, 95.0, 100.0, 200.0];
        let wanted = wanted.map(|at| shape.wanted(secs(at)));
        assert_eq!(wanted, [0, 500, 1000, 3000, 5000, 2500, 0, 0]);
        assert_eq!(shape.ends_at(), Some(secs(100.0)));
        assert_eq!(shape.max(), 5000);
        assert!(!shape.is_asked_at_once());
    }

    #[test]
    fn whoever_asks_again_when_told_to_misses_no_number() {
        let up_and_down = "7:1s,3:500ms,9:100ms,0:1s".parse().unwrap();
        for shape in [
            Shape::stages(&up_and_down, None),
            Shape::steady(50, 33, None),
        ] {
            let (mut at, mut seen) = (Duration::ZERO, vec![shape.wanted(Duration::ZERO)]);
            while let Some(next) = shape.next_change(at) {
                assert!(next > at);
                at = next;
                seen.push(shape.wanted(at));
            }
            for pair in seen.windows(2) {
                assert!(pair[0].abs_diff(pair[1]) <= 1, "{seen:?}");
            }
            assert!(seen.len() < 400);
        }
    }

    #[test]
    fn what_is_no_stage_is_refused() {
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
