//! Text of a peer or of a file, made harmless for a terminal.
//!
//! Programs on this library use this module too.

use std::fmt::Write;

/// Escapes the characters of JSON above U+007E that print nothing, for example those that control a terminal or change
/// the direction of text. JSON escapes those below U+0020 itself, and its value stays the same.
#[must_use]
pub fn escape_controls(json: &str) -> String {
    escape(json, is_hidden)
}

/// Text for one line of a terminal: characters that print nothing are escaped, line ends included.
#[must_use]
pub fn one_line(text: &str) -> String {
    escape(text, |c| c < ' ' || is_hidden(c))
}

fn escape(text: &str, is_escaped: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_escaped(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // A string takes all text.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

fn is_hidden(c: char) -> bool {
    // Behind a letter, a combining mark prints.
    let is_shown = || String::from_iter(['a', c]).escape_debug().count() == 2;
    c >= '\u{7f}' && !is_shown()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_character_that_prints_nothing() {
        let line = one_line("a\nb\u{1b}[31m\u{9b}\u{202e}\u{200b}\u{e0041}é");
        let hidden = r"a\u000ab\u001b[31m\u009b\u202e\u200b\udb40\udc41é";
        assert_eq!(line, hidden);
        let shown = "\"'\\ 한국어 हिन्दी e\u{301} 🦀";
        assert_eq!(one_line(shown), shown);
    }

    #[test]
    fn json_keeps_its_line_ends() {
        assert_eq!(escape_controls("{\n\"é\u{7f}\"}"), "{\n\"é\\u007f\"}");
    }
}
