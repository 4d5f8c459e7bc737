//! Runs plug-in code so that a fault of the processor, an abort or an endless loop comes back as a
//! result.
//!
//! rt-safe after the first call on a thread, which makes that thread's timer. The timer runs on the
//! thread's own processor time and is looked at by the scheduler's tick, so it fires within a tick
//! (1 to 10 ms) of its time, whatever the priority and however busy the core: a wall-clock timer
//! would be served by a kernel thread that a looping SCHED_FIFO thread starves.
//!
//! A guarded call makes no system call where the thread calls [`renew`] between its periods: that
//! sets the timer anew, so that in good order it never fires, and lets it repeat. A call is ended
//! when the timer has fired so often in it that its budget is certainly over; it has used three
//! budgets by then at most, and what the kernel's tick adds. Elsewhere every call sets the timer to
//! its budget.
//!
//! Handlers run on the alternate stack that the standard library gives every thread, so that a
//! plug-in that overflows its stack is caught too. Outside plug-in code a signal is passed on to
//! whoever had it before.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};

use kairo_blocks::block::FaultKind;

use crate::trampoline::{CONTAINS_FAULTS, Frame, come_back, kairo_plugin_call};

/// What a processor or a library stops a program with.
const FAULTS: [c_int; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGABRT,
];
/// Sent by the budget's timer, to the thread that ran over it.
const OVER_BUDGET: c_int = libc::SIGXCPU;

thread_local! {
    /// The call in progress; null outside plug-in code. No destructor, so handlers may look.
    static CALL: Cell<*const Frame> = const { Cell::new(std::ptr::null()) };
    /// This thread's timer.
    static TIMER: Cell<Option<libc::timer_t>> = const { Cell::new(None) };
    /// The smallest budget that was called with on this thread; zero before the first call.
    static SMALLEST_NS: Cell<u64> = const { Cell::new(0) };
    /// How often the timer repeats by itself; zero where every call sets it.
    static INTERVAL_NS: Cell<u64> = const { Cell::new(0) };
}

/// Set where time does not count.
static IS_PATIENT: AtomicBool = AtomicBool::new(false);
/// Processor time a call may take then: only what never ends takes that long.
const PATIENCE_NS: u64 = 20_000_000_000;

/// From now on a call of this process has 20 s, whatever its budget: for a replay, on a machine of
/// any speed. setup-only.
pub fn be_patient() {
    IS_PATIENT.store(true, Ordering::Relaxed);
}

/// What the fault signals did before.
static BEFORE: OnceLock<[libc::sigaction; FAULTS.len()]> = OnceLock::new();

/// Installs the handlers, once a process. setup-only.
pub(crate) fn install() {
    if !CONTAINS_FAULTS {
        return;
    }
    BEFORE.get_or_init(|| {
        set_handler(OVER_BUDGET);
        FAULTS.map(set_handler)
    });
}

fn set_handler(signal: c_int) -> libc::sigaction {
    // SAFETY: all zero is a valid sigaction.
    let (mut ours, mut before): (libc::sigaction, libc::sigaction) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    ours.sa_sigaction = handle as *const () as usize;
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: both are valid; the handler calls nothing that is not async-signal-safe.
    unsafe {
        libc::sigemptyset(&mut ours.sa_mask);
        libc::sigaction(signal, &ours, &mut before);
    }
    before
}

extern "C" fn handle(signal: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    let call = CALL.get();
    // SAFETY: the frame is on the stack of `call`, which clears CALL before it returns.
    let frame = unsafe { call.as_ref() };
    let inside = frame.filter(|frame| frame.stack.load(Ordering::Relaxed) != 0);
    if let Some(frame) = inside {
        if signal == OVER_BUDGET {
            let fired = frame.fired.load(Ordering::Relaxed) + 1;
            frame.fired.store(fired, Ordering::Relaxed);
            if fired < frame.fires_max {
                return;
            }
        }
        frame.signal.store(signal, Ordering::Relaxed);
        // SAFETY: `stack` is set between the call and its return only.
        unsafe { come_back(context, frame) };
        return;
    }
    // A budget that ran out just as the call ended is none of anybody's business.
    let before = FAULTS.iter().position(|fault| *fault == signal);
    if let (Some(index), Some(before)) = (before, BEFORE.get()) {
        // Not a plug-in: whoever had the signal before gets it when the instruction runs again.
        // SAFETY: `before` came from the kernel.
        unsafe { libc::sigaction(signal, &before[index], null_mut()) };
    }
}

/// What is called, and with what.
pub(crate) struct Call {
    /// A function of three pointers or fewer that returns an `int32_t` or nothing.
    pub(crate) function: *const c_void,
    pub(crate) a: *mut c_void,
    pub(crate) b: *const c_void,
    pub(crate) c: *mut c_void,
}

/// Makes the call with at most `budget_ns` of processor time; gives what it returned.
///
/// # Safety
/// The function takes these arguments, and is of code that has nothing to undo when it is left.
pub(crate) unsafe fn call(call: &Call, budget_ns: u64) -> Result<i32, FaultKind> {
    let frame = Frame {
        stack: AtomicUsize::new(0),
        resume: AtomicUsize::new(0),
        signal: AtomicI32::new(0),
        fired: AtomicU32::new(0),
        fires_max: fires_max(budget_ns, INTERVAL_NS.get()),
    };
    let patient = IS_PATIENT.load(Ordering::Relaxed);
    if INTERVAL_NS.get() == 0 {
        set_timer(if patient { PATIENCE_NS } else { budget_ns }, 0);
    }
    if SMALLEST_NS.get() == 0 || budget_ns < SMALLEST_NS.get() {
        SMALLEST_NS.set(budget_ns);
    }
    CALL.set(&raw const frame);
    // SAFETY: the caller vouches for function and arguments.
    let result =
        unsafe { kairo_plugin_call(call.function, call.a, call.b, call.c, &raw const frame) };
    CALL.set(std::ptr::null());
    match frame.signal.load(Ordering::Relaxed) {
        0 => Ok(result),
        OVER_BUDGET => Err(FaultKind::Budget),
        number => Err(FaultKind::Signal { number }),
    }
}

/// How often a timer that repeats must fire within a call until the call has certainly used its
/// budget. The first time may come right at its beginning; and a timer that fired late comes early
/// the next time, by less than an interval.
fn fires_max(budget_ns: u64, interval_ns: u64) -> u32 {
    match interval_ns {
        0 => 1,
        _ => u32::try_from(budget_ns.div_ceil(interval_ns)).map_or(u32::MAX, |count| count + 2),
    }
}

/// Between two periods of a thread that calls plug-ins: from now on calls on this thread make no
/// system call, for as long as this is called after every period. One timer_settime(2) where there
/// are plug-ins, nothing otherwise. rt-safe.
pub fn renew() {
    let smallest_ns = SMALLEST_NS.get();
    if smallest_ns == 0 || IS_PATIENT.load(Ordering::Relaxed) {
        return;
    }
    INTERVAL_NS.set(smallest_ns);
    set_timer(smallest_ns, smallest_ns);
}

/// Sets this thread's timer; without one, which a process out of timers may be, there is no budget.
fn set_timer(first_ns: u64, interval_ns: u64) {
    if !CONTAINS_FAULTS {
        return;
    }
    let timer = TIMER.get().or_else(make_timer);
    TIMER.set(timer);
    let Some(timer) = timer else { return };
    let seconds = |ns: u64| libc::timespec {
        tv_sec: (ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (ns % 1_000_000_000) as libc::c_long,
    };
    let spec = libc::itimerspec {
        it_interval: seconds(interval_ns),
        it_value: seconds(first_ns),
    };
    // SAFETY: the timer is this thread's own, and is never deleted while the thread lives.
    unsafe { libc::timer_settime(timer, 0, &spec, null_mut()) };
}

fn make_timer() -> Option<libc::timer_t> {
    let mut timer: libc::timer_t = null_mut();
    // SAFETY: all zero is a valid sigevent.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = OVER_BUDGET;
    // SAFETY: gettid has no arguments and cannot fail.
    event.sigev_notify_thread_id = unsafe { libc::gettid() };
    let clock = libc::CLOCK_THREAD_CPUTIME_ID;
    // SAFETY: both point to valid memory.
    let made = unsafe { libc::timer_create(clock, &mut event, &mut timer) };
    (made == 0).then_some(timer)
}

#[cfg(test)]
mod tests {
    use super::fires_max;

    #[test]
    fn a_repeating_timer_ends_no_call_within_its_budget() {
        assert_eq!(fires_max(1000, 0), 1, "set by the call itself");
        // The first firing can come at once and late, so that only from the second to the third
        // there is a whole interval for certain.
        assert_eq!(fires_max(1000, 1000), 3);
        assert_eq!(fires_max(2500, 1000), 5);
        assert_eq!(fires_max(u64::MAX, 1), u32::MAX);
    }
}
