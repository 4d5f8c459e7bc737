//! Opens a plug-in, checks what it says of itself, and adds its kinds to a registry.
//!
//! setup-only, before memory is locked: `mlockall` then brings all its pages in. Every symbol is
//! resolved here (`RTLD_NOW`). A plug-in is never closed again.

use std::ffi::{CStr, CString, c_char};
use std::fs::File;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kairo_blocks::block::{Design, PORTS_MAX, Port};
use kairo_blocks::registry::{Origin, Registry};
use kairo_blocks::settings::Settings;
use kairo_blocks::unit::Unit;

use crate::abi::{self, KindAt, VERSION};
use crate::guard;
use crate::instance::{Functions, Instance};

/// Kinds of one plug-in.
const KINDS_MAX: u32 = 64;
/// Keys of one kind.
const PARAMETERS_MAX: u32 = 64;
/// Largest state of a block.
const STATE_BYTES_MAX: u64 = 1 << 20;
/// Largest alignment of a state: a page.
const ALIGN_MAX: u32 = 4096;
/// Longest name.
const NAME_BYTES_MAX: usize = 64;

/// Why a plug-in was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// It could not be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// Somebody else than root and this user could change it.
    #[error("can be changed by others: owner {owner}, mode {mode:o}")]
    Untrusted {
        /// Its owner.
        owner: u32,
        /// Its mode.
        mode: u32,
    },
    /// The dynamic linker refused it.
    #[error("cannot be loaded: {0}")]
    Linker(String),
    /// It is no plug-in of this interface.
    #[error("{0}")]
    Interface(String),
}

impl PluginError {
    /// What to do about it.
    pub const fn fix(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "give the path of a shared object, absolute or beside this file",
            Self::Untrusted { .. } => "chown root and chmod go-w: it runs inside kairo-rt",
            Self::Linker(_) => "build it for this machine, with everything it needs linked in",
            Self::Interface(_) => "build it with this version's kairo_block.h",
        }
    }
}

/// A kind as it was read: nothing in it points into the plug-in but its functions.
struct KindRead {
    name: String,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    parameters: Vec<ParameterRead>,
    functions: Functions,
}

struct ParameterRead {
    name: String,
    unit: Unit,
    range: std::ops::RangeInclusive<f64>,
    default: Option<f64>,
}

/// Loads the plug-in at `path` and adds its kinds as `NAME.KIND`; their steps may use `budget_ns`
/// of processor time each. Returns what it added.
///
/// # Errors
/// See [`PluginError`].
pub fn load(
    path: &Path,
    name: &str,
    budget_ns: u64,
    registry: &mut Registry,
) -> Result<Vec<String>, PluginError> {
    let kind_at = open(path)?;
    guard::install();
    let mut added = Vec::new();
    for index in 0..KINDS_MAX {
        // SAFETY: the plug-in's own function, called as the header says.
        let Some(kind) = (unsafe { kind_at(index).as_ref() }) else {
            break;
        };
        let kind = read_kind(kind, budget_ns).map_err(PluginError::Interface)?;
        let full = format!("{name}.{}", kind.name);
        registry
            .add_from(Origin::Plugin, &full, move |settings| {
                design(&kind, settings)
            })
            .map_err(|exists| PluginError::Interface(exists.to_string()))?;
        added.push(full);
    }
    if added.is_empty() {
        return Err(PluginError::Interface(
            "describes no kind of block".to_owned(),
        ));
    }
    Ok(added)
}

fn open(path: &Path) -> Result<KindAt, PluginError> {
    let file = File::open(path)?;
    let found = file.metadata()?;
    // SAFETY: geteuid cannot fail.
    let own = unsafe { libc::geteuid() };
    let trusted_owner = found.uid() == 0 || found.uid() == own;
    if !found.is_file() || !trusted_owner || found.mode() & 0o022 != 0 {
        return Err(PluginError::Untrusted {
            owner: found.uid(),
            mode: found.mode() & 0o7777,
        });
    }
    // What was checked is what is loaded, wherever its name points by now. The descriptor is never
    // closed: the dynamic linker knows objects by name, and would take another plug-in that is
    // opened under the same number for this one.
    let checked = PathBuf::from(format!("/proc/self/fd/{}", file.into_raw_fd()));
    let checked = CString::new(checked.into_os_string().into_encoded_bytes())
        .map_err(|_| PluginError::Linker("its path has a zero byte".to_owned()))?;
    // SAFETY: loading runs the plug-in's constructors, which the owner of the file answers for.
    let handle = unsafe { libc::dlopen(checked.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return Err(PluginError::Linker(linker_error()));
    }
    // SAFETY: the handle is good, the name ends with zero.
    let symbol = unsafe { libc::dlsym(handle, c"kairo_block_kind_at".as_ptr()) };
    if symbol.is_null() {
        let message = "exports no kairo_block_kind_at";
        return Err(PluginError::Interface(message.to_owned()));
    }
    let at = &raw const symbol;
    // SAFETY: the symbol's type is the header's; a function pointer is as wide as a data pointer.
    Ok(unsafe { at.cast::<KindAt>().read() })
}

fn linker_error() -> String {
    // SAFETY: dlerror gives null or a text that stays until the next call on this thread.
    let text = unsafe {
        let text = libc::dlerror();
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    };
    text.unwrap_or_else(|| "no reason given".to_owned())
}

fn read_kind(kind: &abi::Kind, budget_ns: u64) -> Result<KindRead, String> {
    if kind.abi_version != VERSION {
        let found = kind.abi_version;
        return Err(format!(
            "speaks version {found} of the interface, this is {VERSION}"
        ));
    }
    if kind.struct_size as usize != size_of::<abi::Kind>() {
        let (found, wanted) = (kind.struct_size, size_of::<abi::Kind>());
        return Err(format!(
            "has a kairo_block_kind of {found} bytes, {wanted} belong there"
        ));
    }
    let name = read_name(kind.name)?;
    let most = PORTS_MAX as u32;
    if kind.input_count > most || kind.output_count > most || kind.output_count == 0 {
        return Err(format!(
            "kind {name}: has no outputs, or more than {most} ports on a side"
        ));
    }
    let align = kind.state_align;
    let good_align = align.is_power_of_two() && align <= ALIGN_MAX;
    if !good_align || kind.state_size > STATE_BYTES_MAX || kind.parameter_count > PARAMETERS_MAX {
        return Err(format!(
            "kind {name}: a state of {} bytes aligned to {align}, {} parameters: at most \
             {STATE_BYTES_MAX} bytes, a power of two up to {ALIGN_MAX}, {PARAMETERS_MAX} \
             parameters",
            kind.state_size, kind.parameter_count
        ));
    }
    let (Some(create), Some(step)) = (kind.create, kind.step) else {
        return Err(format!("kind {name}: create and step must not be NULL"));
    };
    Ok(KindRead {
        inputs: read_ports(kind.inputs, kind.input_count, &name)?,
        outputs: read_ports(kind.outputs, kind.output_count, &name)?,
        parameters: read_parameters(kind, &name)?,
        functions: Functions {
            create,
            step,
            reset: kind.reset,
            state_size: kind.state_size as usize,
            state_align: align as usize,
            inputs: kind.input_count as usize,
            outputs: kind.output_count as usize,
            budget_ns,
        },
        name,
    })
}

fn read_name(text: *const c_char) -> Result<String, String> {
    if text.is_null() {
        return Err("has a name that is NULL".to_owned());
    }
    // SAFETY: the header promises a text that ends with zero and lives as long as the process.
    let text = unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned();
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.chars().all(allowed) {
        return Err(format!(
            "has a name \"{text}\", which is not letters, digits, - and _"
        ));
    }
    Ok(text)
}

fn read_unit(text: *const c_char, of: &str) -> Result<Unit, String> {
    if text.is_null() {
        return Err(format!("{of}: the unit is NULL"));
    }
    // SAFETY: as for names.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    Unit::parse(&text).ok_or_else(|| format!("{of}: \"{text}\" is no unit known here"))
}

/// What a pointer and a count of the header mean.
fn list<'k, T>(first: *const T, count: u32, of: &str) -> Result<&'k [T], String> {
    if count == 0 {
        return Ok(&[]);
    }
    if first.is_null() {
        return Err(format!("{of}: {count} entries at NULL"));
    }
    // SAFETY: the header promises so many entries that live as long as the process.
    Ok(unsafe { std::slice::from_raw_parts(first, count as usize) })
}

fn read_ports(first: *const abi::Port, count: u32, kind: &str) -> Result<Vec<Port>, String> {
    let mut ports: Vec<Port> = Vec::new();
    for port in list(first, count, kind)? {
        let name = read_name(port.name)?;
        if ports.iter().any(|other| other.name == name) {
            return Err(format!("kind {kind}: two ports are named {name}"));
        }
        let unit = read_unit(port.unit, &format!("kind {kind}, port {name}"))?;
        ports.push(Port::new(name, unit));
    }
    Ok(ports)
}

fn read_parameters(kind: &abi::Kind, of: &str) -> Result<Vec<ParameterRead>, String> {
    let mut read = Vec::new();
    for parameter in list(kind.parameters, kind.parameter_count, of)? {
        let name = read_name(parameter.name)?;
        let (low, high) = (parameter.minimum, parameter.maximum);
        if !(low.is_finite() && high.is_finite() && low <= high) {
            return Err(format!(
                "kind {of}, parameter {name}: {low} to {high} is no range"
            ));
        }
        let default = parameter.default_value;
        read.push(ParameterRead {
            unit: read_unit(parameter.unit, &format!("kind {of}, parameter {name}"))?,
            name,
            range: low..=high,
            default: (!default.is_nan()).then_some(default),
        });
    }
    Ok(read)
}

fn design(kind: &KindRead, settings: &mut Settings<'_>) -> Option<Design> {
    let values = kind.parameters.iter().map(|parameter| {
        let range = parameter.range.clone();
        settings.quantity(&parameter.name, parameter.unit, range, parameter.default)
    });
    let values: Vec<Option<f64>> = values.collect();
    let values: Arc<[f64]> = values.into_iter().collect::<Option<_>>()?;
    let (functions, period_s) = (kind.functions, settings.period_s());
    if let Some(fault) = Instance::new(functions, &values, period_s).fault() {
        let message = format!("the plug-in cannot make this block: {fault:?}");
        settings.complain(
            "kind",
            message,
            "see the plug-in's documentation of its settings",
        );
        return None;
    }
    let (inputs, outputs) = (kind.inputs.clone(), kind.outputs.clone());
    Some(Design::new(inputs, outputs, move || {
        Instance::new(functions, &values, period_s)
    }))
}
