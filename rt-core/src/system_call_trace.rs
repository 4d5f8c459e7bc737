//! Finds out the first system call that a tick makes, in the debug mode `purity = "trace"`.
//!
//! Linux' Syscall User Dispatch: a byte of the thread says whether its system calls are carried out
//! or become a SIGSYS. The byte is *block* while a tick runs. The handler notes the call, its
//! number and the instruction of this program it came from, sets the byte to *allow* for the rest
//! of the tick, and steps back, so that the call is made after all: tracing tells, it does not
//! break. So a tick that makes calls costs one signal, and only its first call is told.
//!
//! A call from inside a control block is told with the block's name: the instruction may be in a
//! plug-in, where an offset into this program says little.
//!
//! Allowed within a tick are what [`permitted`] wraps, the doorbell, and the clock: where the vDSO
//! cannot read it without the kernel, the call comes from inside the vDSO and is let through.
//!
//! rt-safe but for [`enable`]. Only where the kernel has it: x86-64 from 5.11 on (arm64 in 6.12 has
//! not). It does not say whether a call blocks; one that is made can.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering, compiler_fence};

use kairo_link::stats::ThreadStats;
use kairo_link::system_call;

/// The kernel's values of the selector byte (linux/prctl.h).
const ALLOW: u8 = 0;
const BLOCK: u8 = 1;
/// Stack words above the call that are searched for the caller: the frames of a C library wrapper
/// take less.
#[cfg(target_arch = "x86_64")]
const STACK_WORDS: usize = 256;

/// A system call that a tick made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    number: u64,
    /// Address in this program, or of the call itself when none was found.
    address: usize,
    /// The block that made it, counted from one; zero when it was none.
    block: usize,
}

thread_local! {
    // Constant initialisers without destructors: usable in a signal handler, at any time.
    static SELECTOR: AtomicU8 = const { AtomicU8::new(ALLOW) };
    static FOUND: Cell<Option<Found>> = const { Cell::new(None) };
}

/// Where this program's instructions lie; written once, before any thread is traced.
static TEXT_START: AtomicUsize = AtomicUsize::new(0);
static TEXT_END: AtomicUsize = AtomicUsize::new(0);

/// The trace of one thread's ticks; does nothing when it is off.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    on: bool,
}

impl Trace {
    /// A trace that is not one.
    pub const OFF: Self = Self { on: false };

    /// A tick begins: no system call from here on. rt-safe.
    pub fn begin(self) {
        if self.on {
            select(BLOCK);
        }
    }

    /// The tick `number` has ended: counts what it called. rt-safe.
    pub fn end(self, number: u64, stats: &ThreadStats) {
        if !self.on {
            return;
        }
        select(ALLOW);
        let Some(found) = FOUND.take() else { return };
        if stats.traced_calls.load(Ordering::Relaxed) == 0 {
            let offset = found
                .address
                .wrapping_sub(TEXT_START.load(Ordering::Relaxed));
            stats
                .first_call_number
                .store(found.number, Ordering::Relaxed);
            stats
                .first_call_offset
                .store(offset as u64, Ordering::Relaxed);
            stats.first_call_tick.store(number, Ordering::Relaxed);
            let block = found.block as u64;
            stats.first_call_block.store(block, Ordering::Relaxed);
        }
        // Last, and released: who sees the count sees the call. Pairs with `first_call`.
        let calls = stats.traced_calls.load(Ordering::Relaxed);
        stats.traced_calls.store(calls + 1, Ordering::Release);
    }
}

/// The first call that was found out, in words; none so far. `blocks` are the names of the loop's.
/// Ordinary threads.
pub fn first_call<'b>(
    stats: &ThreadStats,
    blocks: impl IntoIterator<Item = &'b str>,
) -> Option<String> {
    // Pairs with the release in `Trace::end`.
    if stats.traced_calls.load(Ordering::Acquire) == 0 {
        return None;
    }
    let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let number = word(&stats.first_call_number);
    let block = usize::try_from(word(&stats.first_call_block)).unwrap_or(0);
    let block = block.checked_sub(1).map_or_else(String::new, |block| {
        let name = blocks.into_iter().nth(block).unwrap_or("?");
        format!(" in block \"{name}\"")
    });
    Some(format!(
        "system call {} ({number}) at tick {}{block} from program offset {:#x}; \
         addr2line -fe kairo-rt {:#x} names the function",
        system_call::name(number),
        word(&stats.first_call_tick),
        word(&stats.first_call_offset),
        word(&stats.first_call_offset),
    ))
}

/// Runs `call`, whose system calls a tick may make. rt-safe.
pub fn permitted(call: impl FnOnce()) {
    let before = SELECTOR.with(|selector| selector.load(Ordering::Relaxed));
    select(ALLOW);
    call();
    select(before);
}

fn select(value: u8) {
    // Read by the kernel in this very thread, so program order is all that is needed.
    SELECTOR.with(|selector| selector.store(value, Ordering::Relaxed));
    compiler_fence(Ordering::SeqCst);
}

/// Traces the calling thread from its next [`Trace::begin`] on. setup-only.
///
/// # Errors
/// Why it cannot be, as a text.
#[cfg(target_arch = "x86_64")]
pub fn enable() -> Result<Trace, String> {
    x86::enable()
}

/// Traces the calling thread from its next [`Trace::begin`] on. setup-only.
///
/// # Errors
/// Always: the kernel has Syscall User Dispatch on x86-64 only.
#[cfg(not(target_arch = "x86_64"))]
pub fn enable() -> Result<Trace, String> {
    Err("this architecture's kernel has no Syscall User Dispatch; x86-64 has".into())
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::ffi::c_void;
    use std::ops::Range;

    use nix::errno::Errno;
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    use kairo_blocks::containment;

    use super::{
        ALLOW, FOUND, Found, Ordering, SELECTOR, STACK_WORDS, TEXT_END, TEXT_START, Trace, select,
    };

    /// linux/prctl.h and asm-generic/siginfo.h; libc has no names for them yet.
    const PR_SET_SYSCALL_USER_DISPATCH: i32 = 59;
    const PR_SYS_DISPATCH_ON: usize = 1;
    const SYS_USER_DISPATCH: i32 = 2;
    /// Length of the instruction `syscall`.
    const SYSCALL_BYTES: i64 = 2;

    pub(super) fn enable() -> Result<Trace, String> {
        let maps = std::fs::read_to_string("/proc/self/maps").map_err(|error| error.to_string())?;
        let text = program(&maps).ok_or("this program is not in /proc/self/maps")?;
        let vdso = mapping(&maps, |line| line.ends_with("[vdso]")).unwrap_or(0..0);
        TEXT_START.store(text.start, Ordering::Relaxed);
        TEXT_END.store(text.end, Ordering::Relaxed);
        let handler = SigHandler::SigAction(note);
        let action = SigAction::new(handler, SaFlags::SA_SIGINFO, SigSet::empty());
        // SAFETY: `note` touches only thread-locals without destructors, atomics, and its context.
        unsafe { sigaction(Signal::SIGSYS, &action) }.map_err(|errno| errno.to_string())?;
        let selector = SELECTOR.with(|selector| selector.as_ptr());
        // SAFETY: the selector is a byte of this thread that lives as long as the thread does, and
        // the kernel reads it only on behalf of this thread; the rest are numbers.
        let result = unsafe {
            libc::prctl(
                PR_SET_SYSCALL_USER_DISPATCH,
                PR_SYS_DISPATCH_ON,
                vdso.start,
                vdso.len(),
                selector,
            )
        };
        if result == 0 {
            return Ok(Trace { on: true });
        }
        let errno = Errno::last();
        Err(format!(
            "the kernel has no Syscall User Dispatch ({errno}); x86-64 has from 5.11 on"
        ))
    }

    /// From this program's first byte to its last: offsets into it are those of addr2line(1).
    fn program(maps: &str) -> Option<Range<usize>> {
        let path = std::fs::read_link("/proc/self/exe").ok()?;
        let path = path.to_str()?.to_owned();
        mapping(maps, |line| line.ends_with(&path))
    }

    /// The addresses that all lines which are `wanted` span.
    fn mapping(maps: &str, wanted: impl Fn(&str) -> bool) -> Option<Range<usize>> {
        let spans = maps.lines().filter(|line| wanted(line)).filter_map(|line| {
            let (start, end) = line.split_whitespace().next()?.split_once('-')?;
            let number = |text| usize::from_str_radix(text, 16).ok();
            Some((number(start)?, number(end)?))
        });
        let bounds = spans.reduce(|all, span| (all.0.min(span.0), all.1.max(span.1)));
        bounds.map(|(start, end)| start..end)
    }

    /// The handler of SIGSYS: notes the call and lets it be made.
    extern "C" fn note(_signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
        /// The head of a siginfo_t for SIGSYS (asm-generic/siginfo.h); libc leaves it out.
        #[repr(C)]
        struct SystemCall {
            signal: i32,
            errno: i32,
            code: i32,
            padding: i32,
            address: usize,
            number: i32,
        }
        // SAFETY: the kernel passes a siginfo_t, of which this is the layout for SIGSYS, and the
        // context of the thread that was stopped; both live until the handler returns.
        let (call, context) = unsafe {
            (
                &*info.cast::<SystemCall>(),
                &mut *context.cast::<libc::ucontext_t>(),
            )
        };
        select(ALLOW);
        if call.code != SYS_USER_DISPATCH {
            // A seccomp filter's: nothing here knows how to go on.
            std::process::abort();
        }
        let registers = &mut context.uc_mcontext.gregs;
        let stack = registers[libc::REG_RSP as usize] as *const usize;
        FOUND.set(Some(Found {
            number: u64::try_from(call.number).unwrap_or(0),
            address: caller(stack).unwrap_or(call.address),
            block: containment::node().map_or(0, |node| node + 1),
        }));
        // The kernel has put the registers back as they were before the call, all but the
        // instruction pointer: one step back makes the call again, and this time it is carried out.
        registers[libc::REG_RIP as usize] -= SYSCALL_BYTES;
    }

    /// The first word on the stack that points into this program: a return address, in all but odd
    /// cases.
    fn caller(stack: *const usize) -> Option<usize> {
        let text = TEXT_START.load(Ordering::Relaxed)..TEXT_END.load(Ordering::Relaxed);
        (0..STACK_WORDS).find_map(|index| {
            // SAFETY: the words above the stack pointer belong to the frames that called; a
            // real-time thread's have more than STACK_WORDS above any call of a tick, because the
            // frames of the runner and of the thread's start are there.
            let word = unsafe { stack.add(index).read_volatile() };
            text.contains(&word).then_some(word)
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_mapping_spans_all_its_lines() {
            let maps = "1000-2000 r--p 0 00:00 1 /bin/a\n2000-5000 r-xp 0 00:00 1 /bin/a\n\
                        7000-8000 r-xp 0 00:00 0 [vdso]\n";
            assert_eq!(
                mapping(maps, |line| line.ends_with("/bin/a")),
                Some(0x1000..0x5000)
            );
            assert_eq!(
                mapping(maps, |line| line.ends_with("[vdso]")),
                Some(0x7000..0x8000)
            );
            assert_eq!(mapping(maps, |line| line.ends_with("/bin/b")), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn count(word: &std::sync::atomic::AtomicU64) -> u64 {
        word.load(Ordering::Relaxed)
    }

    /// Runs `ticks` in a thread of their own, traced; `None` where the kernel cannot trace.
    fn traced(ticks: impl FnOnce(Trace, &ThreadStats) + Send + 'static) -> Option<ThreadStats> {
        let thread = std::thread::spawn(move || {
            let stats = ThreadStats::default();
            let trace = match enable() {
                Ok(trace) => trace,
                Err(reason) => {
                    eprintln!("not traced: {reason}");
                    return None;
                }
            };
            ticks(trace, &stats);
            Some(stats)
        });
        thread.join().unwrap()
    }

    #[test]
    fn the_first_call_of_a_tick_is_told_and_carried_out() {
        let mut file = tempfile::tempfile().unwrap();
        let copy = file.try_clone().unwrap();
        let stats = traced(move |trace, stats| {
            trace.begin();
            trace.end(1, stats);
            trace.begin();
            file.write_all(b"late").unwrap();
            let _ = file.metadata();
            trace.end(2, stats);
            // Outside of ticks everything is allowed.
            file.write_all(b"r").unwrap();
        });
        let Some(stats) = stats else { return };
        assert_eq!(
            copy.metadata().unwrap().len(),
            5,
            "the call was made all the same"
        );
        assert_eq!(count(&stats.traced_calls), 1);
        assert_eq!(count(&stats.first_call_number), libc::SYS_write as u64);
        assert_eq!(count(&stats.first_call_tick), 2);
        let offset = count(&stats.first_call_offset);
        let length = std::fs::metadata("/proc/self/exe").unwrap().len();
        assert!(
            offset > 0 && offset < length,
            "{offset:#x} is not in this program"
        );
    }

    #[test]
    fn the_clock_and_what_is_permitted_are_not_told() {
        let bell = crate::wake::Wake::new().unwrap();
        let stats = traced(move |trace, stats| {
            for number in 1..=10 {
                trace.begin();
                let _ = kairo_link::MonoNs::now();
                permitted(|| bell.ring());
                let _ = kairo_link::MonoNs::now();
                trace.end(number, stats);
            }
        });
        let Some(stats) = stats else { return };
        assert_eq!(count(&stats.traced_calls), 0);
    }

    #[test]
    fn a_trace_that_is_off_is_not_there() {
        let stats = ThreadStats::default();
        Trace::OFF.begin();
        let _ = nix::unistd::getppid();
        Trace::OFF.end(1, &stats);
        assert_eq!(count(&stats.traced_calls), 0);
    }
}
