//! GPIO lines over version 2 of the kernel's character device, one request a line.
//!
//! A line is found by its name, or by its chip's label and its offset; never by a chip's number,
//! which changes with kernels and cables. A name that two lines have is refused. Opening is
//! setup-only and holds the line until it is dropped: no other program can take it meanwhile.
//! Reading and setting are rt-safe: one ioctl, no allocation, no lock of ours. On a chip behind
//! I2C or SPI that ioctl waits for its bus; nothing here can see that.
//!
//! An input can also wake: the kernel notes its edges towards the active level, and the line's
//! descriptor becomes readable. Chips without interrupts have none, and wires may make more of them
//! than anybody wants ([`EdgeSwitch`]); so a level that is read every period stays what counts.
//!
//! What it does not do: time stamps, and debouncing, which is a decision of whoever reads.

use std::fmt;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use gpiocdev_uapi::v2::{
    Error, LineConfig, LineEdgeEvent, LineFlags, LineRequest, LineValues, Name, Offsets,
    get_chip_info, get_line, get_line_info, get_line_values, read_event, set_line_config,
    set_line_values,
};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// Lines that an error names at most.
const NAMED_MAX: usize = 40;
/// Edges that the kernel keeps for a line, and that are taken at once; more are dropped there.
const EDGES_KEPT: usize = 16;
/// Words of one of them.
const EDGE_WORDS: usize = size_of::<LineEdgeEvent>() / 8;

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
    /// Somebody else has it.
    #[error("GPIO line {wanted} is in use by {user}; stop that, or give another line")]
    Busy {
        /// The line.
        wanted: String,
        /// Who has it, as far as the kernel knows.
        user: String,
    },
    /// The chip has no such line.
    #[error(
        "GPIO line {wanted} cannot be made an {direction}{bias}: {errno}; give a line of the chip \
         that can, or bias = \"as-is\" with a resistor on the wire"
    )]
    Unable {
        /// The line.
        wanted: String,
        /// `input` or `output`.
        direction: &'static str,
        /// The bias that was asked for, in words; empty without.
        bias: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// The kernel does not give it.
    #[error("GPIO line {wanted} cannot be opened: {errno}; may kairo-rt open its chip?")]
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
    config: LineConfig,
    wakes: bool,
}

impl Input {
    /// Takes the line. `acts_when_high`: which level is the active one. `wakes`: whether its edges
    /// shall make the descriptor readable; where the chip has none they do not. setup-only.
    ///
    /// # Errors
    /// When it is not there, not free, or no such input.
    pub fn open(
        chips: &[Chip],
        address: &LineAddress,
        bias: Bias,
        acts_when_high: bool,
        wakes: bool,
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
        let mut with_edges = config.clone();
        // "Rising" is from rest to the active level, whichever that is.
        with_edges.flags |= LineFlags::EDGE_RISING;
        if wakes && let Ok(request) = request(chips, address, with_edges) {
            // A read of edges that are not there must not wait.
            let waits = fcntl(&request, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_err();
            if !waits {
                return Ok(Self {
                    request,
                    config,
                    wakes,
                });
            }
        }
        let request = request(chips, address, config.clone())?;
        Ok(Self {
            request,
            config,
            wakes: false,
        })
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

    /// Whether the kernel notes edges of this line. rt-safe.
    pub const fn wakes(&self) -> bool {
        self.wakes
    }

    /// Takes what edges the kernel has noted, and says whether there was any. Does not wait.
    /// rt-safe: one read of a bounded queue.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn take_edges(&self) -> Result<bool, Errno> {
        let mut edges = [0_u64; EDGES_KEPT * EDGE_WORDS];
        match read_event(&self.request, &mut edges) {
            Ok(words) => Ok(words > 0),
            Err(error) => match errno(&error) {
                Errno::EAGAIN | Errno::EINTR => Ok(false),
                errno => Err(errno),
            },
        }
    }

    /// What switches the edges off while another thread reads the line; none without edges.
    /// setup-only.
    pub fn edge_switch(&self) -> Option<EdgeSwitch> {
        let request = self.request.try_clone().ok();
        request.filter(|_| self.wakes).map(|request| EdgeSwitch {
            request,
            config: self.config.clone(),
        })
    }
}

impl AsFd for Input {
    /// Becomes readable with an edge.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.request.as_fd()
    }
}

/// Switches a line's edges off: each one is an interrupt, and a wire may make a million a second.
#[derive(Debug)]
pub struct EdgeSwitch {
    request: File,
    config: LineConfig,
}

impl EdgeSwitch {
    /// Off, until the line is opened anew; its level is read as before. Ordinary threads: the
    /// kernel waits for the line's interrupt handler.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn switch_off(&self) -> Result<(), Errno> {
        set_line_config(&self.request, self.config.clone()).map_err(|error| errno(&error))
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
    /// When it is not there, not free, or no output.
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
    let wanted = address.to_string();
    let flags = config.flags;
    let chip = match File::open(path) {
        Ok(chip) => chip,
        Err(error) => {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            return Err(GpioError::Refused { wanted, errno });
        }
    };
    let request = LineRequest {
        offsets: Offsets::from_slice(&[offset]),
        consumer: Name::from("kairo-rt"),
        config,
        num_lines: 1,
        event_buffer_size: EDGES_KEPT as u32,
        ..LineRequest::default()
    };
    get_line(&chip, request).map_err(|error| match errno(&error) {
        Errno::EBUSY => GpioError::Busy {
            wanted,
            user: user(&chip, offset),
        },
        errno @ (Errno::EINVAL | Errno::ENOTSUP | Errno::EIO | Errno::ENXIO) => GpioError::Unable {
            wanted,
            direction: if flags.contains(LineFlags::OUTPUT) {
                "output"
            } else {
                "input"
            },
            bias: if flags.contains(LineFlags::BIAS_PULL_UP) {
                " with a pull-up"
            } else if flags.contains(LineFlags::BIAS_PULL_DOWN) {
                " with a pull-down"
            } else {
                ""
            },
            errno,
        },
        errno => GpioError::Refused { wanted, errno },
    })
}

/// Who has a line that is busy.
fn user(chip: &File, offset: u32) -> String {
    let info = get_line_info(chip, offset);
    let name = info.map(|info| String::from(&info.consumer));
    match name.unwrap_or_default().as_str() {
        "" => "somebody that the kernel has no name for".to_owned(),
        name => format!("\"{name}\""),
    }
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
