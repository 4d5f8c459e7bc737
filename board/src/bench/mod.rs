//! Benchmarks: programs that measure ours beside a control, and one shape for what they found.
//!
//! `cargo xtask bench NAME` runs one of [`BENCHES`], prints its marks as a table, writes them as
//! JSON, and fails when a mark is missed. Benchmarks are no tests: a shared machine is noisy, so
//! only the comparison of two things measured in turns in one run means anything, and no test's
//! success hangs on a time. Other measuring commands (`cargo xtask latency`) use [`Report`] too.
//!
//! Runs on a developer's machine; allocates and blocks.

pub mod command;
pub mod estop;
pub mod events;
pub mod host;
pub mod idle;
pub mod ipc;
pub mod link;
pub mod mark;
mod outside;
pub mod quantile;
pub mod record;
pub mod report;
pub mod stream;
pub mod subscribers;

pub use mark::{Bound, Control, Mark};
pub use report::{Report, Run};

use crate::paths::Paths;

/// One benchmark.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    /// What it is called on the command line and in its report.
    pub name: &'static str,
    /// What it measures, in one line.
    pub summary: &'static str,
    /// Runs it.
    pub run: fn(&Paths) -> anyhow::Result<Report>,
}

const COMMAND: Bench = Bench {
    name: "command",
    summary: "from device.send to the servo bus, from expiry to safety; beside a socket ping-pong",
    run: command::run,
};
const IPC: Bench = Bench {
    name: "ipc",
    summary: "calls beside a raw socket, zbus and tonic; 100 subscribers; rest; four minutes",
    run: ipc::run,
};
const ESTOP: Bench = Bench {
    name: "estop",
    summary: "from a pulled e-stop wire to safe outputs, in ticks; in QEMU, some minutes",
    run: estop::run,
};
const EVENTS: Bench = Bench {
    name: "events",
    summary: "the event log: appends, opening, replay beside SQLite, and 200 kills; two minutes",
    run: events::run,
};
const LINK: Bench = Bench {
    name: "link",
    summary: "rings, latest values and histograms beside rtrb and iceoryx2; two minutes",
    run: link::run,
};
const RECORD: Bench = Bench {
    name: "record",
    summary: "what the flight recorder adds to a tick",
    run: record::run,
};

const STREAM: Bench = Bench {
    name: "stream",
    summary: "1 GiB from a service through kairod to a client, beside a raw socket; a minute",
    run: stream::run,
};

/// All benchmarks.
pub const BENCHES: [Bench; 7] = [COMMAND, ESTOP, EVENTS, IPC, LINK, RECORD, STREAM];

/// The benchmark called `name`.
///
/// # Errors
/// When there is none, with the names there are.
pub fn find(name: &str) -> anyhow::Result<&'static Bench> {
    BENCHES
        .iter()
        .find(|bench| bench.name == name)
        .ok_or_else(|| {
            let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
            anyhow::anyhow!(
                "there is no benchmark `{name}`; there are: {}",
                names.join(", ")
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_benchmark_is_refused_with_the_names_there_are() {
        let error = find("no-such-bench").unwrap_err().to_string();
        for bench in &BENCHES {
            assert!(error.contains(bench.name), "{error}");
            assert_eq!(find(bench.name).unwrap().name, bench.name);
        }
    }
}
