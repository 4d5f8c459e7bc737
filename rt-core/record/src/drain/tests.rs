//! The drain against a disk that fills, fails and comes back.

use std::io::{ErrorKind, Result};
use std::sync::Mutex;

use super::*;
use crate::file::{Build, FileReader, Tail};
use crate::ring::{RECORD_WORDS_MAX, RingWriter};
use crate::storage::Stored;
use kairo_link::segment::{Kind as SegmentKind, Segment};
use kairo_link::stats::PAYLOAD_WORDS;

const PLACE: Place = Place {
    offset: 0,
    capacity: 2 * RECORD_WORDS_MAX,
};

/// A disk in memory, with a size and a temper.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<DiskState>>);

#[derive(Debug, Default)]
struct DiskState {
    files: Vec<(Stored, Vec<u8>)>,
    /// Bytes it can hold; all others are ENOSPC.
    size: usize,
    broken: bool,
    syncs: u64,
    crash_files_begun: u64,
}

impl Disk {
    fn of(size: usize) -> Self {
        let disk = Self::default();
        disk.state().size = size;
        disk
    }

    fn state(&self) -> std::sync::MutexGuard<'_, DiskState> {
        self.0.lock().unwrap()
    }

    fn used(&self) -> usize {
        self.state()
            .files
            .iter()
            .map(|(_, bytes)| bytes.len())
            .sum()
    }

    /// Numbers of the records in a file, and the gaps as (first, count).
    fn records(&self, index: usize) -> (Vec<u64>, Vec<(u64, u64)>, Tail) {
        let bytes = self.state().files[index].1.clone();
        let mut reader = FileReader::new(&bytes[..]).unwrap();
        let (mut records, mut gaps) = (Vec::new(), Vec::new());
        while let Some(frame) = reader.next_frame().unwrap() {
            match Kind::from_u16(frame.kind) {
                Some(Kind::Gap) => gaps.push((frame.payload[0], frame.payload[1])),
                Some(Kind::End) => (),
                _ => records.push(frame.sequence),
            }
        }
        (records, gaps, reader.tail())
    }
}

impl Storage for Disk {
    fn files(&mut self) -> Result<Vec<Stored>> {
        let mut state = self.state();
        if state.broken {
            return Err(Error::from_raw_os_error(5));
        }
        for (stored, bytes) in &mut state.files {
            stored.bytes = bytes.len() as u64;
        }
        Ok(state
            .files
            .iter()
            .map(|(stored, _)| stored.clone())
            .collect())
    }

    fn create(&mut self, number: u64, crash: bool) -> Result<()> {
        let stored = Stored {
            number,
            crash,
            bytes: 0,
        };
        let mut state = self.state();
        state.files.push((stored, Vec::new()));
        state.crash_files_begun += u64::from(crash);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> (usize, Result<()>) {
        let used = self.used();
        let mut state = self.state();
        if state.broken {
            return (0, Err(Error::from_raw_os_error(5)));
        }
        let count = bytes.len().min(state.size.saturating_sub(used));
        let Some((_, file)) = state.files.last_mut() else {
            return (0, Err(ErrorKind::NotFound.into()));
        };
        file.extend(&bytes[..count]);
        if count == bytes.len() {
            (count, Ok(()))
        } else {
            (count, Err(Error::from_raw_os_error(28)))
        }
    }

    fn sync(&mut self) -> Result<()> {
        self.state().syncs += 1;
        Ok(())
    }

    fn remove(&mut self, file: &Stored) -> Result<()> {
        let mut state = self.state();
        state
            .files
            .retain(|(stored, _)| stored.number != file.number);
        Ok(())
    }
}

struct Bench {
    writer: RingWriter,
    drain: Drain<Disk>,
    disk: Disk,
    stats: Stats,
    now: Instant,
    notes: Vec<String>,
}

fn header() -> Header {
    Header {
        origin: Origin::Recorder,
        build: Build {
            version: "0".to_owned(),
            architecture: "x".to_owned(),
            executable_crc32: 0,
        },
        robot: "r".to_owned(),
        robot_toml: String::new(),
        robot_toml_path: String::new(),
        robot_toml_crc32: 0,
        session: 0,
        segment: 0,
        started_monotonic_ns: 0,
        started_realtime_ns: 0,
        loops: Vec::new(),
        entries: Vec::new(),
    }
}

fn bench(disk: Disk, size_max_bytes: u64) -> Bench {
    let memory = Arc::new(Memory::in_heap(PLACE.words()));
    let stats = Stats::new(Segment::in_heap(SegmentKind::Stats, PAYLOAD_WORDS, 0, 0));
    let now = Instant::now();
    let parts = DrainParts {
        storage: disk.clone(),
        memory: Arc::clone(&memory),
        places: vec![PLACE],
        header: header(),
        size_max_bytes,
        stats: stats.clone(),
        salvaged: None,
    };
    Bench {
        writer: RingWriter::new(memory, PLACE),
        drain: Drain::new(parts, now),
        disk,
        stats,
        now,
        notes: Vec::new(),
    }
}

impl Bench {
    /// A keyframe and ticks, 800 bytes each, then a look of the drain two seconds later.
    fn round(&mut self, ticks: u64) {
        self.writer.push(Kind::Keyframe as u16, &[1; 97]);
        for _ in 0..ticks {
            self.writer.push(Kind::Tick as u16, &[7; 97]);
        }
        self.now += 2 * RETRY;
        let notes = &mut self.notes;
        self.drain
            .step(self.now, &mut |line| notes.push(line.to_owned()));
    }

    /// A file of an earlier run.
    fn put(&self, number: u64, crash: bool, bytes: usize) {
        let stored = Stored {
            number,
            crash,
            bytes: 0,
        };
        let file = (stored, vec![0; bytes]);
        self.disk.state().files.push(file);
    }

    fn crash_files(&self) -> usize {
        let state = self.disk.state();
        state.files.iter().filter(|(file, _)| file.crash).count()
    }

    fn dropped(&self) -> u64 {
        self.stats.block().recorder.dropped.load(Ordering::Relaxed)
    }
}

#[test]
fn everything_reaches_a_disk_that_works_and_the_end_is_marked() {
    let mut bench = bench(Disk::of(1 << 30), 1 << 30);
    for _ in 0..10 {
        bench.round(99);
    }
    let Bench {
        drain, disk, now, ..
    } = bench;
    drain.finish(now, &mut |_| ());
    let (records, gaps, tail) = disk.records(0);
    assert_eq!(records, (0..1000).collect::<Vec<_>>());
    assert_eq!((gaps.len(), tail), (0, Tail::Clean));
    assert!(disk.state().syncs > 5);
}

#[test]
fn files_stay_within_their_bound_and_the_newest_are_kept() {
    let bound = 400_000;
    let mut bench = bench(Disk::of(1 << 30), bound);
    for _ in 0..100 {
        bench.round(49);
        assert!(bench.disk.used() as u64 <= bound + 50 * 900);
    }
    let files = bench.disk.state().files.len();
    assert!(files > 3, "{files} files");
    let (newest, _, _) = bench.disk.records(files - 1);
    assert_eq!(newest.last(), Some(&4999));
    assert_eq!(newest[0] % 50, 0, "a file begins with a keyframe");
    assert_eq!(bench.dropped(), 0);
}

#[test]
fn crash_files_are_kept_longest_but_take_no_more_than_half() {
    let mut bench = bench(Disk::of(1 << 30), 400_000);
    for number in 1..=6 {
        bench.put(number, number > 1, 60_000);
    }
    for _ in 0..20 {
        bench.round(49);
    }
    let state = bench.disk.state();
    let crashes = state.files.iter().filter(|(file, _)| file.crash);
    let numbers: Vec<u64> = crashes.map(|(file, _)| file.number).collect();
    // Five of 60 kB were too many; three fit the half, and outlive the older recording.
    assert_eq!(numbers, [4, 5, 6]);
    assert!(state.files.iter().all(|(file, _)| file.number != 1));
}

#[test]
fn a_full_disk_costs_records_that_are_counted_and_marked_and_one_line() {
    // Somebody else's files fill it: ours never fit.
    let mut bench = bench(Disk::of(10_000), 1 << 20);
    for _ in 0..20 {
        bench.round(99);
    }
    let recorder = &bench.stats.block().recorder;
    assert_eq!(recorder.errno.load(Ordering::Relaxed), 28);
    assert_eq!(recorder.failing.load(Ordering::Relaxed), 1);
    assert!(recorder.write_errors.load(Ordering::Relaxed) > 5);
    assert_eq!(bench.notes.len(), 1, "{:?}", bench.notes);
    // Room again: what the ring still has is written, the rest is marked.
    bench.disk.state().size = 1 << 30;
    for _ in 0..3 {
        bench.round(99);
    }
    assert_eq!(bench.notes.len(), 2, "{:?}", bench.notes);
    let files = bench.disk.state().files.len();
    let (records, _, tail) = bench.disk.records(files - 1);
    assert_eq!((records.last(), tail), (Some(&2299), Tail::Clean));
    let gaps = (0..files).flat_map(|file| bench.disk.records(file).1);
    let lost: u64 = gaps.map(|(_, count)| count).sum();
    assert!(lost > 0);
    assert!(bench.dropped() >= lost);
}

#[test]
fn a_write_that_stops_half_way_leaves_a_torn_tail_and_repeats_nothing() {
    let mut bench = bench(Disk::of(50_123), 1 << 30);
    bench.round(99);
    bench.disk.state().size = 1 << 30;
    bench.round(99);
    let (first, _, tail) = bench.disk.records(0);
    let files = bench.disk.state().files.len();
    assert_eq!(files, 2);
    let (second, gaps, _) = bench.disk.records(1);
    assert!(matches!(tail, Tail::Torn { .. }));
    let all: Vec<u64> = first.into_iter().chain(second).collect();
    assert_eq!(all, (0..200).collect::<Vec<_>>());
    assert!(gaps.is_empty());
}

#[test]
fn a_broken_disk_is_tried_again_and_asked_no_more_than_once_a_second() {
    let mut bench = bench(Disk::of(1 << 30), 1 << 30);
    bench.disk.state().broken = true;
    bench.round(9);
    let errors = || {
        bench
            .stats
            .block()
            .recorder
            .write_errors
            .load(Ordering::Relaxed)
    };
    assert_eq!(errors(), 1);
    let soon = bench.now + RETRY / 2;
    bench.drain.step(soon, &mut |_| ());
    assert_eq!(errors(), 1);
    bench.disk.state().broken = false;
    bench.round(9);
    assert_eq!(bench.disk.records(0).0, (0..20).collect::<Vec<_>>());
    assert_eq!(bench.dropped(), 0, "the ring kept them meanwhile");
}

/// A bench with a black box of 60 kB to bring to disk first, and the file that it lies in.
fn bench_after_crash(disk: Disk) -> (Bench, tempfile::NamedTempFile) {
    let source = tempfile::NamedTempFile::new().unwrap();
    let mut bench = bench(disk, 1 << 20);
    let frames = vec![0; 60_000];
    let salvaged = Salvaged::of(header(), frames, source.path().to_path_buf());
    bench.drain.parts.salvaged = Some(salvaged);
    (bench, source)
}

#[test]
fn a_black_box_that_does_not_fit_does_not_keep_the_live_records_out() {
    // Room for what is recorded now, but not for the crash.
    let (mut bench, source) = bench_after_crash(Disk::of(50_000));
    bench.round(20);
    assert_eq!(bench.disk.records(0).0, (0..21).collect::<Vec<_>>());
    assert_eq!((bench.crash_files(), bench.dropped()), (0, 0));
    let recorder = &bench.stats.block().recorder;
    assert_eq!(recorder.failing.load(Ordering::Relaxed), 0);
    assert_eq!(recorder.write_errors.load(Ordering::Relaxed), 1);
    assert_eq!(bench.notes.len(), 1, "{:?}", bench.notes);
    assert!(source.path().exists());
    // It has its turn again, but not every second.
    bench.round(0);
    assert_eq!(bench.disk.state().crash_files_begun, 1);
    bench.disk.state().size = 1 << 30;
    bench.now += SALVAGE_RETRY;
    bench.round(0);
    assert_eq!(bench.crash_files(), 1);
    assert!(!source.path().exists(), "it is on disk");
}

#[test]
fn a_black_box_that_never_fits_is_given_up_and_left_for_the_next_start() {
    let (mut bench, source) = bench_after_crash(Disk::of(50_000));
    for _ in 0..20 {
        bench.now += SALVAGE_RETRY;
        bench.round(0);
    }
    let begun = bench.disk.state().crash_files_begun;
    assert_eq!(begun, u64::from(SALVAGE_TRIES));
    assert!(bench.drain.parts.salvaged.is_none() && source.path().exists());
    assert_eq!((bench.crash_files(), bench.notes.len()), (0, 1));
}

#[test]
fn a_deletion_that_does_not_help_is_the_last_one() {
    let mut bench = bench(Disk::of(0), 400_000);
    for number in 1..=7 {
        bench.put(number, false, 50_000);
    }
    for _ in 0..20 {
        bench.round(9);
    }
    assert_eq!(bench.disk.state().files.len(), 6);
}

#[test]
fn who_fills_the_disk_leaves_us_half_of_our_room_and_every_crash_file() {
    let mut bench = bench(Disk::of(0), 400_000);
    bench.put(1, true, 40_000);
    for number in 2..=7 {
        bench.put(number, false, 50_000);
    }
    for _ in 0..100 {
        // Whatever we deleted and did not write was taken by somebody else.
        let used = bench.disk.used();
        bench.disk.state().size = used;
        bench.round(4);
        bench.round(4);
    }
    assert!(bench.disk.used() >= 200_000, "{} left", bench.disk.used());
    assert_eq!(bench.crash_files(), 1);
    let newest = bench.disk.state().files.len() - 1;
    assert!(bench.disk.state().files[newest].0.number > 7);
}

#[test]
fn a_keyframe_that_meets_a_full_disk_is_not_lost() {
    let mut bench = bench(Disk::of(1 << 30), 400_000);
    // More than a file's worth: the next keyframe begins a new one.
    bench.round(99);
    let used = bench.disk.used();
    bench.disk.state().size = used;
    for _ in 0..3 {
        bench.writer.push(Kind::Tick as u16, &[7; 97]);
    }
    bench.round(0);
    bench.disk.state().size = 1 << 30;
    bench.round(5);
    let files = bench.disk.state().files.len();
    let all = (0..files).flat_map(|file| bench.disk.records(file).0);
    assert_eq!(all.collect::<Vec<_>>(), (0..110).collect::<Vec<_>>());
    assert_eq!(bench.dropped(), 0);
}
