//! A record as comma-separated values: a row for every word of every entry.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use kairo_record::file::Kind;

use super::layout::Layouts;
use super::{Records, flushed, next};
use crate::failure::Failure;

/// Writes all rows; how many.
pub(super) fn write(
    mut file: BufWriter<File>,
    source: &Path,
    mut records: Records,
) -> Result<u64, Failure> {
    let failed = |error: std::io::Error| Failure::NotDone(format!("cannot write the CSV: {error}"));
    let layouts = Layouts::of(records.header());
    writeln!(file, "loop,tick,time_ns,entry,device,field,value").map_err(failed)?;
    let mut rows = 0;
    while let Some(frame) = next(source, &mut records)? {
        if frame.kind != Kind::Tick as u16 {
            continue;
        }
        let (tick, time_ns) = layouts.moment(&frame).unwrap_or((0, 0));
        for item in layouts.items(&frame) {
            let index = item.index.to_string();
            let device = match item.of {
                "loop" => "",
                "device" | "block" => item.device.unwrap_or(""),
                _ => &index,
            };
            for (field, value) in item.fields() {
                // Names come from a robot.toml that was checked: no comma, no quote.
                writeln!(
                    file,
                    "{},{tick},{time_ns},{},{device},{field},{value}",
                    item.loop_name, item.entry
                )
                .map_err(failed)?;
                rows += 1;
            }
        }
    }
    flushed(file)?;
    Ok(rows)
}
