//! When each tick was due, told from the ticks themselves.

/// The schedule `t0 + n * period` of a server that nobody tells us, estimated from the moments at
/// which its ticks arrived.
///
/// A tick can be late but never early, so the schedule is the line that lies below all arrivals
/// and as near to them as can be. Of all such lines the best one runs along the edge of the lower
/// convex hull that stands over the middle of the points. Measured against that line, and not
/// against the arrival before it, a server that is late is late in the figures for as long as it
/// lasts (this is what corrects for coordinated omission).
///
/// A server that was stopped may skip ticks: its numbers still rise by one, and from then on every
/// arrival lies whole periods above the line. That is told from a tick that was merely late by the
/// ticks behind it, which is why an arrival is judged only when [`WINDOW`] more have come.
#[derive(Debug, Default)]
pub struct Phase {
    hull: Vec<Point>,
    count: u64,
    sum_x: f64,
    /// Periods that the server has skipped so far: a whole number.
    skipped: f64,
    /// Arrivals that wait for those behind them, oldest first.
    pending: std::collections::VecDeque<Arrival>,
}

/// The first arrival of one tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// The tick's number.
    pub tick: u64,
    /// Seconds since some beginning.
    pub at: f64,
}

/// One tick, judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// The tick's number.
    pub tick: u64,
    /// When it was due, in seconds since the same beginning.
    pub due: f64,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    x: f64,
    y: f64,
}

/// Arrivals that must stand behind one before it is judged.
pub const WINDOW: usize = 4;

impl Phase {
    /// Takes the first arrival of the next tick. Ticks come in the order of their numbers.
    pub fn push(&mut self, arrival: Arrival) {
        self.pending.push_back(arrival);
    }

    /// The oldest tick that can be judged by now; at the end of a run, `all` of them can.
    pub fn pop(&mut self, all: bool) -> Option<Judged> {
        if self.pending.len() <= WINDOW && !all {
            return None;
        }
        self.count_skipped();
        let arrival = self.pending.pop_front()?;
        let x = self.slot(arrival.tick);
        self.add(Point { x, y: arrival.at });
        let (slope, base) = self.line();
        Some(Judged {
            tick: arrival.tick,
            due: (base + slope * x).min(arrival.at),
        })
    }

    /// The period, once it is known.
    pub fn period(&self) -> Option<f64> {
        // Ticks that all came in one moment tell of none.
        let slope = (self.hull.len() > 1).then(|| self.line().0);
        slope.filter(|slope| *slope > 0.0)
    }

    /// The place of a tick in the schedule. A server may send any number, so this is no place for
    /// whole numbers, which would overflow.
    fn slot(&self, tick: u64) -> f64 {
        tick as f64 + self.skipped
    }

    /// If even the most punctual of the arrivals that wait is whole periods late, ticks were
    /// skipped.
    fn count_skipped(&mut self) {
        let Some(period) = self.period().filter(|_| self.count > WINDOW as u64) else {
            return;
        };
        let (slope, base) = self.line();
        let lateness = |arrival: &Arrival| arrival.at - (base + slope * self.slot(arrival.tick));
        let least = self
            .pending
            .iter()
            .map(lateness)
            .fold(f64::INFINITY, f64::min);
        // Owed ticks that come in one burst are late, too, but they are not paced.
        let (Some(first), Some(last)) = (self.pending.front(), self.pending.back()) else {
            return;
        };
        let is_paced = last.at - first.at > period * (WINDOW as f64 - 1.0) * 0.75;
        if self.pending.len() > WINDOW && is_paced && least > period * 0.75 {
            self.skipped += (least / period + 0.25).floor();
        }
    }

    fn add(&mut self, point: Point) {
        self.count += 1;
        self.sum_x += point.x;
        while let [.., a, b] = self.hull[..] {
            // `b` stays only if it lies below the line from `a` to the new point.
            let cross = (b.x - a.x) * (point.y - a.y) - (b.y - a.y) * (point.x - a.x);
            if cross > 0.0 {
                break;
            }
            self.hull.pop();
        }
        self.hull.push(point);
    }

    /// Slope and base of the hull's edge over the middle of all points; flat while there is one
    /// point only.
    fn line(&self) -> (f64, f64) {
        let [first, .., _] = self.hull[..] else {
            return (0.0, self.hull.first().map_or(0.0, |point| point.y));
        };
        let middle = self.sum_x / self.count as f64;
        let mut edge = (first, first);
        for pair in self.hull.windows(2) {
            edge = (pair[0], pair[1]);
            if middle <= pair[1].x {
                break;
            }
        }
        let (a, b) = edge;
        let slope = (b.y - a.y) / (b.x - a.x);
        (slope, a.y - slope * a.x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds arrivals and returns how late each was found to be, in milliseconds.
    fn delays_ms(arrivals: impl IntoIterator<Item = (u64, f64)>) -> Vec<f64> {
        let mut phase = Phase::default();
        let mut delays = Vec::new();
        let mut at = std::collections::HashMap::new();
        for (tick, seconds) in arrivals {
            at.insert(tick, seconds);
            phase.push(Arrival { tick, at: seconds });
            while let Some(judged) = phase.pop(false) {
                delays.push((at[&judged.tick] - judged.due) * 1e3);
            }
        }
        while let Some(judged) = phase.pop(true) {
            delays.push((at[&judged.tick] - judged.due) * 1e3);
        }
        delays
    }

    #[test]
    fn a_punctual_server_is_punctual_whatever_its_phase() {
        for phase in [0.0, 0.1, 123.456] {
            let delays = delays_ms((7..200).map(|n| (n, phase + n as f64 * 0.25)));
            assert!(delays.iter().all(|delay| delay.abs() < 1e-6), "{delays:?}");
        }
    }

    #[test]
    fn jitter_is_measured_from_the_most_punctual() {
        let jitter = |n: u64| {
            if n.is_multiple_of(10) {
                0.0
            } else {
                (n % 7) as f64 * 1e-3
            }
        };
        let delays = delays_ms((1..=1000).map(|n| (n, n as f64 * 0.05 + jitter(n))));
        for (index, delay) in delays.iter().enumerate().skip(50) {
            let expected = jitter(index as u64 + 1) * 1e3;
            assert!(
                (delay - expected).abs() < 0.2,
                "tick {}: {delay} {expected}",
                index + 1
            );
        }
    }

    #[test]
    fn owed_ticks_that_come_in_a_burst_are_late_each_by_what_it_is() {
        // Stopped from tick 100 on for 1 s; the ticks 101 to 104 come together, then on schedule.
        let late = |n: u64| match n {
            101..=104 => (105 - n) as f64 * 0.25,
            _ => 0.0,
        };
        let delays = delays_ms((1..=200).map(|n| (n, n as f64 * 0.25 + late(n))));
        assert!((delays[100] - 1000.0).abs() < 1.0, "{}", delays[100]);
        assert!((delays[103] - 250.0).abs() < 1.0, "{}", delays[103]);
        assert!(delays[104..].iter().all(|delay| delay.abs() < 1.0));
    }

    #[test]
    fn a_long_burst_of_owed_ticks_is_not_taken_for_skipped_ones() {
        let late = |n: u64| {
            if (101..=112).contains(&n) {
                (113 - n) as f64 * 0.25
            } else {
                0.0
            }
        };
        let delays = delays_ms((1..=200).map(|n| (n, n as f64 * 0.25 + late(n))));
        assert!((delays[100] - 3000.0).abs() < 1.0, "{}", delays[100]);
        assert!(delays[112..].iter().all(|delay| delay.abs() < 1.0));
    }

    #[test]
    fn a_client_that_was_stopped_at_the_start_finds_many_ticks_in_one_moment() {
        let delays = delays_ms((1..=200).map(|n| (n, f64::max(n as f64 * 0.02, 0.4))));
        assert_eq!(delays.len(), 200);
        let late = delays[100..].iter().filter(|delay| **delay > 1.0).count();
        assert_eq!(late, 0, "{delays:?}");
    }

    #[test]
    fn any_tick_number_is_survived() {
        let numbers = [1, 2, 3, 4, 5, 6, u64::MAX - 1, u64::MAX];
        let arrivals = numbers.into_iter().enumerate();
        let arrivals = arrivals.map(|(n, tick)| (tick, 5.0 * n as f64));
        for delay in delays_ms((1..=6).map(|n| (n, n as f64 * 0.25)).chain(arrivals)) {
            assert!(delay.is_finite());
        }
        assert_eq!(delays_ms([(u64::MAX, 1.0)]), [0.0]);
    }

    #[test]
    fn skipped_ticks_are_not_owed_for_ever() {
        // Stopped for 3 s after tick 100: the next one comes 40 ms behind its slot, 12 slots on.
        let at = |n: u64| match n {
            ..=100 => n as f64 * 0.25,
            101 => (n + 11) as f64 * 0.25 + 0.04,
            _ => (n + 11) as f64 * 0.25,
        };
        let delays = delays_ms((1..=200).map(|n| (n, at(n))));
        assert!((delays[100] - 40.0).abs() < 1.0, "{}", delays[100]);
        assert!(delays[101..].iter().all(|delay| delay.abs() < 1.0));
    }
}
