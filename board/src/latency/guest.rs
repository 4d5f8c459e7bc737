//! The lab's machine: the QEMU board's image with the lab's programs in it, booted once.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{Mode, Options};
use crate::image::definition::Program;
use crate::image::{self, Board, BuiltImage, ImageOptions};
use crate::paths::Paths;
use crate::qemu::MachineBuilder;
use crate::qemu::machine::Machine;

/// The board that the lab's image is a variant of.
const BOARD: &str = "qemu-x86_64";
/// What the lab adds to `/usr/bin`: (package, binary, static).
const PROGRAMS: [(&str, &str, bool); 2] = [
    ("kairo-lab", "kairo-lab", true),
    ("kairo-arm-sim", "kairo-arm-sim", false),
];
/// Longest boot. In instruction time 20 to 40 s on an idle host.
const BOOT: Duration = Duration::from_secs(600);
/// Longest answer of the console, beside what the request itself takes.
const CONSOLE: Duration = Duration::from_secs(120);
/// A second of a busy guest in instruction time takes up to this many of the host's.
const SLOWDOWN: u32 = 120;

/// Builds the lab's image: same kernel, same init, same planes, two programs more.
///
/// # Errors
/// What the image builder says.
pub fn build_image(paths: &Paths, kernel: &Path) -> anyhow::Result<BuiltImage> {
    let mut board = Board::load(paths.workspace(), BOARD)?;
    board.name = format!("{BOARD}-lab");
    let added = PROGRAMS.map(|(package, binary, fixed)| Program {
        package: package.to_owned(),
        binary: binary.to_owned(),
        r#static: fixed,
    });
    board.program.extend(added);
    let options = ImageOptions {
        board,
        kernel: kernel.to_path_buf(),
        robot: None,
        // Nobody takes this disk home; the same one every time is as good.
        seed: Some("latency lab".to_owned()),
    };
    Ok(image::build(paths, &options)?)
}

/// A booted lab.
#[derive(Debug)]
pub struct Guest {
    machine: Machine,
}

impl Guest {
    /// Boots the image and waits until both planes are ready.
    ///
    /// # Errors
    /// When it does not come up; the message has the tail of its console.
    pub fn boot(image: &BuiltImage, out: &Path, mode: Mode) -> anyhow::Result<Self> {
        let builder = MachineBuilder::of_image(image, out)?;
        let mut machine = match mode {
            Mode::Wall => builder.start()?,
            Mode::Instruction => {
                let builder = builder.instruction_time();
                match builder.clone().disk_at_once().start() {
                    // Slower to boot on a busy host, and otherwise the same.
                    Err(error) if error.to_string().contains("io_uring") => builder.start()?,
                    started => started?,
                }
            }
        };
        machine.wait_for("kairo-init: ready", BOOT)?;
        machine.wait_for_console(CONSOLE)?;
        Ok(Self { machine })
    }

    /// What runs the guest: `icount`, `tcg` or `kvm`.
    pub fn accelerator(&self, mode: Mode) -> &'static str {
        match mode {
            Mode::Instruction => "icount",
            Mode::Wall => self.machine.accel().name(),
        }
    }

    /// The guest's kernel, by its own word.
    ///
    /// # Errors
    /// When the console has no line of it.
    pub fn kernel(&self) -> anyhow::Result<String> {
        let line = self.machine.wait_for("Linux version", CONSOLE)?;
        let from = line.text.find("Linux version").unwrap_or(0);
        let words: Vec<&str> = line.text[from..].split_whitespace().collect();
        let release = words.get(2).copied().unwrap_or("unknown");
        let rt = if line.text.contains("PREEMPT_RT") {
            "PREEMPT_RT"
        } else {
            "no PREEMPT_RT"
        };
        Ok(format!("{release} {rt}"))
    }

    /// Measures `robot` under `load`; what `kairo-lab measure` printed.
    ///
    /// # Errors
    /// When it failed, with what it said.
    pub fn measure(&mut self, options: &Options, load: &str, robot: &str) -> anyhow::Result<Value> {
        let mut argv: Vec<String> = ["/usr/bin/kairo-lab", "measure"].map(String::from).into();
        let pairs = [
            ("--load", load.to_owned()),
            ("--robot", robot.to_owned()),
            ("--seconds", options.seconds.to_string()),
            ("--rounds", options.rounds.to_string()),
            ("--period-us", options.period_us.to_string()),
            ("--kills", options.kills.to_string()),
            ("--core", options.mode.core().to_string()),
        ];
        for (key, value) in pairs {
            argv.extend([key.to_owned(), value]);
        }
        if options.mode == Mode::Wall {
            argv.push("--microseconds".to_owned());
        }
        self.lab(&argv, guest_time(options, load), options.mode)
    }

    /// Runs `argv` in the guest, in at most `time` of the guest's; the JSON that it printed.
    ///
    /// # Errors
    /// When it failed, with what it said.
    pub fn lab(&mut self, argv: &[String], time: Duration, mode: Mode) -> anyhow::Result<Value> {
        let timeout_ms = u64::try_from(time.as_millis())?;
        let host = match mode {
            Mode::Instruction => time * SLOWDOWN,
            Mode::Wall => time * 2,
        };
        let exec = json!({"op": "exec", "argv": argv, "timeout_ms": timeout_ms});
        let answer = self.machine.control(&exec, host + CONSOLE)?;
        let said = answer["stderr"].as_str().unwrap_or_default();
        let what = argv.join(" ");
        ensure!(answer["status"] == 0, "{what} failed: {said}");
        ensure!(
            answer["truncated_bytes"] == 0,
            "{what} said too much: {answer}"
        );
        let text = answer["stdout"].as_str().unwrap_or_default();
        serde_json::from_str(text).with_context(|| format!("{what} printed {text:?}"))
    }
}

/// What one load may take of the guest's time: its windows, starts and stops, and for each side ten
/// restarts of kairod with their back-off.
fn guest_time(options: &Options, load: &str) -> Duration {
    let rounds = u64::try_from(options.rounds).unwrap_or(1);
    let trouble = match load {
        // Back-off.
        "kairod-kill" => 400,
        // Their windows are 20 times as long.
        "idle" | "kairod-stop" | "clock-step" | "disk-full" => 38 * options.seconds,
        _ => 0,
    };
    Duration::from_secs(rounds * (2 * options.seconds + 30 + trouble))
}
