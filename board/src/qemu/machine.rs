//! A running machine, driven through one handle.
//!
//! The handle may be used from any thread, one at a time. Dropping it ends QEMU and removes its
//! sockets; the log stays.

use std::path::Path;
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::PrivateDirectory;
use super::accel::Accel;
use super::arguments::{ARM_BUS, ARM_CABLE, ARM_CHARDEV, ARM_PORT, KernelConsole, Parts};
use super::console::Console;
use super::error::QemuError;
use super::forward::Forward;
use super::priority::{self, HostPriority};
use super::process::KeptChild;
use super::qmp::Qmp;
use super::serial_log::{LogLine, SerialLog};

/// How long QEMU may take until it answers on its sockets.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// How long one QMP command may take; they answer in milliseconds on an idle host.
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);

/// The longest Unix socket path the system takes is 107 bytes.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    // Fields are dropped in this order: QEMU before the sockets' directory is removed.
    forward: Option<Forward>,
    qmp: Qmp,
    console: Console,
    child: KeptChild,
    serial: SerialLog,
    parts: Parts,
    port: u16,
    _sockets: PrivateDirectory,
}

impl Machine {
    /// Takes over a QEMU that was just started with `parts`.
    pub(super) fn attach(
        child: KeptChild,
        serial: SerialLog,
        parts: Parts,
        sockets: PrivateDirectory,
        out: &Path,
    ) -> Result<Machine, QemuError> {
        let connected = Machine::connect(&child, &parts);
        let (mut qmp, console) = connected.map_err(|error| match child.wait(COMMAND_GRACE) {
            Some(status) => ended(&child, &serial, status, "while starting"),
            None => error,
        })?;
        let port = forwarded_port(&mut qmp, parts.hardware.forward_port)?;
        // Where people look for it, unless the checkout lies too deep for a socket's path.
        let visible = out.join("kernel.sock");
        let fits = visible.as_os_str().len() <= MAX_SOCKET_PATH_BYTES;
        let path = if fits {
            visible
        } else {
            sockets.path().join("kernel.sock")
        };
        let forward = Some(Forward::listen(&path, port)?);
        Ok(Machine {
            forward,
            qmp,
            console,
            child,
            serial,
            parts,
            port,
            _sockets: sockets,
        })
    }

    /// Connects to QEMU's sockets, and stops trying as soon as QEMU has ended.
    fn connect(child: &KeptChild, parts: &Parts) -> Result<(Qmp, Console), QemuError> {
        let end = Instant::now() + START_DEADLINE;
        while !(parts.qmp.exists() && parts.console.exists())
            && child.exit_status().is_none()
            && Instant::now() < end
        {
            thread::sleep(Duration::from_millis(10));
        }
        let left = match child.exit_status() {
            Some(_) => Duration::ZERO,
            None => end.saturating_duration_since(Instant::now()),
        };
        Ok((
            Qmp::connect(&parts.qmp, left)?,
            Console::connect(&parts.console, left)?,
        ))
    }

    /// What runs the instructions.
    #[must_use]
    pub fn accel(&self) -> Accel {
        self.parts.accel
    }

    /// Asks the host for a real-time priority for this machine; see [`priority`].
    pub fn raise_priority(&mut self) -> HostPriority {
        priority::raise(&self.child)
    }

    /// The kernel's command line.
    #[must_use]
    pub fn command_line(&self) -> &str {
        &self.parts.command_line
    }

    /// The host's TCP port, on loopback, that leads to `kairo-forward`.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host's socket that leads to the guest's kernel: for `KAIRO_IPC_SOCKET`.
    #[must_use]
    pub fn ipc_socket(&self) -> &Path {
        self.forward.as_ref().map_or(Path::new(""), Forward::path)
    }

    /// QEMU's process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The kernel console.
    #[must_use]
    pub fn serial(&self) -> &SerialLog {
        &self.serial
    }

    /// The machine protocol, for what this handle has no word for.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Waits for a line of the kernel console that contains `text`, from the start of the log.
    ///
    /// # Errors
    /// [`QemuError::Ended`] or [`QemuError::Deadline`], both with the log's end.
    pub fn wait_for(&self, text: &str, deadline: Duration) -> Result<LogLine, QemuError> {
        self.wait_for_after(text, 0, deadline)
    }

    /// As [`Machine::wait_for`], looking only at lines from number `from` on.
    ///
    /// # Errors
    /// As [`Machine::wait_for`].
    pub fn wait_for_after(
        &self,
        text: &str,
        from: u64,
        deadline: Duration,
    ) -> Result<LogLine, QemuError> {
        if let KernelConsole::Terminal { .. } = self.parts.kernel_console {
            return Err(QemuError::NoSuchPart(
                "a kernel console that can be searched",
            ));
        }
        if let Some(line) = self.serial.wait_for(text, from, deadline) {
            return Ok(line);
        }
        let doing = format!("waiting for {text:?} on the kernel console");
        Err(match self.child.wait(COMMAND_GRACE) {
            Some(status) => ended(&self.child, &self.serial, status, &doing),
            None => self.late(doing, deadline),
        })
    }

    /// Sends a control request to the machine's console; a refusal is an error.
    ///
    /// # Errors
    /// [`QemuError::Conversation`] with the guest's reason, [`QemuError::Ended`].
    pub fn control(&mut self, request: &Value, deadline: Duration) -> Result<Value, QemuError> {
        let outcome = self.console.demand(request, deadline);
        outcome.map_err(|error| match self.child.exit_status() {
            Some(status) => ended(
                &self.child,
                &self.serial,
                status,
                &format!("during {request}"),
            ),
            None => error,
        })
    }

    /// Repeats a status request until the console answers: how a boot is awaited without a log
    /// line to rely on.
    ///
    /// # Errors
    /// [`QemuError::Deadline`], [`QemuError::Ended`].
    pub fn wait_for_console(&mut self, deadline: Duration) -> Result<Value, QemuError> {
        let end = Instant::now() + deadline;
        while Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            // Long enough for a busy host, short enough to notice when the guest came up.
            let attempt = left.min(Duration::from_secs(2));
            match self.console.demand(&json!({"op": "status"}), attempt) {
                Ok(reply) => {
                    self.console.settle()?;
                    return Ok(reply);
                }
                Err(_) => {
                    if let Some(status) = self.child.exit_status() {
                        let doing = "while the console was awaited";
                        return Err(ended(&self.child, &self.serial, status, doing));
                    }
                    // Before the console runs nobody reads the line, or it reads half a request
                    // and refuses it; either way the conversation starts afresh.
                    thread::sleep(Duration::from_millis(50));
                    self.console = Console::connect(&self.parts.console, COMMAND_DEADLINE)?;
                }
            }
        }
        Err(self.late("waiting for the machine's console".to_owned(), deadline))
    }

    /// Pulls the arm's cable: the USB device is gone when this returns.
    ///
    /// # Errors
    /// [`QemuError::NoSuchPart`] without an arm, [`QemuError::Refused`] when it is out already.
    pub fn unplug_arm(&mut self) -> Result<(), QemuError> {
        self.require_arm()?;
        self.qmp
            .execute("device_del", json!({"id": ARM_CABLE}), COMMAND_DEADLINE)?;
        let is_cable = |data: &Value| data["device"] == ARM_CABLE;
        self.qmp
            .wait_event("DEVICE_DELETED", COMMAND_DEADLINE, is_cable)
            .map(|_| ())
    }

    /// Plugs it in again.
    ///
    /// # Errors
    /// [`QemuError::NoSuchPart`] without an arm, [`QemuError::Refused`] when it is in already.
    pub fn plug_arm(&mut self) -> Result<(), QemuError> {
        self.require_arm()?;
        let device = json!({
            "driver": self.parts.hardware.arm_cable,
            "id": ARM_CABLE,
            "bus": ARM_BUS,
            "port": ARM_PORT,
            "chardev": ARM_CHARDEV,
        });
        self.qmp
            .execute("device_add", device, COMMAND_DEADLINE)
            .map(|_| ())
    }

    /// Waits for QEMU's end.
    ///
    /// # Errors
    /// [`QemuError::Deadline`] when it still runs.
    pub fn wait(&self, deadline: Duration) -> Result<ExitStatus, QemuError> {
        let status = self.child.wait(deadline);
        status.ok_or_else(|| self.late("waiting for the machine to power off".to_owned(), deadline))
    }

    /// QEMU's exit status, once it has ended.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child.exit_status()
    }

    fn require_arm(&self) -> Result<(), QemuError> {
        match self.parts.arm {
            Some(_) => Ok(()),
            None => Err(QemuError::NoSuchPart("an arm")),
        }
    }

    fn late(&self, doing: String, deadline: Duration) -> QemuError {
        let log = self.serial.file().to_path_buf();
        QemuError::Deadline {
            doing,
            deadline,
            log,
            tail: self.serial.tail(),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.forward = None;
        if self.child.exit_status().is_none() {
            // QEMU gives the terminal back only when it quits by itself; a moment is enough, and
            // dropping the child kills it after that.
            let _ = self.qmp.execute("quit", json!({}), COMMAND_GRACE);
            let _ = self.child.wait(COMMAND_GRACE);
        }
    }
}

/// How long QEMU gets for the last step of something that has already happened.
const COMMAND_GRACE: Duration = Duration::from_secs(2);

fn ended(child: &KeptChild, serial: &SerialLog, status: ExitStatus, doing: &str) -> QemuError {
    QemuError::Ended {
        status: status.to_string(),
        doing: doing.to_owned(),
        said: child.said(),
        log: serial.file().to_path_buf(),
        tail: serial.tail(),
    }
}

/// Asks QEMU which port it bound for the forwarding to `guest_port`.
fn forwarded_port(qmp: &mut Qmp, guest_port: u16) -> Result<u16, QemuError> {
    let question = json!({"command-line": "info usernet"});
    let answer = qmp.execute("human-monitor-command", question, COMMAND_DEADLINE)?;
    let text = answer.as_str().unwrap_or_default();
    port_in(text, guest_port).ok_or_else(|| QemuError::Refused {
        command: "info usernet".to_owned(),
        reason: format!("no forwarding to port {guest_port} in {text:?}"),
    })
}

/// The host port in a line such as `TCP[HOST_FORWARD] 12 127.0.0.1 40001 10.0.2.15 7447 0 0`.
fn port_in(text: &str, guest_port: u16) -> Option<u16> {
    let line = text.lines().find(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        line.contains("HOST_FORWARD") && words.get(5) == Some(&guest_port.to_string().as_str())
    })?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forwarded_port_is_read_from_qemus_table() {
        let table = "Hub -1 (net):\r\n  Protocol[State]    FD  Source Address  Port   Dest. \
                     Address  Port RecvQ SendQ\r\n  TCP[HOST_FORWARD]  12       127.0.0.1 40001 \
                     \x20     10.0.2.15  7447     0     0\r\n";
        assert_eq!(port_in(table, 7447), Some(40001));
        assert_eq!(port_in(table, 80), None);
    }
}
