//! A small random generator whose sequence never changes.
//!
//! SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014). It is
//! written out here because a run must repeat from its seed for as long as the seed is quoted in a
//! bug report, which no generator crate promises across versions. Not for secrets.

/// The generator.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The sequence of this seed; `stream` keeps the sequences of different users apart.
    #[must_use]
    pub const fn new(seed: u64, stream: u64) -> Self {
        Self {
            state: seed ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03),
        }
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in 0 to 1, 1 excluded.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in 0 to `bound`, `bound` excluded; 0 for a bound of 0. The bias of at most
    /// `bound`/2⁶⁴ does not matter here.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            0
        } else {
            (self.bits() % bound as u64) as usize
        }
    }

    /// True with this probability; one number is drawn whatever it is, so that changing one
    /// probability does not shift the sequence of the others.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Roughly normal, mean 0, standard deviation 1: the sum of twelve uniform numbers less six.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn gives_the_published_sequence() {
        // The reference implementation's first numbers for the seed 1234567.
        let mut random = Random::new(1_234_567, 0);
        assert_eq!(random.bits(), 6_457_827_717_110_365_317);
        assert_eq!(random.bits(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn streams_differ_and_ranges_hold() {
        let (mut one, mut two) = (Random::new(1, 1), Random::new(1, 2));
        assert_ne!(one.bits(), two.bits());
        for _ in 0..1000 {
            assert!((0.0..1.0).contains(&one.unit()));
            assert!(one.below(7) < 7);
        }
        assert_eq!(one.below(0), 0);
    }
}
