//! `kairo_block.h` in Rust. Plain data; the header says what each field means.

use std::ffi::{c_char, c_void};

/// `KAIRO_BLOCK_ABI`.
pub(crate) const VERSION: u32 = 1;

/// `kairo_port`.
#[repr(C)]
pub(crate) struct Port {
    pub(crate) name: *const c_char,
    pub(crate) unit: *const c_char,
}

/// `kairo_parameter`.
#[repr(C)]
pub(crate) struct Parameter {
    pub(crate) name: *const c_char,
    pub(crate) unit: *const c_char,
    pub(crate) minimum: f64,
    pub(crate) maximum: f64,
    pub(crate) default_value: f64,
}

/// Makes a block.
pub(crate) type Create = unsafe extern "C" fn(*mut c_void, *const f64, f64) -> i32;
/// Runs it.
pub(crate) type Step = unsafe extern "C" fn(*mut c_void, *const f64, *mut f64) -> i32;
/// Begins anew.
pub(crate) type Reset = unsafe extern "C" fn(*mut c_void);

/// `kairo_block_kind`.
#[repr(C)]
pub(crate) struct Kind {
    pub(crate) abi_version: u32,
    pub(crate) struct_size: u32,
    pub(crate) name: *const c_char,
    pub(crate) inputs: *const Port,
    pub(crate) outputs: *const Port,
    pub(crate) parameters: *const Parameter,
    pub(crate) input_count: u32,
    pub(crate) output_count: u32,
    pub(crate) parameter_count: u32,
    pub(crate) state_align: u32,
    pub(crate) state_size: u64,
    pub(crate) create: Option<Create>,
    pub(crate) step: Option<Step>,
    pub(crate) reset: Option<Reset>,
}

/// `kairo_block_kind_at`.
pub(crate) type KindAt = unsafe extern "C" fn(u32) -> *const Kind;
