//! Records: one line of canonical JSON each, and the way between the two.
//!
//! ```text
//! {"number":2,…,"record":{…},"previous":"<64>"[,"signature":"<128>"],"hash":"<64>"}⏎
//! |------------------ signed -----------------|                    |
//! |------------------------------ hashed --------------------------|
//! ```
//!
//! The last record of each group that was written at once is signed: it says that the group is
//! whole, and that whoever has the key wrote it. Checkpoints are always signed. The hash covers the
//! bytes as they lie in the file. A line is taken only if it is, byte for byte, what this code
//! would write for what it says, so one meaning has one form.

use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::key::{PublicKey, Purpose, SecretKey};
use crate::text::canonical;

/// Version of the format, in the first record of a chain.
pub const FORMAT: u32 = 1;
/// Longest line that is written: ten names, three sentences, each byte as `\u00xx`, and the frame
/// around them stay below 60 kB. A longer line is damage.
pub const LINE_BYTES_MAX: usize = 64 << 10;

/// `,"hash":"` before and `"}` after 64 digits.
const HASH_BEFORE: &[u8] = b",\"hash\":\"";
const HASH_TAIL: usize = HASH_BEFORE.len() + 64 + 2;
/// `,"signature":"` before and `"` after 128 digits.
const SIGNATURE_BEFORE: &[u8] = b",\"signature\":\"";
const SIGNATURE_TAIL: usize = SIGNATURE_BEFORE.len() + 128 + 1;

/// A record of the log, as it lies in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// 1 for the first of a chain, and one more for each.
    pub number: u64,
    /// Wall clock, UTC, for people: it may step.
    pub time: String,
    /// Id of the boot.
    pub boot: String,
    /// Nanoseconds since that boot.
    pub monotonic_ns: u64,
    /// The number that `audit.head` said when this was written: it can never say less again.
    pub head: u64,
    /// What is recorded.
    pub record: Body,
    /// Hash of the record before.
    pub previous: Digest,
    /// Signature of everything above: on the last record of a group, and on checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Hash of everything above.
    pub hash: Digest,
}

/// What is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// The chain begins.
    Begin(Begin),
    /// A segment begins, other than the first.
    Segment(Segment),
    /// Somebody did something.
    Entry(Box<Entry>),
    /// All before is signed.
    Checkpoint(Checkpoint),
    /// A segment is about to be removed, because the log has grown too large.
    Retired(Retired),
}

/// The beginning of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begin {
    /// Version of the format.
    pub format: u32,
    /// The key that signs, 64 hexadecimal digits.
    pub public_key: String,
    /// Chains that were found broken and set aside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<Broken>,
}

/// The beginning of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Its index.
    pub index: u32,
    /// As in [`Begin`], so that it is still said when the first segment is retired.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<Broken>,
}

/// A chain that was found broken and set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broken {
    /// The directory that it was moved to.
    pub directory: String,
    /// Digest of the names, lengths and contents of its files, as they were found.
    pub digest: Digest,
    /// What was wrong.
    pub why: String,
}

/// A signed statement about everything before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Id of the key.
    pub key: String,
    /// Index of the segment that it lies in.
    pub segment: u32,
    /// Why now.
    pub cause: CheckpointCause,
}

/// Why a checkpoint was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointCause {
    /// The log was opened.
    Start,
    /// There were enough entries since the last.
    Entries,
    /// The last was long ago.
    Time,
    /// The segment ends.
    Rotation,
    /// A segment is retired.
    Retirement,
    /// The log was closed in order: nothing follows but a start.
    Stop,
}

/// A segment that retention removes. What it held is gone; that it was there, and its last hash,
/// stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retired {
    /// Index of the segment.
    pub segment: u32,
    /// Number of its first record.
    pub first: u64,
    /// Number of its last record.
    pub last: u64,
    /// Hash of its last record.
    pub hash: Digest,
}

/// What a record says of itself, apart from what links it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Its number.
    pub number: u64,
    /// When.
    pub moment: Moment,
    /// What the head file says.
    pub head: u64,
    /// What is recorded.
    pub body: Body,
    /// Hash of the record before.
    pub previous: Digest,
}

impl Draft {
    /// The line, with its end, and the record's hash; signed if a key is given.
    pub fn encode(self, key: Option<&SecretKey>) -> (Vec<u8>, Digest) {
        let record = Record {
            number: self.number,
            time: self.moment.time,
            boot: self.moment.boot,
            monotonic_ns: self.moment.monotonic_ns,
            head: self.head,
            record: self.body,
            previous: self.previous,
            signature: None,
            hash: Digest::NONE,
        };
        let mut line = canonical(&record).unwrap_or_default();
        line.truncate(line.len().saturating_sub(HASH_TAIL));
        if let Some(key) = key {
            let signature = key.sign(Purpose::Record, &line);
            line.extend_from_slice(SIGNATURE_BEFORE);
            line.extend_from_slice(signature.as_bytes());
            line.push(b'"');
        }
        let hash = Digest::of(&line);
        line.extend_from_slice(HASH_BEFORE);
        line.extend_from_slice(hash.to_string().as_bytes());
        line.extend_from_slice(b"\"}\n");
        (line, hash)
    }
}

impl Record {
    /// The record as it lies in the file, without the line's end.
    pub fn to_json(&self) -> String {
        // What a record holds always is JSON, and JSON is UTF-8.
        String::from_utf8(canonical(self).unwrap_or_default()).unwrap_or_default()
    }

    /// Reads a line, without its end. None when it is not, to the byte, one that was written.
    ///
    /// That says nothing yet about its place in the chain, nor about a signature.
    pub fn decode(line: &[u8]) -> Option<Self> {
        if line.len() > LINE_BYTES_MAX {
            return None;
        }
        let hashed = line.len().checked_sub(HASH_TAIL)?;
        let digits = line.get(hashed + HASH_BEFORE.len()..line.len() - 2)?;
        if Digest::of(&line[..hashed]).to_string().as_bytes() != digits {
            return None;
        }
        let record: Self = serde_json::from_slice(line).ok()?;
        let signs = matches!(record.record, Body::Checkpoint(_));
        let whole = (record.signature.is_some() || !signs) && canonical(&record)? == line;
        whole.then_some(record)
    }

    /// Whether the record in this line is signed by a key. The line must have been decoded.
    pub fn is_signed_by(&self, line: &[u8], key: &PublicKey) -> bool {
        let signed = line.len().checked_sub(HASH_TAIL + SIGNATURE_TAIL);
        let (Some(signature), Some(signed)) = (&self.signature, signed) else {
            return false;
        };
        key.verifies(Purpose::Record, &line[..signed], signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::entry::{Outcome, Phase, Who, Why};
    use crate::text::is_plain;
    use proptest::prelude::*;

    fn draft(body: Body) -> Draft {
        Draft {
            number: 7,
            moment: Clock::system().now(),
            head: 6,
            body,
            previous: Digest::of(b"before"),
        }
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        let text = || prop_oneof![any::<String>(), Just("\u{202e}\x1b[31m\0\n\"\\".to_owned())];
        let who = (text(), text(), any::<Option<u32>>(), any::<Option<u64>>());
        let outcome = prop_oneof![
            Just(None),
            Just(Some(Outcome::Ok)),
            (text(), text()).prop_map(|(code, reason)| Some(Outcome::Error { code, reason })),
        ];
        let phase = prop_oneof![Just(Phase::Attempt), Just(Phase::Denied)];
        (phase, who, text(), text(), any::<Option<u64>>(), outcome).prop_map(
            |(phase, (class, process, uid, connection), act, reason, attempt, outcome)| Entry {
                phase,
                who: Who {
                    class,
                    process,
                    uid,
                    connection,
                    ..Who::default()
                },
                act,
                why: Why {
                    reason,
                    ..Why::default()
                },
                attempt,
                outcome,
                ..Entry::default()
            },
        )
    }

    proptest! {
        #[test]
        fn any_entry_is_one_plain_line_that_reads_back(entry in any_entry()) {
            let entry = entry.bounded(None);
            let (line, hash) = draft(Body::Entry(Box::new(entry.clone()))).encode(None);
            let text = std::str::from_utf8(&line).unwrap();
            let text = text.strip_suffix('\n').unwrap();
            prop_assert!(text.chars().all(is_plain), "{text}");
            let record = Record::decode(text.as_bytes()).unwrap();
            prop_assert_eq!(record.hash, hash);
            prop_assert_eq!(record.record, Body::Entry(Box::new(entry)));
        }
    }

    #[test]
    fn the_longest_entry_fits_a_line() {
        let worst = "\u{10ffff}".repeat(10_000);
        let entry = Entry {
            phase: Phase::Outcome,
            who: Who {
                class: worst.clone(),
                name: worst.clone(),
                process: worst.clone(),
                uid: Some(u32::MAX),
                gid: Some(u32::MAX),
                pid: Some(u32::MAX),
                connection: Some(u64::MAX),
            },
            act: worst.clone(),
            target: worst.clone(),
            details: "\0".repeat(10_000),
            why: Why {
                reason: "\0".repeat(10_000),
                rule: "\0".repeat(10_000),
                correlation: worst.clone(),
                causation: worst,
            },
            attempt: Some(u64::MAX),
            outcome: Some(Outcome::Error {
                code: "\0".repeat(10_000),
                reason: "\0".repeat(10_000),
            }),
        };
        let key = SecretKey::generate().unwrap();
        let (line, _) = draft(Body::Entry(Box::new(entry.bounded(None)))).encode(Some(&key));
        assert!(line.len() <= LINE_BYTES_MAX, "{}", line.len());
        assert!(Record::decode(&line[..line.len() - 1]).is_some());
    }

    #[test]
    fn another_spelling_of_the_same_is_refused_even_with_its_own_hash() {
        let key = SecretKey::generate().unwrap();
        let (line, _) =
            draft(Body::Entry(Box::new(Entry::own_note("x", "y".to_owned())))).encode(Some(&key));
        let text = String::from_utf8(line).unwrap();
        let hashed = &text[..text.len() - 1 - HASH_TAIL];
        for (from, to) in [
            ("\"x\"", "\"\\u0078\""),
            ("{\"number\"", "{ \"number\""),
            ("\"act\":", "\"act\":\"z\",\"act\":"),
            ("\"head\":6", "\"head\":6,\"more\":1"),
        ] {
            let other = hashed.replacen(from, to, 1);
            assert_ne!(other, hashed);
            let hash = Digest::of(other.as_bytes());
            let line = format!("{other},\"hash\":\"{hash}\"}}");
            assert!(Record::decode(line.as_bytes()).is_none(), "{to}");
        }
    }

    #[test]
    fn a_checkpoint_is_signed_and_says_by_whom() {
        let key = SecretKey::generate().unwrap();
        let (line, _) = draft(Body::Checkpoint(Checkpoint {
            key: key.public().id(),
            segment: 1,
            cause: CheckpointCause::Stop,
        }))
        .encode(Some(&key));
        let line = line.strip_suffix(b"\n").unwrap();
        let record = Record::decode(line).unwrap();
        assert!(record.is_signed_by(line, &key.public()));
        let other = SecretKey::generate().unwrap().public();
        assert!(!record.is_signed_by(line, &other));
    }
}
