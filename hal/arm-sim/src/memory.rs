//! The register memory of one servo, and who may change what in it.
//!
//! Writes follow the STS3215: read-only registers and addresses without a register ignore them,
//! EEPROM registers ignore them while `LOCK` is 1. Nothing answers with an error, because the servo
//! does not either: whoever writes set-up values has to read them back.

use kairo_hal::feetech::registers::{self, Access, REGISTER_BYTES, Register};

/// The registers of one servo.
#[derive(Clone, Debug)]
pub struct Memory {
    bytes: [u8; REGISTER_BYTES],
    access: [Access; REGISTER_BYTES],
}

impl Memory {
    /// The memory of an STS3215 as `lerobot`-style set-up leaves it: 1 Mbaud, no return delay,
    /// every write acknowledged, position mode, EEPROM locked, torque off.
    ///
    /// `P`, `I`, `D` are 32, 8, 32: the factory's gains, and an integral gain, because a P-only
    /// loop sags under the arm's weight by 20 to 30 steps (as measured on the real servo).
    #[must_use]
    pub fn new(id: u8) -> Self {
        let mut access = [Access::ReadOnly; REGISTER_BYTES];
        for register in registers::ALL {
            let start = usize::from(register.address);
            access[start..start + usize::from(register.width)].fill(register.access);
        }
        let mut memory = Self {
            bytes: [0; REGISTER_BYTES],
            access,
        };
        let defaults = [
            (&registers::FIRMWARE_MAJOR, 3),
            (&registers::FIRMWARE_MINOR, 10),
            (&registers::MODEL, i32::from(registers::MODEL_STS3215)),
            (&registers::ID, i32::from(id)),
            (&registers::RESPONSE_LEVEL, 1),
            (&registers::MAX_POSITION, 4095),
            (&registers::MAX_TEMPERATURE, 70),
            (&registers::MAX_VOLTAGE, 140),
            (&registers::MIN_VOLTAGE, 40),
            (&registers::MAX_TORQUE, 1000),
            (&registers::UNLOADING_CONDITION, 0b10_1100),
            (&registers::P_GAIN, 32),
            (&registers::D_GAIN, 32),
            (&registers::I_GAIN, 8),
            (&registers::PUNCH, 16),
            (&registers::CW_DEAD_ZONE, 1),
            (&registers::CCW_DEAD_ZONE, 1),
            (&registers::PROTECTION_CURRENT, 500),
            (&registers::PROTECTIVE_TORQUE, 20),
            (&registers::PROTECTION_TIME, 200),
            (&registers::OVERLOAD_TORQUE, 80),
            (&registers::OVERCURRENT_TIME, 200),
            (&registers::GOAL_POSITION, registers::CENTER_STEPS),
            (&registers::TORQUE_LIMIT, 1000),
            (&registers::LOCK, 1),
            (&registers::PRESENT_POSITION, registers::CENTER_STEPS),
        ];
        for (register, value) in defaults {
            memory.set(register, value);
        }
        memory
    }

    /// The value of a register.
    #[must_use]
    pub fn get(&self, register: &Register) -> i32 {
        register
            .decode(&self.bytes[usize::from(register.address)..])
            .unwrap_or(0)
    }

    /// Sets a register from inside the servo, whatever its access; a value it cannot hold is
    /// limited to the nearest one that it can.
    pub fn set(&mut self, register: &Register, value: i32) {
        let bytes = register.encode(value).or_else(|| {
            let largest = (0..16).rev().fold(0, |best, bit| {
                let tried = best | (1 << bit);
                if register.encode(tried).is_some() {
                    tried
                } else {
                    best
                }
            });
            register
                .encode(largest * value.signum())
                .or_else(|| register.encode(0))
        });
        let start = usize::from(register.address);
        let width = usize::from(register.width);
        self.bytes[start..start + width].copy_from_slice(&bytes.unwrap_or([0; 2])[..width]);
    }

    /// Bytes as a read instruction sees them; addresses without memory read as 0.
    #[must_use]
    pub fn read(&self, address: u8, len: u8) -> Vec<u8> {
        (usize::from(address)..usize::from(address) + usize::from(len))
            .map(|at| self.bytes.get(at).copied().unwrap_or(0))
            .collect()
    }

    /// Bytes as a write instruction sets them, as far as they may be.
    pub fn write(&mut self, address: u8, data: &[u8]) {
        for (at, byte) in (usize::from(address)..).zip(data) {
            let is_locked = self.get(&registers::LOCK) != 0;
            match self.access.get(at) {
                Some(Access::Ram) => self.bytes[at] = *byte,
                Some(Access::Eeprom) if !is_locked => self.bytes[at] = *byte,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;
    use kairo_hal::feetech::registers;

    #[test]
    fn eeprom_needs_the_lock_open_and_measurements_cannot_be_written() {
        let mut memory = Memory::new(1);
        memory.write(registers::P_GAIN.address, &[99]);
        assert_eq!(memory.get(&registers::P_GAIN), 32);
        memory.write(registers::LOCK.address, &[0]);
        memory.write(registers::P_GAIN.address, &[99]);
        assert_eq!(memory.get(&registers::P_GAIN), 99);
        memory.write(registers::PRESENT_POSITION.address, &[1, 1]);
        assert_eq!(memory.get(&registers::PRESENT_POSITION), 2048);
    }

    #[test]
    fn reads_and_writes_past_the_end_are_harmless() {
        let mut memory = Memory::new(1);
        memory.write(250, &[1; 250]);
        assert_eq!(memory.read(250, 255), vec![0; 255]);
    }

    #[test]
    fn limits_what_a_register_cannot_hold() {
        let mut memory = Memory::new(1);
        memory.set(&registers::PRESENT_LOAD, -5000);
        assert_eq!(memory.get(&registers::PRESENT_LOAD), -1023);
        memory.set(&registers::PRESENT_TEMPERATURE, 300);
        assert_eq!(memory.get(&registers::PRESENT_TEMPERATURE), 255);
        memory.set(&registers::PRESENT_TEMPERATURE, -3);
        assert_eq!(memory.get(&registers::PRESENT_TEMPERATURE), 0);
    }
}
