//! Finding serial ports by what stays the same: where the cable is plugged in.
//!
//! `/dev/ttyUSB0` depends on the order of plugging; the path through the USB hubs does not. This
//! module reads sysfs and gives every USB serial device the id `serial:usb-BUS-PORT[.PORT…]`, for
//! instance `serial:usb-1-1.4`: bus 1, port 1 of the root hub, port 4 of the hub there. An adapter
//! with several ports gets `:INTERFACE` appended for all but interface 0. Devices that are not on
//! USB (UARTs of the board) get `serial:NAME`, since their names do not move.
//!
//! Everything here is *setup-only*: it reads directories and allocates.
//!
//! Non-goals: waiting for devices to come or go (uevents are kairo-init's), and opening them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Most entries of `/sys/class/tty` that are looked at; a kernel has some hundred at most.
const ENTRIES_MAX: usize = 4096;

/// A serial device that is present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialDevice {
    /// The id that stays the same while the cable stays in its socket: `serial:usb-1-1`.
    pub id: String,
    /// The device node at present: `/dev/ttyUSB0`.
    pub path: PathBuf,
    /// The kernel driver: `ftdi_sio`, `cdc_acm`, `serial8250`.
    pub driver: Option<String>,
    /// What USB tells about it; `None` for a UART of the board.
    pub usb: Option<UsbIdentity>,
}

/// What a USB device says about itself. The strings are the device's own: show, do not trust.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsbIdentity {
    /// Vendor number.
    pub vendor_id: u16,
    /// Product number.
    pub product_id: u16,
    /// Manufacturer's name.
    pub manufacturer: Option<String>,
    /// Product name.
    pub product: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
}

/// Why a port specification names no device.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// It is neither a path nor an id.
    #[error(
        "port \"{spec}\" is neither an absolute path (/dev/ttyUSB0) nor a stable id \
         (serial:usb-1-1); `kairo device list` shows the ids"
    )]
    Malformed {
        /// The specification.
        spec: String,
    },
    /// No such device is plugged in.
    #[error("no serial device \"{spec}\"; is it plugged in and powered? present: {present}")]
    Absent {
        /// The specification.
        spec: String,
        /// The ids that are there, separated by commas, or "none".
        present: String,
    },
    /// sysfs could not be read.
    #[error("cannot list serial devices in {}: {source}; is sysfs mounted?", path.display())]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Where to look. The roots are parameters so that tests can build a machine of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialFinder {
    sys: PathBuf,
    dev: PathBuf,
}

impl Default for SerialFinder {
    fn default() -> Self {
        Self::new("/sys", "/dev")
    }
}

impl SerialFinder {
    /// Looks under these roots instead of `/sys` and `/dev`.
    pub fn new(sys: impl Into<PathBuf>, dev: impl Into<PathBuf>) -> Self {
        Self {
            sys: sys.into(),
            dev: dev.into(),
        }
    }

    /// Every serial device with hardware behind it, sorted by id.
    ///
    /// # Errors
    /// [`ResolveError::Unreadable`] when `/sys/class/tty` is. A device that vanishes while it is
    /// looked at is left out.
    pub fn list(&self) -> Result<Vec<SerialDevice>, ResolveError> {
        let class = self.sys.join("class/tty");
        let entries = fs::read_dir(&class).map_err(|source| ResolveError::Unreadable {
            path: class.clone(),
            source,
        })?;
        let mut devices: Vec<SerialDevice> = entries
            .take(ENTRIES_MAX)
            .filter_map(|entry| self.describe(&entry.ok()?.path()))
            .collect();
        devices.sort_by(|left, right| left.id.cmp(&right.id));
        Ok(devices)
    }

    /// The device node that `spec` names: an absolute path is itself, an id is looked up.
    ///
    /// # Errors
    /// See [`ResolveError`]. A path is not checked for existence; opening it is.
    pub fn resolve(&self, spec: &str) -> Result<PathBuf, ResolveError> {
        if spec.starts_with('/') {
            return Ok(PathBuf::from(spec));
        }
        if spec.strip_prefix("serial:").is_none_or(str::is_empty) {
            return Err(ResolveError::Malformed {
                spec: spec.to_owned(),
            });
        }
        let devices = self.list()?;
        if let Some(device) = devices.iter().find(|device| device.id == spec) {
            return Ok(device.path.clone());
        }
        let ids: Vec<&str> = devices.iter().map(|device| device.id.as_str()).collect();
        let present = if ids.is_empty() {
            "none".to_owned()
        } else {
            ids.join(", ")
        };
        Err(ResolveError::Absent {
            spec: spec.to_owned(),
            present,
        })
    }

    /// Whether the device that `spec` names is there now. What cannot be found out is not there.
    #[must_use]
    pub fn is_present(&self, spec: &str) -> bool {
        self.resolve(spec).is_ok_and(|path| path.exists())
    }

    /// Describes one entry of `/sys/class/tty`; `None` for consoles, pseudo-terminals and the
    /// empty slots of the 8250 driver.
    fn describe(&self, entry: &Path) -> Option<SerialDevice> {
        let name = entry.file_name()?.to_str()?.to_owned();
        // Terminals without hardware have no `device` link.
        let device = fs::canonicalize(entry.join("device")).ok()?;
        let driver = driver_of(&device);
        let usb_device = device
            .ancestors()
            .find(|path| path.join("idVendor").is_file());
        let (id, usb) = match usb_device {
            Some(usb_device) => {
                let port = usb_device.file_name()?.to_str()?;
                let suffix = match interface_of(&device, port) {
                    None | Some(0) => String::new(),
                    Some(interface) => format!(":{interface}"),
                };
                (
                    format!("serial:usb-{port}{suffix}"),
                    Some(identity_of(usb_device)),
                )
            }
            None => {
                if is_empty_slot(entry) {
                    return None;
                }
                (format!("serial:{name}"), None)
            }
        };
        Some(SerialDevice {
            id,
            path: self.dev.join(name),
            driver,
            usb,
        })
    }
}

/// The name of the driver bound to `device` or, where a layer has none of its own, to a parent.
fn driver_of(device: &Path) -> Option<String> {
    device
        .ancestors()
        .take(4)
        .find_map(|path| fs::read_link(path.join("driver")).ok())
        .and_then(|link| Some(link.file_name()?.to_str()?.to_owned()))
}

/// The interface number in a path such as `…/1-1/1-1:1.2/ttyUSB0`.
fn interface_of(device: &Path, port: &str) -> Option<u32> {
    device.components().rev().find_map(|component| {
        let rest = component
            .as_os_str()
            .to_str()?
            .strip_prefix(port)?
            .strip_prefix(':')?;
        rest.split_once('.')?.1.parse().ok()
    })
}

fn identity_of(usb_device: &Path) -> UsbIdentity {
    let text = |file: &str| {
        let text = fs::read_to_string(usb_device.join(file)).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    let number = |file: &str| text(file).and_then(|text| u16::from_str_radix(&text, 16).ok());
    UsbIdentity {
        vendor_id: number("idVendor").unwrap_or(0),
        product_id: number("idProduct").unwrap_or(0),
        manufacturer: text("manufacturer"),
        product: text("product"),
        serial: text("serial"),
    }
}

/// The 8250 driver registers ports that may not exist; those have type 0 ("unknown").
fn is_empty_slot(entry: &Path) -> bool {
    fs::read_to_string(entry.join("type")).is_ok_and(|kind| kind.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::{ResolveError, SerialFinder};
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    /// A machine made of files, as sysfs shows one.
    struct Machine {
        root: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join("sys/class/tty")).unwrap();
            fs::create_dir_all(root.path().join("dev")).unwrap();
            Self { root }
        }

        fn finder(&self) -> SerialFinder {
            SerialFinder::new(self.root.path().join("sys"), self.root.path().join("dev"))
        }

        fn write(&self, path: &Path, text: &str) {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// A tty whose `device` link leads to `device`, relative to `sys/devices`.
        fn tty(&self, name: &str, device: &str, driver: &str) -> PathBuf {
            let sys = self.root.path().join("sys");
            let device = sys.join("devices").join(device);
            let tty = device.join("tty").join(name);
            fs::create_dir_all(&tty).unwrap();
            symlink(&device, tty.join("device")).unwrap();
            symlink(sys.join("drivers").join(driver), device.join("driver")).unwrap();
            symlink(&tty, sys.join("class/tty").join(name)).unwrap();
            self.write(&self.root.path().join("dev").join(name), "");
            device
        }

        fn usb_identity(&self, device: &str, vendor: &str, product: &str, serial: &str) {
            let device = self.root.path().join("sys/devices").join(device);
            self.write(&device.join("idVendor"), &format!("{vendor}\n"));
            self.write(&device.join("idProduct"), &format!("{product}\n"));
            self.write(&device.join("product"), "QEMU USB SERIAL\n");
            self.write(&device.join("serial"), &format!("{serial}\n"));
        }
    }

    fn machine_with_two_adapters() -> Machine {
        let machine = Machine::new();
        // usb-serial drivers put the tty in a directory of its own below the interface.
        machine.tty("ttyUSB0", "pci0/usb1/1-1/1-1:1.0/ttyUSB0", "ftdi_sio");
        machine.usb_identity("pci0/usb1/1-1", "0403", "6001", "1-0000:00:02.0-1");
        // cdc_acm puts it right below the interface; this adapter has two, behind a hub.
        machine.tty("ttyACM0", "pci0/usb1/1-2/1-2.4/1-2.4:1.0", "cdc_acm");
        machine.tty("ttyACM1", "pci0/usb1/1-2/1-2.4/1-2.4:1.2", "cdc_acm");
        machine.usb_identity("pci0/usb1/1-2/1-2.4", "1a86", "55d3", "5A68");
        machine
    }

    #[test]
    fn ids_follow_the_socket() {
        let machine = machine_with_two_adapters();
        let devices = machine.finder().list().unwrap();
        let ids: Vec<&str> = devices.iter().map(|device| device.id.as_str()).collect();
        assert_eq!(
            ids,
            ["serial:usb-1-1", "serial:usb-1-2.4", "serial:usb-1-2.4:2"]
        );
        let usb = devices[0].usb.as_ref().unwrap();
        assert_eq!((usb.vendor_id, usb.product_id), (0x0403, 0x6001));
        assert_eq!(usb.product.as_deref(), Some("QEMU USB SERIAL"));
        assert_eq!(usb.manufacturer, None);
        assert_eq!(devices[0].driver.as_deref(), Some("ftdi_sio"));
        assert_eq!(devices[1].driver.as_deref(), Some("cdc_acm"));
    }

    #[test]
    fn board_uarts_are_listed_and_empty_slots_are_not() {
        let machine = Machine::new();
        let real = machine.tty("ttyS0", "platform/serial8250/ttyS0", "serial8250");
        machine.write(&real.join("tty/ttyS0/type"), "4\n");
        let empty = machine.tty("ttyS1", "platform/serial8250/ttyS1", "serial8250");
        machine.write(&empty.join("tty/ttyS1/type"), "0\n");
        // A console: an entry without a `device` link.
        fs::create_dir_all(machine.root.path().join("sys/class/tty/tty0")).unwrap();
        let devices = machine.finder().list().unwrap();
        assert_eq!(devices.len(), 1);
        assert_eq!(
            (devices[0].id.as_str(), &devices[0].usb),
            ("serial:ttyS0", &None)
        );
    }

    #[test]
    fn resolves_paths_and_ids() {
        let machine = machine_with_two_adapters();
        let finder = machine.finder();
        assert_eq!(
            finder.resolve("/dev/ttyACM9").unwrap(),
            Path::new("/dev/ttyACM9")
        );
        let found = finder.resolve("serial:usb-1-2.4").unwrap();
        assert_eq!(found.file_name().unwrap(), "ttyACM0");
        assert!(finder.is_present("serial:usb-1-1"));
    }

    #[test]
    fn a_replugged_adapter_keeps_its_id_under_a_new_name() {
        let machine = machine_with_two_adapters();
        let sys = machine.root.path().join("sys");
        fs::remove_file(sys.join("class/tty/ttyUSB0")).unwrap();
        fs::remove_dir_all(sys.join("devices/pci0/usb1/1-1")).unwrap();
        assert!(!machine.finder().is_present("serial:usb-1-1"));
        machine.tty("ttyUSB1", "pci0/usb1/1-1/1-1:1.0/ttyUSB1", "ftdi_sio");
        machine.usb_identity("pci0/usb1/1-1", "0403", "6001", "x");
        let found = machine.finder().resolve("serial:usb-1-1").unwrap();
        assert_eq!(found.file_name().unwrap(), "ttyUSB1");
    }

    #[test]
    fn says_what_is_there_when_the_port_is_not() {
        let machine = machine_with_two_adapters();
        let error = machine.finder().resolve("serial:usb-9-9").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("serial:usb-1-1, serial:usb-1-2.4"),
            "{error}"
        );
        for malformed in ["ttyUSB0", "serial:", "", "usb-1-1"] {
            let error = machine.finder().resolve(malformed).unwrap_err();
            assert!(
                matches!(error, ResolveError::Malformed { .. }),
                "{malformed}"
            );
        }
    }

    #[test]
    fn a_missing_sysfs_is_an_error_that_says_so() {
        let error = SerialFinder::new("/nonexistent", "/dev")
            .list()
            .unwrap_err();
        assert!(error.to_string().contains("is sysfs mounted?"));
    }
}
