//! A simulated SO-101 follower arm: six STS3215 servos on one half-duplex 1 Mbaud line.
//!
//! The arm exists so that everything above the cable can be tried without one, including what goes
//! wrong: damaged and missing replies, garbage, a pulled cable. It is honest where that matters to
//! a controller: replies take the time their bits take, the joints have inertia, friction and
//! weight, the servos their own position loops, limits and protections, and the encoder 12 bits.
//!
//! Layers: [`random`] · [`memory`] (registers of one servo) · [`motor`] and [`servo`] (drive and
//! firmware) · [`arm`] (links, weight, joint motion) · [`instruction`] (what arrives) · [`fault`]
//! (what is made to go wrong) · [`simulator`] (all of it against a clock) · [`virtual_line`] (the
//! simulator as a line in virtual time) · [`transport`], [`control`] and [`run`] (the program).
//!
//! Guarantees: up to and including [`virtual_line`] there is no input but the constructor's seed,
//! the bytes and the times passed in, so equal runs give equal results. Non-goals: coupling between
//! joints other than weight, contact with the world, real-time scheduling of the simulator itself.
#![forbid(unsafe_code)]

pub mod arm;
pub mod control;
pub mod fault;
pub mod instruction;
pub mod memory;
pub mod motor;
pub mod random;
pub mod run;
pub mod servo;
pub mod simulator;
pub mod transport;
pub mod virtual_line;

pub use simulator::{Simulator, SimulatorConfig};
pub use virtual_line::VirtualLine;
