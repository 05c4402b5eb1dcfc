//! What a run measures: definitions, recording on the event loops, and histograms.

mod histogram;
mod registry;

pub use histogram::{Histogram, MAX_MICROS};
pub use registry::{
    Check, Counter, Definition, Gauge, Kind, Rate, Registry, RequestSeries, TickSeries, Trend, Unit,
};
