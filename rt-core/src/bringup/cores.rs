//! Which cores there are, and which are left for everything that is not real-time. setup-only.

use std::collections::BTreeSet;
use std::fs;

/// The cores of a machine, split between the planes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreSplit {
    /// Cores that real-time threads are pinned to.
    pub real_time: BTreeSet<usize>,
    /// The other ones; all cores when real-time threads use every one.
    pub housekeeping: BTreeSet<usize>,
}

impl CoreSplit {
    /// The split of this machine for real-time threads pinned to `real_time`.
    pub fn of_this_machine(real_time: impl IntoIterator<Item = usize>) -> Self {
        let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
        Self::new(parse_list(&online), real_time.into_iter().collect())
    }

    fn new(online: BTreeSet<usize>, wanted: BTreeSet<usize>) -> Self {
        // A core that is not there needs no keeping free; the thread's own check says so.
        let real_time: BTreeSet<usize> = wanted.intersection(&online).copied().collect();
        let left: BTreeSet<usize> = online.difference(&real_time).copied().collect();
        let housekeeping = if left.is_empty() { online } else { left };
        Self {
            real_time,
            housekeeping,
        }
    }

    /// Whether there is a core to keep for housekeeping and one to keep it from.
    pub fn separates(&self) -> bool {
        !self.real_time.is_empty() && self.housekeeping.is_disjoint(&self.real_time)
    }
}

/// The cores in a list such as `0-3,6`. What is no number is left out.
pub fn parse_list(text: &str) -> BTreeSet<usize> {
    let mut cores = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            // A machine has at most 8192 cores; a longer range is not a list of cores.
            cores.extend(first..=last.min(first + 8191));
        }
    }
    cores
}

/// `cores` as a list such as `0,1,6`.
pub fn list(cores: &BTreeSet<usize>) -> String {
    cores
        .iter()
        .map(usize::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// `cores` as the kernel's hexadecimal mask, in groups of 32 bits from the highest on.
pub fn mask(cores: &BTreeSet<usize>) -> String {
    let groups = cores.last().map_or(1, |last| last / 32 + 1);
    let mut words = vec![0_u32; groups];
    for core in cores {
        words[core / 32] |= 1 << (core % 32);
    }
    let texts: Vec<String> = words
        .iter()
        .rev()
        .map(|word| format!("{word:08x}"))
        .collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_masks_are_the_kernels() {
        let cores = parse_list("0-2,33\n");
        assert_eq!(cores, BTreeSet::from([0, 1, 2, 33]));
        assert_eq!(list(&cores), "0,1,2,33");
        assert_eq!(mask(&cores), "00000002,00000007");
        assert_eq!(parse_list("garbage,5,"), BTreeSet::from([5]));
    }

    #[test]
    fn without_a_core_to_spare_everything_shares() {
        let split = CoreSplit::new(BTreeSet::from([0, 1]), BTreeSet::from([1]));
        assert_eq!(
            (split.housekeeping.clone(), split.separates()),
            (BTreeSet::from([0]), true)
        );
        let crowded = CoreSplit::new(BTreeSet::from([0]), BTreeSet::from([0]));
        assert_eq!(
            (crowded.housekeeping.len(), crowded.separates()),
            (1, false)
        );
    }
}
