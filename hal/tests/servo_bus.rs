//! Transactions against a scripted line: which damage is put down to whom, and when waiting ends.
#![expect(
    clippy::unwrap_used,
    reason = "functions around the tests fail like the tests do"
)]

use std::collections::VecDeque;

use kairo_hal::feetech::{PacketBuffer, ServoBus, ServoBusError, ServoOutcome, ServoSample};
use kairo_hal::{BusError, BusOp, ByteLine, MonoNs};
use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

const IDS: [u8; 4] = [1, 2, 3, 4];
const DEADLINE: MonoNs = MonoNs(1_000_000);

/// A line whose answers are written beforehand; each read takes one piece and 1000 ns.
#[derive(Default)]
struct Script {
    pieces: VecDeque<Vec<u8>>,
    stale: usize,
    now_ns: u64,
    ending: Option<BusError>,
}

impl ByteLine for Script {
    fn write_all(&mut self, _bytes: &[u8], _deadline: MonoNs) -> Result<(), BusError> {
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8], deadline: MonoNs) -> Result<usize, BusError> {
        self.now_ns += 1000;
        let Some(piece) = self.pieces.front_mut() else {
            self.now_ns = self.now_ns.max(deadline.0);
            return Err(self.ending.unwrap_or(BusError::Timeout));
        };
        let count = piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&piece[..count]);
        piece.drain(..count);
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        Ok(count)
    }

    fn discard_input(&mut self) -> Result<usize, BusError> {
        Ok(std::mem::take(&mut self.stale))
    }

    fn now(&self) -> MonoNs {
        MonoNs(self.now_ns)
    }
}

#[test]
fn the_torque_switch_comes_with_the_same_state() {
    let state = [
        0x00, 0x08, 0x64, 0x80, 0x0A, 0x00, 120, 31, 0, 0, 1, 0, 0, 0x0A, 0x80,
    ];
    let read = |torque: Option<u8>| {
        let mut data = Vec::new();
        if let Some(switch) = torque {
            data.extend([switch, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
        }
        data.extend(state);
        let packet = PacketBuffer::raw(1, 0, &data).unwrap();
        let line = Script {
            pieces: VecDeque::from([packet.as_bytes().to_vec()]),
            ..Script::default()
        };
        let mut bus = ServoBus::new(line, &IDS).unwrap();
        let mut samples = [ServoSample::default()];
        let summary = match torque {
            Some(_) => bus.sync_read_present_and_torque(&[1], &mut samples, DEADLINE),
            None => bus.sync_read_present(&[1], &mut samples, DEADLINE),
        };
        assert_eq!(summary.unwrap().replies, 1);
        samples[0]
    };
    let plain = read(None);
    assert_eq!(plain.is_torque_enabled(), None);
    for (switch, enabled) in [(0, false), (1, true)] {
        let sample = read(Some(switch));
        assert_eq!(sample.is_torque_enabled(), Some(enabled));
        assert_eq!(sample.present(), plain.present());
        assert_eq!(sample.present().unwrap().position_steps, 2048);
    }
    assert_eq!(ServoSample::default().is_torque_enabled(), None);
}

fn reply(id: u8, status: u8) -> Vec<u8> {
    PacketBuffer::raw(id, status, &[id, 8])
        .unwrap()
        .as_bytes()
        .to_vec()
}

fn damaged(id: u8, at: usize) -> Vec<u8> {
    let mut bytes = reply(id, 0);
    bytes[at] ^= 0x10;
    bytes
}

/// Reads two bytes of four servos from a line that answers with `pieces`.
fn read(pieces: &[Vec<u8>]) -> ([ServoOutcome; 4], ServoBus<Script>) {
    let pieces = pieces
        .iter()
        .filter(|piece| !piece.is_empty())
        .cloned()
        .collect();
    let mut bus = ServoBus::new(
        Script {
            pieces,
            ..Script::default()
        },
        &IDS,
    )
    .unwrap();
    let mut samples = [ServoSample::default(); 4];
    let summary = bus.sync_read(&IDS, 56, 2, &mut samples, DEADLINE).unwrap();
    let with_data = samples
        .iter()
        .filter(|sample| sample.outcome.has_data())
        .count();
    assert_eq!(usize::from(summary.replies), with_data);
    for sample in samples.iter().filter(|sample| sample.outcome.has_data()) {
        assert_eq!(sample.data(), [sample.id, 8]);
    }
    (samples.map(|sample| sample.outcome), bus)
}

use ServoOutcome::{BadChecksum, Ok as Good, StatusError, Timeout};

#[test]
fn whole_answers_end_the_wait_before_the_deadline() {
    let all: Vec<u8> = IDS.iter().flat_map(|id| reply(*id, 0)).collect();
    let (outcomes, bus) = read(&[all]);
    assert_eq!(outcomes, [Good; 4]);
    assert!(bus.line().now() < DEADLINE);
    assert_eq!(bus.counters().garbage_bytes, 0);
}

#[test]
fn a_missing_middle_reply_loses_nothing_behind_it() {
    let (outcomes, bus) = read(&[reply(1, 0), reply(3, 0), reply(4, 0)]);
    assert_eq!(outcomes, [Good, Timeout, Good, Good]);
    assert!(bus.line().now() < DEADLINE);
    assert_eq!(bus.servo_counters(2).unwrap().timeouts, 1);
}

#[test]
fn damage_is_put_down_to_the_servo_it_came_from() {
    // Data, checksum, then the id itself (2 becomes 18: not on this bus), then the length.
    for at in [5, 7, 2] {
        let (outcomes, _) = read(&[reply(1, 0), damaged(2, at), reply(3, 0), reply(4, 0)]);
        assert_eq!(outcomes, [Good, BadChecksum, Good, Good], "byte {at}");
    }
    // A damaged header or length is not recognisable as a reply at all.
    for at in [0, 1, 3] {
        let (outcomes, bus) = read(&[reply(1, 0), damaged(2, at), reply(3, 0), reply(4, 0)]);
        assert_eq!(outcomes, [Good, Timeout, Good, Good], "byte {at}");
        assert_eq!(bus.counters().garbage_bytes, 8);
    }
}

#[test]
fn a_damaged_last_reply_does_not_cost_the_rest_of_the_period() {
    let (outcomes, bus) = read(&[reply(1, 0), reply(2, 0), reply(3, 0), damaged(4, 5)]);
    assert_eq!(outcomes, [Good, Good, Good, BadChecksum]);
    assert!(bus.line().now() < DEADLINE);
}

#[test]
fn an_id_damaged_into_the_last_ones_does_not_end_the_wait() {
    let mut liar = reply(1, 0);
    liar[2] = 4;
    let (outcomes, _) = read(&[liar, reply(2, 0), reply(3, 0), reply(4, 0)]);
    assert_eq!(outcomes[1..], [Good; 3]);
    assert!(!outcomes[0].has_data());
}

#[test]
fn damage_that_looks_like_two_replies_does_not_end_the_wait() {
    // The damaged reply of servo 3 holds what looks like the head of another reply, which takes
    // the head of servo 4's for its tail: two wrong checksums before servo 4 was heard.
    let data = [0xFF, 0xFF, 4, 10, 0, 0, 0, 0];
    let replies = IDS.map(|id| PacketBuffer::raw(id, 0, &data).unwrap().as_bytes().to_vec());
    let mut whole = replies.concat();
    whole[3 * 14 - 1] ^= 1;
    let (first, rest) = whole.split_at(3 * 14 + 5);
    let pieces = [first.to_vec(), rest.to_vec()].into();
    let mut bus = ServoBus::new(
        Script {
            pieces,
            ..Script::default()
        },
        &IDS,
    )
    .unwrap();
    let mut samples = [ServoSample::default(); 4];
    bus.sync_read(&IDS, 56, 8, &mut samples, DEADLINE).unwrap();
    assert_eq!(
        samples.map(|sample| sample.outcome),
        [Good, Good, BadChecksum, Good]
    );
}

#[test]
fn fault_bits_come_with_their_data() {
    let (outcomes, bus) = read(&[reply(1, 0), reply(2, 0x20), reply(3, 0), reply(4, 0)]);
    assert_eq!(outcomes, [Good, StatusError, Good, Good]);
    let counters = bus.servo_counters(2).unwrap();
    assert_eq!((counters.replies, counters.status_errors), (1, 1));
}

#[test]
fn strangers_and_repetitions_are_counted_and_ignored() {
    let (outcomes, bus) = read(&[
        reply(9, 0),
        reply(1, 0),
        reply(1, 0),
        reply(2, 0),
        reply(3, 0),
        reply(4, 0),
    ]);
    assert_eq!(outcomes, [Good; 4]);
    assert_eq!(bus.counters().unexpected_packets, 2);
}

#[test]
fn stale_bytes_are_garbage_not_answers() {
    let script = Script {
        stale: 21,
        ..Script::default()
    };
    let mut bus = ServoBus::new(script, &IDS).unwrap();
    assert!(matches!(
        bus.ping(1, DEADLINE),
        Err(ServoBusError::NoAnswer {
            id: 1,
            outcome: Timeout
        })
    ));
    assert_eq!(bus.counters().garbage_bytes, 21);
}

#[test]
fn a_line_that_fails_midway_fails_the_transaction_and_keeps_what_came() {
    let ending = BusError::Io {
        op: BusOp::Read,
        errno: 5,
    };
    let pieces = [reply(1, 0)].into();
    let mut bus = ServoBus::new(
        Script {
            pieces,
            ending: Some(ending),
            ..Script::default()
        },
        &IDS,
    )
    .unwrap();
    let mut samples = [ServoSample::default(); 4];
    let result = bus.sync_read(&IDS, 56, 2, &mut samples, DEADLINE);
    assert_eq!(result, Err(ServoBusError::Line(ending)));
    assert_eq!(
        samples.map(|sample| sample.outcome),
        [Good, Timeout, Timeout, Timeout]
    );
}

#[test]
fn a_babbling_line_ends_at_the_deadline() {
    let pieces = std::iter::repeat_n(vec![0xFF; 200], 5000).collect();
    let mut bus = ServoBus::new(
        Script {
            pieces,
            ..Script::default()
        },
        &IDS,
    )
    .unwrap();
    let mut samples = [ServoSample::default(); 4];
    let summary = bus.sync_read(&IDS, 56, 2, &mut samples, DEADLINE).unwrap();
    assert_eq!(summary.missing, 4);
    assert!(bus.line().now() <= DEADLINE.plus_ns(2000));
}

#[test]
fn impossible_requests_are_refused_before_anything_is_sent() {
    let mut bus = ServoBus::new(Script::default(), &IDS).unwrap();
    let mut samples = [ServoSample::default(); 4];
    let unknown = bus.sync_read(&[1, 2, 3, 9], 56, 2, &mut samples, DEADLINE);
    assert_eq!(unknown, Err(ServoBusError::UnknownServo { id: 9 }));
    for refused in [
        bus.sync_read(&IDS, 56, 0, &mut samples, DEADLINE).map(drop),
        bus.sync_read(&IDS, 56, 200, &mut samples, DEADLINE)
            .map(drop),
        bus.sync_read(&IDS[..2], 56, 2, &mut samples, DEADLINE)
            .map(drop),
        bus.sync_write_goals(&IDS, &[0, 0, 0, 40_000], DEADLINE),
        bus.sync_write_goals(&IDS, &[0; 3], DEADLINE),
    ] {
        assert!(
            matches!(refused, Err(ServoBusError::InvalidRequest { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(bus.counters().instructions, 0);
    for ids in [&[1, 1][..], &[254], &[0; 17]] {
        assert!(ServoBus::new(Script::default(), ids).is_err());
    }
}

proptest! {
    #[test]
    fn any_answer_ends_and_is_counted_once_per_servo(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 0..20),
    ) {
        let (outcomes, bus) = read(&pieces);
        prop_assert!(bus.line().now() <= DEADLINE.plus_ns(2000));
        for (id, outcome) in IDS.into_iter().zip(outcomes) {
            let counters = bus.servo_counters(id).unwrap();
            let total = counters.replies + counters.timeouts + counters.bad_checksum;
            prop_assert_eq!(total, 1);
            prop_assert_eq!(counters.replies == 1, outcome.has_data());
        }
    }

    #[test]
    fn one_spoilt_reply_never_costs_another(
        victim in 0..4_usize, at in 0..8_usize, bit in 0..8_u8, cut in 1..40_usize,
    ) {
        let mut replies: Vec<Vec<u8>> = IDS.iter().map(|id| reply(*id, 0)).collect();
        replies[victim][at] ^= 1 << bit;
        let whole = replies.concat();
        let pieces: Vec<Vec<u8>> = whole.chunks(cut).map(<[u8]>::to_vec).collect();
        let (outcomes, _) = read(&pieces);
        for (index, outcome) in outcomes.into_iter().enumerate() {
            prop_assert_eq!(outcome.has_data(), index != victim, "servo {}", index + 1);
        }
    }
}
