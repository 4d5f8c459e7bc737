//! Record files: what was written is read, whatever was cut off or changed is dropped, and no
//! bytes do harm.

use super::*;
use proptest::prelude::*;

fn header() -> Header {
    Header {
        origin: Origin::Recorder,
        build: Build {
            version: "0.1.0".to_owned(),
            architecture: "x86_64".to_owned(),
            executable_crc32: 7,
        },
        robot: "so101".to_owned(),
        robot_toml: "[robot]\nname = \"so101\"\n".to_owned(),
        robot_toml_path: "/config/robot.toml".to_owned(),
        robot_toml_crc32: 9,
        session: 1,
        segment: 2,
        started_monotonic_ns: 3,
        started_realtime_ns: 4,
        loops: vec![LoopHeader {
            name: "arm-loop".to_owned(),
            period_ns: 4_000_000,
            devices: Vec::new(),
            blocks: Vec::new(),
        }],
        entries: Vec::new(),
    }
}

fn file(frames: u64) -> Vec<u8> {
    let mut bytes = encode_header(&header()).unwrap();
    for sequence in 0..frames {
        let words = vec![sequence; sequence as usize % 5];
        encode_frame(&mut bytes, Kind::Tick as u16, 0, sequence, &words);
    }
    bytes
}

/// Sequence numbers of the whole frames, and what follows them.
fn read(bytes: &[u8]) -> Result<(Vec<u64>, Tail), FileError> {
    let mut reader = FileReader::new(bytes)?;
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame()? {
        frames.push(frame.sequence);
    }
    Ok((frames, reader.tail()))
}

#[test]
fn what_was_written_is_read() {
    let bytes = file(7);
    let mut reader = FileReader::new(&bytes[..]).unwrap();
    assert_eq!(reader.header(), &header());
    let frame = std::iter::from_fn(|| reader.next_frame().unwrap()).last();
    let expected = Frame {
        kind: Kind::Tick as u16,
        loop_index: 0,
        sequence: 6,
        payload: vec![6],
    };
    assert_eq!((frame, reader.tail()), (Some(expected), Tail::Clean));
}

#[test]
fn cut_off_anywhere_every_whole_frame_before_is_read() {
    let header_bytes = file(0).len();
    let bytes = file(12);
    let ends: Vec<usize> = (0..=12).map(|frames| file(frames).len()).collect();
    for cut in header_bytes..bytes.len() {
        let (frames, tail) = read(&bytes[..cut]).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
        assert_eq!(
            frames,
            (0..whole as u64).collect::<Vec<_>>(),
            "cut at {cut}"
        );
        let at_byte = ends[whole] as u64;
        let expected = if ends[whole] == cut {
            Tail::Clean
        } else {
            Tail::Torn { at_byte }
        };
        assert_eq!(tail, expected, "cut at {cut}");
    }
}

#[test]
fn the_zeros_that_a_power_cut_leaves_are_a_torn_tail() {
    let mut bytes = file(3);
    let at_byte = bytes.len() as u64;
    bytes.resize(bytes.len() + 4096, 0);
    assert_eq!(
        read(&bytes).unwrap(),
        (vec![0, 1, 2], Tail::Torn { at_byte })
    );
}

#[test]
fn other_files_and_versions_are_refused_by_name() {
    assert!(matches!(read(b""), Err(FileError::NotARecord)));
    assert!(matches!(read(&[0; 400]), Err(FileError::NotARecord)));
    let mut bytes = file(0);
    bytes[8] = 2;
    assert!(matches!(read(&bytes), Err(FileError::Version { found: 2 })));
    let mut bytes = file(0);
    bytes[15] = 0xFF;
    assert!(matches!(read(&bytes), Err(FileError::Header { .. })));
    let mut bytes = file(0);
    bytes[30] ^= 1;
    assert!(matches!(read(&bytes), Err(FileError::Header { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 512, ..Default::default()
    })]

    #[test]
    fn any_bytes_are_read_without_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..400), with_start in any::<bool>(),
    ) {
        let mut file = if with_start { file(2) } else { Vec::new() };
        file.extend(bytes);
        if let Ok((frames, _)) = read(&file) {
            prop_assert!(!with_start || frames.starts_with(&[0, 1]));
        }
    }

    /// One changed byte: every frame before it is read, none of those read is changed.
    #[test]
    fn one_changed_byte_spoils_only_what_follows(
        at in any::<prop::sample::Index>(), to in any::<u8>(),
    ) {
        let original = file(9);
        let mut bytes = original.clone();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let start = file(0).len();
        match read(&bytes) {
            Ok((frames, _)) => {
                let ends = (0..=9).filter(|frames| file(*frames).len() <= at.max(start)).count();
                prop_assert!(frames.len() + 1 >= ends);
                prop_assert!(frames.iter().enumerate().all(|(index, seq)| *seq == index as u64));
            }
            Err(_) => prop_assert!(at < start),
        }
    }
}
