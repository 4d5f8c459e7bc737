//! GPIO lines over version 2 of the kernel's character device, one request a line.
//!
//! A line is found by its name, or by its chip's label and its offset; never by a chip's number,
//! which changes with kernels and cables. A name that two lines have is refused. Opening is
//! setup-only and holds the line until it is dropped: no other program can take it meanwhile.
//! Reading and setting are rt-safe: one ioctl, no allocation, no lock of ours. On a chip behind
//! I2C or SPI that ioctl waits for its bus; nothing here can see that.
//!
//! What it does not do: edges and time stamps (a level that is read every period cannot lose one),
//! and debouncing, which is a decision of whoever reads.

use std::fmt;
use std::fs::{self, File};
use std::path::PathBuf;

use gpiocdev_uapi::v2::{
    Error, LineConfig, LineFlags, LineRequest, LineValues, Name, Offsets, get_chip_info, get_line,
    get_line_info, get_line_values, set_line_values,
};
use nix::errno::Errno;

/// Lines that an error names at most.
const NAMED_MAX: usize = 40;

/// Which line of which chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineAddress {
    /// By the name the device tree or the firmware gives the line.
    Name(String),
    /// By the label of its chip and its offset there.
    At {
        /// The chip's label.
        chip: String,
        /// The offset.
        offset: u32,
    },
}

impl fmt::Display for LineAddress {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(text, "\"{name}\""),
            Self::At { chip, offset } => write!(text, "{offset} of chip \"{chip}\""),
        }
    }
}

/// How a line is biased by its chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// Not touched: the circuit has its own resistor.
    AsIs,
    /// Pulled up.
    PullUp,
    /// Pulled down.
    PullDown,
}

/// Why a line could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum GpioError {
    /// There is none.
    #[error("there is no GPIO line {wanted}; {present}")]
    Missing {
        /// The line.
        wanted: String,
        /// The lines there are.
        present: String,
    },
    /// There is more than one.
    #[error("GPIO line {wanted} is ambiguous: there is {places}; give chip and offset instead")]
    Ambiguous {
        /// The line.
        wanted: String,
        /// Where it is.
        places: String,
    },
    /// The kernel does not give it.
    #[error("GPIO line {wanted} cannot be opened: {errno}; is another driver or program using it?")]
    Refused {
        /// The line.
        wanted: String,
        /// What the kernel said.
        errno: Errno,
    },
}

/// A GPIO chip and the names of its lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chip {
    /// Its device.
    pub path: PathBuf,
    /// Its label.
    pub label: String,
    /// The lines' names in the order of their offsets; empty for a line without.
    pub lines: Vec<String>,
}

/// The chips of this machine that can be opened, in the order of their devices. setup-only.
pub fn chips() -> Vec<Chip> {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    // A link beside a device would be the same chip twice.
    let devices = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_symlink()));
    let mut paths: Vec<PathBuf> = devices
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("gpiochip"))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths.into_iter().filter_map(describe).collect()
}

fn describe(path: PathBuf) -> Option<Chip> {
    let file = File::open(&path).ok()?;
    let info = get_chip_info(&file).ok()?;
    let name = |offset| get_line_info(&file, offset).map(|line| String::from(&line.name));
    Some(Chip {
        lines: (0..info.num_lines)
            .map(|offset| name(offset).unwrap_or_default())
            .collect(),
        label: String::from(&info.label),
        path,
    })
}

/// Where a line is among `chips`: the chip's device and the offset. setup-only.
///
/// # Errors
/// When it is not there exactly once.
pub fn find(chips: &[Chip], address: &LineAddress) -> Result<(PathBuf, u32), GpioError> {
    let mut places = Vec::new();
    for chip in chips {
        for (offset, name) in (0_u32..).zip(&chip.lines) {
            let here = match address {
                LineAddress::Name(wanted) => name == wanted,
                LineAddress::At {
                    chip: label,
                    offset: wanted,
                } => *label == chip.label && *wanted == offset,
            };
            if here {
                places.push((chip, offset));
            }
        }
    }
    match places.as_slice() {
        [(chip, offset)] => Ok((chip.path.clone(), *offset)),
        [] => Err(GpioError::Missing {
            wanted: address.to_string(),
            present: present(chips),
        }),
        several => {
            let places: Vec<String> = several
                .iter()
                .map(|(chip, offset)| format!("line {offset} of chip \"{}\"", chip.label))
                .collect();
            Err(GpioError::Ambiguous {
                wanted: address.to_string(),
                places: places.join(", "),
            })
        }
    }
}

/// The lines of this machine, as an error names them.
fn present(chips: &[Chip]) -> String {
    if chips.is_empty() {
        return "this machine has no GPIO chip that kairo-rt may open".to_owned();
    }
    let labels: Vec<String> = chips
        .iter()
        .map(|chip| format!("\"{}\" with {} lines", chip.label, chip.lines.len()))
        .collect();
    let names = chips.iter().flat_map(|chip| &chip.lines);
    let names: Vec<&str> = names
        .map(String::as_str)
        .filter(|name| !name.is_empty())
        .collect();
    let more = match names.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown = names[..names.len().min(NAMED_MAX)].join(", ");
    let named = if shown.is_empty() { "none" } else { &shown };
    format!(
        "there are the chips {}, and the named lines: {named}{more}",
        labels.join(", ")
    )
}

/// A line that is read.
#[derive(Debug)]
pub struct Input {
    request: File,
}

impl Input {
    /// Takes the line. `acts_when_high`: which level is the active one. setup-only.
    ///
    /// # Errors
    /// When it is not there, or not free.
    pub fn open(
        chips: &[Chip],
        address: &LineAddress,
        bias: Bias,
        acts_when_high: bool,
    ) -> Result<Self, GpioError> {
        let mut flags = LineFlags::INPUT;
        flags |= match bias {
            Bias::AsIs => LineFlags::empty(),
            Bias::PullUp => LineFlags::BIAS_PULL_UP,
            Bias::PullDown => LineFlags::BIAS_PULL_DOWN,
        };
        flags.set(LineFlags::ACTIVE_LOW, !acts_when_high);
        let config = LineConfig {
            flags,
            ..LineConfig::default()
        };
        let request = request(chips, address, config)?;
        Ok(Self { request })
    }

    /// Whether the line is at its active level now. rt-safe.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn is_active(&self) -> Result<bool, Errno> {
        let mut values = LineValues { bits: 0, mask: 1 };
        get_line_values(&self.request, &mut values).map_err(|error| errno(&error))?;
        Ok(values.bits & 1 != 0)
    }
}

/// A line that is driven.
#[derive(Debug)]
pub struct Output {
    request: File,
}

impl Output {
    /// Takes the line and drives it low at once. setup-only.
    ///
    /// # Errors
    /// When it is not there, or not free.
    pub fn open_low(chips: &[Chip], address: &LineAddress) -> Result<Self, GpioError> {
        let mut config = LineConfig {
            flags: LineFlags::OUTPUT,
            ..LineConfig::default()
        };
        config.add_values(&LineValues { bits: 0, mask: 1 });
        let request = request(chips, address, config)?;
        Ok(Self { request })
    }

    /// Drives it high or low. rt-safe.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set(&self, high: bool) -> Result<(), Errno> {
        let values = LineValues {
            bits: u64::from(high),
            mask: 1,
        };
        set_line_values(&self.request, &values).map_err(|error| errno(&error))
    }
}

fn request(chips: &[Chip], address: &LineAddress, config: LineConfig) -> Result<File, GpioError> {
    let (path, offset) = find(chips, address)?;
    let refused = |errno| GpioError::Refused {
        wanted: address.to_string(),
        errno,
    };
    let chip = File::open(path)
        .map_err(|error| refused(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))))?;
    let request = LineRequest {
        offsets: Offsets::from_slice(&[offset]),
        consumer: Name::from("kairo-rt"),
        config,
        num_lines: 1,
        ..LineRequest::default()
    };
    get_line(&chip, request).map_err(|error| refused(errno(&error)))
}

fn errno(error: &Error) -> Errno {
    match error {
        Error::Os(errno) => Errno::from_raw(errno.0),
        Error::UnderRead(_) => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chip(label: &str, lines: &[&str]) -> Chip {
        Chip {
            path: format!("/dev/{label}").into(),
            label: label.to_owned(),
            lines: lines.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn name(name: &str) -> LineAddress {
        LineAddress::Name(name.to_owned())
    }

    fn at(chip: &str, offset: u32) -> LineAddress {
        let chip = chip.to_owned();
        LineAddress::At { chip, offset }
    }

    #[test]
    fn a_line_is_found_by_name_or_by_label_and_offset_in_any_order_of_chips() {
        let mut chips = [chip("soc", &["", "stop"]), chip("expander", &["reset", ""])];
        for _ in 0..2 {
            let (path, offset) = find(&chips, &name("stop")).unwrap();
            assert_eq!((path.to_str().unwrap(), offset), ("/dev/soc", 1));
            let (path, offset) = find(&chips, &at("expander", 1)).unwrap();
            assert_eq!((path.to_str().unwrap(), offset), ("/dev/expander", 1));
            chips.reverse();
        }
    }

    #[test]
    fn a_missing_line_is_refused_with_the_lines_there_are() {
        let chips = [chip("soc", &["", "stop"]), chip("expander", &["reset"])];
        for address in [name("halt"), at("soc", 2), at("gpiochip0", 1)] {
            let error = find(&chips, &address).unwrap_err().to_string();
            assert!(error.contains(&address.to_string()), "{error}");
            assert!(error.contains("stop, reset"), "{error}");
            assert!(error.contains("\"soc\" with 2 lines"), "{error}");
        }
        let error = find(&[], &name("halt")).unwrap_err().to_string();
        assert!(error.contains("no GPIO chip"), "{error}");
    }

    #[test]
    fn a_name_that_two_lines_have_is_refused() {
        let chips = [chip("soc", &["stop"]), chip("expander", &["stop"])];
        let error = find(&chips, &name("stop")).unwrap_err().to_string();
        assert!(
            error.contains("ambiguous") && error.contains("expander"),
            "{error}"
        );
        assert!(find(&chips, &at("expander", 0)).is_ok());
    }
}
