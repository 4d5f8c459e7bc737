//! The simulator as a line in virtual time: reading waits by moving the clock.
//!
//! For tests: a controller's cycles run as fast as the machine allows, and equal runs give equal
//! results. The far side is [`Simulator`] as the program runs it, wire time included.

use std::collections::VecDeque;

use kairo_hal::{BusError, ByteLine, MonoNs};

use crate::simulator::{Simulator, SimulatorConfig};

/// A line to a simulator of its own.
#[derive(Debug)]
pub struct VirtualLine {
    /// The far side.
    pub simulator: Simulator,
    now: MonoNs,
    received: VecDeque<u8>,
    is_unplugged: bool,
}

impl VirtualLine {
    /// A line to a new simulator; its time starts at 1 s.
    #[must_use]
    pub fn new(config: &SimulatorConfig) -> Self {
        let now = MonoNs(1_000_000_000);
        Self {
            simulator: Simulator::new(config, now),
            now,
            received: VecDeque::new(),
            is_unplugged: false,
        }
    }

    /// Lets the time pass until `later`; what arrives meanwhile can be read then.
    pub fn sleep_until(&mut self, later: MonoNs) {
        self.now = self.now.max(later);
        self.collect();
    }

    /// Pulls the cable or plugs it in again.
    pub fn set_unplugged(&mut self, is_unplugged: bool) {
        self.is_unplugged = is_unplugged;
        self.simulator.hang_up();
        self.received.clear();
    }

    fn collect(&mut self) {
        let mut output = Vec::new();
        self.simulator.take_output(self.now, &mut output);
        self.received.extend(output);
    }

    fn check_plugged(&self) -> Result<(), BusError> {
        if self.is_unplugged {
            Err(BusError::Disconnected { errno: 0 })
        } else {
            Ok(())
        }
    }
}

impl ByteLine for VirtualLine {
    fn write_all(&mut self, bytes: &[u8], _deadline: MonoNs) -> Result<(), BusError> {
        self.check_plugged()?;
        self.simulator.receive(self.now, bytes);
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8], deadline: MonoNs) -> Result<usize, BusError> {
        self.check_plugged()?;
        self.collect();
        while self.received.is_empty() {
            match self.simulator.next_event_at().filter(|at| *at <= deadline) {
                Some(at) => self.sleep_until(at),
                None => {
                    self.sleep_until(deadline);
                    return Err(BusError::Timeout);
                }
            }
        }
        let count = buffer.len().min(self.received.len());
        for (slot, byte) in buffer.iter_mut().zip(self.received.drain(..count)) {
            *slot = byte;
        }
        Ok(count)
    }

    fn discard_input(&mut self) -> Result<usize, BusError> {
        self.check_plugged()?;
        self.collect();
        let discarded = self.received.len();
        self.received.clear();
        Ok(discarded)
    }

    fn now(&self) -> MonoNs {
        self.now
    }
}
