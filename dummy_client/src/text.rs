//! Text of a server or of a file, made harmless for a terminal.

/// Escapes the characters above U+007E that control a terminal or change the direction of text. JSON escapes
/// those below U+0020 itself.
#[must_use]
pub fn escape_controls(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match is_control(c) {
            true => text += &format!("\\u{:04x}", u32::from(c)),
            false => text.push(c),
        }
    }
    text
}

/// Text of a server or of a file, for one line of a terminal: control characters are escaped.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c < ' ' || is_control(c) {
            true => line += &format!("\\u{:04x}", u32::from(c)),
            false => line.push(c),
        }
    }
    line
}

fn is_control(c: char) -> bool {
    matches!(
        c,
        '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_control_characters() {
        let line = one_line("a\nb\u{1b}[31m\u{202e}é");
        assert_eq!(line, "a\\u000ab\\u001b[31m\\u202eé");
    }
}
