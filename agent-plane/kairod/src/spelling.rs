//! Mistyped names: the nearest one that there is, and showing what was typed.
//!
//! Both are bounded, because callers choose the names: comparing takes time and memory in
//! proportion to the product of the lengths, and a request may hold a name of a mebibyte.

/// Longest name that is compared or shown, characters. None that exists is longer.
const LONGEST: usize = 64;

/// The known name that differs from `name` least, by at most `within` edits.
pub fn nearest<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
    within: usize,
) -> Option<&'a str> {
    if name.len() > 4 * LONGEST {
        return None;
    }
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(candidate, name), candidate))
        .filter(|(edits, _)| *edits <= within)
        .min()
        .map(|(_, candidate)| candidate)
}

/// As much of a name as an error repeats.
pub fn shown(name: &str) -> String {
    name.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_within_the_distance() {
        let known = ["device.info", "device.list"];
        assert_eq!(nearest("device.lst", known, 3), Some("device.list"));
        assert_eq!(nearest("rt.status", known, 3), None);
    }

    #[test]
    fn a_name_of_a_mebibyte_is_neither_compared_nor_repeated() {
        let long = "x".repeat(1 << 20);
        // Compared with its own like it would take hours and 8 TiB.
        assert_eq!(nearest(&long, [long.as_str()], 3), None);
        assert_eq!(shown(&long).len(), LONGEST);
    }
}
