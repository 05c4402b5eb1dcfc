//! Reads the metrics of `game_server` from its admin port.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A page of metrics, in Prometheus' text format.
pub struct Metrics(String);

impl Metrics {
    /// Requests the page.
    pub fn scrape(addr: &str) -> Result<Self, String> {
        let ask = || {
            let mut stream = TcpStream::connect(addr)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
            let mut page = String::new();
            stream.read_to_string(&mut page)?;
            Ok(Self(page))
        };
        ask().map_err(|error: std::io::Error| format!("no metrics: {error}"))
    }

    /// The upper bound of a quantile: the upper bound of the histogram's bucket that holds the quantile.
    pub fn quantile(&self, histogram: &str, share: f64) -> Option<f64> {
        let count = self.value(&format!("{histogram}_count "))?;
        let start = format!("{histogram}_bucket{{le=\"");
        let mut buckets = self.0.lines().filter_map(|line| {
            let (bound, below) = line.strip_prefix(&start)?.split_once("\"} ")?;
            Some((bound.parse().ok()?, below.parse().ok()?))
        });
        buckets
            .find(|(_, below): &(f64, f64)| *below >= count * share)
            .map(|(bound, _)| bound)
    }

    fn value(&self, name: &str) -> Option<f64> {
        let mut lines = self.0.lines();
        lines.find_map(|line| line.strip_prefix(name)?.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let page = "lag_bucket{le=\"0.1\"} 90\nlag_bucket{le=\"0.2\"} 99\n\
                    lag_bucket{le=\"+Inf\"} 100\nlag_sum 7\nlag_count 100\n";
        let metrics = Metrics(page.into());
        let quantiles = [0.5, 0.9, 0.95, 0.99].map(|share| metrics.quantile("lag", share));
        assert_eq!(quantiles, [Some(0.1), Some(0.1), Some(0.2), Some(0.2)]);
        assert_eq!(metrics.quantile("lag", 1.0), Some(f64::INFINITY));
        assert_eq!(metrics.quantile("other", 0.5), None);
    }
}
