//! Exports of a small record, read back by an independent reader.

use super::*;
use kairo_link::abi::{Reply, Verdict};
use kairo_record::file::{Build, DeviceHeader, LoopHeader, Origin, encode_frame, encode_header};
use kairo_record::memory::Memory;
use kairo_record::ring::{Found, Place, RECORD_WORDS_MAX, RingReader, RingWriter};
use kairo_record::tap::Tap;
use kairo_rt::exchange::{Feedback, JointFeedback};
use kairo_rt::periodic::Period;
use kairo_rt::recording::{entries, of_device, of_loop, tag};
use std::sync::Arc;

const STARTED_NS: u64 = 1_000_000_000;
const STARTED_WALL_NS: u64 = 1_700_000_000_000_000_000;

fn header() -> Header {
    Header {
        origin: Origin::Recorder,
        build: Build {
            version: "0.1.0".to_owned(),
            architecture: "x86_64".to_owned(),
            executable_crc32: 0xABCD,
        },
        robot: "two-joints".to_owned(),
        robot_toml: String::new(),
        robot_toml_path: String::new(),
        robot_toml_crc32: 0,
        session: 1,
        segment: 0,
        started_monotonic_ns: STARTED_NS,
        started_realtime_ns: STARTED_WALL_NS,
        loops: vec![LoopHeader {
            name: "arm-loop".to_owned(),
            period_ns: 4_000_000,
            devices: vec![DeviceHeader {
                name: "arm".to_owned(),
                joints: vec!["pan".to_owned(), "tilt".to_owned()],
            }],
            blocks: Vec::new(),
        }],
        entries: entries(),
    }
}

/// A record of these many ticks, each with feedback, the last with a refusal.
fn record(directory: &Path, ticks: u64) -> PathBuf {
    let place = Place {
        offset: 0,
        capacity: 2 * RECORD_WORDS_MAX,
    };
    let memory = Arc::new(Memory::in_heap(place.words()));
    let mut tap = Tap::live(RingWriter::new(Arc::clone(&memory), place));
    for number in 1..=ticks {
        tap.begin();
        let planned = kairo_link::MonoNs(STARTED_NS + number * 4_000_000);
        tap.input(of_loop(tag::PERIOD), || Period {
            number,
            planned,
            woke: planned.plus_ns(500),
            catches_up: false,
        });
        let mut feedback = Feedback::default();
        feedback.joints[1] = JointFeedback {
            position_rad: 0.25,
            velocity_rad_s: f64::NAN,
            ..JointFeedback::default()
        };
        tap.input_some(of_device(tag::FEEDBACK, 0), || Some(feedback));
        if number == ticks {
            let reply = Reply {
                verdict: Verdict::PositionLimit as u32,
                ..Reply::default()
            };
            tap.output(of_device(tag::REPLY, 0), &reply);
        }
        tap.end();
    }
    let mut reader = RingReader::new(memory, place);
    let mut bytes = encode_header(&header()).unwrap();
    let mut payload = Vec::new();
    while let Found::Record { kind, sequence } = reader.read(&mut payload) {
        encode_frame(&mut bytes, kind, 0, sequence, &payload);
    }
    let path = directory.join("00000001.krec");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn export_as(file: &Path, mcap: Option<&Path>, csv: Option<&Path>) {
    let options = ExportOptions {
        file: file.to_path_buf(),
        mcap: mcap.map(Path::to_path_buf),
        csv: csv.map(Path::to_path_buf),
    };
    export(&Terminal::new(true), &options).unwrap();
}

#[test]
fn an_mcap_is_read_by_another_reader_with_every_topic_time_and_value() {
    let directory = tempfile::tempdir().unwrap();
    let file = record(directory.path(), 10);
    let target = directory.path().join("out.mcap");
    export_as(&file, Some(&target), None);
    let bytes = std::fs::read(&target).unwrap();
    let summary = ::mcap::Summary::read(&bytes)
        .unwrap()
        .expect("it is indexed");
    let topics: Vec<&str> = summary
        .channels
        .values()
        .map(|channel| &*channel.topic)
        .collect();
    for topic in ["arm/joint_states", "arm/verdicts", "arm-loop/timing"] {
        assert!(topics.contains(&topic), "{topics:?}");
    }
    let messages: Vec<_> = ::mcap::MessageStream::new(&bytes)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(messages.len(), 21);
    let mut lateness = 0;
    for message in &messages {
        let channel = &message.channel;
        let schema = channel.schema.as_ref().expect("every channel has one");
        assert_eq!(
            (&*channel.message_encoding, &*schema.encoding),
            ("json", "jsonschema")
        );
        let value: Value = serde_json::from_slice(&message.data).unwrap();
        let shape: Value = serde_json::from_slice(&schema.data).unwrap();
        for name in value.as_object().unwrap().keys() {
            assert!(
                shape["properties"].get(name).is_some(),
                "{name} of {}",
                channel.topic
            );
        }
        let tick = value["tick"].as_u64().unwrap();
        assert_eq!(message.log_time, STARTED_WALL_NS + tick * 4_000_000 + 500);
        match &*channel.topic {
            "arm/joint_states" => {
                let joints = value["joints"].as_object().unwrap();
                assert_eq!(joints.keys().collect::<Vec<_>>(), ["pan", "tilt"]);
                assert_eq!(joints["tilt"]["position_rad"], 0.25);
                assert_eq!(joints["tilt"]["velocity_rad_s"], Value::Null);
            }
            "arm/verdicts" => assert_eq!(value["verdict_name"], "position_limit"),
            _ => lateness += value["lateness_ns"].as_u64().unwrap(),
        }
    }
    assert_eq!(lateness, 10 * 500);
}

#[test]
fn a_csv_has_a_row_for_every_word_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let file = record(directory.path(), 2);
    let target = directory.path().join("out.csv");
    export_as(&file, None, Some(&target));
    let text = std::fs::read_to_string(&target).unwrap();
    let time_ns = STARTED_NS + 4_000_000 + 500;
    let row = format!("arm-loop,1,{time_ns},feedback,arm,joints.tilt.position_rad,0.25");
    assert!(text.lines().any(|line| line == row), "{text}");
    assert!(text.lines().all(|line| line.split(',').count() == 7));
}

#[test]
fn a_record_that_is_cut_off_is_exported_up_to_there() {
    let directory = tempfile::tempdir().unwrap();
    let file = record(directory.path(), 10);
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 7]).unwrap();
    let (_, found, tail) = contents(&file).unwrap();
    assert_eq!(found.ticks, 9);
    assert!(matches!(tail, Tail::Torn { .. }));
    let target = directory.path().join("out.mcap");
    export_as(&file, Some(&target), None);
    let bytes = std::fs::read(&target).unwrap();
    assert_eq!(::mcap::MessageStream::new(&bytes).unwrap().count(), 18);
}
