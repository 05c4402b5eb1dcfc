//! Seconds from a command line, bytes for people.

use std::time::Duration;

/// Reads seconds, whole or with a fraction, from the command line. A number with a unit is another time: `500ms`,
/// `30s`, `5m`, `2h`.
///
/// # Errors
/// The text is not a time, or out of range. The message is for the user.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let with_unit = units
        .into_iter()
        .find_map(|(unit, secs)| Some((text.strip_suffix(unit)?, secs)));
    let (number, secs) = with_unit.unwrap_or((text, 1.0));
    let seconds: f64 = number.parse().map_err(|_| {
        String::from("expected a number of seconds, or a time like 500ms, 30s or 5m")
    })?;
    match seconds * secs {
        seconds @ 0.0..=MAX_SECONDS => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("expected 0 to {MAX_SECONDS} seconds")),
    }
}

/// About three years, far below the overflow of a clock.
const MAX_SECONDS: f64 = 1e8;

/// Bytes (or bytes a second) for people, with decimal units.
#[must_use]
pub fn human_bytes(bytes: f64) -> String {
    match bytes {
        0.0..1e3 => format!("{bytes:.0} B"),
        1e3..1e6 => format!("{:.1} kB", bytes / 1e3),
        1e6..1e9 => format!("{:.1} MB", bytes / 1e6),
        _ => format!("{:.2} GB", bytes / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds() {
        assert_eq!(parse_seconds("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_seconds("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_seconds("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_seconds("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_seconds("0.5h"), Ok(Duration::from_secs(1800)));
        for bad in [
            "", "x", "-1", "nan", "inf", "1e9", "s", "-1s", "3 s", "30S", "1d", "1e9m",
        ] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(human_bytes(0.0), "0 B");
        assert_eq!(human_bytes(92_000.0), "92.0 kB");
        assert_eq!(human_bytes(2.5e9), "2.50 GB");
    }
}
