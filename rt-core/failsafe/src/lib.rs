//! The failsafe machine: what a device must do when things go wrong, as one pure function.
//!
//! [`step`] takes the time, what it remembered, and what is true now, and returns what to remember
//! and what to do. It has no clock, no thread, no input and no output; everything is `Copy`, and a
//! step is bounded by the [`CAUSES`] there are. rt-safe, all of it. The control loop of kairo-rt
//! and `kairo failsafe simulate` run this very code.
//!
//! **Words.** A *cause* is a thing that goes wrong, such as a lost bus. Its *condition* is whether
//! it is wrong at this moment. A cause is *live* from the step its condition is seen until it is
//! cleared as its [`Rule`] says. An *action* is what a live cause demands; actions are ordered,
//! and the highest one that is demanded wins.
//!
//! **What it guarantees**, and `tests/` enumerate: the action is never lower than the highest one
//! demanded; a live cause ends only by its own clear condition; an e-stop is cleared by nothing but
//! the rising edge of a reset while every e-stop condition is good, and nobody takes over from it;
//! a hold-first delay never lowers an action and never lasts longer than configured; a deferral
//! ends by itself; a clock that goes backwards lengthens nothing.
//!
//! **What it does not do**: find out what is wrong (the loop does), or know how a device lands (the
//! device does).
#![no_std]
#![forbid(unsafe_code)]

mod action;
mod cause;
mod machine;
mod rules;

pub use action::Action;
pub use cause::{CAUSES, Cause, CauseSet};
pub use machine::{Decision, Flags, STATE_WORDS, State, Taker, step};
pub use rules::{Clear, DEFER_LONGEST_MS, HOLD_FIRST_LONGEST_MS, Rule, RuleError, Rules, Takeover};
