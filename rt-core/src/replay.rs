//! `kairo-rt --replay FILE`: a recorded session through this program's own loops, compared.
//!
//! An ordinary program, no real-time thread, no bus, no socket. The loops are made from the
//! robot.toml in the file by the same [`assemble`] that makes live ones; the only difference is
//! where their taps get inputs from. Control blocks are computed like everything else, plug-ins
//! included; only time that ran out in one is taken from the record. Replay begins at a keyframe,
//! the loop's whole state, and after records were lost it begins again at the next. Every output is
//! compared with the recorded one, bit for bit; so is the whole state at every later keyframe,
//! which finds what no output shows.
//!
//! It stops at a loop's first difference: what follows one is its consequence. What it cannot show:
//! that the inputs were true. It shows what this program makes of them.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kairo_blocks::registry::Registry;
use kairo_link::block_fault::BlockFaultReport;
use kairo_link::segment::{Kind as SegmentKind, Segment};
use kairo_link::stats::{PAYLOAD_WORDS, Stats};
use kairo_record::file::{
    BlockHeader, FileError, FileReader, Frame, Header, Kind, LoopHeader, Tail,
};
use kairo_record::state::{Malformed, Sink};
use kairo_record::tap::{Difference, Entry, TICK_WORDS_MAX, Tap, entries};

use crate::assembly::assemble;
use crate::config::{self, ConfigError, RobotConfig};
use crate::control_loop::ControlLoop;
use crate::link_server::LoopPort;
use crate::recorder::{loop_headers, own_build};
use crate::recording::tag;
use crate::shared::Shared;
use crate::wake::Wake;

/// What to replay.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Of this robot.toml instead of the one in the record: to see what a changed setting changes.
    pub robot_toml: Option<PathBuf>,
    /// Begin at the last keyframe before this tick.
    pub from: Option<u64>,
    /// Stop after this tick.
    pub to: Option<u64>,
}

/// Why nothing could be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file cannot be read.
    #[error("{} {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// The configuration in it is not one of this version.
    #[error("the robot.toml in the record is refused:\n{0}")]
    Config(#[from] ConfigError),
    /// Another robot.
    #[error(
        "{}: its loops and devices are not those of the record: recorded {recorded}, here {given}",
        path.display()
    )]
    OtherRobot {
        /// The robot.toml.
        path: PathBuf,
        /// Loops and devices in the record.
        recorded: String,
        /// The same here.
        given: String,
    },
    /// A keyframe is not of this version.
    #[error(
        "loop {name}: the keyframe before record {sequence} does not fit this version and \
         robot.toml: {source}"
    )]
    Keyframe {
        /// The loop.
        name: String,
        /// The record.
        sequence: u64,
        /// What does not fit.
        source: Malformed,
    },
    /// There is no keyframe.
    #[error("no keyframe in the record, so no state to begin from; replay the file before it")]
    NoKeyframe,
    /// A system call failed.
    #[error("eventfd failed: {0}")]
    System(nix::errno::Errno),
}

/// What became of one loop.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LoopOutcome {
    /// Its name.
    pub name: String,
    /// Ticks replayed.
    pub ticks: u64,
    /// Its first and last one.
    pub span: Option<(u64, u64)>,
    /// Outputs compared.
    pub outputs: u64,
    /// Keyframes compared.
    pub keyframes: u64,
    /// Ticks whose control blocks were computed again.
    pub blocks_computed: u64,
    /// Ticks whose control blocks were not, because no keyframe has their memory.
    pub blocks_taken: u64,
    /// Records before the first keyframe, or after a loss and before the next.
    pub passed_over: u64,
    /// Records missing in the file.
    pub missing: u64,
    /// The first difference.
    pub difference: Option<String>,
}

/// What became of a file.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Outcome {
    /// Each loop.
    pub loops: Vec<LoopOutcome>,
    /// Where the file's whole frames end, if it has a torn tail.
    pub torn_at_byte: Option<u64>,
    /// Why outputs might differ for no fault of the loops: another build.
    pub other_build: Option<String>,
}

impl Outcome {
    /// Whether all that was compared was the same, and anything was.
    pub fn is_same(&self) -> bool {
        let compared = self.loops.iter().any(|outcome| outcome.outputs > 0);
        compared
            && self
                .loops
                .iter()
                .all(|outcome| outcome.difference.is_none())
    }
}

impl Outcome {
    /// As one JSON object: the fields, and `same`.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::json!(self);
        json["same"] = self.is_same().into();
        json
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for one in &self.loops {
            let span = match one.span {
                Some((first, last)) => format!("{} ticks ({first} to {last})", one.ticks),
                None => "no tick".to_owned(),
            };
            writeln!(
                formatter,
                "loop {}: {span}, {} outputs and {} whole states compared",
                one.name, one.outputs, one.keyframes
            )?;
            if one.missing + one.passed_over > 0 {
                writeln!(
                    formatter,
                    "  {} records are missing, {} passed over until the next keyframe",
                    one.missing, one.passed_over
                )?;
            }
            if one.blocks_taken > 0 {
                writeln!(
                    formatter,
                    "  what control blocks gave in {} ticks is taken from the record: they keep \
                     more than a keyframe holds; a replay from arming on computes them",
                    one.blocks_taken
                )?;
            }
            match &one.difference {
                Some(difference) => writeln!(formatter, "  first difference: {difference}")?,
                None => writeln!(formatter, "  no difference")?,
            }
        }
        if let Some(at_byte) = self.torn_at_byte {
            writeln!(formatter, "the file is cut off: whole up to byte {at_byte}")?;
        }
        if let Some(other) = &self.other_build {
            writeln!(formatter, "note: {other}")?;
        }
        Ok(())
    }
}

struct Replayed {
    control_loop: ControlLoop,
    port: LoopPort,
    running: bool,
    expected: Option<u64>,
    state: Sink,
    outcome: LoopOutcome,
}

/// Replays the file at `path`.
///
/// # Errors
/// See [`ReplayError`]. A difference is not an error here.
pub fn replay(path: &Path, request: &Request, registry: &Registry) -> Result<Outcome, ReplayError> {
    let start = match request.from {
        Some(tick) => keyframes_before(path, tick)?,
        None => Vec::new(),
    };
    let mut reader = open(path)?;
    let header = reader.header().clone();
    let mut loops = make_loops(&header, request.robot_toml.as_deref(), registry)?;
    let mut seen_keyframe = false;
    while let Some(frame) = reader
        .next_frame()
        .map_err(|error| file_error(path, error.into()))?
    {
        let index = usize::from(frame.loop_index);
        let Some(replayed) = loops.get_mut(index) else {
            continue;
        };
        let early = start
            .get(index)
            .is_some_and(|first| frame.sequence < *first);
        if !early && replayed.outcome.difference.is_none() {
            seen_keyframe |= frame.kind == Kind::Keyframe as u16;
            replayed.take(&header, &frame, request.to)?;
        }
    }
    if !seen_keyframe {
        return Err(ReplayError::NoKeyframe);
    }
    let torn_at_byte = match reader.tail() {
        Tail::Torn { at_byte } => Some(at_byte),
        Tail::Clean | Tail::Unknown => None,
    };
    let own = own_build();
    let same = header.build == own;
    let other_build = (!same).then(|| {
        let Header { build, .. } = &header;
        format!(
            "recorded by version {} ({}, executable {:08x}), this is {} ({}, {:08x})",
            build.version,
            build.architecture,
            build.executable_crc32,
            own.version,
            own.architecture,
            own.executable_crc32
        )
    });
    Ok(Outcome {
        loops: loops.into_iter().map(|replayed| replayed.outcome).collect(),
        torn_at_byte,
        other_build,
    })
}

fn file_error(path: &Path, source: FileError) -> ReplayError {
    ReplayError::File {
        path: path.to_path_buf(),
        source,
    }
}

fn open(path: &Path) -> Result<FileReader<BufReader<File>>, ReplayError> {
    let opened = File::open(path).map_err(FileError::from);
    let reader = opened.and_then(|file| FileReader::new(BufReader::new(file)));
    reader.map_err(|source| file_error(path, source))
}

/// The record number, by loop, of the last keyframe before `tick`; the first keyframe where there
/// is none before.
fn keyframes_before(path: &Path, tick: u64) -> Result<Vec<u64>, ReplayError> {
    let mut reader = open(path)?;
    let mut newest = vec![0; reader.header().loops.len()];
    let mut begun = vec![0; newest.len()];
    while let Some(frame) = reader
        .next_frame()
        .map_err(|error| file_error(path, error.into()))?
    {
        let index = usize::from(frame.loop_index);
        if index >= newest.len() {
            continue;
        }
        if frame.kind == Kind::Keyframe as u16 {
            newest[index] = frame.sequence;
        } else if frame.kind == Kind::Tick as u16
            && number_of(&frame.payload).is_some_and(|number| number <= tick)
        {
            begun[index] = newest[index];
        }
    }
    Ok(begun)
}

/// The number of a recorded tick: the first word of its period.
fn number_of(record: &[u64]) -> Option<u64> {
    let (entry, words) = entries(record).next()?;
    (entry.tag == tag::PERIOD).then(|| words.first().copied().unwrap_or(0))
}

/// The robot of the record, or the one of `instead`, which must have the same loops and devices.
fn robot_of(
    header: &Header,
    instead: Option<&Path>,
    registry: &Registry,
) -> Result<RobotConfig, ReplayError> {
    // Time is no function of the inputs: what it ended then is in the record.
    kairo_plugin::be_patient();
    let recorded = Path::new(match header.robot_toml_path.as_str() {
        "" => "robot.toml",
        path => path,
    });
    let Some(path) = instead else {
        return Ok(config::parse_with(recorded, &header.robot_toml, registry)?);
    };
    let robot = config::load_with(path, registry)?;
    let names = |loops: &[LoopHeader]| {
        let name = |one: &LoopHeader| {
            let devices = one.devices.iter();
            let devices: Vec<_> = devices
                .map(|device| format!("{}[{}]", device.name, device.joints.join(" ")))
                .collect();
            format!("{}({})", one.name, devices.join(" "))
        };
        loops.iter().map(name).collect::<Vec<_>>().join(" ")
    };
    let (recorded, given) = (names(&header.loops), names(&loop_headers(&robot)));
    if recorded != given {
        let path = path.to_path_buf();
        return Err(ReplayError::OtherRobot {
            path,
            recorded,
            given,
        });
    }
    Ok(robot)
}

fn make_loops(
    header: &Header,
    instead: Option<&Path>,
    registry: &Registry,
) -> Result<Vec<Replayed>, ReplayError> {
    let robot = robot_of(header, instead, registry)?;
    let stats = Stats::new(Segment::in_heap(SegmentKind::Stats, PAYLOAD_WORDS, 0, 0));
    let bell = Wake::new().map_err(ReplayError::System)?;
    let shared = Arc::new(Shared::default());
    let taps = robot.loops.iter().map(|_| Tap::replay()).collect();
    let made = assemble(&robot, &stats, &bell, &shared, taps);
    let parts = made.loops.into_iter().zip(made.ports).zip(&robot.loops);
    Ok(parts
        .map(|(((control_loop, _terms), port), config)| Replayed {
            control_loop,
            port,
            running: false,
            expected: None,
            state: Sink::new(TICK_WORDS_MAX),
            outcome: LoopOutcome {
                name: config.name.clone(),
                ..LoopOutcome::default()
            },
        })
        .collect())
}

impl Replayed {
    fn take(&mut self, header: &Header, frame: &Frame, to: Option<u64>) -> Result<(), ReplayError> {
        let kind = Kind::from_u16(frame.kind);
        if kind == Some(Kind::Tick) || kind == Some(Kind::Keyframe) {
            let expected = self.expected.replace(frame.sequence + 1);
            let missing = frame
                .sequence
                .saturating_sub(expected.unwrap_or(frame.sequence));
            self.outcome.missing += missing;
            self.running &= missing == 0;
        }
        match kind {
            Some(Kind::Keyframe) if self.running => self.compare_state(frame),
            Some(Kind::Keyframe) => self.begin(frame)?,
            Some(Kind::Tick) if self.running => self.tick(header, frame, to),
            Some(Kind::Tick) => self.outcome.passed_over += 1,
            Some(Kind::Gap | Kind::End) | None => (),
        }
        Ok(())
    }

    fn begin(&mut self, frame: &Frame) -> Result<(), ReplayError> {
        let loaded = self.control_loop.load_keyframe(&frame.payload);
        loaded.map_err(|source| ReplayError::Keyframe {
            name: self.outcome.name.clone(),
            sequence: frame.sequence,
            source,
        })?;
        self.running = true;
        Ok(())
    }

    fn compare_state(&mut self, frame: &Frame) {
        self.state.clear();
        self.control_loop.save_keyframe(&mut self.state);
        self.outcome.keyframes += 1;
        let replayed = self.state.words();
        let different = (0..frame.payload.len().max(replayed.len()))
            .find(|word| frame.payload.get(*word).copied() != replayed.get(*word).copied());
        if let Some(word) = different {
            self.outcome.difference = Some(format!(
                "after tick {}: word {word} of the loop's state: recorded {:#x}, replayed {:#x}",
                self.outcome.span.map_or(0, |(_, last)| last),
                frame.payload.get(word).copied().unwrap_or(0),
                replayed.get(word).copied().unwrap_or(0)
            ));
        }
    }

    fn tick(&mut self, header: &Header, frame: &Frame, to: Option<u64>) {
        let number = number_of(&frame.payload);
        if let (Some(number), Some(to)) = (number, to)
            && number > to
        {
            self.running = false;
            return;
        }
        self.control_loop.replay(&frame.payload);
        // What the loop hands back would fill the ring to a server that is not there.
        self.port.discard_events();
        self.outcome.ticks += 1;
        match self.control_loop.computes_blocks() {
            Some(true) => self.outcome.blocks_computed += 1,
            Some(false) => self.outcome.blocks_taken += 1,
            None => (),
        }
        if let Some(number) = number {
            let (first, _) = self.outcome.span.unwrap_or((number, number));
            self.outcome.span = Some((first, number));
        }
        let (outputs, difference) = self.control_loop.outcome();
        self.outcome.outputs = outputs;
        if let Some(difference) = difference {
            let place = match number {
                Some(number) => format!("tick {number}"),
                None => format!("record {}", frame.sequence),
            };
            let index = usize::from(frame.loop_index);
            let what = explain(header, index, difference);
            self.outcome.difference = Some(format!("{place}: {what}"));
        }
    }
}

/// A difference in words.
fn explain(header: &Header, loop_index: usize, difference: Difference) -> String {
    let name = |entry: Entry| name_of(header, loop_index, entry);
    match difference {
        Difference::Output {
            entry,
            word,
            recorded,
            replayed,
        } => {
            let known = header.entries.iter().find(|known| known.tag == entry.tag);
            let field = known.and_then(|known| known.words.get(word));
            let (field, kind) = field
                .and_then(|field| field.split_once(':'))
                .unwrap_or(("a word of another version", "u64"));
            let block = block_of(header, loop_index, entry);
            let port = block.and_then(|block| block.outputs.get(word));
            let field = port.map_or(field, String::as_str);
            let show = |word: u64| match kind {
                "f64" => format!("{} ({word:#x})", f64::from_bits(word)),
                _ if entry.tag == tag::BLOCK_FAULT => failure(header, loop_index, word),
                _ => word.to_string(),
            };
            format!(
                "{}: {field}: recorded {}, replayed {}",
                name(entry),
                show(recorded),
                show(replayed)
            )
        }
        Difference::Order { recorded, replayed } => format!(
            "recorded {} where the replay has {}",
            recorded.map_or_else(|| "nothing more".to_owned(), name),
            replayed.map_or_else(|| "nothing more".to_owned(), name)
        ),
        Difference::Malformed { entry } => {
            format!("the recorded {} is no value of this version", name(entry))
        }
    }
}

/// The block of an entry, if it is of one.
fn block_of(header: &Header, loop_index: usize, entry: Entry) -> Option<&BlockHeader> {
    let blocks = &header.loops.get(loop_index)?.blocks;
    let block = blocks.get(usize::from(entry.index));
    block.filter(|_| entry.tag == tag::BLOCK)
}

/// A word that says which block failed.
fn failure(header: &Header, loop_index: usize, word: u64) -> String {
    let Some(report) = BlockFaultReport::from_word(word) else {
        return "none failed".to_owned();
    };
    let known = header.loops.get(loop_index);
    let block = known.and_then(|known| known.blocks.get(report.block as usize));
    let name = block.map_or("?", |block| block.name.as_str());
    format!("\"{name}\" {}", report.describe())
}

fn name_of(header: &Header, loop_index: usize, entry: Entry) -> String {
    let known = header.entries.iter().find(|known| known.tag == entry.tag);
    let tag = known.map_or_else(
        || format!("entry {}", entry.tag),
        |known| known.name.clone(),
    );
    let of = known.map_or("device", |known| known.of.as_str());
    if let Some(BlockHeader { name, kind, .. }) = block_of(header, loop_index, entry) {
        return format!("block \"{name}\" ({kind})");
    }
    let devices = header.loops.get(loop_index).map(|known| &known.devices);
    let device = devices.and_then(|devices| devices.get(usize::from(entry.index)));
    match (of, device) {
        ("loop", _) => tag,
        ("device", Some(device)) => format!("{tag} of {}", device.name),
        _ => format!("{tag} of {of} {}", entry.index),
    }
}
