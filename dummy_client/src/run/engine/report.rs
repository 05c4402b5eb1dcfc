//! The report of a run, from the parts of its engine.

use super::super::values;
use super::{Engine, Execution, MIN_POINT};
use crate::metrics::series::Second;
use crate::metrics::{Kind, Trend};
use crate::report::{
    CloseMessageCount, OtherFailures, Point, ReasonCount, Report, RunInfo, SCHEMA, SCHEMA_VERSION,
};

/// Listed reasons and close messages.
const MAX_LISTED: usize = 50;

impl Engine<'_> {
    /// The report. The event loops have ended.
    pub(in crate::run) fn into_report(mut self) -> Report {
        let now = self.ended_at;
        self.state.measure(now, true);
        if now > self.last_second_at + MIN_POINT {
            self.end_second(now);
            self.state.measure(now, true);
        }
        let counts = self.state.final_counts();
        let attack_delays = self.tick_delays(&self.state.measurement.window);
        let attack = self
            .attack_report
            .take()
            .map(|report| report.with_delays(&attack_delays));
        let mut sessions = self.state.users.sessions;
        sessions.server_silent_secs = self.state.silent.as_secs_f64();
        let (own_limits, _) =
            std::mem::take(&mut self.state.users.own_limits).into_largest(MAX_LISTED);
        let packets = counts[self.state.collector.engine.packets.0];
        let run = &self.state.measurement.run;
        let (worst_late_send, dropped_ticks) = (run.worst_late_send, run.dropped_ticks);
        let (reasons, other_disconnects) =
            std::mem::take(&mut self.state.users.reasons).into_largest(MAX_LISTED);
        let (messages, other_close_messages) = self
            .state
            .collector
            .take_close_messages()
            .into_largest(MAX_LISTED);
        let metrics =
            (self.state).metrics(&counts, &self.state.measurement.run, &self.state.lagging);
        let mut report = Report {
            schema: SCHEMA.into(),
            schema_version: SCHEMA_VERSION,
            not_checked: values::not_checked(
                &self.state.collector.registry,
                &self.state.measurement,
                &counts,
            ),
            run: self.run_info(),
            client: self
                .health
                .evaluate(worst_late_send, dropped_ticks, packets, &own_limits),
            machine: (&self.limits).into(),
            metrics,
            sessions,
            disconnects: reasons
                .into_iter()
                .map(|(reason, count)| ReasonCount { reason, count })
                .collect(),
            other_disconnects,
            close_messages: messages
                .into_iter()
                .map(|((code, text), count)| CloseMessageCount { code, text, count })
                .collect(),
            other_close_messages,
            ..Report::default()
        };
        let mut others = OtherFailures::of_attack(attack.as_ref(), &report, self.is_stopped);
        report.not_checked.append(&mut others.not_checked);
        others.excusable.extend(self.state.nothing_checked(&counts));
        report.attack = attack;
        self.evaluate(&mut report, &others);
        let engine = self;
        if let Execution::Capacity(search) = engine.executor {
            report.set_capacity(search.into_report());
        }
        report.timeline = engine.state.into_timeline();
        report
    }

    pub(super) fn evaluate(&self, report: &mut Report, others: &OtherFailures) {
        report.evaluate(others, |report, own_lag_ms| {
            let assertions = self.assertions.iter();
            assertions
                .map(|one| one.evaluate(report, own_lag_ms))
                .collect()
        });
    }

    fn run_info(&self) -> RunInfo {
        RunInfo {
            started_at: humantime::format_rfc3339_seconds(self.started_wall).to_string(),
            elapsed_secs: self.ended_at.duration_since(self.started_at).as_secs_f64(),
            host: host_name(),
            addr: self.config.transport.name(self.network.addr()),
            version: env!("CARGO_PKG_VERSION").into(),
            scenario: self.scenario.clone(),
            seed: self.config.seed.to_string(),
            share: (!self.config.share.is_all()).then(|| self.config.share.to_string()),
            settings: self.config.settings.clone(),
        }
    }

    /// The first trend of the scenario: those of the engine come before it.
    pub(super) fn main_trend(&self) -> Option<&str> {
        let engine = &self.state.collector.engine;
        let is_own = |trend: &Trend| {
            [
                Some(engine.connect_time),
                engine.login_time,
                Some(engine.outage),
            ]
            .contains(&Some(*trend))
        };
        let definitions = self.state.collector.registry.definitions().iter();
        let mut trends = definitions.filter_map(|one| match &one.kind {
            Kind::Trend(trend) if !is_own(trend) => Some(one.name.as_str()),
            _ => None,
        });
        trends.next()
    }

    pub(super) fn point(&self, second: &Second) -> Point {
        let registry = &self.state.collector.registry;
        values::point(second, &values::trend_names(registry))
    }
}

/// The name of this machine; empty where the system does not tell.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().into()
}
