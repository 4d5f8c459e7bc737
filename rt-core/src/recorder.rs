//! The flight recorder in the daemon: makes the black box, runs the drain, tells what is amiss.
//!
//! setup-only and one ordinary thread. Nothing here can keep a robot from running: what cannot be
//! made is left out and said once in the journal, a disk that fails is said by the drain, and the
//! loops never wait for any of it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use kairo_link::MonoNs;
use kairo_link::stats::{MAX_LOOPS, Stats};
use kairo_record::black_box;
use kairo_record::drain::{Drain, DrainParts, INTERVAL};
use kairo_record::file::{BlockHeader, Build, DeviceHeader, Header, LoopHeader, Origin};
use kairo_record::memory::{Memory, WORDS_MAX};
use kairo_record::ring::{RECORD_WORDS_MAX, RingWriter};
use kairo_record::storage::Directory;
use kairo_record::tap::Tap;

use nix::time::{ClockId, clock_gettime};

use crate::config::{RecorderConfig, RobotConfig};
use crate::journal::note;
use crate::recording;
use crate::shared::Shared;

/// Most words of one ring, 16 MiB, and of all together: half the memory of a black box, so that
/// there is room for whatever a power of two rounds up, and for the header.
const RING_WORDS_MAX: usize = WORDS_MAX / 8;
const RINGS_WORDS_MAX: usize = WORDS_MAX / 2;
const _: () = assert!(MAX_LOOPS * 2 * RECORD_WORDS_MAX <= RINGS_WORDS_MAX);
/// Words of a tick apart from its devices: period, stopping, record.
const TICK_WORDS: u64 = 10;
/// Words of a device in a tick with a command: feedback, command, reply, goals, outcome.
const DEVICE_WORDS: u64 = 56;
/// The same of each joint.
const JOINT_WORDS: u64 = 12;

/// A recorder that is ready to run.
#[derive(Debug)]
pub struct Recorder {
    drain: Drain<Directory>,
    memory: Arc<Memory>,
}

/// Makes the recorder of `robot`, and the taps of its loops, in order. No taps where there is no
/// recorder. setup-only, after the memory was locked: what is mapped later is locked too.
pub fn prepare(robot: &RobotConfig, run_dir: &Path, stats: &Stats) -> (Option<Recorder>, Vec<Tap>) {
    let Some(config) = &robot.recorder else {
        return (None, Vec::new());
    };
    let salvaged = black_box::salvage(run_dir);
    if let Some(salvaged) = &salvaged {
        note(format_args!(
            "recorder: the last kairo-rt did not end in order; its newest {} records go to {} as \
             crash-*.krec",
            salvaged.records,
            config.directory.display()
        ));
    }
    let header = header(robot);
    let capacities: Vec<usize> = (0..robot.loops.len())
        .map(|index| ring_words(robot, index, config))
        .collect();
    let made = black_box::make(run_dir, &header, &capacities);
    if let Some(trouble) = &made.trouble {
        note(format_args!(
            "recorder: {trouble}; a crash of kairo-rt will lose the newest seconds"
        ));
    }
    let recorder = &stats.block().recorder;
    recorder.enabled.store(1, Ordering::Relaxed);
    let survives = u64::from(made.memory.survives());
    recorder.survives.store(survives, Ordering::Relaxed);
    let tap = |place: &_| Tap::live(RingWriter::new(Arc::clone(&made.memory), *place));
    let taps = made.places.iter().map(tap).collect();
    let parts = DrainParts {
        storage: Directory::new(&config.directory),
        memory: Arc::clone(&made.memory),
        places: made.places,
        header,
        size_max_bytes: config.size_max_mb * 1024 * 1024,
        stats: stats.clone(),
        salvaged,
    };
    let recorder = Recorder {
        drain: Drain::new(parts, Instant::now()),
        memory: made.memory,
    };
    (Some(recorder), taps)
}

impl Recorder {
    /// Drains until the loops are done. An ordinary thread of its own.
    pub fn run(mut self, shared: &Shared) {
        let mut say = |line: &str| note(format_args!("{line}"));
        // Ends with the daemon.
        while !shared.loops_are_done() {
            self.drain.step(Instant::now(), &mut say);
            std::thread::park_timeout(INTERVAL);
        }
        self.drain.finish(Instant::now(), &mut say);
        self.memory.forget();
    }
}

/// Words of the ring of a loop: `keep_seconds` of ordinary ticks, and a quarter more.
fn ring_words(robot: &RobotConfig, index: usize, config: &RecorderConfig) -> usize {
    let control_loop = &robot.loops[index];
    let devices = robot.devices.iter();
    let words: u64 = devices
        .filter(|device| device.control_loop == index)
        .map(|device| DEVICE_WORDS + JOINT_WORDS * device.joints.len() as u64)
        .sum();
    let nodes = robot.blocks[index].graph.nodes.iter();
    let of_blocks: u64 = nodes.map(|node| 1 + node.design.outputs.len() as u64).sum();
    let words = words + of_blocks;
    let ticks = config.keep_seconds * 1_000_000 / control_loop.period_us.max(1);
    let wanted = (TICK_WORDS + words) * ticks * 5 / 4;
    let wanted = usize::try_from(wanted).unwrap_or(RING_WORDS_MAX);
    // What a crash leaves of all loops shall take a quarter of the disk's share at most.
    let share = config.size_max_mb * 1024 * 1024 / 8 / 4 / robot.loops.len().max(1) as u64;
    let share = usize::try_from(share).unwrap_or(RING_WORDS_MAX);
    let room = RING_WORDS_MAX.min(RINGS_WORDS_MAX / robot.loops.len().max(1));
    let most = share.min(room).max(2 * RECORD_WORDS_MAX);
    let words = wanted.clamp(2 * RECORD_WORDS_MAX, most).next_power_of_two();
    if words > most { words / 2 } else { words }
}

fn header(robot: &RobotConfig) -> Header {
    // The one place where the recorder asks the wall clock: for people, once.
    let wall = clock_gettime(ClockId::CLOCK_REALTIME);
    let wall_ns = wall.map_or(0, |time| time.tv_sec() * 1_000_000_000 + time.tv_nsec());
    let started_realtime_ns = u64::try_from(wall_ns).unwrap_or(0);
    Header {
        origin: Origin::Recorder,
        build: own_build(),
        robot: robot.name.clone(),
        robot_toml: robot.text.clone(),
        robot_toml_path: absolute(&robot.file).to_string_lossy().into_owned(),
        robot_toml_crc32: crc32fast::hash(robot.text.as_bytes()),
        session: started_realtime_ns,
        segment: 0,
        started_monotonic_ns: MonoNs::now().0,
        started_realtime_ns,
        loops: loop_headers(robot),
        entries: recording::entries(),
    }
}

/// The loops as a header has them. setup-only.
pub fn loop_headers(robot: &RobotConfig) -> Vec<LoopHeader> {
    let loops = robot.loops.iter().enumerate();
    loops
        .map(|(index, control_loop)| LoopHeader {
            name: control_loop.name.clone(),
            period_ns: control_loop.period_us * 1000,
            devices: devices_of(robot, index),
            blocks: blocks_of(robot, index),
        })
        .collect()
}

fn devices_of(robot: &RobotConfig, index: usize) -> Vec<DeviceHeader> {
    let devices = robot.devices.iter();
    devices
        .filter(|device| device.control_loop == index)
        .map(|device| DeviceHeader {
            name: device.name.clone(),
            joints: device
                .joints
                .iter()
                .map(|joint| joint.name.clone())
                .collect(),
        })
        .collect()
}

/// So that it names the same file from anywhere.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

fn blocks_of(robot: &RobotConfig, index: usize) -> Vec<BlockHeader> {
    let nodes = robot.blocks[index].graph.nodes.iter();
    nodes
        .map(|node| BlockHeader {
            name: node.name.clone(),
            kind: node.kind.clone(),
            outputs: node
                .design
                .outputs
                .iter()
                .map(|port| port.name.clone())
                .collect(),
        })
        .collect()
}

/// This program. setup-only: reads its own file.
pub fn own_build() -> Build {
    Build {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
        executable_crc32: sum_of(&PathBuf::from("/proc/self/exe")).unwrap_or(0),
    }
}

fn sum_of(path: &Path) -> std::io::Result<u32> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finalize());
        }
        hasher.update(&buffer[..count]);
    }
}
