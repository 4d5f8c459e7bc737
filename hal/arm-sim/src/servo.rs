//! The firmware of one servo: encoder, motion profile, position loop, limits, protections.
//!
//! It runs once per millisecond on what its registers say. The gains are scaled so that the
//! factory's `P` = 32 gives full drive at 0.16 rad of error (a stiffness of 18 N·m/rad), which
//! agrees with the published 20 to 30 steps of sag under 10 kg·cm with `I` = 0. Feetech does not
//! publish the loop itself: its structure (PID on the error, punch, dead zone) is an assumption
//! that the registers' names suggest.

use kairo_hal::feetech::StatusError;
use kairo_hal::feetech::registers::{self, AMPERES_PER_CURRENT, RADIANS_PER_STEP};

use crate::memory::Memory;
use crate::motor::Motor;
use crate::random::Random;

/// Period of the firmware's loop, s.
pub const FIRMWARE_PERIOD_S: f64 = 0.001;

/// Drive in ‰ per step of error and unit of `P`.
const P_SCALE: f64 = 0.3;
/// Drive in ‰ per step of error, second and unit of `I`.
const I_SCALE: f64 = 5.0;
/// Drive in ‰ per step per second of error change and unit of `D`.
const D_SCALE: f64 = 0.02;
/// Time constant of the derivative's filter, s: one encoder step must not shake the arm.
const D_FILTER_S: f64 = 0.010;
/// Most drive that the integral may ask for, ‰.
const I_LIMIT_PERMILLE: f64 = 400.0;
/// Standard deviation of the encoder's noise, steps.
const ENCODER_NOISE_STEPS: f64 = 0.25;
/// Time constant of the reported speed, s.
const SPEED_FILTER_S: f64 = 0.015;
/// Below this reported speed the servo says that it stands, steps/s.
const MOVING_STEPS_PER_S: f64 = 25.0;

/// One servo.
#[derive(Clone, Debug)]
pub struct Servo {
    /// Its registers.
    pub memory: Memory,
    /// Its motor.
    pub motor: Motor,
    /// A register write that waits for `Action`.
    pub pending_write: Option<(u8, Vec<u8>)>,
    /// Drive in force, -1 to 1; `None` with the bridge open.
    pub duty: Option<f64>,
    setpoint_steps: f64,
    setpoint_speed: f64,
    last_error_steps: f64,
    error_rate: f64,
    integral_permille: f64,
    last_steps: Option<f64>,
    speed_steps_per_s: f64,
    overload_s: f64,
    overcurrent_s: f64,
    latched: StatusError,
    encoder_noise: Random,
}

impl Servo {
    /// A servo that was just switched on at `position_rad`, with that as its goal.
    #[must_use]
    pub fn new(id: u8, seed: u64, position_rad: f64) -> Self {
        let steps = registers::steps_from_radians(position_rad);
        let mut memory = Memory::new(id);
        memory.set(&registers::GOAL_POSITION, steps);
        memory.set(&registers::PRESENT_POSITION, steps);
        Self {
            memory,
            motor: Motor::default(),
            pending_write: None,
            duty: None,
            setpoint_steps: f64::from(steps),
            setpoint_speed: 0.0,
            last_error_steps: 0.0,
            error_rate: 0.0,
            integral_permille: 0.0,
            last_steps: None,
            speed_steps_per_s: 0.0,
            overload_s: 0.0,
            overcurrent_s: 0.0,
            latched: StatusError::NONE,
            encoder_noise: Random::new(seed, 0x100 + u64::from(id)),
        }
    }

    /// The servo loses its supply for a moment: what is not kept without power is as after
    /// switching on. It starts at once; a real one is silent for some tenths of a second.
    pub fn reboot(&mut self) {
        let fresh = Memory::new(self.id());
        let volatile = registers::ALL
            .iter()
            .filter(|register| register.access == registers::Access::Ram);
        for register in volatile {
            self.memory.set(register, fresh.get(register));
        }
        let steps = self.memory.get(&registers::PRESENT_POSITION);
        self.memory.set(&registers::GOAL_POSITION, steps);
        self.pending_write = None;
        self.latched = StatusError::NONE;
        self.overload_s = 0.0;
        self.overcurrent_s = 0.0;
    }

    /// The bus address.
    #[must_use]
    pub fn id(&self) -> u8 {
        self.memory.get(&registers::ID) as u8
    }

    /// Whether the shaft is driven.
    #[must_use]
    pub fn is_torque_enabled(&self) -> bool {
        self.memory.get(&registers::TORQUE_ENABLE) != 0
    }

    /// The fault bits of a reply.
    #[must_use]
    pub fn status(&self) -> StatusError {
        StatusError::from_bits(self.memory.get(&registers::STATUS) as u8)
    }

    /// The goal, rad.
    #[must_use]
    pub fn goal_rad(&self) -> f64 {
        registers::radians_from_steps(self.memory.get(&registers::GOAL_POSITION))
    }

    /// Carries out a register write. Writing the goal or the torque switch ends an overload.
    pub fn write(&mut self, address: u8, data: &[u8]) {
        let was_enabled = self.is_torque_enabled();
        self.memory.write(address, data);
        let end = usize::from(address) + data.len();
        let touches = |register: &registers::Register| {
            usize::from(register.address) < end && register.address + register.width > address
        };
        if touches(&registers::GOAL_POSITION) || touches(&registers::TORQUE_ENABLE) {
            self.latched = StatusError::NONE;
            self.overload_s = 0.0;
            self.overcurrent_s = 0.0;
        }
        if self.is_torque_enabled() && !was_enabled {
            // The profile starts where the shaft is, not where it was when the torque went off.
            self.setpoint_steps = f64::from(self.memory.get(&registers::PRESENT_POSITION));
            self.setpoint_speed = 0.0;
            self.integral_permille = 0.0;
            self.last_error_steps = 0.0;
            self.error_rate = 0.0;
        }
    }

    /// One period of the firmware: measures, protects, controls, and reports in the registers.
    pub fn run_firmware(&mut self, position_rad: f64, supply_v: f64) {
        let steps = self.measure(position_rad);
        self.protect(supply_v);
        self.duty = if self.is_torque_enabled() {
            self.advance_setpoint();
            Some(self.control(steps))
        } else {
            None
        };
        self.report(supply_v);
    }

    /// Reads the encoder: noise, then 12 bits.
    fn measure(&mut self, position_rad: f64) -> f64 {
        let exact = position_rad / RADIANS_PER_STEP + f64::from(registers::CENTER_STEPS);
        let noisy = exact + ENCODER_NOISE_STEPS * self.encoder_noise.normal();
        let offset = f64::from(self.memory.get(&registers::POSITION_OFFSET));
        let steps = (noisy.round() - offset).clamp(0.0, f64::from(registers::STEPS_PER_TURN - 1));
        let change = steps - self.last_steps.unwrap_or(steps);
        self.last_steps = Some(steps);
        let share = FIRMWARE_PERIOD_S / SPEED_FILTER_S;
        self.speed_steps_per_s += (change / FIRMWARE_PERIOD_S - self.speed_steps_per_s) * share;
        self.memory.set(&registers::PRESENT_POSITION, steps as i32);
        steps
    }

    /// Moves the setpoint toward the goal within `ACCELERATION` and `GOAL_SPEED` (0: at once).
    fn advance_setpoint(&mut self) {
        let low = f64::from(self.memory.get(&registers::MIN_POSITION));
        let high = f64::from(self.memory.get(&registers::MAX_POSITION));
        let goal = f64::from(self.memory.get(&registers::GOAL_POSITION)).clamp(low, high.max(low));
        let speed = f64::from(self.memory.get(&registers::GOAL_SPEED).abs());
        let acceleration = 100.0 * f64::from(self.memory.get(&registers::ACCELERATION));
        let left = goal - self.setpoint_steps;
        if speed == 0.0 && acceleration == 0.0 {
            self.setpoint_steps = goal;
            self.setpoint_speed = 0.0;
            return;
        }
        let mut wanted = if speed == 0.0 { f64::INFINITY } else { speed };
        wanted = wanted.min(left.abs() / FIRMWARE_PERIOD_S);
        if acceleration > 0.0 {
            // The speed from which it can still stop at the goal.
            wanted = wanted.min((2.0 * acceleration * left.abs()).sqrt());
        }
        let wanted = wanted * left.signum();
        let change = wanted - self.setpoint_speed;
        let most = if acceleration > 0.0 {
            acceleration * FIRMWARE_PERIOD_S
        } else {
            f64::INFINITY
        };
        self.setpoint_speed += change.clamp(-most, most);
        self.setpoint_steps += self.setpoint_speed * FIRMWARE_PERIOD_S;
        if left.abs() < 0.5 && self.setpoint_speed.abs() * FIRMWARE_PERIOD_S < 0.5 {
            self.setpoint_steps = goal;
            self.setpoint_speed = 0.0;
        }
    }

    /// The position loop; returns the duty.
    fn control(&mut self, steps: f64) -> f64 {
        let gain = |register| f64::from(self.memory.get(register));
        let mut error = self.setpoint_steps - steps;
        let (up, down) = (
            gain(&registers::CW_DEAD_ZONE),
            gain(&registers::CCW_DEAD_ZONE),
        );
        if error > -down && error < up {
            error = 0.0;
        }
        let rate = (error - self.last_error_steps) / FIRMWARE_PERIOD_S;
        self.last_error_steps = error;
        self.error_rate += (rate - self.error_rate) * FIRMWARE_PERIOD_S / D_FILTER_S;
        self.integral_permille = (self.integral_permille
            + gain(&registers::I_GAIN) * I_SCALE * error * FIRMWARE_PERIOD_S)
            .clamp(-I_LIMIT_PERMILLE, I_LIMIT_PERMILLE);
        let mut drive = gain(&registers::P_GAIN) * P_SCALE * error
            + gain(&registers::D_GAIN) * D_SCALE * self.error_rate
            + self.integral_permille;
        let punch = gain(&registers::PUNCH);
        if error != 0.0 && drive.abs() < punch {
            drive = punch * error.signum();
        }
        let limit = self.torque_limit_permille();
        drive.clamp(-limit, limit) / 1000.0
    }

    fn torque_limit_permille(&self) -> f64 {
        let own = f64::from(self.memory.get(&registers::TORQUE_LIMIT)).min(1000.0);
        if self.latched.contains(StatusError::OVERLOAD) {
            own.min(10.0 * f64::from(self.memory.get(&registers::PROTECTIVE_TORQUE)))
        } else {
            own
        }
    }

    /// Overload, overcurrent, heat, voltage: sets the fault bits and takes the torque away where
    /// `UNLOADING_CONDITION` says so.
    fn protect(&mut self, supply_v: f64) {
        let value = |register| f64::from(self.memory.get(register));
        let overload = value(&registers::OVERLOAD_TORQUE) / 100.0;
        let overload_limit_s = value(&registers::PROTECTION_TIME) * 0.01;
        let current_limit_a = value(&registers::PROTECTION_CURRENT) * AMPERES_PER_CURRENT;
        let current_limit_s = value(&registers::OVERCURRENT_TIME) * 0.01;
        let max_temperature_c = value(&registers::MAX_TEMPERATURE);
        let (min_v, max_v) = (
            value(&registers::MIN_VOLTAGE) * 0.1,
            value(&registers::MAX_VOLTAGE) * 0.1,
        );

        let is_overloaded = self.duty.is_some_and(|duty| duty.abs() >= overload);
        self.overload_s = if is_overloaded {
            self.overload_s + FIRMWARE_PERIOD_S
        } else {
            0.0
        };
        if self.overload_s > overload_limit_s {
            self.latched = self.latched.union(StatusError::OVERLOAD);
        }
        let is_overcurrent = self.motor.current_a.abs() > current_limit_a;
        self.overcurrent_s = if is_overcurrent {
            self.overcurrent_s + FIRMWARE_PERIOD_S
        } else {
            0.0
        };
        if self.overcurrent_s > current_limit_s {
            self.latched = self.latched.union(StatusError::OVERCURRENT);
        }
        let mut faults = self.latched;
        if self.motor.temperature_c > max_temperature_c {
            faults = faults.union(StatusError::OVERHEAT);
        }
        if supply_v < min_v || supply_v > max_v {
            faults = faults.union(StatusError::VOLTAGE);
        }
        self.memory
            .set(&registers::STATUS, i32::from(faults.bits()));
        // An overload leaves the protective torque; every other unloading fault leaves none.
        let unloading = self.memory.get(&registers::UNLOADING_CONDITION) as u8;
        if faults.bits() & unloading & !StatusError::OVERLOAD.bits() != 0 {
            self.memory.set(&registers::TORQUE_ENABLE, 0);
        }
    }

    fn report(&mut self, supply_v: f64) {
        let speed = self.speed_steps_per_s;
        let load_permille = self.duty.unwrap_or(0.0) * 1000.0;
        let current = self.motor.current_a / AMPERES_PER_CURRENT;
        let is_moving = speed.abs() > MOVING_STEPS_PER_S;
        let temperature_c = self.motor.temperature_c;
        self.memory
            .set(&registers::PRESENT_SPEED, speed.round() as i32);
        self.memory
            .set(&registers::PRESENT_LOAD, load_permille.round() as i32);
        self.memory.set(
            &registers::PRESENT_VOLTAGE,
            (supply_v * 10.0).round() as i32,
        );
        self.memory.set(
            &registers::PRESENT_TEMPERATURE,
            temperature_c.round() as i32,
        );
        self.memory.set(&registers::MOVING, i32::from(is_moving));
        self.memory
            .set(&registers::PRESENT_CURRENT, current.round() as i32);
        self.memory.set(
            &registers::REG_WRITE_PENDING,
            i32::from(self.pending_write.is_some()),
        );
    }
}
