//! A record as one line.

use std::fmt::Write;

use crate::log::Record;
use crate::redact;

/// Longest line, bytes, with its line feed.
pub const MAX_LINE_BYTES: usize = 2048;

/// `text` without secrets, on one line, at most `limit` bytes long.
pub fn shown(text: &str, limit: usize) -> String {
    let text = redact::text(text);
    let text = plain(&text);
    if text.len() <= limit {
        return text;
    }
    let mut cut = text;
    cut.truncate(cut.floor_char_boundary(limit.saturating_sub(3)));
    cut.push('…');
    cut
}

/// `text` with everything that could move a cursor, begin a line, or turn the direction of writing
/// shown by its number.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter if letter.is_control() || is_invisible(letter) => {
                // Writing into memory does not fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out
}

/// Characters that have no shape of their own and change how others are read.
const fn is_invisible(letter: char) -> bool {
    matches!(
        letter,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// `ts=… level=… component=… pid=… msg=… key=value…`.
pub fn logfmt(record: &Record) -> String {
    let mut line = format!(
        "ts={} level={} component={} pid={} msg={}",
        humantime::format_rfc3339_millis(record.time),
        record.level,
        quoted(&record.component),
        std::process::id(),
        quoted(&record.message),
    );
    for (name, value) in &record.fields {
        // `pid` is this process's; of others it is theirs.
        let name = if *name == "pid" { "peer_pid" } else { name };
        let _ = write!(line, " {name}={}", quoted(value));
    }
    if record.left_out > 0 {
        let _ = write!(line, " left_out={}", record.left_out);
    }
    ended(line)
}

/// `component: level: message (key value, …)`.
pub fn for_people(record: &Record) -> String {
    let mut line = format!("{}: ", record.component);
    if record.level != "info" {
        let _ = write!(line, "{}: ", record.level);
    }
    line.push_str(&record.message);
    for (index, (name, value)) in record.fields.iter().enumerate() {
        let gap = if index == 0 { " (" } else { ", " };
        let _ = write!(line, "{gap}{name} {value}");
    }
    if !record.fields.is_empty() {
        line.push(')');
    }
    if record.left_out > 0 {
        let _ = write!(line, " [{} more left out]", record.left_out);
    }
    ended(line)
}

fn ended(mut line: String) -> String {
    if line.len() > MAX_LINE_BYTES - 1 {
        line.truncate(line.floor_char_boundary(MAX_LINE_BYTES - 4));
        line.push('…');
    }
    line.push('\n');
    line
}

/// A value as logfmt has it: bare where that is clear, else in quotes.
fn quoted(value: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@+".contains(&byte);
    if !value.is_empty() && value.bytes().all(is_bare) {
        return value.to_string();
    }
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn record(message: &str, value: &str) -> Record {
        Record {
            time: UNIX_EPOCH,
            level: "warn",
            component: "kairod.link".into(),
            message: shown(message, 1024),
            fields: vec![("caller", shown(value, 256))],
            left_out: 0,
        }
    }

    #[test]
    fn a_line_names_everything_and_quotes_what_needs_it() {
        let mut record = record("no link to \"it\"", "agent/planner@1000");
        let pid = std::process::id();
        assert_eq!(
            logfmt(&record),
            format!(
                "ts=1970-01-01T00:00:00.000Z level=warn component=kairod.link pid={pid} \
                 msg=\"no link to \\\"it\\\"\" caller=agent/planner@1000\n"
            )
        );
        record.left_out = 3;
        assert_eq!(
            for_people(&record),
            "kairod.link: warn: no link to \"it\" (caller agent/planner@1000) [3 more left out]\n"
        );
    }

    #[test]
    fn no_text_begins_another_line_or_moves_a_cursor() {
        let evil = "x\nts=1 level=error\r\x1b[2J\u{9b}31m\u{202e}gnp.exe\u{7}";
        for line in [logfmt(&record(evil, evil)), for_people(&record(evil, evil))] {
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            let rest = line.trim_end_matches('\n');
            let bad = rest
                .chars()
                .find(|letter| letter.is_control() || *letter == '\u{202e}');
            assert_eq!(bad, None, "{line:?}");
            assert!(line.contains("\\u{1b}[2J"), "{line:?}");
        }
    }

    #[test]
    fn a_line_is_bounded_and_without_secrets() {
        let line = logfmt(&record(&"é".repeat(9000), &"\u{1}".repeat(900)));
        assert!(
            line.len() <= MAX_LINE_BYTES && line.contains('…'),
            "{}",
            line.len()
        );
        let line = logfmt(&record("token=abcdef", "sh_vault_abc"));
        assert!(!line.contains("abc"), "{line}");
    }
}
