//! Splits Rust text into code, comments and literals, so that rules see only what they mean.
//!
//! Guarantees: the results have the same lines as the input, with everything else replaced by
//! spaces. Understands nested comments, raw strings, and the difference between a character
//! and a lifetime. Does not: parse Rust.

/// A file's text taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Parts {
    /// The text without comments and without the contents of literals.
    pub code: String,
    /// The comments alone.
    pub comments: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// Takes Rust text apart.
pub fn split(text: &str) -> Parts {
    let characters: Vec<char> = text.chars().collect();
    let mut parts = Parts {
        code: String::new(),
        comments: String::new(),
    };
    let mut at = 0;
    while at < characters.len() {
        let (kind, end) = token(&characters, at);
        for &character in &characters[at..end] {
            let blank = if character == '\n' { '\n' } else { ' ' };
            parts
                .code
                .push(if kind == Kind::Code { character } else { blank });
            parts.comments.push(if kind == Kind::Comment {
                character
            } else {
                blank
            });
        }
        at = end;
    }
    parts
}

/// The kind of what begins at `at`, and where it ends.
fn token(text: &[char], at: usize) -> (Kind, usize) {
    let next = text.get(at + 1).copied();
    match text[at] {
        '/' if next == Some('/') => (Kind::Comment, find(text, at, '\n')),
        '/' if next == Some('*') => (Kind::Comment, block_comment_end(text, at)),
        '"' => (Kind::Literal, quoted_end(text, at + 1)),
        '\'' => character_end(text, at).map_or((Kind::Code, at + 1), |end| (Kind::Literal, end)),
        character if character.is_alphanumeric() || character == '_' => word(text, at),
        _ => (Kind::Code, at + 1),
    }
}

/// A word; `r"`, `br#"` and the like begin a raw string, `b"` and `c"` an ordinary one.
fn word(text: &[char], at: usize) -> (Kind, usize) {
    let is_word = |character: &char| character.is_alphanumeric() || *character == '_';
    let end = at
        + text[at..]
            .iter()
            .take_while(|character| is_word(character))
            .count();
    let prefix: String = text[at..end].iter().collect();
    if !matches!(prefix.as_str(), "r" | "br" | "cr") {
        return (Kind::Code, end);
    }
    let hashes = text[end..]
        .iter()
        .take_while(|character| **character == '#')
        .count();
    if text.get(end + hashes) != Some(&'"') {
        return (Kind::Code, end);
    }
    let mut position = end + hashes + 1;
    while position < text.len() {
        let closed = text[position] == '"'
            && text[position + 1..]
                .iter()
                .take(hashes)
                .filter(|mark| **mark == '#')
                .count()
                == hashes;
        position += 1;
        if closed {
            return (Kind::Literal, (position + hashes).min(text.len()));
        }
    }
    (Kind::Literal, text.len())
}

/// Where `wanted` is next, or the end of the text; `from` may be past the end.
fn find(text: &[char], from: usize, wanted: char) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    rest.iter()
        .position(|character| *character == wanted)
        .map_or(text.len(), |at| from + at)
}

fn block_comment_end(text: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut position = at;
    while position < text.len() {
        match (text[position], text.get(position + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                position += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                position += 2;
                if depth == 0 {
                    return position;
                }
            }
            _ => position += 1,
        }
    }
    text.len()
}

fn quoted_end(text: &[char], from: usize) -> usize {
    let mut position = from;
    while position < text.len() {
        match text[position] {
            '\\' => position += 2,
            '"' => return position + 1,
            _ => position += 1,
        }
    }
    text.len()
}

/// The end of a character literal; `None` for a lifetime.
fn character_end(text: &[char], at: usize) -> Option<usize> {
    if text.get(at + 1) == Some(&'\\') {
        // The escaped character itself may be a quote.
        let close = find(text, at + 3, '\'');
        return (close < text.len()).then_some(close + 1);
    }
    (text.get(at + 2) == Some(&'\'')).then_some(at + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        split(text)
            .code
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn literals_and_comments_are_not_code() {
        assert_eq!(code("a(\"x // y\\\" z\"); // c\nb"), "a( ); b");
        assert_eq!(
            code("a(r#\"x \" y\"#, br\"z\") /* c /* d */ e */ b"),
            "a( , ) b"
        );
        assert_eq!(
            code("f('\"', '\\'', b'x') 'a: loop {}"),
            "f( , , b ) 'a: loop {}"
        );
    }

    #[test]
    fn comments_keep_their_lines() {
        let parts = split("a // one\n\"// two\"\n/* three\nfour */ b");
        let lines: Vec<&str> = parts.comments.lines().map(str::trim).collect();
        assert_eq!(lines, ["// one", "", "/* three", "four */"]);
        assert_eq!(parts.code.lines().count(), 4);
    }

    #[test]
    fn unterminated_text_ends_at_the_end() {
        for broken in ["\"open", "r#\"open", "/* open", "'\\", "'", "r#", "\"\\"] {
            assert_eq!(split(broken).code.chars().count(), broken.chars().count());
        }
    }
}
