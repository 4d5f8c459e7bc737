//! Finds, opens and configures the port of a bus, and closes it when the bus thread gives it back.
//!
//! An ordinary thread, one per bus: everything that may block, allocate or fail for reasons worth
//! explaining happens here, so that the bus thread only ever sees lines that work. Ten looks a
//! second; what is wrong is logged once, not ten times a second.
//!
//! A servo is configured the same at every connection: no reply delay, position mode, no profile
//! of its own (kairo-rt is the profile), and the gains of robot.toml. EEPROM is read first and
//! written only when it differs, because it wears.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kairo_hal::SerialBus;
use kairo_hal::discovery::SerialFinder;
use kairo_hal::feetech::registers::{
    ACCELERATION, D_GAIN, GOAL_SPEED, I_GAIN, LOCK, OPERATING_MODE, P_GAIN, RETURN_DELAY, Register,
};
use kairo_hal::feetech::{ServoBus, ServoBusError};
use kairo_hal::line::BusError;
use kairo_link::MonoNs;

use crate::bus_loop::Line;
use crate::config::{BusConfig, ServoGains};
use crate::journal::note;
use crate::shared::Shared;

/// Time between two looks for the port, or at the ring of lost lines.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Tries for each register: a noisy line must not keep a good arm out.
const TRIES: u32 = 5;
/// Deadline of one register access; a servo answers within a millisecond.
const ACCESS_TIMEOUT_NS: u64 = 50_000_000;

/// A servo and what to write into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServoPlan {
    /// Its id.
    pub id: u8,
    /// Its gains, if they are ours to set.
    pub gains: Option<ServoGains>,
}

/// Where the bus is at present; empty while it is absent. Shared among ordinary threads only.
#[derive(Clone, Debug, Default)]
pub struct PortPath {
    path: Arc<Mutex<PathBuf>>,
}

impl PortPath {
    /// The device node, empty while absent.
    pub fn get(&self) -> PathBuf {
        self.path
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, path: &Path) {
        *self.path.lock().unwrap_or_else(PoisonError::into_inner) = path.to_path_buf();
    }
}

/// The supervisor of one bus. See the module documentation.
#[derive(Debug)]
pub struct BusSupervisor {
    /// The bus.
    pub config: BusConfig,
    /// Its servos, in the order of the statistics.
    pub servos: Vec<ServoPlan>,
    /// Takes connected lines to the bus thread.
    pub to_bus: rtrb::Producer<Line>,
    /// Brings lost ones back.
    pub from_bus: rtrb::Consumer<Line>,
    /// Where the bus is.
    pub path: PortPath,
    /// The words shared with other threads.
    pub shared: Arc<Shared>,
}

/// Why a bus is not connected.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(transparent)]
    Resolve(#[from] kairo_hal::discovery::ResolveError),
    #[error(transparent)]
    Open(#[from] kairo_hal::serial::OpenError),
    #[error("{0}")]
    Bus(#[from] ServoBusError),
    #[error("{register} of servo {id}: {source}")]
    Servo {
        id: u8,
        register: &'static str,
        source: ServoBusError,
    },
}

impl BusSupervisor {
    /// Runs until the loops have ended.
    pub fn run(mut self) {
        let mut lent = false;
        let mut complaint = String::new();
        while !self.shared.loops_are_done() {
            if let Ok(line) = self.from_bus.pop() {
                // Closing may block in the driver; here it may.
                drop(line);
                self.path.set(Path::new(""));
                lent = false;
                note(format_args!(
                    "bus {}: lost {}",
                    self.config.name, self.config.port
                ));
            }
            if !lent && !self.shared.is_stopping() {
                match self.connect() {
                    Ok(line) => {
                        let path = line.line().path().to_path_buf();
                        note(format_args!(
                            "bus {}: {} servos on {}, {:?}",
                            self.config.name,
                            self.servos.len(),
                            path.display(),
                            line.line().latency()
                        ));
                        self.path.set(&path);
                        // There is room: a line is lent only when none is out.
                        lent = self.to_bus.push(line).is_ok();
                        complaint.clear();
                    }
                    Err(error) => {
                        let text = error.to_string();
                        if text != complaint {
                            note(format_args!(
                                "bus {}: not connected: {text}",
                                self.config.name
                            ));
                            complaint = text;
                        }
                    }
                }
            }
            std::thread::park_timeout(LOOK_INTERVAL);
        }
    }

    fn connect(&self) -> Result<Line, ConnectError> {
        let path = SerialFinder::default().resolve(&self.config.port)?;
        let port = SerialBus::open(&path, self.config.baud)?;
        let ids: Vec<u8> = self.servos.iter().map(|servo| servo.id).collect();
        let mut bus = Box::new(ServoBus::new(port, &ids)?);
        for servo in &self.servos {
            configure(&mut bus, servo)?;
        }
        Ok(bus)
    }
}

fn configure(bus: &mut Line, servo: &ServoPlan) -> Result<(), ConnectError> {
    let mut kept = vec![(RETURN_DELAY, 0), (OPERATING_MODE, 0)];
    if let Some(gains) = servo.gains {
        kept.push((P_GAIN, i32::from(gains.p)));
        kept.push((I_GAIN, i32::from(gains.i)));
        kept.push((D_GAIN, i32::from(gains.d)));
    }
    let mut differing = Vec::new();
    for (register, value) in kept {
        if read(bus, servo.id, &register)? != value {
            differing.push((register, value));
        }
    }
    if !differing.is_empty() {
        write(bus, servo.id, &LOCK, 0)?;
        for (register, value) in differing {
            write(bus, servo.id, &register, value)?;
        }
        write(bus, servo.id, &LOCK, 1)?;
    }
    write(bus, servo.id, &ACCELERATION, 0)?;
    write(bus, servo.id, &GOAL_SPEED, 0)
}

fn read(bus: &mut Line, id: u8, register: &Register) -> Result<i32, ConnectError> {
    retry(id, register, || {
        bus.read_register(id, register, access_deadline())
    })
}

/// Writes until the register reads back as `value`: an acknowledgement can get lost after the
/// write was carried out, and a servo may be set to acknowledge nothing.
fn write(bus: &mut Line, id: u8, register: &Register, value: i32) -> Result<(), ConnectError> {
    retry(id, register, || {
        let written = bus.write_register(id, register, value, access_deadline());
        match bus.read_register(id, register, access_deadline())? {
            found if found == value => Ok(()),
            _ => written.and(Err(ServoBusError::InvalidRequest {
                reason: "the servo does not keep the value written",
            })),
        }
    })
}

fn retry<T>(
    id: u8,
    register: &Register,
    mut access: impl FnMut() -> Result<T, ServoBusError>,
) -> Result<T, ConnectError> {
    let mut result = access();
    for _ in 1..TRIES {
        if result.is_ok() || is_gone(&result) {
            break;
        }
        result = access();
    }
    result.map_err(|source| ConnectError::Servo {
        id,
        register: register.name,
        source,
    })
}

fn is_gone<T>(result: &Result<T, ServoBusError>) -> bool {
    matches!(
        result,
        Err(ServoBusError::Line(BusError::Disconnected { .. }))
    )
}

fn access_deadline() -> MonoNs {
    MonoNs::now().plus_ns(ACCESS_TIMEOUT_NS)
}
