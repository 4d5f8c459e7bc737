//! QEMU's command line, as a pure function of what the machine shall have.
//!
//! Starts from `-nodefaults`: what is not listed here is not in the machine.

use std::path::{Path, PathBuf};

use super::accel::Accel;
use crate::image::definition::Emulated;

/// QEMU's id of the cable between machine and arm.
pub const ARM_CABLE: &str = "arm-cable";

/// QEMU's id of the host side of that cable.
pub const ARM_CHARDEV: &str = "arm";

/// The USB bus and the socket of it that the cable is in. Fixed, so that a cable that is pulled
/// and put back is in the same socket, and the device keeps its stable name.
pub const ARM_BUS: &str = "usb.0";

/// The socket on [`ARM_BUS`].
pub const ARM_PORT: &str = "1";

/// Where the kernel console goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelConsole {
    /// To a listening socket: read, kept and searched by this tool.
    Socket(PathBuf),
    /// To the terminal, with QEMU's own control keys, and a copy into a file.
    Terminal {
        /// The copy.
        log: PathBuf,
    },
}

/// Everything the command line depends on.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The emulated hardware.
    pub hardware: Emulated,
    /// What runs the instructions.
    pub accel: Accel,
    /// Whether the guest's clocks count instructions instead of time; one CPU, emulated.
    pub instruction_time: bool,
    /// Whether reads that the host has in memory are answered at once (io_uring).
    pub disk_at_once: bool,
    /// The kernel image.
    pub kernel: PathBuf,
    /// The kernel's command line.
    pub command_line: String,
    /// The disk image.
    pub disk: PathBuf,
    /// Whether writes reach the disk image; otherwise they vanish with the machine.
    pub disk_keeps_writes: bool,
    /// Whether a reset ends QEMU instead of rebooting the machine.
    pub exit_on_reset: bool,
    /// The first serial port.
    pub kernel_console: KernelConsole,
    /// Socket of the second serial port, where kairo-console is.
    pub console: PathBuf,
    /// Socket for the machine protocol.
    pub qmp: PathBuf,
    /// Socket of the arm simulator.
    pub arm: Option<PathBuf>,
}

/// A path as part of a QEMU option, where a comma separates options.
#[must_use]
pub fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

impl Parts {
    /// The arguments after the program name.
    #[must_use]
    pub fn to_arguments(&self) -> Vec<String> {
        let mut list: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| list.extend(words.iter().map(|word| (*word).to_owned()));
        add(&[
            "-name",
            "kairoos",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ]);
        add(&["-machine", &self.hardware.machine]);
        if self.instruction_time {
            // An instruction is 1 ns (shift 0), and while every CPU sleeps the clock jumps to the
            // next timer instead of waiting for the host's (sleep off).
            add(&["-accel", "tcg,thread=single", "-cpu", "max"]);
            add(&["-icount", "shift=0,sleep=off"]);
        } else {
            add(&self.accel.arguments());
        }
        add(&["-smp", &self.hardware.cpus.to_string()]);
        add(&["-m", &format!("{}M", self.hardware.memory_mib)]);
        add(&["-kernel", &self.kernel.display().to_string()]);
        add(&["-append", &self.command_line]);
        self.add_disk(&mut add);
        add(&["-device", "virtio-rng-pci"]);
        add(&[
            "-device",
            &self.hardware.watchdog,
            "-action",
            "watchdog=reset",
        ]);
        if self.exit_on_reset {
            add(&["-no-reboot"]);
        }
        self.add_serial_ports(&mut add);
        let qmp = escaped(&self.qmp);
        add(&[
            "-chardev",
            &format!("socket,id=qmp,path={qmp},server=on,wait=off"),
        ]);
        add(&["-mon", "chardev=qmp,mode=control"]);
        // Port 0: QEMU binds a free one and is asked which. restrict: nothing else gets out or in.
        let port = self.hardware.forward_port;
        let forward = format!("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-10.0.2.15:{port}");
        add(&["-netdev", &forward]);
        add(&["-device", "virtio-net-pci,netdev=net,romfile="]);
        if let Some(arm) = &self.arm {
            let arm = escaped(arm);
            add(&["-device", "qemu-xhci,id=usb"]);
            add(&[
                "-chardev",
                &format!("socket,id={ARM_CHARDEV},path={arm},reconnect=1"),
            ]);
            let cable = &self.hardware.arm_cable;
            let place = format!("bus={ARM_BUS},port={ARM_PORT},chardev={ARM_CHARDEV}");
            add(&["-device", &format!("{cable},id={ARM_CABLE},{place}")]);
        }
        list
    }

    fn add_disk(&self, add: &mut impl FnMut(&[&str])) {
        let snapshot = if self.disk_keeps_writes { "off" } else { "on" };
        let disk = escaped(&self.disk);
        let aio = if self.disk_at_once {
            ",aio=io_uring"
        } else {
            ""
        };
        add(&[
            "-drive",
            &format!("if=none,id=disk,format=raw,snapshot={snapshot}{aio},file={disk}"),
        ]);
        // One queue: a queue per CPU has its interrupt on the isolated core, where it cannot be
        // moved away from.
        add(&["-device", "virtio-blk-pci,drive=disk,num-queues=1"]);
    }

    fn add_serial_ports(&self, add: &mut impl FnMut(&[&str])) {
        match &self.kernel_console {
            KernelConsole::Socket(path) => {
                let path = escaped(path);
                add(&[
                    "-chardev",
                    &format!("socket,id=kernel,path={path},server=off"),
                ]);
            }
            KernelConsole::Terminal { log } => {
                let log = escaped(log);
                let option = format!("stdio,id=kernel,mux=on,signal=off,logfile={log}");
                add(&["-chardev", &option, "-mon", "chardev=kernel,mode=readline"]);
            }
        }
        add(&["-serial", "chardev:kernel"]);
        let console = escaped(&self.console);
        add(&[
            "-chardev",
            &format!("socket,id=console,path={console},server=on,wait=off"),
        ]);
        add(&["-serial", "chardev:console"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        Parts {
            hardware: Emulated {
                machine: "q35".into(),
                cpus: 2,
                memory_mib: 768,
                arm_cable: "usb-serial".into(),
                watchdog: "i6300esb".into(),
                forward_port: 7447,
            },
            accel: Accel::Tcg,
            instruction_time: false,
            disk_at_once: false,
            kernel: "/k".into(),
            command_line: "root=/dev/vda3 ro".into(),
            disk: "/d".into(),
            disk_keeps_writes: false,
            exit_on_reset: false,
            kernel_console: KernelConsole::Socket("/s".into()),
            console: "/c".into(),
            qmp: "/q".into(),
            arm: None,
        }
    }

    fn line(parts: &Parts) -> String {
        parts.to_arguments().join(" ")
    }

    #[test]
    fn nothing_but_the_loopback_port_is_reachable() {
        let line = line(&parts());
        assert!(
            line.contains("restrict=on,hostfwd=tcp:127.0.0.1:0-10.0.2.15:7447"),
            "{line}"
        );
        assert_eq!(line.matches("-netdev").count(), 1);
        assert!(line.contains("-nodefaults"));
    }

    #[test]
    fn the_disk_stays_as_it_was_built_unless_asked() {
        assert!(line(&parts()).contains("snapshot=on"));
        let keeping = Parts {
            disk_keeps_writes: true,
            ..parts()
        };
        assert!(line(&keeping).contains("snapshot=off"));
    }

    #[test]
    fn instruction_time_is_one_emulated_thread() {
        let line = line(&Parts {
            instruction_time: true,
            accel: Accel::Kvm,
            ..parts()
        });
        assert!(line.contains("-icount shift=0,sleep=off"), "{line}");
        assert!(line.contains("tcg,thread=single") && !line.contains("kvm"));
    }

    #[test]
    fn the_kernel_console_is_the_first_serial_port() {
        let line = line(&parts());
        assert!(
            line.find("chardev:kernel") < line.find("chardev:console"),
            "{line}"
        );
    }

    #[test]
    fn a_comma_in_a_path_does_not_become_an_option() {
        let parts = Parts {
            disk: "/a,readonly=on".into(),
            ..parts()
        };
        assert!(line(&parts).contains("file=/a,,readonly=on"));
    }

    #[test]
    fn without_an_arm_there_is_no_usb() {
        assert!(!line(&parts()).contains("usb"));
        let with = Parts {
            arm: Some("/arm.sock".into()),
            ..parts()
        };
        assert!(line(&with).contains("usb-serial,id=arm-cable"));
    }
}
