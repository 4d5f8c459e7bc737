//! Calls into a plug-in, with a way back that a signal handler can take.
//!
//! rt-safe: a handful of instructions. `kairo_plugin_call` saves what the C ABI says a callee
//! keeps, and where its stack is, in a [`Frame`]; a handler that finds the frame set may continue
//! the thread at `resume` on that stack, as if the plug-in had returned. Everything between is
//! then forgotten: frames of C code, which have nothing to undo. It also puts back the
//! floating-point control words, which a plug-in may have changed.

use std::ffi::c_void;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize};

/// Whether this machine's plug-ins are contained.
pub const CONTAINS_FAULTS: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// Where to continue. The first two fields are written by the assembly below.
#[repr(C)]
pub(crate) struct Frame {
    /// Stack pointer to continue with; zero when there is nothing to come back from.
    pub(crate) stack: AtomicUsize,
    /// Address to continue at.
    pub(crate) resume: AtomicUsize,
    /// The signal that ended the call; zero without.
    pub(crate) signal: AtomicI32,
    /// How often the budget's timer has fired during the call.
    pub(crate) fired: AtomicU32,
    /// The firing that ends it.
    pub(crate) fires_max: u32,
}

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".text",
    ".globl kairo_plugin_call",
    ".type kairo_plugin_call,@function",
    "kairo_plugin_call:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    // Six registers, the return address and 24 bytes: a multiple of 16.
    "sub rsp, 24",
    "stmxcsr [rsp]",
    "fnstcw [rsp + 4]",
    "mov [rsp + 8], r8",
    "lea rax, [rip + 2f]",
    "mov [r8 + 8], rax",
    "mov rax, rdi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "mov rdx, rcx",
    "mov [r8], rsp",
    "call rax",
    // A handler comes back here too, with the stack as it was at the call.
    "2:",
    "mov r8, [rsp + 8]",
    "mov qword ptr [r8], 0",
    "cld",
    "fninit",
    "fldcw [rsp + 4]",
    "ldmxcsr [rsp]",
    "add rsp, 24",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    ".size kairo_plugin_call, . - kairo_plugin_call",
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".text",
    ".globl kairo_plugin_call",
    ".type kairo_plugin_call,@function",
    "kairo_plugin_call:",
    "stp x29, x30, [sp, #-176]!",
    "stp x19, x20, [sp, #16]",
    "stp x21, x22, [sp, #32]",
    "stp x23, x24, [sp, #48]",
    "stp x25, x26, [sp, #64]",
    "stp x27, x28, [sp, #80]",
    "stp d8, d9, [sp, #96]",
    "stp d10, d11, [sp, #112]",
    "stp d12, d13, [sp, #128]",
    "stp d14, d15, [sp, #144]",
    "mrs x9, fpcr",
    "stp x4, x9, [sp, #160]",
    "adr x9, 2f",
    "str x9, [x4, #8]",
    "mov x9, x0",
    "mov x0, x1",
    "mov x1, x2",
    "mov x2, x3",
    "mov x10, sp",
    "str x10, [x4]",
    "blr x9",
    // A handler comes back here too, with the stack as it was at the call.
    "2:",
    "ldp x4, x9, [sp, #160]",
    "str xzr, [x4]",
    "msr fpcr, x9",
    "ldp d14, d15, [sp, #144]",
    "ldp d12, d13, [sp, #128]",
    "ldp d10, d11, [sp, #112]",
    "ldp d8, d9, [sp, #96]",
    "ldp x27, x28, [sp, #80]",
    "ldp x25, x26, [sp, #64]",
    "ldp x23, x24, [sp, #48]",
    "ldp x21, x22, [sp, #32]",
    "ldp x19, x20, [sp, #16]",
    "ldp x29, x30, [sp], #176",
    "ret",
    ".size kairo_plugin_call, . - kairo_plugin_call",
);

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
unsafe extern "C" {
    /// Calls `function(a, b, c)` with the way back in `frame`.
    pub(crate) fn kairo_plugin_call(
        function: *const c_void,
        a: *mut c_void,
        b: *const c_void,
        c: *mut c_void,
        frame: *const Frame,
    ) -> i32;
}

/// Calls `function(a, b, c)`; there is no way back on this machine.
///
/// # Safety
/// As for calling `function`.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) unsafe extern "C" fn kairo_plugin_call(
    function: *const c_void,
    a: *mut c_void,
    b: *const c_void,
    c: *mut c_void,
    _frame: *const Frame,
) -> i32 {
    type Three = unsafe extern "C" fn(*mut c_void, *const c_void, *mut c_void) -> i32;
    let at = &raw const function;
    // SAFETY: the caller says that it is a function of this kind; both are one pointer in size.
    let function = unsafe { at.cast::<Three>().read() };
    // SAFETY: passed on.
    unsafe { function(a, b, c) }
}

/// Makes the thread of a signal's `context` continue in `frame`.
///
/// # Safety
/// `context` is the handler's, and `frame.stack` belongs to a call in progress on its thread.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) unsafe fn come_back(context: *mut c_void, frame: &Frame) {
    use std::sync::atomic::Ordering;
    let stack = frame.stack.load(Ordering::Relaxed);
    let resume = frame.resume.load(Ordering::Relaxed);
    // SAFETY: the kernel gave the handler a ucontext_t.
    let machine = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext };
    #[cfg(target_arch = "x86_64")]
    {
        machine.gregs[libc::REG_RSP as usize] = stack as i64;
        machine.gregs[libc::REG_RIP as usize] = resume as i64;
        machine.gregs[libc::REG_RAX as usize] = -1;
    }
    #[cfg(target_arch = "aarch64")]
    {
        machine.sp = stack as u64;
        machine.pc = resume as u64;
        machine.regs[0] = u64::MAX;
    }
}

/// Never called here: no frame is ever set.
///
/// # Safety
/// None is needed.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) unsafe fn come_back(_context: *mut c_void, _frame: &Frame) {}
