//! `kairo diagnostics`: the state of everything in one file, without secrets, to be handed on.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::call::Session;
use crate::failure::Failure;
use crate::terminal::Terminal;

/// Options of `diagnostics`.
#[derive(Debug, Args)]
pub struct DiagnosticsOptions {
    /// The file to write, which must not exist; standard output if absent.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Takes it and writes it.
pub fn take(
    session: &mut Session<'_>,
    terminal: &Terminal,
    options: &DiagnosticsOptions,
) -> Result<(), Failure> {
    let snapshot = session.call("kernel.diagnostics", json!({}))?;
    let Some(path) = &options.output else {
        return terminal.json_page(&snapshot);
    };
    let failed = |error| Failure::File {
        path: path.display().to_string(),
        error,
    };
    // Readable for its owner alone: redaction is a backstop and no promise.
    let mut opening = OpenOptions::new();
    let opening = opening.write(true).create_new(true).mode(0o600);
    let mut file = opening.open(path).map_err(failed)?;
    writeln!(file, "{snapshot:#}").map_err(failed)?;
    let sections = snapshot["sections"].as_object();
    let sections: Vec<_> = sections.into_iter().flatten().collect();
    let named = |is: fn(&Value) -> bool| -> Vec<String> {
        let some = sections.iter().filter(|(_, section)| is(section));
        some.map(|(name, _)| (*name).clone()).collect()
    };
    let away = named(|section| section["available"] == false);
    let cut = named(|section| section["left_out"] == true);
    if terminal.json {
        return terminal.json_page(&json!({
            "file": path, "sections": sections.len(), "unavailable": away, "left_out": cut,
        }));
    }
    let mut line = format!("{} sections in {}", sections.len(), path.display());
    for (what, names) in [("unavailable", away), ("not whole", cut)] {
        if !names.is_empty() {
            line.push_str(&format!("; {what}: {}", names.join(", ")));
        }
    }
    terminal.line(line)
}
