//! The error bits of a status packet, as a typed set.
//!
//! Bit meanings follow Feetech's memory table of the STS series (register 65, "servo status"),
//! which every reply repeats in its third byte.

/// The set of faults a servo reported with a reply. Empty when all is well. Everything is rt-safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StatusError(u8);

impl StatusError {
    /// No fault.
    pub const NONE: Self = Self(0);
    /// Supply voltage outside the limits of registers 14 and 15.
    pub const VOLTAGE: Self = Self(1 << 0);
    /// The magnetic angle sensor is not plausible.
    pub const SENSOR: Self = Self(1 << 1);
    /// Hotter than register 13 allows.
    pub const OVERHEAT: Self = Self(1 << 2);
    /// Motor current above register 28 for longer than register 38 allows.
    pub const OVERCURRENT: Self = Self(1 << 3);
    /// Position outside the angle limits of registers 9 and 11.
    pub const ANGLE: Self = Self(1 << 4);
    /// Torque above register 36 for longer than register 35 allows.
    pub const OVERLOAD: Self = Self(1 << 5);

    const NAMES: [(Self, &'static str); 6] = [
        (Self::VOLTAGE, "voltage"),
        (Self::SENSOR, "sensor"),
        (Self::OVERHEAT, "overheat"),
        (Self::OVERCURRENT, "overcurrent"),
        (Self::ANGLE, "angle"),
        (Self::OVERLOAD, "overload"),
    ];

    /// The set with these raw bits; unknown bits are kept, because a fault nobody can name is
    /// still a fault.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The raw bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether no fault is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether every fault of `other` is set here.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The faults of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The names of the faults that have one, in bit order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .filter(move |(fault, _)| self.contains(*fault))
            .map(|(_, name)| name)
    }
}

impl core::fmt::Display for StatusError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.is_empty() {
            return formatter.write_str("none");
        }
        let mut separator = "";
        for name in self.names() {
            write!(formatter, "{separator}{name}")?;
            separator = "+";
        }
        let unknown = self.0 & 0b1100_0000;
        if unknown != 0 {
            write!(formatter, "{separator}unknown({unknown:#04x})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::StatusError;

    #[test]
    fn names_every_fault_and_keeps_unknown_bits() {
        let faults = StatusError::from_bits(0b1010_0101);
        assert_eq!(
            faults.to_string(),
            "voltage+overheat+overload+unknown(0x80)"
        );
        assert_eq!(StatusError::NONE.to_string(), "none");
        assert!(faults.contains(StatusError::OVERHEAT));
        assert!(!faults.contains(StatusError::SENSOR));
    }
}
