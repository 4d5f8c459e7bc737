//! The two robots of the lab, and where their files are.
//!
//! `bare` is a loop without devices: nothing but the wake-up path, the control loop and its
//! bookkeeping, as cyclictest is. `arm` is the image's own arm on a pseudo-terminal whose far end
//! is simulated inside the guest, so that it lives in the guest's time.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::ValueEnum;

/// The run directory of the planes.
pub const RUN_DIR: &str = "/run/kairo";
/// What the lab makes lies here, in memory.
pub const LAB_DIR: &str = "/run/kairo-lab";
/// The image's own robot.
const SHIPPED: &str = "/usr/share/kairo/robot.toml";
/// How the shipped robot names its core.
const SHIPPED_CORE: &str = "core = 1\n";

/// Which robot kairo-rt runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Robot {
    /// A loop without devices.
    Bare,
    /// Six servos on a simulated bus.
    Arm,
}

/// What a loop and cyclictest have in common.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Period, µs.
    pub period_us: u64,
    /// SCHED_FIFO priority.
    pub priority: u8,
    /// Core.
    pub core: usize,
}

/// The pseudo-terminal's link.
pub fn line() -> PathBuf {
    Path::new(LAB_DIR).join("arm-line")
}

/// Writes the robot's file and says where it is.
///
/// # Errors
/// When it cannot be written, or the shipped robot is not as expected.
pub fn write(robot: Robot, timing: Timing) -> anyhow::Result<PathBuf> {
    write_with(robot, timing, "")
}

/// As [`write`], with `more` at its end.
///
/// # Errors
/// As [`write`].
pub fn write_with(robot: Robot, timing: Timing, more: &str) -> anyhow::Result<PathBuf> {
    let mut text = match robot {
        Robot::Bare => bare(timing),
        Robot::Arm => {
            let shipped = fs::read_to_string(SHIPPED).with_context(|| SHIPPED.to_owned())?;
            arm(&shipped, timing)?
        }
    };
    text.push_str(more);
    let path = Path::new(LAB_DIR).join("robot.toml");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn bare(timing: Timing) -> String {
    let Timing {
        period_us,
        priority,
        core,
    } = timing;
    format!(
        "[robot]\nname = \"bare\"\nstrict = true\n\n[[loop]]\nname = \"bare-loop\"\n\
         period_us = {period_us}\npriority = {priority}\ncore = {core}\noverrun = \"skip\"\n"
    )
}

/// The shipped robot on another core; its period is its own.
fn arm(shipped: &str, timing: Timing) -> anyhow::Result<String> {
    ensure!(
        shipped.contains(SHIPPED_CORE),
        "{SHIPPED} has no line {SHIPPED_CORE:?}"
    );
    Ok(shipped.replace(SHIPPED_CORE, &format!("core = {}\n", timing.core)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        period_us: 1000,
        priority: 80,
        core: 0,
    };

    #[test]
    fn the_arm_moves_to_the_asked_core() {
        let text = arm("[[bus]]\ncore = 1\n[[loop]]\ncore = 1\n", TIMING).unwrap();
        assert_eq!(text.matches("core = 0\n").count(), 2);
        assert!(arm("core = 2\n", TIMING).is_err());
    }

    #[test]
    fn the_bare_robot_has_one_loop_and_nothing_else() {
        let text = bare(TIMING);
        assert_eq!(text.matches("[[").count(), 1, "{text}");
        assert!(text.contains("period_us = 1000"));
    }
}
