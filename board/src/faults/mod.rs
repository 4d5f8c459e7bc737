//! Fault injection: programs that break something on purpose and report how it ended.
//!
//! `cargo xtask faults NAME` runs one of [`FAULTS`] and reports it in the shape of a benchmark
//! ([`Report`]): a mark for each thing that must hold. Exit status 1 when one does not.

pub mod model;

use crate::bench::Report;
use crate::paths::Paths;

/// One kind of fault.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What it is called on the command line and in its report.
    pub name: &'static str,
    /// What it breaks, in one line.
    pub summary: &'static str,
    /// Breaks it.
    pub run: fn(&Paths) -> anyhow::Result<Report>,
}

/// All of them.
pub const FAULTS: [Fault; 1] = [Fault {
    name: "model",
    summary: "power cuts at every write of an update, every order of what was not flushed",
    run: model::run,
}];

/// The fault called `name`.
///
/// # Errors
/// When there is none, with the names there are.
pub fn find(name: &str) -> anyhow::Result<&'static Fault> {
    FAULTS
        .iter()
        .find(|fault| fault.name == name)
        .ok_or_else(|| {
            let names: Vec<&str> = FAULTS.iter().map(|fault| fault.name).collect();
            anyhow::anyhow!(
                "there is no fault `{name}`; there are: {}",
                names.join(", ")
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_fault_is_refused_with_the_names_there_are() {
        let error = find("no-such-fault").unwrap_err().to_string();
        assert!(error.contains("model"), "{error}");
        assert_eq!(find("model").unwrap().name, "model");
    }
}
