//! Sets of CPU numbers in the three spellings the kernel uses: list (`0-2,5`), hexadecimal mask
//! (`27`), and ours. At most 64 CPUs: no board of this profile has more, and a fixed size keeps
//! PID 1 free of surprises. A wider list is an error, never a truncation.

/// A set of CPU numbers below 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cpus(u64);

/// Why a CPU list could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a CPU list: write numbers below 64 like '1' or '0-2,5'")]
pub struct CpuListError {
    /// What was written.
    pub text: String,
}

impl Cpus {
    /// Reads a list such as `0-2,5`; blank is the empty set.
    pub fn parse_list(text: &str) -> Result<Self, CpuListError> {
        let error = || CpuListError {
            text: text.to_owned(),
        };
        let number = |digits: &str| match digits.trim().parse::<u32>() {
            Ok(cpu) if cpu < 64 => Ok(cpu),
            _ => Err(error()),
        };
        let mut bits = 0;
        for range in text.trim().split(',').filter(|range| !range.is_empty()) {
            let (first, last) = match range.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(range)?, number(range)?),
            };
            if first > last {
                return Err(error());
            }
            for cpu in first..=last {
                bits |= 1 << cpu;
            }
        }
        Ok(Self(bits))
    }

    /// The members that are not in `other`.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether every member is also in `other`.
    pub fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether there is no member.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// As a list of single numbers, `0,2,5`: what cpuset files take.
    pub fn to_list(self) -> String {
        let members: Vec<String> = (0..64)
            .filter(|cpu| self.0 >> cpu & 1 == 1)
            .map(|cpu: u32| cpu.to_string())
            .collect();
        members.join(",")
    }

    /// As a mask in groups of 32 bits, `1,00000003`: what affinity files take.
    pub fn to_mask(self) -> String {
        let (high, low) = (self.0 >> 32, self.0 & 0xffff_ffff);
        if high == 0 {
            format!("{low:x}")
        } else {
            format!("{high:x},{low:08x}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_masks_agree_with_the_kernel() {
        let table = [
            ("0", "0", "1"),
            ("0-2,5\n", "0,1,2,5", "27"),
            ("", "", "0"),
            ("1,33", "1,33", "2,00000002"),
            ("63", "63", "80000000,00000000"),
        ];
        for (text, list, mask) in table {
            let cpus = Cpus::parse_list(text).unwrap();
            assert_eq!(
                (cpus.to_list().as_str(), cpus.to_mask().as_str()),
                (list, mask)
            );
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["64", "x", "3-1", "1-", "-1", "1;2", "999999999999"] {
            assert!(Cpus::parse_list(text).is_err(), "{text}");
        }
    }

    #[test]
    fn housekeeping_is_what_the_rt_plane_leaves() {
        let online = Cpus::parse_list("0-3").unwrap();
        let rt = Cpus::parse_list("2-3").unwrap();
        assert!(rt.is_within(online));
        assert_eq!(online.without(rt).to_list(), "0,1");
    }
}
