//! Numbers and texts for people.

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

/// A peer's text for people: what cannot be seen, or would turn the line around, is spelled out.
pub fn shown(text: &str) -> String {
    text.escape_debug()
        .to_string()
        .replace("\\'", "'")
        .replace("\\\"", "\"")
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
    fn texts_are_harmless_and_as_they_were_otherwise() {
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
