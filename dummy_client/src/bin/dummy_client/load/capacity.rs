//! The capacity search of this program: what it records for each step.

use dummy_client::executor::capacity::{CapacityReport, CapacitySearch, StepOutcome};
use schemars::JsonSchema;
use serde::Serialize;

pub use dummy_client::executor::capacity::{Action, Occupancy, Outcome as Answer};

pub type Search = CapacitySearch<Step>;
pub type Capacity = CapacityReport<Step>;

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

impl Step {
    pub fn outcome(&self) -> StepOutcome {
        match (self.client_limited, self.holds) {
            (true, _) => StepOutcome::ClientLimited,
            (false, true) => StepOutcome::Holds,
            (false, false) => StepOutcome::Breaks,
        }
    }
}
