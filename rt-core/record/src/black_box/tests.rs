//! The black box: what a process that is gone left behind, whole or spoilt.

use super::*;
use crate::file::{Build, FileReader, Kind, Origin, encode_header};
use crate::ring::{RECORD_WORDS_MAX, RingWriter};
use proptest::prelude::*;

fn header() -> Header {
    Header {
        origin: Origin::Recorder,
        build: Build {
            version: "0".to_owned(),
            architecture: "x".to_owned(),
            executable_crc32: 0,
        },
        robot: "r".to_owned(),
        robot_toml: "# text".repeat(100),
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

fn run_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("there is a tmpfs")
}

/// A kairo-rt that recorded this many ticks in each of two loops and was killed.
fn die_after(run_dir: &Path, ticks: u64) {
    let made = make(run_dir, &header(), &[2 * RECORD_WORDS_MAX; 2]);
    assert!(made.trouble.is_none() && made.memory.survives());
    for place in &made.places {
        let mut writer = RingWriter::new(Arc::clone(&made.memory), *place);
        for tick in 0..ticks {
            writer.push(Kind::Tick as u16, &vec![tick; 100]);
        }
    }
}

#[test]
fn the_newest_records_of_a_dead_process_are_found_as_a_file() {
    let directory = run_dir();
    die_after(directory.path(), 1000);
    let found = salvage(directory.path()).expect("a black box");
    let mut bytes = encode_header(&found.header).expect("encoded");
    bytes.extend(&found.frames);
    let mut reader = FileReader::new(&bytes[..]).expect("a header");
    assert_eq!(reader.header(), &header());
    let mut newest = [None; 2];
    let mut count = 0;
    while let Some(frame) = reader.next_frame().expect("bytes") {
        let newest = &mut newest[usize::from(frame.loop_index)];
        assert!(newest.is_none_or(|newest| frame.sequence == newest + 1));
        assert_eq!(frame.payload, vec![frame.sequence; 100]);
        *newest = Some(frame.sequence);
        count += 1;
    }
    assert_eq!(newest, [Some(999); 2]);
    assert_eq!(count, found.records);
    assert!(count > 2 * 300, "the ring kept {count} of its 321 records");
    found.done();
    assert!(
        salvage(directory.path()).is_none(),
        "it was brought to disk"
    );
}

#[test]
fn an_orderly_end_leaves_nothing() {
    let directory = run_dir();
    let made = make(directory.path(), &header(), &[2 * RECORD_WORDS_MAX]);
    made.memory.forget();
    assert!(salvage(directory.path()).is_none());
}

#[test]
fn the_first_of_two_crashes_is_kept() {
    let directory = run_dir();
    die_after(directory.path(), 5);
    assert_eq!(salvage(directory.path()).expect("first").records, 10);
    die_after(directory.path(), 7);
    assert_eq!(salvage(directory.path()).expect("first").records, 10);
}

#[test]
fn a_run_directory_on_a_disk_gets_its_black_box_elsewhere() {
    let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
    die_after(directory.path(), 3);
    let found = salvage(directory.path()).expect("a black box");
    assert_eq!(found.records, 6);
    found.done();
}

#[test]
fn a_black_box_whose_run_directory_is_gone_does_not_stay_for_ever() {
    let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
    die_after(directory.path(), 3);
    let own = directories(directory.path())[1].clone();
    assert!(own.join(FILE_NAME).exists());
    drop(directory);
    let other = run_dir();
    assert!(salvage(other.path()).is_none());
    assert!(!own.exists());
}

/// A run directory on a disk, and what stands for it in /dev/shm, removed in the end.
struct OnDisk {
    run_dir: tempfile::TempDir,
    own: PathBuf,
}

impl OnDisk {
    fn new() -> Self {
        let run_dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
        let own = directories(run_dir.path())[1].clone();
        Self { run_dir, own }
    }

    fn make(&self) -> BlackBox {
        make(self.run_dir.path(), &header(), &[2 * RECORD_WORDS_MAX])
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.own);
        let _ = std::fs::remove_dir_all(&self.own);
    }
}

#[test]
fn a_directory_that_others_can_use_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let place = OnDisk::new();
    std::fs::create_dir(&place.own).expect("made");
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(&place.own, open).expect("set");
    let made = place.make();
    assert!(
        matches!(made.trouble, Some(MemoryError::NotPrivate { .. })),
        "{:?}",
        made.trouble
    );
    assert!(!made.memory.survives());
    let inside = std::fs::read_dir(&place.own).expect("listed");
    assert_eq!(inside.count(), 0);
}

#[test]
fn no_link_is_followed_in_shared_memory() {
    let place = OnDisk::new();
    let elsewhere = run_dir();
    std::os::unix::fs::symlink(elsewhere.path(), &place.own).expect("linked");
    let made = place.make();
    assert!(matches!(made.trouble, Some(MemoryError::NotPrivate { .. })));
    let inside = std::fs::read_dir(elsewhere.path()).expect("listed");
    assert_eq!(inside.count(), 0);
    // Nor is the name of the run directory written through one.
    std::fs::remove_file(&place.own).expect("removed");
    let victim = elsewhere.path().join("victim");
    std::fs::write(&victim, "mine").expect("written");
    drop(place.make());
    std::fs::remove_file(place.own.join(OWNER_NAME)).expect("removed");
    std::os::unix::fs::symlink(&victim, place.own.join(OWNER_NAME)).expect("linked");
    assert!(place.make().trouble.is_none());
    assert_eq!(std::fs::read(&victim).expect("read"), b"mine");
}

#[test]
fn a_black_box_in_use_is_left_alone() {
    let directory = run_dir();
    let first = make(directory.path(), &header(), &[2 * RECORD_WORDS_MAX]);
    let second = make(directory.path(), &header(), &[2 * RECORD_WORDS_MAX]);
    assert!(matches!(second.trouble, Some(MemoryError::InUse { .. })));
    assert!(!second.memory.survives());
    first.memory.words()[1000].store(7, Ordering::Relaxed);
    let there = read_words(&directory.path().join(FILE_NAME)).expect("words");
    assert_eq!(there[1000], 7, "the file is the first one's");
}

#[test]
fn a_run_directory_has_one_black_box_however_it_is_written() {
    let place = OnDisk::new();
    let links = run_dir();
    let link = links.path().join("link");
    std::os::unix::fs::symlink(place.run_dir.path(), &link).expect("linked");
    assert_eq!(directories(&link), directories(place.run_dir.path()));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 64, ..Default::default()
    })]

    #[test]
    fn spoilt_words_are_read_without_harm(
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 1..20),
        cut in any::<prop::sample::Index>(), low in any::<bool>(),
    ) {
        let directory = run_dir();
        die_after(directory.path(), 20);
        let path = directory.path().join(FILE_NAME);
        let mut words = read_words(&path).expect("words");
        // Half of the time where the structure is, else anywhere.
        let range = if low { 256 } else { words.len() };
        for (index, word) in spoilt {
            words[index.index(range)] = word;
        }
        words.truncate(cut.index(words.len()) + 1);
        if let Some(found) = read(&words, &path) {
            prop_assert!(found.frames.len() <= words.len() * 8 * 4);
        }
    }
}
