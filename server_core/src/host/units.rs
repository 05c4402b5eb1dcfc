//! Seconds from a command line, bytes for people.

use std::time::Duration;

/// Reads seconds, whole or with a fraction, from the command line.
///
/// # Errors
/// The text is not a number of seconds, or out of range. The message is for the user.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| String::from("expected a number of seconds"))?;
    match seconds {
        0.0..=MAX_SECONDS => Ok(Duration::from_secs_f64(seconds)),
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
        for bad in ["", "x", "-1", "nan", "inf", "1e9"] {
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
