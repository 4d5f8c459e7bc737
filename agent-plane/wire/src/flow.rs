//! Streams that a process serves: what one costs, and how far its sender may go.
//!
//! The sender of a stream has credit, given when the stream is asked for and topped up by
//! `stream.credit`; a chunk is sent only when its cost fits. Costs are what carrying a chunk costs
//! the kernel, not what is in it: the bytes of an inline chunk and [`CHUNK_OVERHEAD_BYTES`], or for
//! a payload in a descriptor [`DESCRIPTOR_COST_BYTES`], whatever its length.
//!
//! No I/O: the clients send what [`Outflow`] makes.

use std::collections::{BTreeMap, VecDeque};

use rmpv::Value;
use serde::{Deserialize, Serialize};

use crate::error::ErrorInfo;
use crate::frame::Limits;
use crate::message::{Gap, Id, Message, MessageError, Meta, Request, StreamChunk};
use crate::sealed::Sealed;

/// What a chunk costs beside its data, bytes: more than its frame has beside them.
pub const CHUNK_OVERHEAD_BYTES: u64 = 256;
/// What a chunk costs whose data are in a descriptor, bytes: a quarter of [`WINDOW_BYTES`], so
/// that four of a stream are under way.
pub const DESCRIPTOR_COST_BYTES: u64 = 64 * 1024;
/// Most that the kernel holds of one stream, bytes of cost.
pub const WINDOW_BYTES: u64 = 256 * 1024;
/// Data of the inline chunks that [`Outflow::next_piece`] makes, at most: four fill the window.
const PIECE_BYTES: u64 = DESCRIPTOR_COST_BYTES - CHUNK_OVERHEAD_BYTES;

/// What a chunk with so many bytes of inline data costs.
pub const fn inline_cost(data_bytes: usize) -> u64 {
    data_bytes as u64 + CHUNK_OVERHEAD_BYTES
}

/// What the kernel says of the stream that a request is to open: `meta.stream`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamTerms {
    /// What its chunks are to carry as `subscription`.
    pub subscription: String,
    /// Credit to begin with.
    pub credit_bytes: u64,
    /// Whether chunks may have their data in a descriptor.
    pub descriptors: bool,
}

/// A request that this connection is asked to serve.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Asked {
    /// To answer with; absent in a notification.
    #[serde(default)]
    pub id: Option<Id>,
    /// `namespace.method`.
    pub method: String,
    /// Its parameters.
    #[serde(default = "no_params")]
    pub params: Value,
    /// What came beside them.
    #[serde(default)]
    pub meta: AskedMeta,
}

fn no_params() -> Value {
    Value::Map(Vec::new())
}

/// What comes beside the parameters of a request that is to be served.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct AskedMeta {
    /// What the caller said.
    #[serde(flatten)]
    pub meta: Meta,
    /// Who the caller is: the kernel's word.
    #[serde(default)]
    pub caller: Option<Value>,
    /// The stream that it is to open; absent where the method opens none.
    #[serde(default)]
    pub stream: Option<StreamTerms>,
}

impl Asked {
    /// The request in a payload.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(payload: &[u8], limits: &Limits) -> Result<Self, MessageError> {
        crate::scan::check(payload, limits.depth, limits.values)?;
        rmp_serde::from_slice(payload).map_err(|error| MessageError::Shape {
            what: Request::<Value>::NAME,
            detail: error.to_string(),
        })
    }
}

/// The sending end of a stream.
#[derive(Debug)]
pub struct Outflow {
    terms: StreamTerms,
    stream: String,
    credit: u64,
    seq: u64,
    offset: u64,
    gap: Option<Gap>,
}

impl Outflow {
    /// A stream called `stream`, on these terms.
    pub fn new(terms: StreamTerms, stream: impl Into<String>) -> Self {
        Self {
            credit: terms.credit_bytes,
            stream: stream.into(),
            terms,
            seq: 0,
            offset: 0,
            gap: None,
        }
    }

    /// What its chunks carry as `subscription`.
    pub fn name(&self) -> &str {
        &self.terms.subscription
    }

    /// Whether data may travel in descriptors.
    pub fn takes_descriptors(&self) -> bool {
        self.terms.descriptors
    }

    /// Takes more credit.
    pub fn grant(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_add(bytes);
    }

    /// Leaves out the next `bytes` of the stream: the next chunk says so.
    pub fn skip(&mut self, bytes: u64) {
        let from = self.gap.map_or(self.offset, |gap| gap.from);
        self.offset += bytes;
        self.gap = Some(Gap {
            from,
            to: self.offset,
        });
    }

    /// A chunk of as much of `data` as the credit allows, and how much that is; none while it
    /// allows nothing. With `last`, the chunk that takes the rest of it ends the stream.
    pub fn next_piece(&mut self, data: &[u8], last: bool) -> Option<(StreamChunk, usize)> {
        let free = self.credit.checked_sub(CHUNK_OVERHEAD_BYTES)?;
        let length = free.min(PIECE_BYTES).min(data.len() as u64) as usize;
        let (piece, rest) = data.split_at(length);
        if piece.is_empty() && !data.is_empty() {
            return None;
        }
        self.credit -= inline_cost(length);
        let mut chunk = self.chunk(length as u64);
        chunk.data = piece.to_vec();
        chunk.end = last && rest.is_empty();
        Some((chunk, length))
    }

    /// A chunk whose data are `sealed`; none while the credit does not allow it.
    pub fn next_sealed(&mut self, sealed: &Sealed, last: bool) -> Option<StreamChunk> {
        self.credit = self.credit.checked_sub(DESCRIPTOR_COST_BYTES)?;
        let mut chunk = self.chunk(sealed.bytes());
        chunk.attached_bytes = Some(sealed.bytes());
        chunk.attached = Some(sealed.clone());
        chunk.end = last;
        Some(chunk)
    }

    /// The chunk that ends the stream with an error. Needs no credit.
    pub fn failed(&mut self, error: ErrorInfo) -> StreamChunk {
        let mut chunk = self.chunk(0);
        chunk.end = true;
        chunk.error = Some(error);
        chunk
    }

    fn chunk(&mut self, bytes: u64) -> StreamChunk {
        let chunk = StreamChunk {
            subscription: self.terms.subscription.clone(),
            stream: self.stream.clone(),
            seq: self.seq,
            offset: self.offset,
            gap: self.gap.take(),
            ..StreamChunk::default()
        };
        self.seq += 1;
        self.offset += bytes;
        chunk
    }
}

/// What a notification from the kernel says of a stream that this connection serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It has that much more credit.
    Credit(String, u64),
    /// Nobody reads it any more.
    Ended(String),
    /// Nobody waits for the answer to that request any more.
    Canceled(Id),
}

impl Notice {
    /// What `asked` says, if it is a notice.
    pub fn of(asked: &Asked) -> Option<Self> {
        let get = |key: &str| {
            let entries = asked.params.as_map()?.iter();
            let mut found = entries.filter(|(name, _)| name.as_str() == Some(key));
            found.next().map(|(_, value)| value)
        };
        let name = || get("subscription")?.as_str().map(String::from);
        match asked.method.as_str() {
            "stream.credit" => Some(Self::Credit(name()?, get("bytes")?.as_u64()?)),
            "stream.ended" => Some(Self::Ended(name()?)),
            "service.canceled" => get("id")?.as_i64().map(|id| Self::Canceled(Id::Number(id))),
            _ => None,
        }
    }
}

/// Ends of streams that are remembered because they came before their streams were opened: more
/// than calls can be under way.
const REMEMBERED_ENDS: usize = 128;

/// The streams that a connection serves.
#[derive(Debug, Default)]
pub struct Outflows {
    open: BTreeMap<String, Outflow>,
    ended: VecDeque<String>,
}

impl Outflows {
    /// Adds one, unless nobody reads it any more.
    pub fn open(&mut self, outflow: Outflow) {
        if !self.ended.iter().any(|ended| ended == outflow.name()) {
            self.open.insert(outflow.name().to_string(), outflow);
        }
    }

    /// One that has not ended.
    pub fn get(&mut self, name: &str) -> Option<&mut Outflow> {
        self.open.get_mut(name)
    }

    /// Forgets one that has ended.
    pub fn close(&mut self, name: &str) {
        self.open.remove(name);
    }

    /// Heeds a notice.
    pub fn heed(&mut self, notice: &Notice) {
        match notice {
            Notice::Credit(name, bytes) => {
                if let Some(outflow) = self.open.get_mut(name) {
                    outflow.grant(*bytes);
                }
            }
            Notice::Ended(name) if self.open.remove(name).is_none() => {
                self.ended.push_back(name.clone());
                if self.ended.len() > REMEMBERED_ENDS {
                    self.ended.pop_front();
                }
            }
            Notice::Ended(_) | Notice::Canceled(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outflow(credit_bytes: u64) -> Outflow {
        let terms = StreamTerms {
            subscription: "1".into(),
            credit_bytes,
            descriptors: true,
        };
        Outflow::new(terms, "frames")
    }

    #[test]
    fn data_are_cut_to_the_credit_there_is() {
        let mut flow = outflow(CHUNK_OVERHEAD_BYTES + 3);
        let (chunk, taken) = flow.next_piece(b"abcde", true).unwrap();
        assert_eq!(
            (chunk.data.as_slice(), taken, chunk.end),
            (&b"abc"[..], 3, false)
        );
        assert!(flow.next_piece(b"de", true).is_none());
        flow.grant(1000);
        let (chunk, _) = flow.next_piece(b"de", true).unwrap();
        assert_eq!((chunk.seq, chunk.offset, chunk.end), (1, 3, true));
    }

    #[test]
    fn a_descriptor_costs_the_same_whatever_its_length() {
        let mut flow = outflow(DESCRIPTOR_COST_BYTES);
        let sealed = Sealed::new(&[7; 1_000_000]).unwrap();
        let chunk = flow.next_sealed(&sealed, false).unwrap();
        assert_eq!(chunk.attached_bytes, Some(1_000_000));
        assert!(flow.next_sealed(&sealed, false).is_none());
        flow.grant(DESCRIPTOR_COST_BYTES);
        assert_eq!(flow.next_sealed(&sealed, true).unwrap().offset, 1_000_000);
    }

    #[test]
    fn what_is_left_out_is_told_by_the_next_chunk() {
        let mut flow = outflow(10_000);
        flow.next_piece(b"ab", false).unwrap();
        flow.skip(5);
        flow.skip(1);
        let (chunk, _) = flow.next_piece(b"c", false).unwrap();
        assert_eq!(chunk.gap, Some(Gap { from: 2, to: 8 }));
        assert_eq!(chunk.offset, 8);
        assert_eq!(flow.next_piece(b"d", false).unwrap().0.gap, None);
    }
}
