//! Units of signals and parameters: what may be wired to what, and how a key is spelled.
//!
//! Plain values, no behaviour in time. A unit is a base and a power of "per second", so that the
//! rate of any unit is a unit, and limiters can name their keys after it.

use std::fmt;

/// What is measured, apart from time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// A pure number.
    One,
    /// 0 or 1.
    Flag,
    /// Angle.
    Radian,
    /// Length.
    Metre,
    /// Torque.
    NewtonMetre,
    /// Force.
    Newton,
    /// Current.
    Ampere,
    /// Voltage.
    Volt,
    /// Temperature.
    DegreeCelsius,
    /// Magnetic flux density.
    Tesla,
}

/// Every base with its name in `robot.toml` and its part of a key.
const BASES: [(Base, &str, &str); 10] = [
    (Base::One, "1", ""),
    (Base::Flag, "flag", ""),
    (Base::Radian, "rad", "_rad"),
    (Base::Metre, "m", "_m"),
    (Base::NewtonMetre, "Nm", "_nm"),
    (Base::Newton, "N", "_n"),
    (Base::Ampere, "A", "_a"),
    (Base::Volt, "V", "_v"),
    (Base::DegreeCelsius, "degC", "_c"),
    (Base::Tesla, "T", "_t"),
];

/// The highest power of "per second" with a name: jerk.
pub const PER_SECOND_MAX: u8 = 3;

/// A unit, such as rad/s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unit {
    /// What is measured.
    pub base: Base,
    /// How often it is divided by seconds.
    pub per_second: u8,
}

impl Unit {
    /// A pure number.
    pub const ONE: Self = Self::of(Base::One);
    /// 0 or 1.
    pub const FLAG: Self = Self::of(Base::Flag);
    /// rad.
    pub const RAD: Self = Self::of(Base::Radian);
    /// rad/s.
    pub const RAD_PER_S: Self = Self::RAD.rate();
    /// m/s².
    pub const M_PER_S2: Self = Self::of(Base::Metre).rate().rate();
    /// A.
    pub const AMPERE: Self = Self::of(Base::Ampere);
    /// V.
    pub const VOLT: Self = Self::of(Base::Volt);
    /// °C.
    pub const DEGREE_CELSIUS: Self = Self::of(Base::DegreeCelsius);
    /// T.
    pub const TESLA: Self = Self::of(Base::Tesla);

    /// The base alone.
    pub const fn of(base: Base) -> Self {
        Self {
            base,
            per_second: 0,
        }
    }

    /// This unit per second.
    #[must_use]
    pub const fn rate(self) -> Self {
        Self {
            base: self.base,
            per_second: self.per_second + 1,
        }
    }

    /// The unit named `name`, as in `"rad/s2"`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::all().find(|unit| unit.to_string() == name)
    }

    /// Every unit that has a name.
    pub fn all() -> impl Iterator<Item = Self> {
        BASES.iter().flat_map(|(base, _, _)| {
            let highest = if *base == Base::Flag {
                0
            } else {
                PER_SECOND_MAX
            };
            (0..=highest).map(|per_second| Self {
                base: *base,
                per_second,
            })
        })
    }

    /// How a key in this unit ends, as in `_rad_s2`; nothing for pure numbers.
    pub fn suffix(self) -> String {
        let stem = self.entry().2;
        // Pure numbers and most units read better with the word: `_per_s`, `_nm_per_s`.
        let short = matches!(self.base, Base::Radian | Base::Metre);
        match (self.per_second, short) {
            (0, _) => stem.to_owned(),
            (1, true) => format!("{stem}_s"),
            (power, true) => format!("{stem}_s{power}"),
            (1, false) => format!("{stem}_per_s"),
            (power, false) => format!("{stem}_per_s{power}"),
        }
    }

    fn entry(self) -> &'static (Base, &'static str, &'static str) {
        let found = BASES.iter().find(|(base, _, _)| *base == self.base);
        // Every base is in the table; a test walks it.
        found.unwrap_or(&BASES[0])
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.entry().1;
        match self.per_second {
            0 => formatter.write_str(name),
            1 => write!(formatter, "{name}/s"),
            power => write!(formatter, "{name}/s{power}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_comes_back_from_its_own_name() {
        for unit in Unit::all() {
            assert_eq!(Unit::parse(&unit.to_string()), Some(unit));
        }
        assert_eq!(Unit::all().count(), 9 * 4 + 1);
        assert_eq!(Unit::parse("rad/m"), None);
    }

    #[test]
    fn keys_end_as_house_style_spells_units() {
        assert_eq!(Unit::RAD.suffix(), "_rad");
        assert_eq!(Unit::RAD_PER_S.suffix(), "_rad_s");
        assert_eq!(Unit::M_PER_S2.rate().suffix(), "_m_s3");
        assert_eq!(Unit::ONE.suffix(), "");
        assert_eq!(Unit::ONE.rate().suffix(), "_per_s");
        assert_eq!(Unit::AMPERE.rate().rate().suffix(), "_a_per_s2");
    }
}
