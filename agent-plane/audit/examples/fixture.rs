//! Writes the log that `tests/released.rs` opens, in the format of this version.
//!
//! `cargo run -p kairo-audit --example fixture agent-plane/audit/tests/fixtures/vN`, once, when
//! format N is released; logs of earlier formats stay as they are. Its key signs nothing else.

use std::path::Path;

use kairo_audit::{Entry, Log, Options, Who};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args_os()
        .nth(1)
        .ok_or("usage: fixture DIRECTORY")?;
    // Twice: a log that was closed and opened again has records of that, too.
    for life in 0..2 {
        let (log, _) = Log::open(Path::new(&directory), Options::default())?;
        for number in 0..3 {
            log.append_and_wait(Entry {
                who: Who {
                    class: "operator".to_owned(),
                    ..Who::default()
                },
                act: "permission.grant".to_owned(),
                target: format!("arm-{life}-{number}"),
                ..Entry::default()
            })?;
        }
    }
    Ok(())
}
