//! Chooses between KVM and emulation, by running a guest rather than by looking at `/dev/kvm`.
//!
//! A `/dev/kvm` that opens can still be unable to run anything: nested virtualisation half
//! configured, a filtered CPU model, a kernel that asserts. So the probe boots a 512-byte guest
//! on the machine type and CPU model the image will get; only if that guest reports back is KVM
//! used. The answer holds until the host reboots and is cached so long.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::PrivateDirectory;
use super::error::QemuError;
use crate::host::program_path;

/// How long the probe guest may take; a working KVM needs well under a second.
const PROBE_DEADLINE: Duration = Duration::from_secs(15);

/// The value the probe guest writes to the exit port.
const PROBE_VALUE: u8 = 0x10;

/// What QEMU's exit port makes of [`PROBE_VALUE`]: shifted left, lowest bit set.
const PROBE_STATUS: i32 = ((PROBE_VALUE as i32) << 1) | 1;

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The host's processor.
    Kvm,
    /// QEMU's translator: works everywhere, about ten to twenty times slower.
    Tcg,
}

impl Accel {
    /// The name as in `KAIRO_ACCEL` and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        }
    }

    /// QEMU's arguments for it. `max` has every instruction the translator knows, so that one
    /// kernel configuration serves both; each virtual processor gets a thread.
    #[must_use]
    pub fn arguments(self) -> [&'static str; 4] {
        match self {
            Accel::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Accel::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }

    /// Chooses, obeying `KAIRO_ACCEL`, and says in one line on standard error why it is not KVM.
    /// `cache` is a directory for the probe's answer.
    ///
    /// # Errors
    /// [`QemuError::AccelUnknown`], or [`QemuError::KvmUnusable`] when KVM was demanded.
    pub fn choose(cache: &Path) -> Result<Accel, QemuError> {
        let wish = env::var("KAIRO_ACCEL").unwrap_or_default();
        let outcome = match wish.as_str() {
            "tcg" => return Ok(Accel::Tcg),
            "" | "kvm" => cached_probe(cache),
            other => return Err(QemuError::AccelUnknown(other.to_owned())),
        };
        match outcome {
            Ok(()) => Ok(Accel::Kvm),
            Err(reason) if wish == "kvm" => Err(QemuError::KvmUnusable(reason)),
            Err(reason) => {
                eprintln!("KVM does not work here ({reason}): using TCG, which is slower");
                Ok(Accel::Tcg)
            }
        }
    }
}

/// The probe's answer: nothing, or why KVM cannot be used.
type Outcome = Result<(), String>;

fn cached_probe(cache: &Path) -> Outcome {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let file = cache.join("kvm-probe");
    if let Some(outcome) = fs::read_to_string(&file)
        .ok()
        .and_then(|text| recall(&text, &boot))
    {
        return outcome;
    }
    let outcome = probe();
    let verdict = outcome.as_ref().err().map_or("works", String::as_str);
    // A cache that cannot be written only means that the next run probes again.
    let _ = fs::write(&file, format!("{}\n{verdict}\n", boot.trim()));
    outcome
}

/// Reads a cached answer, if it is of this boot of the host.
fn recall(text: &str, boot: &str) -> Option<Outcome> {
    let (of_boot, verdict) = text.split_once('\n')?;
    if boot.trim().is_empty() || of_boot != boot.trim() {
        return None;
    }
    match verdict.trim() {
        "" => None,
        "works" => Some(Ok(())),
        reason => Some(Err(reason.to_owned())),
    }
}

/// A boot sector that writes [`PROBE_VALUE`] to the exit port and halts.
fn probe_sector() -> [u8; 512] {
    const CODE: [u8; 9] = [
        0xb0,
        PROBE_VALUE, // mov al, PROBE_VALUE
        0xba,
        0xf4,
        0x00, // mov dx, 0xf4
        0xee, // out dx, al
        0xf4, // hlt
        0xeb,
        0xfd, // jmp to the hlt
    ];
    let mut sector = [0; 512];
    sector[..CODE.len()].copy_from_slice(&CODE);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn probe() -> Outcome {
    if let Err(error) = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        return Err(format!("/dev/kvm: {error}"));
    }
    let directory = PrivateDirectory::new().map_err(|error| error.to_string())?;
    let scratch = directory.path();
    let disk = scratch.join("kvm-probe.img");
    fs::write(&disk, probe_sector()).map_err(|error| format!("{}: {error}", disk.display()))?;
    let said = scratch.join("kvm-probe.log");
    let log = fs::File::create(&said).map_err(|error| format!("{}: {error}", said.display()))?;
    let qemu = program_path("qemu-system-x86_64").ok_or("qemu-system-x86_64 is not installed")?;
    let mut child = Command::new(qemu)
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(["-machine", "q35", "-smp", "2", "-m", "64"])
        .args(Accel::Kvm.arguments())
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-drive"])
        .arg(format!(
            "file={},format=raw,snapshot=on",
            super::arguments::escaped(&disk)
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|error| error.to_string())?;
    let end = Instant::now() + PROBE_DEADLINE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.code() == Some(PROBE_STATUS) => return Ok(()),
            Ok(Some(status)) => return Err(first_line(&said).unwrap_or(status.to_string())),
            Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(20)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(first_line(&said)
                    .unwrap_or("a test guest starts but never gets anywhere".to_owned()));
            }
        }
    }
}

fn first_line(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    Some(line.trim().chars().take(160).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_another_boot_is_forgotten() {
        assert_eq!(recall("boot-1\nworks\n", "boot-1\n"), Some(Ok(())));
        assert_eq!(
            recall("boot-1\nno access\n", "boot-1"),
            Some(Err("no access".to_owned()))
        );
        assert_eq!(recall("boot-1\nworks\n", "boot-2"), None);
        assert_eq!(recall("boot-1\n", "boot-1"), None);
        assert_eq!(
            recall("\nworks\n", ""),
            None,
            "an unknown boot is never the same boot"
        );
    }

    #[test]
    fn the_probe_guest_is_a_boot_sector() {
        let sector = probe_sector();
        assert_eq!(sector[510..], [0x55, 0xaa]);
        assert_eq!(PROBE_STATUS, 33);
    }
}
