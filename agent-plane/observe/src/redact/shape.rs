//! Secrets in a text, found by their shape and by the names before them.
//!
//! One walk over the bytes. Every boundary is beside an ASCII character, so slices are whole
//! characters.

use std::borrow::Cow;

use super::{REDACTED, is_secret_key};

/// Shortest word that is looked at for randomness: 32 letters of base 64 are 192 bits.
const RANDOM_BYTES: usize = 32;
/// Bits a letter from which a word counts as random. 32 random letters have 4.7, names below 4.
const RANDOM_BITS: f64 = 4.2;
/// Beginnings of tokens that their makers gave them so that they can be found.
const PREFIXES: [&str; 15] = [
    "sk-",
    "sk_live_",
    "sk_test_",
    "ghp_",
    "gho_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "AKIA",
    "AIza",
    "hf_",
    "AGE-SECRET-KEY-",
];
/// Shortest token with such a beginning.
const PREFIXED_BYTES: usize = 16;
const PEM_BEGIN: &str = "-----BEGIN";
const PEM_END: &str = "-----END";
/// How a handle of the vault begins.
const HANDLE: &str = "sh_vault_";

/// What the text was so far, and what comes out.
struct Walk<'t> {
    text: &'t str,
    at: usize,
    /// Up to here it is in `out`.
    copied: usize,
    out: String,
}

/// `text` without what looks like a secret.
pub fn without_secrets(text: &str) -> Cow<'_, str> {
    let mut walk = Walk {
        text,
        at: 0,
        copied: 0,
        out: String::new(),
    };
    walk.run();
    if walk.copied == 0 {
        return Cow::Borrowed(text);
    }
    walk.out.push_str(&text[walk.copied..]);
    Cow::Owned(walk.out)
}

impl Walk<'_> {
    fn run(&mut self) {
        while self.at < self.text.len() {
            let rest = &self.text[self.at..];
            if rest.starts_with(PEM_BEGIN) {
                self.redact(pem_bytes(rest));
            } else if rest.starts_with("://") {
                self.address();
            } else if is_word(rest.as_bytes()[0]) {
                self.word();
            } else {
                // To the next byte that could begin something: bytes above ASCII never do.
                self.at += rest.chars().next().map_or(1, char::len_utf8);
            }
        }
    }

    /// Takes out the next `bytes` bytes.
    fn redact(&mut self, bytes: usize) {
        self.out.push_str(&self.text[self.copied..self.at]);
        self.out.push_str(REDACTED);
        self.at += bytes;
        self.copied = self.at;
    }

    /// `://user:password@host`: what is before the `@` goes.
    fn address(&mut self) {
        self.at += 3;
        let rest = &self.text[self.at..];
        let end = rest.find(|letter: char| letter.is_whitespace() || "/\"'<>".contains(letter));
        let host = &rest[..end.unwrap_or(rest.len())];
        if let Some(user) = host.rfind('@') {
            self.redact(user);
        }
    }

    fn word(&mut self) {
        let rest = &self.text[self.at..];
        let mut length = rest.bytes().take_while(|byte| is_word(*byte)).count();
        if let Some(begin) = rest[..length].find(PEM_BEGIN) {
            length = begin;
        }
        let word = &rest[..length];
        if let Some(begin) = find_ignoring_case(word, HANDLE) {
            self.at += begin;
            self.redact(length - begin);
        } else if looks_secret(word) {
            self.redact(length);
        } else if let Some(value) = value_after(word, &rest[length..]) {
            self.at += length + value.0;
            self.redact(value.1);
        } else {
            self.at += length;
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.+/~".contains(&byte)
}

fn find_ignoring_case(word: &str, wanted: &str) -> Option<usize> {
    let windows = word.as_bytes().windows(wanted.len());
    windows
        .enumerate()
        .find(|(_, window)| window.eq_ignore_ascii_case(wanted.as_bytes()))
        .map(|(at, _)| at)
}

/// The length of a PEM block, to its end or to the end of the text.
fn pem_bytes(rest: &str) -> usize {
    let Some(end) = rest.find(PEM_END) else {
        return rest.len();
    };
    let after = end + PEM_END.len();
    rest[after..]
        .find("-----")
        .map_or(rest.len(), |dashes| after + dashes + 5)
}

/// Whether a word is a secret by itself.
fn looks_secret(word: &str) -> bool {
    let prefixed = PREFIXES.iter().any(|prefix| word.starts_with(prefix));
    if prefixed && word.len() >= PREFIXED_BYTES {
        return true;
    }
    // A JSON web token: `{"` in base 64, and dots.
    if word.starts_with("eyJ") && word.len() >= PREFIXED_BYTES && word.contains('.') {
        return true;
    }
    // In a path or a dotted name every part stands for itself.
    if word.starts_with(['/', '.', '~']) {
        return word.split('/').any(looks_random);
    }
    looks_random(word)
}

fn looks_random(word: &str) -> bool {
    if word.len() < RANDOM_BYTES {
        return false;
    }
    let has = |is: fn(&u8) -> bool| word.bytes().any(|byte| is(&byte));
    if !(has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit)) {
        return false;
    }
    let mut counts = [0_u32; 128];
    for byte in word.bytes() {
        counts[usize::from(byte & 0x7f)] += 1;
    }
    let length = word.len() as f64;
    let bits: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / length;
            -share * share.log2()
        })
        .sum();
    bits >= RANDOM_BITS
}

/// Where in `after` the value begins that `word` names as a secret, and its length.
fn value_after(word: &str, after: &str) -> Option<(usize, usize)> {
    // `Bearer` and `Basic` stand before their secret without a sign between.
    let scheme = ["bearer", "basic", "token"];
    if scheme.iter().any(|name| word.eq_ignore_ascii_case(name)) {
        let gap = after.len() - after.trim_start_matches([' ', '\t']).len();
        let value = word_bytes(&after[gap..]);
        let is_one = after[gap..gap + value]
            .bytes()
            .any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
        if gap > 0 && value >= 6 && is_one {
            return Some((gap, value));
        }
    }
    // A dotted or slashed name is what its last part says: `config.token`.
    if !is_secret_key(word) {
        return None;
    }
    let mut at = skip(after, 0, |byte| {
        byte.is_ascii_whitespace() || b"\"'\\".contains(&byte)
    });
    let sign = after.as_bytes().get(at)?;
    if !b":=".contains(sign) {
        return None;
    }
    at = skip(after, at, |byte| b":=>".contains(&byte));
    at = skip(after, at, |byte| byte.is_ascii_whitespace());
    let opened = skip(after, at, |byte| byte == b'\\');
    match after.as_bytes().get(opened) {
        Some(quote @ (b'"' | b'\'')) => {
            let begin = opened + 1;
            let length = quoted_bytes(&after[begin..], *quote, opened - at);
            (length > 0).then_some((begin, length))
        }
        // What is nested under it goes whole, and where it ends is not worth guessing.
        Some(b'{' | b'[') => Some((at, after.len() - at)),
        Some(_) => {
            let length = bare_bytes(word, &after[at..]);
            (length > 0).then_some((at, length))
        }
        None => None,
    }
}

fn skip(text: &str, from: usize, is: impl Fn(u8) -> bool) -> usize {
    let bytes = text.as_bytes().iter().skip(from);
    from + bytes.take_while(|byte| is(**byte)).count()
}

fn word_bytes(text: &str) -> usize {
    let is_value = |byte: &u8| is_word(*byte) || *byte == b'=';
    text.bytes().take_while(is_value).count()
}

/// The length of a value up to its closing quote, which has as many backslashes before it as the
/// opening one; more belong to a quote inside.
fn quoted_bytes(text: &str, quote: u8, backslashes: usize) -> usize {
    let bytes = text.as_bytes();
    let mut before = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte == quote && before <= backslashes {
            return at - before;
        }
        before = if *byte == b'\\' { before + 1 } else { 0 };
    }
    text.len()
}

/// The length of a value without quotes: headers and pass phrases go on to the end of their line.
fn bare_bytes(name: &str, text: &str) -> usize {
    let name = name.to_ascii_lowercase();
    let to_line_end = ["authorization", "cookie", "pass", "pwd"];
    let ends: &[char] = match to_line_end.iter().any(|part| name.contains(part)) {
        true => &['\n', '\r'],
        false => &[
            '\n', '\r', ' ', '\t', ',', ';', '&', '}', ']', ')', '"', '\'',
        ],
    };
    text.find(ends).unwrap_or(text.len())
}
