//! The walk along the chain: one line after another, each held against what must stand there.
//!
//! After damage it goes on, so that one edit is one finding and the rest is still judged. It holds
//! one segment in memory and keeps a bounded number of findings. Verification walks everything,
//! opening walks the end.

use std::cmp::Ordering;

use crate::digest::{Anchor, Digest};
use crate::files::{segment_name, to_count};
use crate::finding::{Finding, FindingKind, Place};
use crate::head::Head;
use crate::key::PublicKey;
use crate::record::{Begin, Body, Broken, FORMAT, Record, Retired};

/// Findings that are kept; what is damaged in more places is not described better by more.
pub const FINDINGS_MAX: usize = 1000;

/// What the walk holds the chain against.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The key that signs; none when it is lost.
    pub key: Option<&'a PublicKey>,
    /// Where the log ends; none when that is lost.
    pub head: Option<&'a Head>,
    /// Index of the newest segment: only there can a group be unfinished.
    pub last_segment: u32,
    /// Records that the caller remembers.
    pub anchors: [Option<Anchor>; 2],
}

/// A record that the chain rests on.
#[derive(Clone, Copy, Debug)]
pub struct Last {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: Digest,
}

/// The end of a group.
#[derive(Clone, Copy, Debug)]
pub struct Signed {
    /// Its last record.
    pub last: Last,
    /// Its segment.
    pub segment: u32,
    /// Where it ends there.
    pub ends_at: u64,
}

/// The walk so far.
#[derive(Debug)]
pub struct Walk<'a> {
    expected: Expected<'a>,
    /// What was found.
    pub findings: Vec<Finding>,
    /// Findings beyond [`FINDINGS_MAX`].
    pub left_out: u64,
    /// Number that must come next; none before the first record.
    next: Option<u64>,
    /// Hash that it must have before it; none after damage.
    previous: Option<Digest>,
    /// The last record that was whole.
    pub last: Option<Last>,
    /// The first record: its segment, number, and hash of the one before it.
    pub first: Option<(u32, u64, Digest)>,
    /// Numbers that were jumped over, and where.
    missing: Vec<(u64, u64, Place)>,
    /// Highest number that any record says its head had.
    pub head_seen: u64,
    /// The end of the last group that is whole: its last record, and where that ends.
    pub signed: Option<Signed>,
    /// Segment, offset and length of a group that was never finished.
    pub torn: Option<(u32, u64, u64)>,
    /// Segments that were retired.
    pub retired: Vec<Retired>,
    /// Chains that were set aside, and where that is said first.
    pub broken: Option<(Vec<Broken>, Place)>,
    /// Where each anchor was found.
    pub anchors: [Option<Place>; 2],
    /// Records, checkpoints among them, and records since the last checkpoint.
    pub counts: Counts,
    /// Bytes of the segment walked last.
    pub segment_bytes: u64,
}

/// How many records there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Of any kind.
    pub records: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// After the last checkpoint.
    pub unsigned: u64,
}

impl<'a> Walk<'a> {
    /// A walk that has not begun.
    pub fn new(expected: Expected<'a>) -> Self {
        Self {
            expected,
            findings: Vec::new(),
            left_out: 0,
            next: None,
            previous: None,
            last: None,
            first: None,
            missing: Vec::new(),
            head_seen: 0,
            signed: None,
            torn: None,
            retired: Vec::new(),
            broken: None,
            anchors: [None; 2],
            counts: Counts::default(),
            segment_bytes: 0,
        }
    }

    /// Notes a finding.
    pub fn found(&mut self, kind: FindingKind, place: Option<Place>) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { kind, place });
        } else {
            self.left_out += 1;
        }
    }

    /// Number of the last record that stands here, damaged or not.
    pub fn last_number(&self) -> u64 {
        self.next.map_or(0, |next| next.saturating_sub(1))
    }

    /// Walks the next segment.
    pub fn segment(&mut self, index: u32, bytes: &[u8]) {
        let mut place = Place {
            segment: index,
            line: 1,
            offset: 0,
        };
        self.segment_bytes = to_count(bytes.len());
        if bytes.is_empty() {
            self.damaged_line(bytes, place);
        }
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let record = line.strip_suffix(b"\n").and_then(Record::decode);
            let goes_on = match record {
                Some(record) => {
                    self.record(&record, line, place);
                    true
                }
                None => self.damaged_line(&bytes[place.offset as usize..], place),
            };
            if !goes_on {
                break;
            }
            place.line += 1;
            place.offset += to_count(line.len());
        }
    }

    /// A line that is no record; false when nothing after it counts.
    fn damaged_line(&mut self, rest: &[u8], place: Place) -> bool {
        let number = self.next.unwrap_or(0);
        let is_newest = place.segment == self.expected.last_segment;
        let is_after_head = self.expected.head.is_some_and(|head| number > head.number);
        if is_newest && is_after_head {
            self.torn = Some((place.segment, place.offset, to_count(rest.len())));
            return false;
        }
        self.found(FindingKind::EditedEntry { number }, Some(place));
        self.next = Some(number.saturating_add(1));
        self.previous = None;
        true
    }

    fn record(&mut self, record: &Record, line: &[u8], place: Place) {
        self.counts.records += 1;
        self.look_for_anchors(record, place);
        let next = self.next.unwrap_or(record.number);
        if record.number < next {
            self.out_of_place(record.number, place);
            return;
        }
        if record.number > next {
            self.missing.push((next, record.number - 1, place));
        } else if self.previous.is_some_and(|hash| hash != record.previous) {
            let number = record.number;
            self.found(FindingKind::BrokenLink { number }, Some(place));
        }
        if self.first.is_none() {
            self.first = Some((place.segment, record.number, record.previous));
        }
        self.next = Some(record.number.saturating_add(1));
        self.previous = Some(record.hash);
        self.last = Some(Last {
            number: record.number,
            hash: record.hash,
        });
        self.head_seen = self.head_seen.max(record.head);
        self.counts.unsigned += 1;
        self.check_head(record, line, place);
        self.body(record, place);
        self.signature(record, line, place);
    }

    fn look_for_anchors(&mut self, record: &Record, place: Place) {
        for (anchor, found) in self.expected.anchors.iter().zip(&mut self.anchors) {
            let is_it = anchor.is_some_and(|anchor| {
                anchor.hash == record.hash
                    && anchor.number.is_none_or(|number| number == record.number)
            });
            if is_it {
                *found = Some(place);
            }
        }
    }

    /// A number that was due before.
    fn out_of_place(&mut self, number: u64, place: Place) {
        let after = self.last_number();
        let range = |(from, to, _): &(u64, u64, Place)| (*from..=*to).contains(&number);
        let Some(index) = self.missing.iter().position(range) else {
            self.found(FindingKind::InsertedEntry { number }, Some(place));
            return;
        };
        let (from, to, gap) = self.missing.swap_remove(index);
        if from < number {
            self.missing.push((from, number - 1, gap));
        }
        if number < to {
            self.missing.push((number + 1, to, gap));
        }
        self.found(FindingKind::ReorderedEntry { number, after }, Some(place));
    }

    fn check_head(&mut self, record: &Record, line: &[u8], place: Place) {
        let Some(head) = self.expected.head else {
            return;
        };
        let ends_at = place.offset + to_count(line.len());
        let is_it = head.hash == record.hash
            && (head.segment, head.segment_bytes) == (place.segment, ends_at);
        if head.number == record.number && !is_it {
            let number = record.number;
            self.found(FindingKind::HeadMismatch { number }, Some(place));
        }
    }

    fn body(&mut self, record: &Record, place: Place) {
        let number = record.number;
        let is_first = place.offset == 0;
        let what = match &record.record {
            Body::Begin(begin) => {
                self.begin(begin, place);
                let belongs = is_first && place.segment == 1 && number == 1;
                (!(belongs && record.previous == Digest::NONE)).then_some("begin")
            }
            Body::Segment(segment) => {
                self.set_aside(&segment.broken, place);
                let belongs = is_first && segment.index == place.segment && place.segment > 1;
                (!belongs).then_some("segment")
            }
            Body::Entry(_) => is_first.then_some("entry"),
            Body::Retired(retired) => {
                self.retired.push(retired.clone());
                is_first.then_some("retired")
            }
            Body::Checkpoint(checkpoint) => {
                self.counts.checkpoints += 1;
                self.counts.unsigned = 0;
                self.named_key(number, &checkpoint.key, place);
                let belongs = !is_first && checkpoint.segment == place.segment;
                (!belongs).then_some("checkpoint")
            }
        };
        if let Some(what) = what {
            self.found(FindingKind::MisplacedRecord { number, what }, Some(place));
        }
    }

    fn begin(&mut self, begin: &Begin, place: Place) {
        self.set_aside(&begin.broken, place);
        let Some(key) = self.expected.key else { return };
        if begin.public_key != key.hex() || begin.format != FORMAT {
            let kind = FindingKind::KeyReplaced {
                what: "the first record",
                found: begin.public_key.clone(),
                wanted: key.hex(),
            };
            self.found(kind, Some(place));
        }
    }

    fn set_aside(&mut self, broken: &[Broken], place: Place) {
        if self.broken.is_none() {
            self.broken = Some((broken.to_vec(), place));
        }
    }

    fn named_key(&mut self, number: u64, named: &str, place: Place) {
        if self.expected.key.is_some_and(|key| named != key.id()) {
            let key = named.to_owned();
            self.found(FindingKind::UnknownKey { number, key }, Some(place));
        }
    }

    /// Checks the signature where it decides: on checkpoints, which sign all before, and behind
    /// the head, which signs nothing there.
    fn signature(&mut self, record: &Record, line: &[u8], place: Place) {
        if record.signature.is_none() {
            return;
        }
        self.signed = Some(Signed {
            last: Last {
                number: record.number,
                hash: record.hash,
            },
            segment: place.segment,
            ends_at: place.offset + to_count(line.len()),
        });
        let head = self.expected.head.map_or(0, |head| head.number);
        let decides = matches!(record.record, Body::Checkpoint(_)) || record.number > head;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let is_ours = |key| record.is_signed_by(line, key);
        if decides && !self.expected.key.is_some_and(is_ours) {
            let number = record.number;
            self.found(FindingKind::BadSignature { number }, Some(place));
        }
    }

    /// The end: what was jumped over and never came, and what the head says was there.
    pub fn finish(&mut self) {
        for (from, to, place) in std::mem::take(&mut self.missing) {
            self.found(FindingKind::MissingEntry { from, to }, Some(place));
        }
        let last = self.last_number();
        let head = self.expected.head.map_or(0, |head| head.number);
        if self.next.is_some() && head > last {
            let by = head - last;
            self.found(FindingKind::Truncated { by, last, head }, None);
        }
        self.unfinished();
    }

    /// Nothing comes before the oldest segment, unless it was retired, with its last hash.
    pub fn check_oldest(&mut self) {
        if let Some((segment, number, previous)) = self.first
            && segment > 1
        {
            let before = self.retired.iter().any(|retired| {
                retired.segment + 1 == segment
                    && retired.last.checked_add(1) == Some(number)
                    && retired.hash == previous
            });
            if !before {
                self.missing_segments(1, segment - 1);
            }
        }
    }

    /// What follows the last whole group: nothing, after an orderly end.
    fn unfinished(&mut self) {
        let Some(head) = self.expected.head else {
            return;
        };
        let newest = self.expected.last_segment;
        let beyond = match newest.cmp(&head.segment) {
            Ordering::Less => 0,
            Ordering::Equal => self.segment_bytes.saturating_sub(head.segment_bytes),
            Ordering::Greater => self.segment_bytes.max(1),
        };
        if head.closed && beyond > 0 {
            self.torn = None;
            self.found(FindingKind::ForeignBytes { bytes: beyond }, None);
            return;
        }
        if let Some(signed) = self.signed
            && signed.last.number >= head.number
            && (signed.segment, signed.ends_at) != (newest, self.segment_bytes)
        {
            let from = match signed.segment == newest {
                true => signed.ends_at,
                false => 0,
            };
            self.torn = Some((newest, from, self.segment_bytes - from));
        }
    }

    /// Segments that are not there.
    pub fn missing_segments(&mut self, from: u32, to: u32) {
        let file = match from == to {
            true => segment_name(from),
            false => format!("{} to {}", segment_name(from), segment_name(to)),
        };
        let place = Place {
            segment: to.saturating_add(1),
            line: 1,
            offset: 0,
        };
        self.found(FindingKind::SegmentMissing { file }, Some(place));
    }
}
