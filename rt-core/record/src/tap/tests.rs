//! The tap: what went through it live comes back in replay, and every way to differ is found.

use std::sync::Arc;

use super::*;
use crate::memory::Memory;
use crate::ring::{Found, Place, RingReader};

const CLOCK: Entry = Entry { tag: 1, index: 0 };
const COMMAND: Entry = Entry { tag: 2, index: 3 };
const GOAL: Entry = Entry { tag: 3, index: 0 };

/// A tick: two inputs, one of them optional, and an output of both.
fn tick(tap: &mut Tap, clock: u64, command: Option<f64>, wrong: f64) -> f64 {
    tap.begin();
    let clock = tap.input(CLOCK, || clock);
    let command = tap.input_some(COMMAND, || command);
    let goal = command.unwrap_or(0.0) + clock as f64 + wrong;
    tap.output(GOAL, &goal);
    tap.end();
    goal
}

/// The payloads of these ticks, recorded.
fn record(ticks: &[(u64, Option<f64>)]) -> Vec<Vec<u64>> {
    let place = Place {
        offset: 0,
        capacity: 2 * RECORD_WORDS_MAX,
    };
    let memory = Arc::new(Memory::in_heap(place.words()));
    let mut tap = Tap::live(RingWriter::new(Arc::clone(&memory), place));
    for (clock, command) in ticks {
        tick(&mut tap, *clock, *command, 0.0);
    }
    let mut reader = RingReader::new(memory, place);
    let mut payload = Vec::new();
    std::iter::from_fn(|| (reader.read(&mut payload) != Found::Nothing).then(|| payload.clone()))
        .collect()
}

fn replay(ticks: &[Vec<u64>], wrong: f64) -> (u64, Option<Difference>) {
    let mut tap = Tap::replay();
    for words in ticks {
        tap.load(words);
        // Whatever is outside now is not asked.
        tick(&mut tap, 999, Some(999.0), wrong);
    }
    tap.outcome()
}

#[test]
fn a_replay_sees_what_was_recorded_and_nothing_else() {
    let ticks = record(&[(5, None), (6, Some(0.25)), (0, Some(f64::MIN_POSITIVE))]);
    assert_eq!(replay(&ticks, 0.0), (3, None));
}

#[test]
fn a_wrong_bit_is_found_with_its_place() {
    let ticks = record(&[(5, None)]);
    let (_, difference) = replay(&ticks, 0.5);
    let expected = Difference::Output {
        entry: GOAL,
        word: 0,
        recorded: 5.0_f64.to_bits(),
        replayed: 5.5_f64.to_bits(),
    };
    assert_eq!(difference, Some(expected));
}

#[test]
fn an_entry_that_nobody_asked_for_is_a_difference() {
    let mut ticks = record(&[(5, Some(1.0))]);
    ticks[0].push(CLOCK.first_word(0));
    let (_, difference) = replay(&ticks, 0.0);
    let expected = Difference::Order {
        recorded: Some(CLOCK),
        replayed: None,
    };
    assert_eq!(difference, Some(expected));
}

#[test]
fn an_input_that_is_not_there_is_a_difference() {
    let (_, difference) = replay(&[Vec::new()], 0.0);
    let expected = Difference::Order {
        recorded: None,
        replayed: Some(CLOCK),
    };
    assert_eq!(difference, Some(expected));
}

#[test]
fn zeros_at_the_end_take_no_room() {
    let ticks = record(&[(0, Some(0.0))]);
    let lengths: Vec<usize> = entries(&ticks[0]).map(|(_, words)| words.len()).collect();
    assert_eq!(lengths, [0, 0, 0]);
    assert_eq!(replay(&ticks, 0.0), (1, None));
}

#[test]
fn any_payload_is_taken_apart_without_harm() {
    for first in [u64::MAX, 1 << 48, (2 << 48) | 5] {
        let payload = [first, 7, 8];
        assert!(entries(&payload).count() <= 3);
        let mut tap = Tap::replay();
        tap.load(&payload);
        tick(&mut tap, 0, None, 0.0);
        assert!(tap.outcome().1.is_some());
    }
}
