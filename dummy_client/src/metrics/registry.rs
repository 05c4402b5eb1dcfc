//! The definitions of all metrics of a run. A metric is registered once; console, JSON, report, assertions
//! and comparison go over the registry.

use crate::error::Error;

/// The metrics of a run, in the order in which they were registered.
///
/// A name is `[a-z][a-z0-9_]*`. Two scenarios of a mix may register the same definition: they share the
/// metric. The same name with another definition is an error of [`Run::run`](crate::Run::run).
#[derive(Debug, Default)]
pub struct Registry {
    definitions: Vec<Definition>,
    counters: usize,
    trends: usize,
    gauges: usize,
    tick_series: Vec<TickMetrics>,
    request_series: Vec<RequestSeries>,
    packets: Vec<(u16, String, Counter)>,
    expected: Vec<(Counter, String)>,
    errors: Vec<String>,
}

/// One metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// As in the JSON and in assertions.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// For people: the title of a trend, empty for others.
    pub title: String,
}

/// What a metric holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A sum.
    Counter(Counter, Unit),
    /// A sum that must stay 0.
    Check {
        /// The sum.
        counter: Counter,
        /// The failure behind the number, as in "3 ticks were missing".
        failure: String,
        /// The sum is a part of `lost`.
        is_loss: bool,
        /// A stall of the client of more than 1 s explains the failure.
        is_excusable: bool,
    },
    /// A share of events.
    Rate(Rate),
    /// Durations.
    Trend(Trend),
    /// The latest value.
    Gauge(Gauge, Unit),
}

/// The unit of a metric's value.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Pieces.
    #[serde(rename = "")]
    Count,
    /// Bytes.
    #[serde(rename = "B")]
    Bytes,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Microseconds.
    #[serde(rename = "us")]
    Microseconds,
    /// A share, 0 to 1.
    Ratio,
}

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident,)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name(pub(crate) usize);
    )*};
}

handles! {
    /// A sum that bots add to.
    Counter,
    /// Durations that bots record.
    Trend,
    /// A value that the engine sets.
    Gauge,
    /// One stream of numbered packets that a server pushes.
    TickSeries,
}

/// A counter that must stay 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check(pub(crate) Counter);

/// The share of events that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub(crate) passes: Counter,
    pub(crate) total: Counter,
}

/// The metrics of one [`TickSeries`].
#[derive(Clone, Debug)]
pub(crate) struct TickMetrics {
    pub name: String,
    pub delay: Trend,
    pub spread: Trend,
    pub received: Counter,
    pub gaps: Counter,
    pub skipped: Counter,
    pub synthetic: Counter,
    pub missing: Check,
    pub repeated: Check,
    pub reordered: Check,
    /// Users that had not seen the newest tick when the run ended.
    pub lagging: Check,
    /// Users that had not seen any tick, while others had.
    pub without: Check,
    pub period: Gauge,
    pub longest_gap: Gauge,
}

/// Requests that wait for an answer. `sent` is the sum of the answered, the lost and the waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestSeries {
    /// Requests.
    pub sent: Counter,
    /// Requests with an answer, right or wrong.
    pub answered: Counter,
    /// Requests that were under way for less than 2 s when their session ended.
    pub waiting: Counter,
    /// Requests without an answer.
    pub lost: Check,
    /// Requests with a wrong answer.
    pub corrupted: Check,
    /// From the time at which a request was due to its answer.
    pub time: Trend,
}

impl Registry {
    /// A sum.
    pub fn counter(&mut self, name: impl Into<String>, unit: Unit) -> Counter {
        let next = Counter(self.counters);
        let kind = self.define(name.into(), String::new(), Kind::Counter(next, unit));
        match kind {
            Kind::Counter(counter, _) => counter,
            _ => next,
        }
    }

    /// A sum that must not stay 0: then `failure` is a failure of the run, as in "no hello was received".
    pub fn expected(&mut self, name: impl Into<String>, failure: impl Into<String>) -> Counter {
        let counter = self.counter(name, Unit::Count);
        if !self.expected.iter().any(|(known, _)| *known == counter) {
            self.expected.push((counter, failure.into()));
        }
        counter
    }

    /// A sum that must stay 0. `failure` follows the number: "ticks were missing".
    pub fn check(&mut self, name: impl Into<String>, failure: impl Into<String>) -> Check {
        self.add_check(name.into(), failure.into(), false, false)
    }

    /// A check of something that a server owes: its sum is a part of `lost`. A client that stalled for more
    /// than 1 s makes the verdict `client_limited`.
    pub fn loss(&mut self, name: impl Into<String>, failure: impl Into<String>) -> Check {
        self.add_check(name.into(), failure.into(), true, true)
    }

    fn add_check(
        &mut self,
        name: String,
        failure: String,
        is_loss: bool,
        is_excusable: bool,
    ) -> Check {
        let next = Counter(self.counters);
        let kind = Kind::Check {
            counter: next,
            failure,
            is_loss,
            is_excusable,
        };
        match self.define(name, String::new(), kind) {
            Kind::Check { counter, .. } => Check(counter),
            _ => Check(next),
        }
    }

    /// The share of events that passed.
    pub fn rate(&mut self, name: impl Into<String>) -> Rate {
        let next = Rate {
            passes: Counter(self.counters),
            total: Counter(self.counters + 1),
        };
        match self.define(name.into(), String::new(), Kind::Rate(next)) {
            Kind::Rate(rate) => rate,
            _ => next,
        }
    }

    /// Durations, shown in milliseconds: count, mean, min, p50, p90, p95, p99, p99.9, max.
    pub fn trend(&mut self, name: impl Into<String>, title: impl Into<String>) -> Trend {
        let next = Trend(self.trends);
        match self.define(name.into(), title.into(), Kind::Trend(next)) {
            Kind::Trend(trend) => trend,
            _ => next,
        }
    }

    pub(crate) fn gauge(&mut self, name: impl Into<String>, unit: Unit) -> Gauge {
        let next = Gauge(self.gauges);
        match self.define(name.into(), String::new(), Kind::Gauge(next, unit)) {
            Kind::Gauge(gauge, _) => gauge,
            _ => next,
        }
    }

    /// A label of `packets_received` for a packet id. Packets of ids with the same label count together, and
    /// packets without a label count as `other`. Two different labels of one id are an error of
    /// [`Run::run`](crate::Run::run).
    pub fn packet(&mut self, id: u16, name: impl Into<String>) {
        let name = name.into();
        if let Some((_, known, _)) = self.packets.iter().find(|(known, ..)| *known == id) {
            if *known != name {
                let message =
                    format!("the packet {id} is registered twice, as {known} and as {name}");
                self.errors.push(message);
            }
            return;
        }
        let counter = Counter(self.counters);
        self.counters += 1;
        self.packets.push((id, name, counter));
    }

    /// One stream of packets that a server pushes to all users on its schedule, with numbers that rise by
    /// one. Registers these metrics; some names have the plural `NAMEs`:
    ///
    /// | metric | for `tick` | type |
    /// |---|---|---|
    /// | `NAME_delay` | `tick_delay` | trend |
    /// | `NAME_spread` | `tick_spread` | trend |
    /// | `NAMEs_received` | `ticks_received` | counter |
    /// | `NAME_gaps` | `tick_gaps` | counter |
    /// | `NAMEs_skipped` | `ticks_skipped` | counter |
    /// | `NAMEs_synthetic` | `ticks_synthetic` | counter |
    /// | `NAMEs_missing` | `ticks_missing` | check, loss |
    /// | `NAMEs_repeated` | `ticks_repeated` | check |
    /// | `NAMEs_reordered` | `ticks_reordered` | check |
    /// | `sessions_lagging_NAME` | `sessions_lagging_tick` | check, loss |
    /// | `sessions_without_NAME` | `sessions_without_tick` | check, loss |
    /// | `NAME_period` | `tick_period` | gauge |
    /// | `longest_NAME_gap` | `longest_tick_gap` | gauge |
    ///
    /// An assertion is, for example, `ticks_missing==0`; [`check_assertions`](crate::check_assertions) checks the names
    /// of an expression before the run.
    ///
    /// Several rooms fit one series only if they share the tick number: each number is compared over all sessions.
    /// Rooms with numbers of their own need a series each. A bot that enters late is held to no number before its
    /// first.
    pub fn tick_series(&mut self, name: impl Into<String>) -> TickSeries {
        let name = name.into();
        if let Some(known) = self.tick_series.iter().position(|one| one.name == name) {
            return TickSeries(known);
        }
        let missing = format!("{name}s were missing");
        let metrics = TickMetrics {
            delay: self.trend(
                format!("{name}_delay"),
                format!("{name} against the schedule"),
            ),
            spread: self.trend(
                format!("{name}_spread"),
                format!("one {name} over the sessions"),
            ),
            received: self.counter(format!("{name}s_received"), Unit::Count),
            gaps: self.counter(format!("{name}_gaps"), Unit::Count),
            skipped: self.counter(format!("{name}s_skipped"), Unit::Count),
            synthetic: self.counter(format!("{name}s_synthetic"), Unit::Count),
            missing: self.add_check(format!("{name}s_missing"), missing, true, false),
            repeated: self.check(
                format!("{name}s_repeated"),
                format!("{name}s were repeated"),
            ),
            reordered: self.check(
                format!("{name}s_reordered"),
                format!("{name}s were out of order"),
            ),
            lagging: self.loss(
                format!("sessions_lagging_{name}"),
                format!("sessions had not seen the newest {name}"),
            ),
            without: self.loss(
                format!("sessions_without_{name}"),
                format!("sessions had not seen any {name}"),
            ),
            period: self.gauge(format!("{name}_period"), Unit::Milliseconds),
            longest_gap: self.gauge(format!("longest_{name}_gap"), Unit::Milliseconds),
            name,
        };
        self.tick_series.push(metrics);
        TickSeries(self.tick_series.len() - 1)
    }

    /// Requests with answers. For the names `echoes`, `answered` and `rtt`: the counters `echoes_sent`,
    /// `echoes_answered` and `echoes_waiting`, the checks `echoes_lost` and `echoes_corrupted`, the trend `rtt`.
    pub fn request_series(
        &mut self,
        name: &str,
        answered: &str,
        time: &str,
        title: &str,
    ) -> RequestSeries {
        let series = RequestSeries {
            sent: self.counter(format!("{name}_sent"), Unit::Count),
            answered: self.counter(format!("{name}_{answered}"), Unit::Count),
            waiting: self.counter(format!("{name}_waiting"), Unit::Count),
            lost: self.loss(format!("{name}_lost"), format!("{name} were lost")),
            corrupted: self.check(
                format!("{name}_corrupted"),
                format!("{name} were corrupted"),
            ),
            time: self.trend(time, title),
        };
        if !self.request_series.contains(&series) {
            self.request_series.push(series);
        }
        series
    }

    /// The definitions, in the order of registration.
    #[must_use]
    pub fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// The packet labels: id, name, and the counter of received packets.
    pub fn packets(&self) -> impl Iterator<Item = (u16, &str, Counter)> {
        let packets = self.packets.iter();
        packets.map(|(id, name, counter)| (*id, name.as_str(), *counter))
    }

    pub(crate) fn ticks(&self) -> &[TickMetrics] {
        &self.tick_series
    }

    pub(crate) fn requests(&self) -> &[RequestSeries] {
        &self.request_series
    }

    /// The counters that must not stay 0, with their failures.
    pub(crate) fn expectations(&self) -> impl Iterator<Item = (Counter, &str)> {
        let expected = self.expected.iter();
        expected.map(|(counter, failure)| (*counter, failure.as_str()))
    }

    pub(crate) fn counters(&self) -> usize {
        self.counters
    }

    pub(crate) fn trends(&self) -> usize {
        self.trends
    }

    pub(crate) fn gauges(&self) -> usize {
        self.gauges
    }

    /// # Errors
    /// The first name that is invalid, or that has two definitions.
    pub(crate) fn check_names(&self) -> Result<(), Error> {
        match self.errors.first() {
            None => Ok(()),
            Some(message) => Err(Error::usage(message)),
        }
    }

    /// Takes a definition, and returns the one under this name.
    fn define(&mut self, name: String, title: String, kind: Kind) -> Kind {
        let is_known = |known: &&Definition| known.name == name;
        if let Some(known) = self.definitions.iter().find(is_known) {
            if known.title != title || !known.kind.is_like(&kind) {
                let message =
                    format!("the metric {name} is registered twice, with two definitions");
                self.errors.push(message);
            }
            return known.kind.clone();
        }
        let is_valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(is_valid) {
            let message = format!("{name:?} is not a name of a metric: expected [a-z][a-z0-9_]*");
            self.errors.push(message);
        }
        match &kind {
            Kind::Counter(..) | Kind::Check { .. } => self.counters += 1,
            Kind::Rate(_) => self.counters += 2,
            Kind::Trend(_) => self.trends += 1,
            Kind::Gauge(..) => self.gauges += 1,
        }
        self.definitions.push(Definition {
            name,
            kind: kind.clone(),
            title,
        });
        kind
    }
}

impl Kind {
    /// Whether both are the same but for their place.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Counter(_, a), Self::Counter(_, b)) | (Self::Gauge(_, a), Self::Gauge(_, b)) => {
                a == b
            }
            (Self::Check { failure: a, .. }, Self::Check { failure: b, .. }) => a == b,
            (Self::Rate(_), Self::Rate(_)) | (Self::Trend(_), Self::Trend(_)) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_definition_twice_is_one_metric() {
        let mut registry = Registry::default();
        let first = registry.trend("rtt", "echo");
        assert_eq!(registry.trend("rtt", "echo"), first);
        assert_ne!(registry.trend("other", "echo"), first);
        assert_eq!(registry.definitions().len(), 2);
        assert_eq!(registry.check_names(), Ok(()));
    }

    #[test]
    fn two_definitions_of_a_name_are_an_error() {
        let mut registry = Registry::default();
        registry.trend("rtt", "echo");
        registry.counter("rtt", Unit::Count);
        let error = registry.check_names().unwrap_err();
        assert!(error.message.contains("rtt is registered twice"), "{error}");
        assert_eq!(error.exit_status, 2);
    }

    #[test]
    fn names_are_words_of_lower_case_letters() {
        for bad in ["", "Rtt", "rtt-ms", "1st", "_x", "a b", "é"] {
            let mut registry = Registry::default();
            registry.counter(bad, Unit::Count);
            assert!(registry.check_names().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_metric_has_a_place_of_its_own() {
        let mut registry = Registry::default();
        let rate = registry.rate("moves_in_time");
        let counter = registry.counter("moves", Unit::Count);
        let ticks = registry.tick_series("tick");
        registry.packet(1, "S_HELLO");
        assert_eq!(registry.tick_series("tick"), ticks);
        let places = [rate.passes, rate.total, counter];
        assert_eq!(places.map(|counter| counter.0), [0, 1, 2]);
        let (_, _, label) = registry.packets().next().unwrap();
        assert_eq!(registry.counters(), label.0 + 1);
    }
}
