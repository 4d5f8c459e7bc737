//! Entries of ticks as values with names, by what the file says of them.
//!
//! Bounded by the file's header, of at most 1 MiB. Words of `NAME:TYPE` become nested objects:
//! `command.velocity_scale` is a field of `command`. An array as long as a device can have joints
//! is one of joints: its elements stand under the joints' names, and unused ones are left out.

use kairo_link::abi::{Cause, MAX_JOINTS, Phase, Verdict};
use kairo_record::file::{EntryHeader, Frame, Header};
use kairo_record::tap::entries;
use serde_json::{Map, Value, json};

/// One step of a word's name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(usize),
}

/// A word.
#[derive(Clone, Debug)]
struct Word {
    name: String,
    path: Vec<Step>,
    float: bool,
    /// Whether its index is a joint's.
    of_joint: bool,
}

/// An entry.
#[derive(Clone, Debug)]
struct Layout {
    name: String,
    tag: u16,
    of: String,
    words: Vec<Word>,
}

/// All entries of a file.
#[derive(Clone, Debug)]
pub(super) struct Layouts {
    header: Header,
    layouts: Vec<Layout>,
}

/// One entry of one tick.
#[derive(Clone, Debug)]
pub(super) struct Item<'l> {
    layout: &'l Layout,
    joints: &'l [String],
    words: Vec<u64>,
    /// Its name in the file.
    pub(super) entry: &'l str,
    /// The loop.
    pub(super) loop_name: &'l str,
    /// What the index counts, and the index.
    pub(super) of: &'l str,
    pub(super) index: u16,
    /// The device, if it is one's.
    pub(super) device: Option<&'l str>,
}

fn parse(name: &str) -> Vec<Step> {
    let mut path = Vec::new();
    for part in name.split('.') {
        let (field, index) = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
            Some((field, index)) => (field, index.parse().ok()),
            None => (part, None),
        };
        path.push(Step::Field(field.to_owned()));
        path.extend(index.map(Step::Index));
    }
    path
}

fn layout(entry: &EntryHeader) -> Layout {
    let split = |word: &String| {
        let (name, kind) = word.rsplit_once(':').unwrap_or((word, "u64"));
        Word {
            name: name.to_owned(),
            path: parse(name),
            float: kind == "f64",
            of_joint: false,
        }
    };
    let mut words: Vec<Word> = entry.words.iter().map(split).collect();
    // An array as long as a device can have joints is one of joints.
    let last = format!("[{}]", MAX_JOINTS - 1);
    let beyond = format!("[{MAX_JOINTS}]");
    let arrays: Vec<String> = words
        .iter()
        .filter_map(|word| {
            word.name
                .split_once(&last)
                .map(|(array, _)| array.to_owned())
        })
        .filter(|array| {
            !entry
                .words
                .iter()
                .any(|word| word.starts_with(&format!("{array}{beyond}")))
        })
        .collect();
    for word in &mut words {
        let array = word.name.split_once('[').map(|(array, _)| array);
        // What a block has by name are its outputs.
        word.of_joint = entry.of == "block"
            || array.is_some_and(|array| arrays.iter().any(|known| known == array));
    }
    Layout {
        name: entry.name.clone(),
        tag: entry.tag,
        of: entry.of.clone(),
        words,
    }
}

impl Layouts {
    pub(super) fn of(header: &Header) -> Self {
        Self {
            header: header.clone(),
            layouts: header.entries.iter().map(layout).collect(),
        }
    }

    /// The number and the time of a tick; `None` of a record without a period.
    pub(super) fn moment(&self, frame: &Frame) -> Option<(u64, u64)> {
        let (entry, words) = entries(&frame.payload).next()?;
        let layout = self.layouts.iter().find(|layout| layout.tag == entry.tag)?;
        let value = |name: &str| {
            let index = layout.words.iter().position(|word| word.name == name)?;
            Some(words.get(index).copied().unwrap_or(0))
        };
        Some((value("number")?, value("woke")?))
    }

    /// The entries of a tick that the file describes.
    pub(super) fn items<'l>(&'l self, frame: &'l Frame) -> impl Iterator<Item = Item<'l>> {
        let known = self.header.loops.get(usize::from(frame.loop_index));
        entries(&frame.payload).filter_map(move |(entry, words)| {
            let layout = self.layouts.iter().find(|layout| layout.tag == entry.tag)?;
            let known = known?;
            let index = usize::from(entry.index);
            let owner = match layout.of.as_str() {
                "device" => known.devices.get(index).map(|one| (&one.name, &one.joints)),
                "block" => known.blocks.get(index).map(|one| (&one.name, &one.outputs)),
                _ => None,
            };
            let mut words = words.to_vec();
            words.resize(layout.words.len(), 0);
            Some(Item {
                layout,
                joints: owner.map_or(&[], |(_, inside)| inside),
                words,
                entry: &layout.name,
                loop_name: &known.name,
                of: &layout.of,
                index: entry.index,
                device: owner.map(|(name, _)| name.as_str()),
            })
        })
    }
}

impl Item<'_> {
    /// Each word in use: its name, with joints by name, and its value.
    pub(super) fn fields(&self) -> Vec<(String, Value)> {
        let words = self.layout.words.iter().zip(&self.words);
        words
            .filter_map(|(word, bits)| {
                let path = self.resolve(word)?;
                Some((path.join("."), number(word, *bits)))
            })
            .collect()
    }

    /// The same as one nested object, with the names of enumerations beside their numbers.
    pub(super) fn object(&self) -> Value {
        let mut object = Map::new();
        for (word, bits) in self.layout.words.iter().zip(&self.words) {
            if let Some(path) = self.resolve(word) {
                put(&mut object, &path, number(word, *bits));
            }
        }
        let name = |key: &str, name: fn(u32) -> Option<&'static str>| {
            let found = object.get(key).and_then(Value::as_u64);
            let found = found.and_then(|value| u32::try_from(value).ok());
            found
                .and_then(name)
                .map(|name| (format!("{key}_name"), json!(name)))
        };
        let names = [
            name("verdict", |value| {
                Verdict::from_u32(value).map(Verdict::name)
            }),
            name("cause", |value| Cause::from_u32(value).map(Cause::name)),
            name("phase", |value| Phase::from_u32(value).map(Phase::name)),
        ];
        object.extend(names.into_iter().flatten());
        Value::Object(object)
    }

    /// The path of a word; `None` of a joint that the device does not have.
    fn resolve(&self, word: &Word) -> Option<Vec<String>> {
        let step = |step: &Step| match step {
            Step::Field(name) => Some(name.clone()),
            Step::Index(index) if word.of_joint => self.joints.get(*index).cloned(),
            Step::Index(index) => Some(index.to_string()),
        };
        word.path.iter().map(step).collect()
    }
}

/// NaN and infinities are null: JSON has no others.
fn number(word: &Word, bits: u64) -> Value {
    if word.float {
        json!(f64::from_bits(bits))
    } else {
        json!(bits)
    }
}

fn put(object: &mut Map<String, Value>, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        object.insert(first.clone(), value);
        return;
    }
    let inner = object.entry(first.clone()).or_insert_with(|| json!({}));
    if let Some(inner) = inner.as_object_mut() {
        put(inner, rest, value);
    }
}
