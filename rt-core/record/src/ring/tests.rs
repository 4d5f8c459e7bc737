//! The ring: order, loss, kills between any two stores, spoilt memory.

use super::*;
use proptest::prelude::*;

const PLACE: Place = Place {
    offset: 8,
    capacity: 2 * RECORD_WORDS_MAX,
};

fn ring() -> (RingWriter, RingReader) {
    let memory = Arc::new(Memory::in_heap(PLACE.offset + PLACE.words()));
    (
        RingWriter::new(Arc::clone(&memory), PLACE),
        RingReader::new(memory, PLACE),
    )
}

/// A payload whose every word names the record.
fn payload(sequence: u64, words: usize) -> Vec<u64> {
    vec![sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15); words]
}

fn words_of(memory: &Memory) -> Vec<u64> {
    let words = memory.words().iter();
    words.map(|word| word.load(Ordering::Relaxed)).collect()
}

#[test]
fn what_was_pushed_is_read_in_order() {
    let (mut writer, mut reader) = ring();
    let mut buffer = Vec::new();
    assert_eq!(reader.read(&mut buffer), Found::Nothing);
    for sequence in 0..5 {
        assert!(writer.push(3, &payload(sequence, 10)));
    }
    for sequence in 0..5 {
        assert_eq!(
            reader.read(&mut buffer),
            Found::Record { kind: 3, sequence }
        );
        assert_eq!(buffer, payload(sequence, 10));
    }
    assert_eq!(reader.read(&mut buffer), Found::Nothing);
}

#[test]
fn a_record_too_long_is_missed_by_its_number() {
    let (mut writer, mut reader) = ring();
    assert!(!writer.push(1, &vec![0; RECORD_WORDS_MAX]));
    assert!(writer.push(1, &[]));
    let found = reader.read(&mut Vec::new());
    assert_eq!(
        found,
        Found::Record {
            kind: 1,
            sequence: 1
        }
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 64, ..Default::default()
    })]

    /// Any mix of pushes and reads: what is read is whole, in order, and the newest is never lost.
    #[test]
    fn a_slow_reader_loses_the_oldest_and_never_gets_a_torn_record(
        steps in prop::collection::vec((1_usize..4000, 0_usize..3), 1..200),
    ) {
        let (mut writer, mut reader) = ring();
        let (mut pushed, mut expected, mut lost) = (0_u64, 0_u64, 0_u64);
        let mut buffer = Vec::new();
        let check = |found, expected: &mut u64, lost: &mut u64, buffer: &[u64]| match found {
            Found::Record { sequence, .. } => {
                assert!(sequence >= *expected);
                *lost += sequence - *expected;
                assert_eq!(buffer, payload(sequence, buffer.len()));
                *expected = sequence + 1;
            }
            Found::Overtaken | Found::Nothing => (),
        };
        for (length, reads) in steps {
            writer.push(1, &payload(pushed, length));
            pushed += 1;
            for _ in 0..reads {
                let found = reader.read(&mut buffer);
                check(found, &mut expected, &mut lost, &buffer);
            }
        }
        loop {
            let found = reader.read(&mut buffer);
            check(found, &mut expected, &mut lost, &buffer);
            if found == Found::Nothing { break; }
        }
        prop_assert_eq!(expected, pushed);
    }

    /// A process killed before any one of its stores leaves whole records, the newest committed
    /// ones. The stores of the last push are replayed onto the memory as it was before it.
    #[test]
    fn killed_at_any_store_whole_records_remain(
        lengths in prop::collection::vec(1_usize..6000, 2..40), cut in 0_usize..7000,
    ) {
        let (mut writer, _reader) = ring();
        let (last, before) = lengths.split_last().expect("two at least");
        for (sequence, length) in before.iter().enumerate() {
            writer.push(1, &payload(sequence as u64, *length));
        }
        let old = words_of(&writer.shared.memory);
        writer.push(1, &payload(before.len() as u64, *last));
        let new = words_of(&writer.shared.memory);
        // Program order of a push: OLDEST, the words, COMMITTED.
        let mut order = vec![PLACE.offset + OLDEST];
        let start = old[PLACE.offset + COMMITTED];
        let data = PLACE.offset + CONTROL_WORDS;
        let length = (RECORD_HEADER_WORDS + last) as u64;
        order.extend((start..start + length).map(|p| data + p as usize % PLACE.capacity));
        order.push(PLACE.offset + COMMITTED);
        let mut torn = old.clone();
        for index in order.into_iter().take(cut) {
            torn[index] = new[index];
        }
        let mut seen = Vec::new();
        walk(&torn, PLACE, |_, sequence, words| {
            assert_eq!(words, payload(sequence, words.len()));
            seen.push(sequence);
        });
        let done = cut > length as usize + 1;
        let newest = if done { before.len() } else { before.len() - 1 } as u64;
        prop_assert!(seen.windows(2).all(|pair| pair[1] == pair[0] + 1));
        // Only a last record as large as the ring may leave nothing else.
        prop_assert_eq!(seen.last().copied(), Some(newest));
    }

    #[test]
    fn any_words_are_walked_without_harm(
        mut words in prop::collection::vec(any::<u64>(), 64),
        offset in any::<usize>(), capacity in any::<usize>(),
    ) {
        walk(&words, Place { offset, capacity }, |_, _, _| ());
        words.resize(PLACE.offset + PLACE.words(), first_word(1, 7));
        walk(&words, PLACE, |_, _, _| ());
    }
}

/// Two real threads: what the reader gets is never torn.
#[test]
fn a_racing_reader_gets_whole_records_only() {
    const RECORDS: u64 = 20_000;
    let (mut writer, mut reader) = ring();
    let writing = std::thread::spawn(move || {
        for sequence in 0..RECORDS {
            writer.push(1, &payload(sequence, 1 + (sequence % 700) as usize));
        }
    });
    let mut buffer = Vec::new();
    let mut newest = None;
    loop {
        // Asked before the read: what was pushed before the end is there to be read.
        let finished = writing.is_finished();
        match reader.read(&mut buffer) {
            Found::Record { sequence, .. } => {
                assert_eq!(buffer, payload(sequence, 1 + (sequence % 700) as usize));
                assert!(newest.is_none_or(|newest| sequence > newest));
                newest = Some(sequence);
            }
            Found::Nothing if finished => break,
            Found::Nothing | Found::Overtaken => (),
        }
    }
    writing.join().expect("the writer ends");
    assert_eq!(newest, Some(RECORDS - 1));
}
