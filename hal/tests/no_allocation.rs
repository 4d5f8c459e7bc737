//! The rt-safe functions do not allocate: counted by the allocator, over a real pseudo-terminal.
//!
//! Counting is per thread, so the thread that plays the servos may allocate as it likes.
#![expect(
    clippy::unwrap_used,
    reason = "functions around the tests fail like the tests do"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use kairo_hal::feetech::registers::{self, PresentState};
use kairo_hal::feetech::{PacketBuffer, ServoBus, ServoOutcome, ServoSample};
use kairo_hal::{ByteLine, MonoNs, SerialBus};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    // A thread that is being torn down has no counter any more, and does not matter here.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call is passed on to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // Freeing is as forbidden on the real-time path as allocating.
        count();
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

/// Plays servos 1 to 3 until the line ends: servo 2's sync-read replies come damaged, after
/// garbage, so that the error paths are counted too.
fn play_servos(mut line: File) {
    let mut buffer = [0; 256];
    while let Ok(count) = line.read(&mut buffer) {
        if count == 0 {
            return;
        }
        let (id, instruction) = (buffer[2], buffer[4]);
        let replies = match instruction {
            0x82 => {
                let data = vec![0; usize::from(buffer[6])];
                let mut replies = vec![0xAA, 0xFF, 0xFF];
                for servo in 1..=3 {
                    let start = replies.len();
                    let reply = PacketBuffer::raw(servo, 0, &data).unwrap();
                    replies.extend_from_slice(reply.as_bytes());
                    if servo == 2 {
                        replies[start + 6] ^= 1;
                    }
                }
                replies
            }
            0x02 => {
                let data = vec![1; usize::from(buffer[6])];
                PacketBuffer::raw(id, 0, &data).unwrap().as_bytes().to_vec()
            }
            0x01 | 0x03 => PacketBuffer::raw(id, 0, &[]).unwrap().as_bytes().to_vec(),
            _ => continue,
        };
        if line.write_all(&replies).is_err() {
            return;
        }
    }
}

#[test]
fn transactions_neither_allocate_nor_free() {
    let pty = nix::pty::openpty(None, None).unwrap();
    let path = nix::unistd::ttyname(&pty.slave).unwrap();
    let mut bus = ServoBus::new(SerialBus::open(&path, 1_000_000).unwrap(), &[1, 2, 3]).unwrap();
    let master: OwnedFd = pty.master;
    let servos = std::thread::spawn(move || play_servos(File::from(master)));
    let soon = || MonoNs::now().plus_ns(2_000_000_000);
    let mut samples = [ServoSample::default(); 3];

    let before = allocations();
    for _ in 0..20 {
        let summary = bus
            .sync_read_present(&[1, 2, 3], &mut samples, soon())
            .unwrap();
        assert_eq!(summary.replies, 2);
        assert_eq!(samples[1].outcome, ServoOutcome::BadChecksum);
        assert!(samples[0].present().is_some());
    }
    bus.sync_write_goals(&[1, 2, 3], &[2048; 3], soon())
        .unwrap();
    // A sync write has no answer; without a pause it would reach the far side with what follows.
    let pause = MonoNs::now().plus_ns(50_000_000);
    assert!(bus.line_mut().read(&mut [0; 8], pause).is_err());
    bus.sync_write_torque(&[1, 2, 3], false, soon()).unwrap();
    let pause = MonoNs::now().plus_ns(50_000_000);
    assert!(bus.line_mut().read(&mut [0; 8], pause).is_err());
    bus.ping(1, soon()).unwrap();
    bus.read_register(2, &registers::PRESENT_POSITION, soon())
        .unwrap();
    bus.write_register(3, &registers::GOAL_SPEED, -7, soon())
        .unwrap();
    bus.line_mut().discard_input().unwrap();
    let absent = bus.sync_read(&[1], 0, 255, &mut samples[..1], soon());
    assert!(absent.is_err());
    let _ = (
        bus.counters(),
        bus.servo_counters(1),
        PresentState::decode(&[0; 15]),
    );
    assert_eq!(allocations(), before);

    // The counter counts: otherwise the assertion above would say nothing.
    drop(std::hint::black_box(Box::new(1)));
    assert!(allocations() > before);
    drop(bus);
    // The far side ends when the last user of the pseudo-terminal does.
    drop(pty.slave);
    servos.join().unwrap();
}
