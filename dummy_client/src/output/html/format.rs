//! Numbers and texts for people.

use crate::metrics::Unit;
use server_core::host::human_bytes;

/// Milliseconds with their unit.
pub fn ms(ms: f64) -> String {
    digits(ms) + " ms"
}

/// Three digits or so.
pub fn digits(number: f64) -> String {
    match number {
        ..9.995 => format!("{number:.2}"),
        ..99.95 => format!("{number:.1}"),
        _ => grouped(number.round() as u64),
    }
}

/// `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A text of a peer, with invisible characters and those that change the direction of text spelled out.
pub fn shown(text: &str) -> String {
    text.escape_debug()
        .to_string()
        .replace("\\'", "'")
        .replace("\\\"", "\"")
}

/// The name of a metric or of a field as words: `move_rtt` is `move rtt`.
pub fn words(name: &str) -> String {
    shown(&name.replace('_', " "))
}

/// A count.
pub fn count(count: usize) -> String {
    grouped(count as u64)
}

/// A value of a metric with its unit.
pub fn value(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Count if value.fract() == 0.0 && value >= 0.0 => grouped(value as u64),
        Unit::Count => digits(value),
        Unit::Bytes => human_bytes(value),
        Unit::Milliseconds => ms(value),
        Unit::Seconds => digits(value) + " s",
        Unit::Microseconds => digits(value) + " µs",
        Unit::Ratio => percent(value),
    }
}

/// Like [`value`], with three decimals: a measured value and the limit that it breaks are told apart.
pub fn exact(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Count if value.fract() == 0.0 && value >= 0.0 => grouped(value as u64),
        Unit::Count | Unit::Ratio => format!("{value:.3}"),
        Unit::Bytes => format!("{value:.0} B"),
        Unit::Milliseconds => format!("{value:.3} ms"),
        Unit::Seconds => format!("{value:.3} s"),
        Unit::Microseconds => format!("{value:.3} µs"),
    }
}

/// A share as a percentage.
pub fn percent(share: f64) -> String {
    // 99.99 % is not 100 %.
    let percent = (share * 1e4).floor() / 1e2;
    format!("{percent} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0.0, "0.00"),
            (9.994, "9.99"),
            (9.996, "10.0"),
            (99.94, "99.9"),
        ] {
            assert_eq!(digits(number), text);
        }
        assert_eq!(digits(12_345.6), "12,346");
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn values_have_the_unit_of_their_metric() {
        for (number, unit, text) in [
            (1234.0, Unit::Count, "1,234"),
            (0.5, Unit::Count, "0.50"),
            (1234.0, Unit::Bytes, "1.2 kB"),
            (250.0, Unit::Milliseconds, "250 ms"),
            (2.0, Unit::Seconds, "2.00 s"),
            (7.25, Unit::Microseconds, "7.25 µs"),
            (0.999_99, Unit::Ratio, "99.99 %"),
            (1.0, Unit::Ratio, "100 %"),
        ] {
            assert_eq!(value(number, unit), text);
        }
    }

    #[test]
    fn texts_without_invisible_characters_are_unchanged() {
        assert_eq!(
            shown(r#"it's "over" {{7*7}} \"#),
            r#"it's "over" {{7*7}} \\"#
        );
        assert_eq!(
            shown("a\u{202e}b\u{200b}\n\u{1b}"),
            r"a\u{202e}b\u{200b}\n\u{1b}"
        );
        assert_eq!(shown("안녕 é 👍"), "안녕 é 👍");
    }
}
