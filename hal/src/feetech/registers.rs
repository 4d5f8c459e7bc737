//! The register map of the STS3215: addresses, widths, encodings, units.
//!
//! Source: Feetech's "SMS/STS memory table" for the STS3215 (model number 777). Signed quantities
//! are sign-magnitude: one bit of the word is the sign, the bits below it the magnitude; this is
//! not two's complement. Only what we use is named. Everything here is rt-safe.

use core::f64::consts::TAU;

/// Encoder steps in one turn of the output shaft.
pub const STEPS_PER_TURN: i32 = 4096;
/// The step at the middle of the range, which we call 0 rad.
pub const CENTER_STEPS: i32 = 2048;
/// Radians per encoder step.
pub const RADIANS_PER_STEP: f64 = TAU / STEPS_PER_TURN as f64;
/// Radians per second for one unit of a speed register (one step per second).
pub const RADIANS_PER_SECOND_PER_SPEED: f64 = RADIANS_PER_STEP;
/// Radians per second squared for one unit of the acceleration register (100 steps/s²).
pub const RADIANS_PER_SECOND2_PER_ACCELERATION: f64 = 100.0 * RADIANS_PER_STEP;
/// Fraction of full torque or duty for one unit of a load or torque register (0.1 %).
pub const FRACTION_PER_LOAD: f64 = 0.001;
/// Volts for one unit of a voltage register.
pub const VOLTS_PER_VOLTAGE: f64 = 0.1;
/// Amperes for one unit of a current register (6.5 mA).
pub const AMPERES_PER_CURRENT: f64 = 0.0065;
/// The model number in register 3 of an STS3215.
pub const MODEL_STS3215: u16 = 777;
/// Register bytes a servo has, from address 0.
pub const REGISTER_BYTES: usize = 87;

/// How a register's raw value is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Plain unsigned.
    Unsigned,
    /// Sign-magnitude with the sign in this bit.
    SignMagnitude {
        /// Index of the sign bit.
        sign_bit: u8,
    },
}

/// Who may change a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nobody: measured or built in.
    ReadOnly,
    /// Anybody; lost with power.
    Ram,
    /// Kept without power, and only while register `LOCK` is 0.
    Eeprom,
}

/// One register. The constants of this module are the only instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Name, for people and logs.
    pub name: &'static str,
    /// Address of its first byte.
    pub address: u8,
    /// Bytes: 1, or 2 little-endian.
    pub width: u8,
    /// How to read the value.
    pub encoding: Encoding,
    /// Who may change it.
    pub access: Access,
}

macro_rules! registers {
    ($(
        $(#[$doc:meta])*
        $name:ident = $address:literal, $width:literal, $access:ident $(, sign $bit:literal)?;
    )*) => {
        $(
            $(#[$doc])*
            pub const $name: Register = Register {
                name: stringify!($name),
                address: $address,
                width: $width,
                encoding: registers!(@encoding $($bit)?),
                access: Access::$access,
            };
        )*
        /// Every register named here, by address.
        pub const ALL: &[Register] = &[$($name),*];
    };
    (@encoding) => { Encoding::Unsigned };
    (@encoding $bit:literal) => { Encoding::SignMagnitude { sign_bit: $bit } };
}

registers! {
    /// Firmware version, major.
    FIRMWARE_MAJOR = 0, 1, ReadOnly;
    /// Firmware version, minor.
    FIRMWARE_MINOR = 1, 1, ReadOnly;
    /// Model number, [`MODEL_STS3215`].
    MODEL = 3, 2, ReadOnly;
    /// Bus address, 0 to 253.
    ID = 5, 1, Eeprom;
    /// Baud rate code; 0 is 1 Mbaud.
    BAUD_RATE = 6, 1, Eeprom;
    /// Wait before an answer, 2 µs each.
    RETURN_DELAY = 7, 1, Eeprom;
    /// 0: only read and ping are answered; 1: every addressed instruction is.
    RESPONSE_LEVEL = 8, 1, Eeprom;
    /// Lowest goal position, steps.
    MIN_POSITION = 9, 2, Eeprom, sign 15;
    /// Highest goal position, steps.
    MAX_POSITION = 11, 2, Eeprom, sign 15;
    /// Overheat threshold, °C.
    MAX_TEMPERATURE = 13, 1, Eeprom;
    /// Highest supply, 0.1 V.
    MAX_VOLTAGE = 14, 1, Eeprom;
    /// Lowest supply, 0.1 V.
    MIN_VOLTAGE = 15, 1, Eeprom;
    /// Torque limit loaded into `TORQUE_LIMIT` at power-on, 0.1 %.
    MAX_TORQUE = 16, 2, Eeprom;
    /// Which faults (bits of `STATUS`) switch the torque off.
    UNLOADING_CONDITION = 19, 1, Eeprom;
    /// Position loop, proportional gain.
    P_GAIN = 21, 1, Eeprom;
    /// Position loop, derivative gain.
    D_GAIN = 22, 1, Eeprom;
    /// Position loop, integral gain.
    I_GAIN = 23, 1, Eeprom;
    /// Least drive that moves the shaft ("punch"), 0.1 %.
    PUNCH = 24, 2, Eeprom;
    /// Dead zone clockwise, steps.
    CW_DEAD_ZONE = 26, 1, Eeprom;
    /// Dead zone counter-clockwise, steps.
    CCW_DEAD_ZONE = 27, 1, Eeprom;
    /// Current limit, 6.5 mA.
    PROTECTION_CURRENT = 28, 2, Eeprom;
    /// Offset subtracted from the encoder, steps.
    POSITION_OFFSET = 31, 2, Eeprom, sign 11;
    /// 0 position, 1 speed, 2 open loop, 3 steps. We use 0.
    OPERATING_MODE = 33, 1, Eeprom;
    /// Torque left after an overload, %.
    PROTECTIVE_TORQUE = 34, 1, Eeprom;
    /// How long an overload may last, 10 ms.
    PROTECTION_TIME = 35, 1, Eeprom;
    /// Load that counts as overload, %.
    OVERLOAD_TORQUE = 36, 1, Eeprom;
    /// How long an overcurrent may last, 10 ms.
    OVERCURRENT_TIME = 38, 1, Eeprom;
    /// 0 free, 1 driven.
    TORQUE_ENABLE = 40, 1, Ram;
    /// Acceleration of the internal profile, 100 steps/s²; 0 is unlimited.
    ACCELERATION = 41, 1, Ram;
    /// Goal position, steps.
    GOAL_POSITION = 42, 2, Ram, sign 15;
    /// Time to the goal, ms. Unused by the STS3215 in position mode.
    GOAL_TIME = 44, 2, Ram;
    /// Speed of the internal profile, steps/s; 0 is unlimited.
    GOAL_SPEED = 46, 2, Ram, sign 15;
    /// Torque limit in force, 0.1 %.
    TORQUE_LIMIT = 48, 2, Ram;
    /// 1: the EEPROM registers are write-protected.
    LOCK = 55, 1, Ram;
    /// Measured position, steps.
    PRESENT_POSITION = 56, 2, ReadOnly, sign 15;
    /// Measured speed, steps/s.
    PRESENT_SPEED = 58, 2, ReadOnly, sign 15;
    /// Drive applied, 0.1 %.
    PRESENT_LOAD = 60, 2, ReadOnly, sign 10;
    /// Supply, 0.1 V.
    PRESENT_VOLTAGE = 62, 1, ReadOnly;
    /// Temperature, °C.
    PRESENT_TEMPERATURE = 63, 1, ReadOnly;
    /// 1 while a `RegWrite` waits for its `Action`.
    REG_WRITE_PENDING = 64, 1, ReadOnly;
    /// The fault bits of every reply.
    STATUS = 65, 1, ReadOnly;
    /// 1 while moving.
    MOVING = 66, 1, ReadOnly;
    /// Measured current, 6.5 mA.
    PRESENT_CURRENT = 69, 2, ReadOnly, sign 15;
}

impl Register {
    /// The value in little-endian `bytes` (`width` of them), with its sign. `None` when there are
    /// too few bytes.
    #[must_use]
    pub fn decode(&self, bytes: &[u8]) -> Option<i32> {
        let raw = match self.width {
            1 => u16::from(*bytes.first()?),
            _ => u16::from_le_bytes([*bytes.first()?, *bytes.get(1)?]),
        };
        Some(match self.encoding {
            Encoding::Unsigned => i32::from(raw),
            Encoding::SignMagnitude { sign_bit } => {
                let sign = 1_u16 << sign_bit;
                let magnitude = i32::from(raw & (sign - 1));
                if raw & sign == 0 {
                    magnitude
                } else {
                    -magnitude
                }
            }
        })
    }

    /// The bytes of `value`; the first `width` of them are to be sent. `None` when the register
    /// cannot hold it.
    #[must_use]
    pub fn encode(&self, value: i32) -> Option<[u8; 2]> {
        let largest = match (self.encoding, self.width) {
            (Encoding::SignMagnitude { sign_bit }, _) => (1_i32 << sign_bit) - 1,
            (Encoding::Unsigned, 1) => 0xFF,
            (Encoding::Unsigned, _) => 0xFFFF,
        };
        let magnitude = u16::try_from(value.checked_abs()?).ok()?;
        if i32::from(magnitude) > largest {
            return None;
        }
        let raw = match self.encoding {
            Encoding::Unsigned if value < 0 => return None,
            Encoding::SignMagnitude { sign_bit } if value < 0 => magnitude | (1 << sign_bit),
            _ => magnitude,
        };
        Some(raw.to_le_bytes())
    }
}

/// The angle of a position in steps, rad, 0 at [`CENTER_STEPS`].
#[must_use]
pub fn radians_from_steps(steps: i32) -> f64 {
    f64::from(steps - CENTER_STEPS) * RADIANS_PER_STEP
}

/// The nearest position in steps to an angle, clamped to one turn. NaN gives the centre.
#[must_use]
pub fn steps_from_radians(radians: f64) -> i32 {
    let steps = (radians / RADIANS_PER_STEP).round();
    // The conversion saturates and turns NaN into 0, so the sum cannot overflow.
    (CENTER_STEPS.saturating_add(steps as i32)).clamp(0, STEPS_PER_TURN - 1)
}

/// What a servo measures, in one block of registers that one read covers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PresentState {
    /// Position, steps.
    pub position_steps: i32,
    /// Speed, steps/s.
    pub speed_steps_per_s: i32,
    /// Drive, 0.1 %, signed.
    pub load_permille: i32,
    /// Supply, V.
    pub voltage_v: f32,
    /// Temperature, °C.
    pub temperature_c: u8,
    /// Whether the servo says it moves.
    pub is_moving: bool,
    /// Motor current, A, signed.
    pub current_a: f32,
}

impl PresentState {
    /// Where the block starts.
    pub const ADDRESS: u8 = PRESENT_POSITION.address;
    /// How many bytes it has: up to and including `PRESENT_CURRENT`.
    pub const LEN: u8 = PRESENT_CURRENT.address + PRESENT_CURRENT.width - PRESENT_POSITION.address;

    /// Where a read starts that covers the torque switch too.
    pub const ADDRESS_WITH_TORQUE: u8 = TORQUE_ENABLE.address;
    /// How many bytes such a read has: 16 more, 160 µs a servo at 1 Mbaud.
    pub const LEN_WITH_TORQUE: u8 = Self::ADDRESS + Self::LEN - Self::ADDRESS_WITH_TORQUE;

    /// Reads the block; `None` when it is not [`PresentState::LEN`] bytes.
    #[must_use]
    pub fn decode(block: &[u8]) -> Option<Self> {
        if block.len() != usize::from(Self::LEN) {
            return None;
        }
        let value = |register: &Register| {
            register.decode(block.get(usize::from(register.address - Self::ADDRESS)..)?)
        };
        Some(Self {
            position_steps: value(&PRESENT_POSITION)?,
            speed_steps_per_s: value(&PRESENT_SPEED)?,
            load_permille: value(&PRESENT_LOAD)?,
            voltage_v: (f64::from(value(&PRESENT_VOLTAGE)?) * VOLTS_PER_VOLTAGE) as f32,
            temperature_c: u8::try_from(value(&PRESENT_TEMPERATURE)?).ok()?,
            is_moving: value(&MOVING)? != 0,
            current_a: (f64::from(value(&PRESENT_CURRENT)?) * AMPERES_PER_CURRENT) as f32,
        })
    }

    /// Position, rad.
    #[must_use]
    pub fn position_rad(&self) -> f64 {
        radians_from_steps(self.position_steps)
    }

    /// Speed, rad/s.
    #[must_use]
    pub fn velocity_rad_s(&self) -> f64 {
        f64::from(self.speed_steps_per_s) * RADIANS_PER_SECOND_PER_SPEED
    }
}

#[cfg(test)]
mod tests {
    use super::{
        ALL, GOAL_POSITION, ID, POSITION_OFFSET, PRESENT_LOAD, PresentState, radians_from_steps,
        steps_from_radians,
    };
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    #[test]
    fn registers_do_not_overlap() {
        for pair in ALL.windows(2) {
            assert!(
                pair[0].address + pair[0].width <= pair[1].address,
                "{pair:?}"
            );
        }
    }

    #[test]
    fn signs_are_where_the_memory_table_puts_them() {
        assert_eq!(GOAL_POSITION.encode(-1), Some([0x01, 0x80]));
        assert_eq!(POSITION_OFFSET.encode(-1), Some([0x01, 0x08]));
        assert_eq!(PRESENT_LOAD.decode(&[0x64, 0x04]), Some(-100));
        assert_eq!(POSITION_OFFSET.encode(2048), None);
        assert_eq!(ID.encode(256), None);
        assert_eq!(ID.encode(-1), None);
    }

    #[test]
    fn the_present_block_is_fifteen_bytes() {
        assert_eq!((PresentState::ADDRESS, PresentState::LEN), (56, 15));
        let block = [
            0x00, 0x08, 0x64, 0x80, 0x0A, 0x00, 120, 31, 0, 0, 1, 0, 0, 0x0A, 0x80,
        ];
        let state = PresentState::decode(&block).unwrap();
        assert_eq!(
            (state.position_steps, state.speed_steps_per_s),
            (2048, -100)
        );
        assert_eq!(
            (state.voltage_v, state.temperature_c, state.is_moving),
            (12.0, 31, true)
        );
        assert!((state.current_a + 0.065).abs() < 1e-6);
        assert_eq!(PresentState::decode(&block[..14]), None);
    }

    #[test]
    fn angles_survive_what_is_not_a_number() {
        assert_eq!(steps_from_radians(f64::NAN), 2048);
        assert_eq!(steps_from_radians(f64::INFINITY), 4095);
        assert_eq!(steps_from_radians(-1e300), 0);
        assert_eq!(steps_from_radians(radians_from_steps(3000)), 3000);
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(value in -70_000..70_000_i32) {
            for register in ALL {
                if let Some(bytes) = register.encode(value) {
                    prop_assert_eq!(register.decode(&bytes), Some(value));
                    prop_assert!(register.width == 2 || bytes[1] == 0);
                }
            }
        }
    }
}
