//! A block of a plug-in while it runs.
//!
//! rt-safe but for [`Instance::new`]. Numbers are copied into and out of memory of the block's own.
//! After a fault the plug-in's code is never called again for this block.

use std::ffi::c_void;
use std::sync::Arc;

use kairo_blocks::block::{Block, FaultKind};
use kairo_blocks::memory::Memory as Words;

use crate::abi::{Create, Reset, Step};
use crate::guard::{Call, call};
use crate::memory::Memory;

/// Processor time that `create` may take, ns: it runs before arming, and may fill tables.
const CREATE_BUDGET_NS: u64 = 1_000_000_000;
/// What a block reports that could not be made: no memory.
const NOT_MADE: i32 = i32::MIN;

/// What all blocks of a kind have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Functions {
    pub(crate) create: Create,
    pub(crate) step: Step,
    pub(crate) reset: Option<Reset>,
    pub(crate) state_size: usize,
    pub(crate) state_align: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) budget_ns: u64,
}

/// See the module documentation.
pub(crate) struct Instance {
    functions: Functions,
    memory: Option<Memory>,
    fault: Option<FaultKind>,
}

/// `create` as a function of three pointers: what the trampoline passes on.
struct Creation {
    create: Create,
    parameters: *const f64,
    period_s: f64,
}

/// Unpacks the arguments of a creation: a number travels in another register than a pointer.
unsafe extern "C" fn create_with(state: *mut c_void, creation: *const Creation) -> i32 {
    // SAFETY: `Instance::new` passes a creation that lives until the call is over.
    let creation = unsafe { &*creation };
    // SAFETY: the plug-in's own function, with what the header promises it.
    unsafe { (creation.create)(state, creation.parameters, creation.period_s) }
}

impl Instance {
    /// Makes a block. It is there even when the plug-in refused to make it: [`Instance::fault`].
    pub(crate) fn new(functions: Functions, parameters: &Arc<[f64]>, period_s: f64) -> Self {
        let (size, align) = (functions.state_size, functions.state_align);
        let memory = Memory::new(functions.inputs, functions.outputs, size, align);
        let mut made = Self {
            functions,
            memory,
            fault: None,
        };
        let Some(memory) = &made.memory else {
            made.fault = Some(FaultKind::Reported { code: NOT_MADE });
            return made;
        };
        let creation = Creation {
            create: functions.create,
            parameters: parameters.as_ptr(),
            period_s,
        };
        let arguments = Call {
            function: create_with as *const c_void,
            a: memory.state(),
            b: (&raw const creation).cast(),
            c: std::ptr::null_mut(),
        };
        // SAFETY: `create_with` takes these, and has nothing to undo.
        made.settle(unsafe { call(&arguments, CREATE_BUDGET_NS) });
        if let Some(memory) = &mut made.memory {
            memory.is_made();
        }
        made
    }

    /// Why it cannot run, if it cannot.
    pub(crate) const fn fault(&self) -> Option<FaultKind> {
        self.fault
    }

    fn settle(&mut self, result: Result<i32, FaultKind>) {
        self.fault = match result {
            Ok(0) => None,
            Ok(code) => Some(FaultKind::Reported { code }),
            Err(fault) => Some(fault),
        };
    }
}

impl Block for Instance {
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let Some(memory) = &self.memory else {
            return Err(FaultKind::Reported { code: NOT_MADE });
        };
        // SAFETY: the memory has room for as many inputs and outputs as the design has ports, which
        // is how long the slices are.
        unsafe {
            memory
                .inputs()
                .copy_from_nonoverlapping(inputs.as_ptr(), inputs.len());
            memory
                .outputs()
                .copy_from_nonoverlapping(outputs.as_ptr(), outputs.len());
        }
        let arguments = Call {
            function: self.functions.step as *const c_void,
            a: memory.state(),
            b: memory.inputs().cast(),
            c: memory.outputs().cast(),
        };
        let from = memory.outputs();
        // SAFETY: the header's signature; C code has nothing to undo.
        let result = unsafe { call(&arguments, self.functions.budget_ns) };
        // SAFETY: as above.
        unsafe {
            outputs
                .as_mut_ptr()
                .copy_from_nonoverlapping(from, outputs.len())
        };
        self.settle(result);
        self.fault.map_or(Ok(()), Err)
    }

    fn engage(&mut self) {
        let (Some(memory), Some(reset), None) = (&self.memory, self.functions.reset, self.fault)
        else {
            return;
        };
        let arguments = Call {
            function: reset as *const c_void,
            a: memory.state(),
            b: std::ptr::null(),
            c: std::ptr::null_mut(),
        };
        // SAFETY: the header's signature; C code has nothing to undo. It returns nothing, so only a
        // fault counts.
        if let Err(fault) = unsafe { call(&arguments, self.functions.budget_ns) } {
            self.fault = Some(fault);
        }
    }

    fn memory(&mut self, words: &mut Words<'_>) {
        let Some(memory) = &mut self.memory else {
            return;
        };
        memory.keep(words);
        if matches!(words, Words::Load { .. }) {
            self.fault = None;
        }
    }
}
