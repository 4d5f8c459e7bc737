//! A machine that is being put together, part by part.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::accel::Accel;
use super::arguments::{KernelConsole, Parts};
use super::error::QemuError;
use super::machine::Machine;
use super::process::{KeptChild, Terminal};
use super::serial_log::SerialLog;
use super::{NEEDS, PrivateDirectory};
use crate::host;
use crate::image::BuiltImage;
use crate::image::definition::Emulated;

/// How long QEMU may take until it connects to the log.
const CONNECT_DEADLINE: Duration = Duration::from_secs(30);

/// Words of the kernel command line that make sense only where there is a core to isolate.
const ISOLATION: [&str; 5] = [
    "isolcpus=",
    "nohz_full=",
    "rcu_nocbs=",
    "irqaffinity=",
    "kairo.rt_cpus=",
];

/// Where the kernel console goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serial {
    /// Into the log, where lines can be waited for.
    Log,
    /// To the terminal; control-A and then X ends QEMU.
    Terminal,
}

/// A machine that is being put together.
#[derive(Debug, Clone)]
pub struct MachineBuilder {
    kernel: PathBuf,
    disk: PathBuf,
    disk_keeps_writes: bool,
    exit_on_reset: bool,
    command_line: String,
    hardware: Emulated,
    accel: Option<Accel>,
    instruction_time: bool,
    disk_at_once: bool,
    out: PathBuf,
    serial: Serial,
    arm: Option<PathBuf>,
}

impl MachineBuilder {
    /// A machine with this image, and `out` for its log and sockets: a directory of its own for
    /// each machine that runs at the same time.
    ///
    /// # Errors
    /// [`QemuError::NoSuchPart`] when the image is for no emulated board.
    pub fn of_image(image: &BuiltImage, out: &Path) -> Result<MachineBuilder, QemuError> {
        let hardware = image
            .board
            .qemu
            .clone()
            .ok_or(QemuError::NoSuchPart("a [qemu] section"))?;
        let command_line = image.manifest.command_line.clone();
        Ok(MachineBuilder::new(
            &image.kernel,
            &image.disk,
            &command_line,
            hardware,
            out,
        ))
    }

    /// A machine from single parts.
    #[must_use]
    pub fn new(
        kernel: &Path,
        disk: &Path,
        command_line: &str,
        hardware: Emulated,
        out: &Path,
    ) -> MachineBuilder {
        let port = hardware.forward_port;
        MachineBuilder {
            kernel: kernel.to_path_buf(),
            disk: disk.to_path_buf(),
            disk_keeps_writes: false,
            exit_on_reset: false,
            command_line: format!("{command_line} kairo.console=ttyS1 kairo.forward={port}"),
            hardware,
            accel: None,
            instruction_time: false,
            disk_at_once: false,
            out: out.to_path_buf(),
            serial: Serial::Log,
            arm: None,
        }
    }

    /// Adds words to the kernel command line.
    #[must_use]
    pub fn append(mut self, words: &str) -> MachineBuilder {
        self.command_line = format!("{} {words}", self.command_line);
        self
    }

    /// Connects the arm's cable to the simulator that listens at `socket`.
    #[must_use]
    pub fn arm(mut self, socket: &Path) -> MachineBuilder {
        self.arm = Some(socket.to_path_buf());
        self
    }

    /// Sends the kernel console elsewhere than to the log.
    #[must_use]
    pub fn serial(mut self, serial: Serial) -> MachineBuilder {
        self.serial = serial;
        self
    }

    /// Runs on this accelerator instead of choosing one.
    #[must_use]
    pub fn accel(mut self, accel: Accel) -> MachineBuilder {
        self.accel = Some(accel);
        self
    }

    /// Makes the guest's clocks count instructions: one CPU, and none of the command line's words
    /// that give a core away. Nothing of the host's load shows in the guest then, and nothing of
    /// real hardware either.
    #[must_use]
    pub fn instruction_time(mut self) -> MachineBuilder {
        self.instruction_time = true;
        self.accel = Some(Accel::Tcg);
        self.hardware.cpus = 1;
        let words = self.command_line.split_whitespace();
        let kept: Vec<&str> = words
            .filter(|word| !ISOLATION.iter().any(|key| word.starts_with(key)))
            .collect();
        self.command_line = kept.join(" ");
        self
    }

    /// Answers disk reads without a helper thread of the host where the host has the data in
    /// memory. In instruction time an idle guest's clock runs ahead while it waits for a disk:
    /// on a busy host by seconds a request. Needs io_uring, which some containers forbid.
    #[must_use]
    pub fn disk_at_once(mut self) -> MachineBuilder {
        self.disk_at_once = true;
        self
    }

    /// Lets writes reach the disk image.
    #[must_use]
    pub fn keep_writes(mut self) -> MachineBuilder {
        self.disk_keeps_writes = true;
        self
    }

    /// Ends QEMU when the guest resets, where it would reboot.
    #[must_use]
    pub fn exit_on_reset(mut self) -> MachineBuilder {
        self.exit_on_reset = true;
        self
    }

    /// Starts the machine; the guest is then at its first instruction.
    ///
    /// # Errors
    /// [`QemuError`]: QEMU missing, or ended at once, with what it said.
    pub fn start(self) -> Result<Machine, QemuError> {
        fs::create_dir_all(&self.out).map_err(QemuError::file("make", &self.out))?;
        host::ensure(&NEEDS, &self.out)?;
        let accel = match self.accel {
            Some(accel) => accel,
            // The answer is for the host, not for this machine: machines side by side share it.
            None => Accel::choose(self.out.parent().unwrap_or(&self.out))?,
        };
        // Sockets of a run go to a private directory with a short path.
        let sockets = PrivateDirectory::new()?;
        let log_file = self.out.join("serial.log");
        let (serial, kernel_console) = match self.serial {
            Serial::Log => {
                let socket = sockets.path().join("serial");
                let log = SerialLog::listen(&socket, &log_file, CONNECT_DEADLINE)?;
                (log, KernelConsole::Socket(socket))
            }
            Serial::Terminal => {
                let log = log_file.clone();
                (
                    SerialLog::of_file(&log_file),
                    KernelConsole::Terminal { log },
                )
            }
        };
        let terminal = match self.serial {
            Serial::Log => Terminal::None,
            Serial::Terminal => Terminal::Shared,
        };
        let parts = Parts {
            hardware: self.hardware,
            accel,
            instruction_time: self.instruction_time,
            disk_at_once: self.disk_at_once,
            kernel: self.kernel,
            command_line: self.command_line,
            disk: self.disk,
            disk_keeps_writes: self.disk_keeps_writes,
            exit_on_reset: self.exit_on_reset,
            kernel_console,
            console: sockets.path().join("console"),
            qmp: sockets.path().join("qmp"),
            arm: self.arm,
        };
        let qemu =
            host::program_path("qemu-system-x86_64").unwrap_or_else(|| "qemu-system-x86_64".into());
        let said = self.out.join("qemu.log");
        let child = KeptChild::start(&qemu, &parts.to_arguments(), terminal, &said)?;
        Machine::attach(child, serial, parts, sockets, &self.out)
    }
}
