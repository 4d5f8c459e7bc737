//! The library of block kinds, one file each family.
//!
//! Every file says which formula it uses and where it is from; `docs/reference/blocks.md` says the
//! same for people, and a test holds the page to the keys and ports that are really there.

pub mod arithmetic;
pub mod arm_mixer;
pub mod biquad;
pub mod cascade;
pub mod logic;
pub mod madgwick;
pub mod pid;
pub mod quad_x;
pub mod rate_limit;
pub mod state_machine;
pub mod trajectory;

use crate::block::Design;
use crate::settings::Settings;

/// How a kind reads its settings.
type Designer = fn(&mut Settings<'_>) -> Option<Design>;

/// Every kind of the library.
pub const STANDARD: [(&str, Designer); 22] = [
    ("constant", arithmetic::constant),
    ("sum", arithmetic::sum),
    ("gain", arithmetic::gain),
    ("clamp", arithmetic::clamp),
    ("select", arithmetic::select),
    ("delay", arithmetic::delay),
    ("compare", logic::compare),
    ("edge", logic::edge),
    ("latch", logic::latch),
    ("state-machine", state_machine::design),
    ("low-pass", biquad::low_pass),
    ("high-pass", biquad::high_pass),
    ("notch", biquad::notch),
    ("rate-limit", rate_limit::design),
    ("jerk-limit", trajectory::jerk_limit),
    ("trajectory", trajectory::trajectory),
    ("pid", pid::design),
    ("cascade", cascade::design),
    ("madgwick", madgwick::design),
    ("quad-x", quad_x::design),
    ("arm-mixer", arm_mixer::matrix),
    ("differential", arm_mixer::differential),
];

/// Numbers that settings may take where nothing narrower is known. A number beyond it is a slip of
/// the keyboard, and its square must stay finite.
pub(crate) const ANY: std::ops::RangeInclusive<f64> = -1e9..=1e9;
/// The same for what must be above zero.
pub(crate) const POSITIVE: std::ops::RangeInclusive<f64> = 1e-9..=1e9;

#[cfg(test)]
pub(crate) mod harness;
