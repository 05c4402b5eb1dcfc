//! What a run measures: definitions, recording on the event loops, and histograms.

mod histogram;
pub(crate) mod recorder;
mod registry;
pub(crate) mod series;
mod top_counter;

pub use histogram::{Histogram, MAX_MICROS};
pub use registry::{
    Check, Counter, Definition, Gauge, Kind, Rate, Registry, RequestSeries, TickSeries, Trend, Unit,
};
pub use series::PointTrend;
pub use top_counter::{Others, TopCounter};
