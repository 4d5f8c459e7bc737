//! A simulated GPIO chip of the guest's kernel (gpio-sim), wired as a robot's e-stop would be.
//!
//! Two stop buttons that close their circuit to ground, a reset button that closes its own, and a
//! relay behind a charge pump. kairo-rt finds a chip like any other; the test moves the wires
//! through sysfs. There is one such chip, and it is gone when this is dropped.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use nix::mount::{MsFlags, mount};

const CONFIGFS: &str = "/sys/kernel/config";
const DEVICE: &str = "/sys/kernel/config/gpio-sim/kairo";
const DRIVER: &str = "/sys/bus/platform/drivers/gpio-sim";
/// The lines by name, in the order of their offsets.
const NAMES: [&str; 4] = ["stop-front", "stop-back", "reset-button", "relay"];

/// A line of the chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A stop button: acts while its circuit is open.
    Front = 0,
    /// The other one.
    Back = 1,
    /// The reset button: acts while its circuit is closed.
    Reset = 2,
    /// The charge pump's output.
    Relay = 3,
}

/// The chip.
#[derive(Debug)]
pub struct Chip {
    /// The platform device's name.
    device: String,
    lines: PathBuf,
}

impl Chip {
    /// Makes the chip, with every circuit closed but the reset button's.
    ///
    /// # Errors
    /// When the kernel has no gpio-sim, or does not make it.
    pub fn make() -> anyhow::Result<Self> {
        if !Path::new(CONFIGFS).join("gpio-sim").is_dir() {
            mount(
                Some("configfs"),
                CONFIGFS,
                Some("configfs"),
                MsFlags::empty(),
                None::<&str>,
            )
            .context("configfs cannot be mounted")?;
        }
        let bank = Path::new(DEVICE).join("bank");
        fs::create_dir_all(&bank).context("this kernel has no gpio-sim")?;
        write(&bank.join("label"), "kairo-lab")?;
        write(&bank.join("num_lines"), &NAMES.len().to_string())?;
        for (offset, name) in NAMES.iter().enumerate() {
            let line = bank.join(format!("line{offset}"));
            fs::create_dir_all(&line).with_context(|| line.display().to_string())?;
            write(&line.join("name"), name)?;
        }
        write(&Path::new(DEVICE).join("live"), "1")?;
        let device = read(&Path::new(DEVICE).join("dev_name"))?;
        let chip = read(&bank.join("chip_name"))?;
        let lines = Path::new("/sys/devices/platform").join(&device).join(&chip);
        ensure!(lines.is_dir(), "{} is not there", lines.display());
        let made = Self { device, lines };
        made.wire()?;
        Ok(made)
    }

    fn wire(&self) -> anyhow::Result<()> {
        for line in [Line::Front, Line::Back] {
            self.close(line)?;
        }
        self.open(Line::Reset)
    }

    /// Opens a circuit: the line is pulled up.
    ///
    /// # Errors
    /// When the chip is gone.
    pub fn open(&self, line: Line) -> anyhow::Result<()> {
        self.set(line, "pull-up")
    }

    /// Closes a circuit: the line is pulled down.
    ///
    /// # Errors
    /// When the chip is gone.
    pub fn close(&self, line: Line) -> anyhow::Result<()> {
        self.set(line, "pull-down")
    }

    fn set(&self, line: Line, pull: &str) -> anyhow::Result<()> {
        write(&self.attribute(line, "pull"), pull)
    }

    /// Whether a line is high now.
    ///
    /// # Errors
    /// When the chip is gone.
    pub fn is_high(&self, line: Line) -> anyhow::Result<bool> {
        Ok(read(&self.attribute(line, "value"))? == "1")
    }

    fn attribute(&self, line: Line, name: &str) -> PathBuf {
        self.lines
            .join(format!("sim_gpio{}", line as u8))
            .join(name)
    }

    /// Takes the chip away, as a cable does that comes loose.
    ///
    /// # Errors
    /// When the kernel does not.
    pub fn unplug(&self) -> anyhow::Result<()> {
        write(&Path::new(DRIVER).join("unbind"), &self.device)
    }

    /// Brings it back, with its circuits as at the start.
    ///
    /// # Errors
    /// When the kernel does not.
    pub fn plug(&mut self) -> anyhow::Result<()> {
        write(&Path::new(DRIVER).join("bind"), &self.device)?;
        let parent = self.lines.parent().context("a chip has a device")?;
        let chip = fs::read_dir(parent)?.flatten().find(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with("gpiochip")
                && entry.path().join("sim_gpio0").is_dir()
        });
        self.lines = chip.context("the chip did not come back")?.path();
        self.wire()
    }
}

impl Drop for Chip {
    fn drop(&mut self) {
        // A chip that stays is in the way of the next one; nothing else can be done about it here.
        let _ = write(&Path::new(DEVICE).join("live"), "0");
        for offset in 0..NAMES.len() {
            let _ = fs::remove_dir(Path::new(DEVICE).join(format!("bank/line{offset}")));
        }
        let _ = fs::remove_dir(Path::new(DEVICE).join("bank"));
        let _ = fs::remove_dir(DEVICE);
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {text:?} to {}", path.display()))
}

fn read(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.trim().to_owned())
}

/// What a robot with these lines has in its file.
pub const ESTOP: &str = "
[estop]
core = 0

[[estop.input]]
line = \"stop-front\"

[[estop.input]]
line = \"stop-back\"

[estop.reset]
line = \"reset-button\"

[estop.charge_pump]
line = \"relay\"
";
