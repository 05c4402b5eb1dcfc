//! The search for the largest number of sessions that a server holds. Knows no clock and no socket.

use schemars::JsonSchema;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Steps the sessions up until something breaks, then halves the gap.
///
/// Each step fills up, settles, and is then measured by itself. A step in which this program was
/// the bottleneck is tried once more; if it is again, there is no answer: the server may hold more.
#[derive(Debug)]
pub struct Search {
    largest_to_try: usize,
    step: usize,
    phase: Phase,
    tries: u32,
    holds: Option<usize>,
    breaks: Option<usize>,
    steps: Vec<Step>,
    answer: Option<Answer>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Filling {
        until: Instant,
    },
    Settling {
        until: Instant,
    },
    Measuring {
        until: Instant,
    },
    /// The measured step has to be judged.
    Judging,
}

/// What the search wants of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Time.
    Nothing,
    /// To measure from now on.
    BeginWindow,
    /// To know how the step went, by [`Search::judge`].
    Judgement,
}

/// How many of the wanted sessions stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowd {
    Full,
    Partly,
    /// None, and none can.
    Gone,
}

/// One step of the search.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Step {
    /// Sessions that were wanted.
    pub sessions: usize,
    /// Whether everything held with so many.
    pub holds: bool,
    /// Whether this program was the bottleneck: then the step says nothing.
    pub client_limited: bool,
    /// What broke.
    pub broken: Vec<String>,
    pub tick_delay_p50_ms: f64,
    pub tick_delay_p99_ms: f64,
    pub tick_delay_max_ms: f64,
    pub rtt_p99_ms: f64,
    pub packets_per_sec: f64,
    pub bytes_per_sec: f64,
    /// Of this program; 1 is one core.
    pub cpu_cores: f64,
}

/// How a search has ended.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Capacity {
    pub answer: Answer,
    /// The largest number of sessions with which everything held.
    pub largest: Option<usize>,
    pub steps: Vec<Step>,
}

/// What is known at the end of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// `largest` holds, and little more does not.
    Found,
    /// Everything held up to the largest number that was to be tried.
    AtLeast,
    /// Not even one session was served as it should be.
    None,
    /// No answer: this program was the bottleneck.
    ClientLimited,
    /// No answer: it was ended before.
    Interrupted,
}

const FIRST: usize = 100;
/// The gap that is halved no further is this part of what holds.
const RESOLUTION: usize = 20;
const FILL: Duration = Duration::from_secs(20);
/// At least; as long as a tick needs to be judged, so that a window does not measure what came while
/// the sessions were being opened.
const SETTLE: Duration = Duration::from_millis(2500);
const MEASURE: Duration = Duration::from_secs(4);

impl Search {
    /// Begins with a hundred sessions, or fewer if fewer are to be tried.
    pub fn new(largest_to_try: usize, now: Instant) -> Self {
        Self {
            largest_to_try,
            step: FIRST.min(largest_to_try),
            phase: Phase::Filling { until: now + FILL },
            tries: 0,
            holds: None,
            breaks: None,
            steps: Vec::new(),
            answer: None,
        }
    }

    /// Sessions that are wanted now.
    pub fn wanted(&self) -> usize {
        self.step
    }

    /// Whether there is nothing left to try.
    pub fn is_over(&self) -> bool {
        self.answer.is_some()
    }

    /// When to poll again at the latest.
    pub fn next_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Filling { until } | Phase::Settling { until } | Phase::Measuring { until } => {
                Some(until)
            }
            Phase::Judging => None,
        }
    }

    /// Goes on as far as the time and the sessions that are live allow. `lag` is how long it takes
    /// until a tick is judged.
    pub fn poll(&mut self, crowd: Crowd, lag: Duration, now: Instant) -> Need {
        match self.phase {
            // Nobody is here, and nobody will come.
            Phase::Filling { .. } if crowd == Crowd::Gone => {
                self.phase = Phase::Judging;
                Need::Judgement
            }
            // Too few in all that time: it is measured all the same, and judged by that.
            Phase::Filling { until } if crowd == Crowd::Full || now >= until => {
                self.phase = Phase::Settling {
                    until: now + SETTLE.max(lag),
                };
                Need::Nothing
            }
            Phase::Settling { until } if now >= until => {
                self.phase = Phase::Measuring {
                    until: now + MEASURE,
                };
                Need::BeginWindow
            }
            Phase::Measuring { until } if now >= until => {
                self.phase = Phase::Judging;
                Need::Judgement
            }
            _ => Need::Nothing,
        }
    }

    /// Takes the outcome of a step, and chooses the next one.
    pub fn judge(&mut self, step: Step, now: Instant) {
        let (holds, is_limited) = (step.holds, step.client_limited);
        self.steps.push(step);
        self.phase = Phase::Filling { until: now + FILL };
        if is_limited && self.tries == 0 {
            self.tries = 1;
            return;
        }
        self.tries = 0;
        if is_limited {
            self.answer = Some(Answer::ClientLimited);
            return;
        }
        match holds {
            true => self.holds = Some(self.step),
            false => self.breaks = Some(self.step),
        }
        let next = match (self.holds, self.breaks) {
            (Some(holds), None) if holds >= self.largest_to_try => Err(Answer::AtLeast),
            (Some(holds), None) => Ok((holds * 2).min(self.largest_to_try)),
            (None, Some(breaks)) if breaks <= 1 => Err(Answer::None),
            (None, Some(breaks)) => Ok(breaks / 2),
            (Some(holds), Some(breaks)) if breaks - holds <= (holds / RESOLUTION).max(1) => {
                Err(Answer::Found)
            }
            (Some(holds), Some(breaks)) => Ok(holds.midpoint(breaks)),
            (None, None) => Err(Answer::None),
        };
        match next {
            Ok(step) => self.step = step,
            Err(answer) => self.answer = Some(answer),
        }
    }

    /// The outcome; of a search that is not over, what is known so far.
    pub fn into_capacity(self) -> Capacity {
        Capacity {
            answer: self.answer.unwrap_or(Answer::Interrupted),
            largest: self.holds,
            steps: self.steps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a server that holds so many; `limited` says in which steps this program was the
    /// bottleneck.
    fn search(
        holds: usize,
        largest_to_try: usize,
        limited: impl Fn(usize, usize) -> bool,
    ) -> Capacity {
        let mut now = Instant::now();
        let mut search = Search::new(largest_to_try, now);
        let mut windows = 0;
        while !search.is_over() {
            match search.poll(Crowd::Full, Duration::ZERO, now) {
                Need::Nothing => now = search.next_at().unwrap(),
                Need::BeginWindow => windows += 1,
                Need::Judgement => {
                    let sessions = search.wanted();
                    let step = Step {
                        sessions,
                        holds: sessions <= holds,
                        client_limited: limited(search.steps.len(), sessions),
                        ..Step::default()
                    };
                    search.judge(step, now);
                }
            }
            assert!(windows < 100, "no end");
        }
        search.into_capacity()
    }

    #[test]
    fn the_largest_number_is_found_within_the_resolution() {
        for holds in [1, 2, 7, 99, 100, 101, 1234, 5000, 9999] {
            let capacity = search(holds, 10_000, |_, _| false);
            let largest = capacity.largest.unwrap();
            assert_eq!(capacity.answer, Answer::Found, "{holds}");
            assert!(largest <= holds, "{holds}: {largest}");
            assert!(
                largest + largest / RESOLUTION + 1 >= holds,
                "{holds}: {largest}"
            );
            assert!(capacity.steps.len() < 20);
        }
    }

    #[test]
    fn a_server_that_holds_all_and_one_that_holds_none() {
        let all = search(usize::MAX, 5000, |_, _| false);
        assert_eq!((all.answer, all.largest), (Answer::AtLeast, Some(5000)));
        let none = search(0, 5000, |_, _| false);
        assert_eq!((none.answer, none.largest), (Answer::None, None));
        let few = search(usize::MAX, 3, |_, _| false);
        assert_eq!((few.answer, few.largest), (Answer::AtLeast, Some(3)));
    }

    #[test]
    fn one_limited_step_is_tried_again_and_two_are_no_answer() {
        let once = search(1000, 5000, |step, _| step == 2);
        assert_eq!(once.answer, Answer::Found);
        let always = search(1000, 5000, |_, sessions| sessions >= 400);
        assert_eq!(
            (always.answer, always.largest),
            (Answer::ClientLimited, Some(200))
        );
    }

    #[test]
    fn a_step_that_does_not_fill_up_is_measured_all_the_same() {
        let start = Instant::now();
        let mut search = Search::new(500, start);
        let lag = SETTLE * 2;
        let mut poll = |at| search.poll(Crowd::Partly, lag, at);
        assert_eq!(poll(start), Need::Nothing);
        assert_eq!(poll(start + FILL), Need::Nothing);
        assert_eq!(poll(start + FILL + SETTLE), Need::Nothing);
        let settled = start + FILL + lag;
        assert_eq!(poll(settled), Need::BeginWindow);
        assert_eq!(poll(settled + MEASURE), Need::Judgement);
        assert_eq!(poll(settled + MEASURE), Need::Nothing);
    }

    #[test]
    fn a_server_that_is_away_is_no_long_wait() {
        let now = Instant::now();
        let mut search = Search::new(100, now);
        let mut steps = 0;
        while !search.is_over() {
            assert_eq!(
                search.poll(Crowd::Gone, Duration::ZERO, now),
                Need::Judgement
            );
            search.judge(Step::default(), now);
            steps += 1;
        }
        assert_eq!((search.into_capacity().answer, steps), (Answer::None, 7));
    }
}
