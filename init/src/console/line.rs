//! Lines from single bytes of a raw terminal, with the little editing a person needs.
//!
//! The terminal echoes nothing: this decides what is shown. A line that begins with `{` comes
//! from a program, which is not shown its own words. Such lines may be tens of kilobytes long,
//! more than the 4095 a terminal in line mode would pass, which is why the terminal is raw.

/// Longest line.
pub const LINE_BYTES_MAX: usize = 256 * 1024;

const BACKSPACE: u8 = 8;
const CONTROL_C: u8 = 3;
const CONTROL_U: u8 = 21;
const DELETE: u8 = 127;

/// What to do after a byte.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do but show this.
    Show(&'static [u8]),
    /// Show the byte itself.
    ShowByte(u8),
    /// A line is complete.
    Line(Vec<u8>),
    /// A line was longer than [`LINE_BYTES_MAX`] and is lost.
    TooLong,
}

/// The line being typed.
#[derive(Debug, Default)]
pub struct LineEditor {
    line: Vec<u8>,
    too_long: bool,
    after_return: bool,
}

impl LineEditor {
    /// Whether the line being typed is a program's.
    pub fn is_raw(&self) -> bool {
        self.line.first() == Some(&b'{')
    }

    /// Takes a byte.
    pub fn push(&mut self, byte: u8) -> Step {
        let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
        match byte {
            // The second half of a CR LF.
            b'\n' if after_return => Step::Show(b""),
            b'\r' | b'\n' => {
                let line = std::mem::take(&mut self.line);
                match std::mem::take(&mut self.too_long) {
                    true => Step::TooLong,
                    false => Step::Line(line),
                }
            }
            _ if self.line.len() == LINE_BYTES_MAX => {
                self.too_long = true;
                Step::Show(b"")
            }
            _ if self.is_raw() => {
                self.line.push(byte);
                Step::Show(b"")
            }
            BACKSPACE | DELETE => match self.line.pop() {
                Some(_) => Step::Show(b"\x08 \x08"),
                None => Step::Show(b""),
            },
            CONTROL_C | CONTROL_U => {
                self.line.clear();
                Step::Show(b"\r\nkairo> ")
            }
            b' '..=b'~' | 128.. => {
                self.line.push(byte);
                match self.is_raw() {
                    true => Step::Show(b""),
                    false => Step::ShowByte(byte),
                }
            }
            // Arrow keys and the like: an escape sequence is not worth a state machine here.
            _ => Step::Show(b""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut editor = LineEditor::default();
        let steps = bytes.iter().map(|byte| editor.push(*byte));
        let lines = steps.filter_map(|step| match step {
            Step::Line(line) => Some(String::from_utf8(line).unwrap()),
            Step::TooLong => Some("too long".to_owned()),
            _ => None,
        });
        lines.collect()
    }

    #[test]
    fn every_line_end_ends_one_line() {
        assert_eq!(lines(b"a\rb\nc\r\nd\n\n"), ["a", "b", "c", "d", ""]);
    }

    #[test]
    fn typing_errors_can_be_taken_back() {
        assert_eq!(lines(b"statsu\x7f\x7fus\r"), ["status"]);
        assert_eq!(lines(b"\x7f\x08poweroff\x03help\r"), ["help"]);
    }

    #[test]
    fn raw_lines_are_kept_as_they_are_and_not_shown() {
        let mut editor = LineEditor::default();
        for byte in b"{\"a\":\"\x7f\"}" {
            assert_eq!(editor.push(*byte), Step::Show(b""));
        }
        assert_eq!(editor.push(b'\n'), Step::Line(b"{\"a\":\"\x7f\"}".to_vec()));
    }

    #[test]
    fn an_endless_line_is_lost_and_the_next_one_is_not() {
        let mut bytes = vec![b'{'; LINE_BYTES_MAX + 10];
        bytes.extend(b"\nstatus\n");
        assert_eq!(lines(&bytes), ["too long", "status"]);
    }
}
