//! Writing for people and for programs: tables, colour only on a terminal, JSON on request.

use std::io::{IsTerminal, Write};

use serde_json::Value;

use crate::failure::Failure;

/// What a word means, to colour it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// A heading.
    Strong,
}

/// Standard output and error.
#[derive(Debug)]
pub struct Terminal {
    /// Whether JSON was asked for.
    pub json: bool,
    /// Whether output can be redrawn in place.
    pub live: bool,
    colour: bool,
}

impl Terminal {
    /// Looks at where the output goes.
    pub fn new(json: bool) -> Self {
        let live = std::io::stdout().is_terminal() && !json;
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            json,
            live,
            colour: live && wanted,
        }
    }

    /// Prints one line.
    pub fn line(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        let mut output = std::io::stdout().lock();
        let written = writeln!(output, "{}", text.as_ref()).and_then(|()| output.flush());
        written.map_err(|_| Failure::OutputClosed)
    }

    /// Prints a value as one line of JSON, for streams.
    pub fn json_line(&self, value: &Value) -> Result<(), Failure> {
        self.line(value.to_string())
    }

    /// Prints a value as JSON for reading.
    pub fn json_page(&self, value: &Value) -> Result<(), Failure> {
        self.line(format!("{value:#}"))
    }

    /// Goes back to the top of the screen, where it is one.
    pub fn clear(&self) -> Result<(), Failure> {
        if self.live {
            self.line("\x1b[H\x1b[2J")?;
        }
        Ok(())
    }

    /// A word in the colour of its tone.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colour {
            return text.to_string();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
            Tone::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Prints a heading.
    pub fn heading(&self, text: &str) -> Result<(), Failure> {
        self.line(self.paint(Tone::Strong, text))
    }

    /// Prints a table.
    pub fn table(&self, table: &Table) -> Result<(), Failure> {
        for line in table.lines(self) {
            self.line(line)?;
        }
        Ok(())
    }

    /// Says something that is no failure, on standard error.
    pub fn warn(&self, text: &str) {
        // Nowhere is left to say that this failed.
        let _ = writeln!(std::io::stderr(), "kairo: {text}");
    }

    /// Prints a failure, and what to do, to standard error; one line of JSON if JSON was asked for.
    pub fn report(&self, failure: &Failure) {
        let mut text = format!("kairo: {failure}");
        if self.json {
            text = failure.json().to_string();
        } else if let Some(hint) = failure.hint() {
            text.push_str("\n       ");
            text.push_str(hint);
        }
        // Nowhere is left to say that this failed.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// A cell: its text, and what it means.
#[derive(Clone, Debug)]
pub struct Cell(String, Option<Tone>);

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self(text.into(), None)
    }
}

impl Cell {
    /// A cell with a meaning.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self(text.into(), Some(tone))
    }
}

/// A table with a heading row. Columns of numbers are aligned to the right.
#[derive(Debug)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table. A heading that begins with `>` aligns its column to the right.
    pub fn new(headings: &[&'static str]) -> Self {
        Self {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Appends a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn lines(&self, terminal: &Terminal) -> Vec<String> {
        let right: Vec<bool> = self.headings.iter().map(|h| h.starts_with('>')).collect();
        let titles: Vec<&str> = self
            .headings
            .iter()
            .map(|h| h.trim_start_matches('>'))
            .collect();
        let mut widths: Vec<usize> = titles.iter().map(|title| title.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.0.chars().count());
            }
        }
        let heading: Vec<Cell> = titles.iter().map(|title| Cell::from(*title)).collect();
        let rows = std::iter::once(&heading).chain(&self.rows);
        let line = |row: &Vec<Cell>| {
            let mut text = String::new();
            for (index, cell) in row.iter().enumerate().take(widths.len()) {
                let padding = " ".repeat(widths[index] - cell.0.chars().count());
                let shown = match cell.1 {
                    Some(tone) => terminal.paint(tone, &cell.0),
                    None => cell.0.clone(),
                };
                let gap = if index == 0 { "" } else { "  " };
                text.push_str(gap);
                if right[index] {
                    text.push_str(&padding);
                    text.push_str(&shown);
                } else {
                    text.push_str(&shown);
                    text.push_str(&padding);
                }
            }
            text.trim_end().to_string()
        };
        rows.map(line).collect()
    }
}

/// A text of a JSON value, or `-` when there is none.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

/// A number with so many decimals, or `-` when there is none.
pub fn number(value: &Value, decimals: usize) -> String {
    match value.as_f64() {
        Some(number) => format!("{number:.decimals$}"),
        None => "-".into(),
    }
}

/// The elements of a JSON array; none when it is not one.
pub fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The tone of a device's status.
pub fn status_cell(value: &Value) -> Cell {
    let word = text(value);
    let tone = match word.as_str() {
        "ready" => Tone::Good,
        "disarmed" => Tone::Warn,
        _ => Tone::Bad,
    };
    Cell::toned(word, tone)
}

/// `yes` or `NO`, toned.
pub fn yes_no(value: &Value) -> Cell {
    if value == &Value::Bool(true) {
        Cell::toned("yes", Tone::Good)
    } else {
        Cell::toned("NO", Tone::Bad)
    }
}

/// A count that should be zero, toned.
pub fn should_be_zero(value: &Value) -> Cell {
    match value.as_u64() {
        Some(0) => Cell::from("0"),
        _ => Cell::toned(text(value), Tone::Warn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_they_hold() {
        let terminal = Terminal {
            json: false,
            live: false,
            colour: false,
        };
        let mut table = Table::new(&["JOINT", ">POSITION rad"]);
        table.row(["élbow".into(), "1.0".into()]);
        table.row(["x".into(), "-10.25".into()]);
        assert_eq!(
            table.lines(&terminal),
            [
                "JOINT  POSITION rad",
                "élbow           1.0",
                "x            -10.25"
            ]
        );
    }

    #[test]
    fn colour_is_for_terminals() {
        let mut terminal = Terminal {
            json: false,
            live: true,
            colour: true,
        };
        assert_eq!(terminal.paint(Tone::Good, "ok"), "\x1b[32mok\x1b[0m");
        terminal.colour = false;
        assert_eq!(terminal.paint(Tone::Good, "ok"), "ok");
    }
}
