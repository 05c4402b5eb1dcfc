//! Runs of a server with one planted fault, by seed, and the truth about them.

use fastrand::Rng;

/// The planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Fault {
    None,
    Jitter,
    LateTick,
    LastingDelay,
    Burst,
    CatchUp,
    Skip,
    HalfRate,
    Restart,
    StallAtEnd,
}

pub(crate) const FAULTS: [Fault; 10] = [
    Fault::None,
    Fault::Jitter,
    Fault::LateTick,
    Fault::LastingDelay,
    Fault::Burst,
    Fault::CatchUp,
    Fault::Skip,
    Fault::HalfRate,
    Fault::Restart,
    Fault::StallAtEnd,
];

/// What the server did. Times are in seconds.
#[derive(Debug)]
pub(crate) struct Planted {
    pub period: f64,
    pub jitter: f64,
    /// Epoch, tick number, arrival: in this order.
    pub ticks: Vec<(u64, u64, f64)>,
    pub end: f64,
    pub skipped: u64,
    /// The sum of all delays of one session, empty slots included.
    pub delay_sum: f64,
    pub longest_delay: f64,
    pub longest_gap: f64,
}

impl Planted {
    /// The fault begins at the tick `earliest` or later.
    pub(crate) fn new(fault: Fault, seed: u64, earliest: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let period = [0.02, 0.033, 0.05, 0.1, 0.25][rng.usize(..5)];
        let count = rng.u64(60..300);
        let part = if fault == Fault::Jitter { 0.6 } else { 0.1 };
        let jitter = rng.f64() * part * period;
        let (first_tick, phase) = (rng.u64(1..1000), rng.f64() * 2.0);
        // The fault begins at this tick, with this length in periods or ticks.
        let begin = rng.u64(earliest..count - 2);
        // Ticks that catch up for more than a third of all ticks are the schedule.
        let most = if fault == Fault::CatchUp {
            begin / 10 + 2
        } else {
            40
        };
        let length = rng.u64(1..most);
        let (rest, pace) = (rng.f64(), 0.3 + rng.f64() * 0.5);
        let late = match fault {
            Fault::LastingDelay => 0.3 + rng.f64() * 0.6,
            _ => 0.3 + rng.f64() * 8.0,
        };
        let mut planted = Self {
            period,
            jitter,
            ticks: Vec::new(),
            end: 0.0,
            skipped: 0,
            delay_sum: 0.0,
            longest_delay: 0.0,
            longest_gap: 0.0,
        };
        let (mut slot, mut latest, mut epoch, mut offset) = (0, f64::NEG_INFINITY, 0, phase);
        for n in 0..count {
            let mut empty = 0;
            match fault {
                Fault::Skip if n == begin => empty = length,
                Fault::HalfRate if (begin..begin + length).contains(&n) => empty = 1,
                Fault::Restart if n == begin => {
                    (epoch, slot) = (1, 0);
                    offset = latest + length as f64 * period + rest;
                }
                Fault::StallAtEnd if n >= begin => break,
                _ => {}
            }
            slot += empty;
            let due = offset + slot as f64 * period;
            let behind = n.saturating_sub(begin) as f64;
            let resumed = offset + (begin + length) as f64 * period;
            let mut at = due + rng.f64() * jitter;
            if n >= begin {
                at = match fault {
                    Fault::LateTick if n == begin => due + late * period,
                    Fault::LastingDelay => at + late * period,
                    Fault::Burst => at.max(resumed + behind * 1e-4),
                    Fault::CatchUp => at.max(resumed + behind * pace * period),
                    Fault::Skip if n == begin => due + rest * period,
                    _ => at,
                };
            }
            let at = at.max(latest);
            if latest.is_finite() {
                planted.longest_gap = planted.longest_gap.max(at - latest);
            }
            let dues = (0..=empty).map(|back| due - back as f64 * period);
            dues.for_each(|due| planted.delay(at - due));
            planted.skipped += empty;
            let tick = if epoch == 0 {
                first_tick + n
            } else {
                n - begin + 1
            };
            planted.ticks.push((epoch, tick, at));
            (slot, latest) = (slot + 1, at);
        }
        planted.end = latest + period * 0.5;
        if fault == Fault::StallAtEnd {
            planted.end = latest + (length as f64 + 1.5) * period;
            planted.longest_gap = planted.longest_gap.max(planted.end - latest);
            planted.skipped = length;
            let dues = (0..length).map(|ahead| offset + (slot + ahead) as f64 * period);
            let end = planted.end;
            dues.for_each(|due| planted.delay(end - due));
        }
        planted
    }

    fn delay(&mut self, delay: f64) {
        self.delay_sum += delay;
        self.longest_delay = self.longest_delay.max(delay);
    }
}

/// What an analysis has found, in the same units.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    pub skipped: u64,
    pub delay_sum: f64,
    pub longest_delay: f64,
    pub longest_gap: f64,
}

impl Planted {
    /// Whether the fault is found: the longest delay, the gap, and no fewer delays in sum than two thirds.
    pub(crate) fn is_found(&self, found: &Found) -> bool {
        let noise = self.period * 0.1 + self.jitter;
        found.longest_delay >= self.longest_delay * 0.95 - noise
            && found.longest_gap >= self.longest_gap - self.period * 0.01
            && found.delay_sum >= self.delay_sum * 0.66 - noise * self.ticks.len() as f64
    }

    /// Whether something is invented: a skip, a longer delay or gap, or many delays.
    pub(crate) fn is_invented(&self, found: &Found) -> bool {
        let noise = self.period * 0.1 + self.jitter;
        found.skipped > self.skipped
            || found.longest_delay > self.longest_delay * 1.05 + noise
            || found.longest_gap > self.longest_gap + self.period * 0.01
            || found.delay_sum > self.delay_sum * 2.0 + noise * self.ticks.len() as f64
    }
}
