//! Text that cannot play tricks: the canonical JSON of records, and what people are shown.
//!
//! Guarantee: neither contains a character that moves a cursor, changes the direction of writing or
//! has no shape. They are written as escapes, so nothing is lost, and other languages stay legible.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

/// Whether a character shows as itself, wherever it is printed.
pub const fn is_plain(character: char) -> bool {
    !matches!(character,
        '\0'..='\u{1f}'                 // C0 controls: ESC, newline, backspace.
        | '\u{7f}'..='\u{9f}'           // DEL and C1 controls: CSI in one byte.
        | '\u{ad}'                      // Soft hyphen.
        | '\u{34f}'                     // Combining grapheme joiner.
        | '\u{61c}'                     // Arabic letter mark.
        | '\u{115f}'..='\u{1160}'       // Hangul fillers.
        | '\u{17b4}'..='\u{17b5}'       // Inherent vowels without a shape.
        | '\u{180b}'..='\u{180f}'       // Mongolian selectors.
        | '\u{200b}'..='\u{200f}'       // Zero width, direction marks.
        | '\u{2028}'..='\u{202e}'       // Line separators, embeddings, overrides.
        | '\u{2060}'..='\u{206f}'       // Invisible operators, isolates.
        | '\u{3164}'                    // Hangul filler.
        | '\u{e000}'..='\u{f8ff}'       // Private use.
        | '\u{fe00}'..='\u{fe0f}'       // Variation selectors.
        | '\u{feff}'                    // Byte order mark.
        | '\u{ffa0}'                    // Halfwidth filler.
        | '\u{fff0}'..='\u{fffb}'       // Specials.
        | '\u{fffe}'..='\u{ffff}'
        | '\u{1bca0}'..='\u{1bca3}'     // Shorthand format controls.
        | '\u{1d173}'..='\u{1d17a}'     // Musical format controls.
        | '\u{e0000}'..='\u{10ffff}') // Tags, selectors, private use.
}

/// A text as it may be shown to people: what is not plain becomes `\u{…}`.
pub fn plain(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_plain(character) {
            shown.push(character);
        } else {
            shown.extend(character.escape_unicode());
        }
    }
    Cow::Owned(shown)
}

/// The canonical JSON of a value: no spaces, fields in their declared order, escapes as above.
///
/// None when the value cannot be JSON, which no type of this crate is.
pub fn canonical(value: &impl Serialize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    value
        .serialize(&mut Serializer::with_formatter(&mut bytes, PlainFormatter))
        .ok()?;
    Some(bytes)
}

struct PlainFormatter;

impl Formatter for PlainFormatter {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut written = 0;
        for (index, character) in fragment.char_indices() {
            if is_plain(character) {
                continue;
            }
            writer.write_all(&fragment.as_bytes()[written..index])?;
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            written = index + character.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[written..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_and_overrides_are_shown_not_obeyed() {
        assert_eq!(plain("\x1b[2Jx"), "\\u{1b}[2Jx");
        assert_eq!(plain("a\u{202e}b\u{9b}"), "a\\u{202e}b\\u{9b}");
        assert_eq!(plain("Größe, 大きさ"), "Größe, 大きさ");
    }

    proptest! {
        #[test]
        fn canonical_json_is_plain_and_says_the_same(text in any::<String>()) {
            let bytes = canonical(&text).unwrap();
            let written = std::str::from_utf8(&bytes).unwrap();
            prop_assert!(written.chars().all(is_plain));
            prop_assert_eq!(serde_json::from_str::<String>(written).unwrap(), text.clone());
            prop_assert!(plain(&text).chars().all(is_plain));
        }
    }
}
