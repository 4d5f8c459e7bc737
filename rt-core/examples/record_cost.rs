//! What recording costs a tick: the same entries through a tap that is off and one that records,
//! in turns, for `cargo xtask bench record`. Prints one JSON object: nanoseconds a tick of each
//! round, and of single ticks that recorded.
//!
//! The entries are those of a six-joint arm in a tick with new feedback and a command. No loop, no
//! bus: only what recording adds is measured, into a ring that goes round many times.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use kairo_link::MonoNs;
use kairo_link::abi::{DeviceState, MAX_JOINTS, Reply};
use kairo_record::memory::Memory;
use kairo_record::ring::{Place, RECORD_WORDS_MAX, RingWriter};
use kairo_record::tap::Tap;
use kairo_rt::exchange::{Feedback, Goals, JointFeedback};
use kairo_rt::periodic::Period;
use kairo_rt::recording::{CommandTaken, Outcome, of_device, of_loop, tag};

const ROUNDS: usize = 200;
const TICKS: u64 = 1000;
const JOINTS: usize = 6;

/// A value of everything that a tick takes and gives.
struct Arm {
    feedback: Feedback,
    command: CommandTaken,
    goals: Goals,
    reply: Reply,
    state: DeviceState,
}

fn arm() -> Arm {
    let mut feedback = Feedback {
        generation: 1,
        bus_up: 1,
        ..Feedback::default()
    };
    let mut goals = Goals {
        generation: 1,
        torque: 1,
        ..Goals::default()
    };
    let mut command = CommandTaken::default();
    command.command.target = [0.5; MAX_JOINTS];
    let mut state = DeviceState::default();
    for joint in 0..JOINTS {
        feedback.joints[joint] = JointFeedback {
            position_rad: 0.25,
            velocity_rad_s: 0.5,
            load_ratio: 0.125,
            voltage_v: 12.0,
            current_a: 0.25,
            temperature_c: 30.0,
            sampled_ns: 1,
            status_bits: 0,
            missed: 0,
        };
        goals.setpoint_rad[joint] = 0.25;
        state.joints[joint].target_rad = 0.5;
    }
    Arm {
        feedback,
        command,
        goals,
        reply: Reply {
            sequence: 1,
            max: 1.0,
            ..Reply::default()
        },
        state,
    }
}

fn tick(tap: &mut Tap, arm: &Arm, number: u64) {
    tap.begin();
    let period = tap.input(of_loop(tag::PERIOD), || Period {
        number,
        planned: MonoNs(number),
        woke: MonoNs(number),
        catches_up: false,
    });
    black_box(period);
    black_box(tap.input_some(of_device(tag::FEEDBACK, 0), || Some(arm.feedback)));
    black_box(tap.input(of_loop(tag::STOPPING), || false));
    black_box(tap.input_some(of_device(tag::COMMAND, 0), || Some(arm.command)));
    tap.output(of_device(tag::REPLY, 0), black_box(&arm.reply));
    tap.output(of_device(tag::GOALS, 0), black_box(&arm.goals));
    let outcome = Outcome::from(black_box(&arm.state));
    tap.output(of_device(tag::OUTCOME, 0), &outcome);
    tap.end();
}

fn main() {
    let place = Place {
        offset: 0,
        capacity: 16 * RECORD_WORDS_MAX,
    };
    let path = format!("/dev/shm/kairo-record-cost-{}", std::process::id());
    let memory = Memory::in_file(path.as_ref(), place.words());
    let memory = Arc::new(memory.unwrap_or_else(|_| Memory::in_heap(place.words())));
    memory.forget();
    let mut taps = [
        Tap::off(),
        Tap::live(RingWriter::new(Arc::clone(&memory), place)),
    ];
    let arm = arm();
    let mut rounds = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (tap, rounds) in taps.iter_mut().zip(&mut rounds) {
            let begun = Instant::now();
            for number in 0..TICKS {
                tick(tap, &arm, number);
            }
            rounds.push(begun.elapsed().as_nanos() as f64 / TICKS as f64);
        }
    }
    let mut single = Vec::new();
    for number in 0..TICKS * 10 {
        let begun = Instant::now();
        tick(&mut taps[1], &arm, number);
        single.push(begun.elapsed().as_nanos() as f64);
    }
    let [off, live] = rounds;
    println!(
        "{}",
        serde_json::json!({"off_ns": off, "live_ns": live, "single_ns": single})
    );
}
