//! A block for kairo-rt as a shared object written in Rust: lets small changes pass by.
//!
//! `docs/do/add-a-block-in-rust.md` says how it is built. It needs no crate of KairoOS: what it
//! shares with kairo-rt is the C interface of `kairo_block.h`, declared again below. `step` and
//! `reset` run on a real-time thread: no heap, no lock, no system call. A panic in them aborts,
//! which kairo-rt takes as a fault of this block.

use std::ffi::{CStr, c_char};
use std::ptr::null;

/// `kairo_port`.
#[repr(C)]
struct Port {
    name: *const c_char,
    unit: *const c_char,
}

/// `kairo_parameter`.
#[repr(C)]
struct Parameter {
    name: *const c_char,
    unit: *const c_char,
    minimum: f64,
    maximum: f64,
    default_value: f64,
}

/// `kairo_block_kind`.
#[repr(C)]
#[derive(Debug)]
pub struct Kind {
    abi_version: u32,
    struct_size: u32,
    name: *const c_char,
    inputs: *const Port,
    outputs: *const Port,
    parameters: *const Parameter,
    input_count: u32,
    output_count: u32,
    parameter_count: u32,
    state_align: u32,
    state_size: u64,
    create: extern "C" fn(&mut Deadband, &f64, f64) -> i32,
    step: extern "C" fn(&mut Deadband, &f64, &mut f64) -> i32,
    reset: extern "C" fn(&mut Deadband),
}

// SAFETY: what the pointers point to is constant and lives as long as the process.
unsafe impl Sync for Kind {}

/// All memory of a block; kairo-rt gives it, zeroed, and saves it: no address may be in it.
#[repr(C)]
#[derive(Debug)]
pub struct Deadband {
    width_rad: f64,
    value_rad: f64,
    has_begun: u64,
}

/// There is one parameter, so the list is a number.
extern "C" fn create(state: &mut Deadband, width_rad: &f64, _period_s: f64) -> i32 {
    state.width_rad = *width_rad;
    0
}

/// There is one input and one output, so each list is a number.
extern "C" fn step(state: &mut Deadband, input: &f64, output: &mut f64) -> i32 {
    let moved = (*input - state.value_rad).abs() > state.width_rad;
    if moved || state.has_begun == 0 {
        (state.value_rad, state.has_begun) = (*input, 1);
    }
    *output = state.value_rad;
    0
}

extern "C" fn reset(state: &mut Deadband) {
    state.has_begun = 0;
}

/// A port in rad.
const fn in_rad(name: &'static CStr) -> Port {
    Port {
        name: name.as_ptr(),
        unit: c"rad".as_ptr(),
    }
}

static KIND: Kind = Kind {
    abi_version: 1,
    struct_size: size_of::<Kind>() as u32,
    name: c"deadband".as_ptr(),
    inputs: &const { in_rad(c"in") },
    outputs: &const { in_rad(c"out") },
    // NaN: the key width_rad must be given.
    parameters: &const {
        Parameter {
            name: c"width".as_ptr(),
            unit: c"rad".as_ptr(),
            minimum: 0.0,
            maximum: 10.0,
            default_value: f64::NAN,
        }
    },
    input_count: 1,
    output_count: 1,
    parameter_count: 1,
    state_align: align_of::<Deadband>() as u32,
    state_size: size_of::<Deadband>() as u64,
    create,
    step,
    reset,
};

/// The kind at `index`; null after the last.
// No other symbol of this object has the name that kairo-rt looks for.
#[unsafe(no_mangle)]
pub extern "C" fn kairo_block_kind_at(index: u32) -> *const Kind {
    if index == 0 { &raw const KIND } else { null() }
}
