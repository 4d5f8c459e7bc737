//! `kairo record list|info|export` and `kairo replay`: what the flight recorder kept.
//!
//! Works on files and needs no kernel. It reads whatever a file says about itself, so records of a
//! robot with other devices, or of a later version with more entries, are shown too. `replay` is
//! kairo-rt's own work: it alone has the code that recorded; this command starts it.

mod csv;
mod layout;
mod mcap;

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use kairo_record::file::{FileReader, Frame, Header, Kind, Tail};
use kairo_record::storage::list as stored;
use serde_json::{Value, json};

use crate::arguments::{ExportOptions, ReplayOptions};
use crate::failure::Failure;
use crate::terminal::{Cell, Table, Terminal};
use layout::Layouts;

/// A record file that is open.
type Records = FileReader<BufReader<File>>;

fn open(path: &Path) -> Result<Records, Failure> {
    let file = File::open(path).map_err(|error| not_read(path, &error))?;
    FileReader::new(BufReader::new(file)).map_err(|error| not_read(path, &error))
}

fn not_read(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::NotDone(format!("{}: {error}", path.display()))
}

fn next(path: &Path, records: &mut Records) -> Result<Option<Frame>, Failure> {
    records.next_frame().map_err(|error| not_read(path, &error))
}

/// `record list`.
pub fn list(terminal: &Terminal, directory: &Path) -> Result<(), Failure> {
    let files = stored(directory).map_err(|error| not_read(directory, &error))?;
    if terminal.json {
        let files: Vec<Value> = files
            .iter()
            .map(|file| json!({"name": file.name(), "bytes": file.bytes, "crash": file.crash}))
            .collect();
        return terminal.json_page(&json!({ "files": files }));
    }
    let mut table = Table::new(&["FILE", ">kB", "FROM"]);
    for file in &files {
        let origin = if file.crash {
            "a black box"
        } else {
            "the recorder"
        };
        let cells = [
            file.name(),
            (file.bytes / 1000).to_string(),
            origin.to_owned(),
        ];
        table.row(cells.map(Cell::from));
    }
    terminal.table(&table)
}

/// What is in a file, apart from its header.
#[derive(Debug, Default)]
struct Contents {
    ticks: u64,
    keyframes: u64,
    missing: u64,
    ended: bool,
    first_ns: Option<u64>,
    last_ns: u64,
}

fn contents(path: &Path) -> Result<(Header, Contents, Tail), Failure> {
    let mut records = open(path)?;
    let header = records.header().clone();
    let layouts = Layouts::of(&header);
    let mut found = Contents::default();
    while let Some(frame) = next(path, &mut records)? {
        match Kind::from_u16(frame.kind) {
            Some(Kind::Tick) => {
                found.ticks += 1;
                if let Some((_, time_ns)) = layouts.moment(&frame) {
                    found.first_ns.get_or_insert(time_ns);
                    found.last_ns = found.last_ns.max(time_ns);
                }
            }
            Some(Kind::Keyframe) => found.keyframes += 1,
            Some(Kind::Gap) => found.missing += frame.payload.get(1).copied().unwrap_or(0),
            Some(Kind::End) => found.ended = true,
            None => (),
        }
    }
    Ok((header, found, records.tail()))
}

/// `record info`.
pub fn info(terminal: &Terminal, path: &Path) -> Result<(), Failure> {
    let (header, found, tail) = contents(path)?;
    let torn = match tail {
        Tail::Torn { at_byte } => Some(at_byte),
        Tail::Clean | Tail::Unknown => None,
    };
    let seconds = found.first_ns.map_or(0.0, |first| {
        found.last_ns.saturating_sub(first) as f64 / 1e9
    });
    if terminal.json {
        return terminal.json_page(&json!({
            "header": header, "ticks": found.ticks, "keyframes": found.keyframes,
            "missing": found.missing, "ended": found.ended, "seconds": seconds,
            "torn_at_byte": torn,
        }));
    }
    let loops = header.loops.iter().map(|known| {
        let devices: Vec<&str> = known.devices.iter().map(|device| &*device.name).collect();
        format!("{} ({})", known.name, devices.join(", "))
    });
    let loops: Vec<String> = loops.collect();
    terminal.line(format!(
        "robot    {}, loops {}",
        header.robot,
        loops.join("; ")
    ))?;
    terminal.line(format!(
        "build    kairo-rt {} for {}, executable {:08x}",
        header.build.version, header.build.architecture, header.build.executable_crc32
    ))?;
    terminal.line(format!(
        "records  {} ticks over {seconds:.1} s, {} keyframes, {} missing",
        found.ticks, found.keyframes, found.missing
    ))?;
    let end = match (torn, found.ended) {
        (Some(at_byte), _) => format!("cut off: whole up to byte {at_byte}"),
        (None, true) => "in order".to_owned(),
        (None, false) => "goes on in another file, or the process died".to_owned(),
    };
    terminal.line(format!("end      {end}"))
}

/// `record export`.
pub fn export(terminal: &Terminal, options: &ExportOptions) -> Result<(), Failure> {
    let formats: [(&Option<PathBuf>, Export); 2] =
        [(&options.mcap, mcap::write), (&options.csv, csv::write)];
    let mut messages = 0;
    for (target, write) in formats {
        if let Some(target) = target {
            messages += export_to(target, &options.file, write)?;
        }
    }
    if terminal.json {
        return terminal.json_page(&json!({ "written": messages }));
    }
    terminal.line(format!("{messages} written"))
}

/// How a format is written: to a file, from records; how many messages or rows.
type Export = fn(BufWriter<File>, &Path, Records) -> Result<u64, Failure>;

fn export_to(target: &Path, source: &Path, write: Export) -> Result<u64, Failure> {
    let records = open(source)?;
    let file = File::create(target).map_err(|error| not_written(target, error))?;
    write(BufWriter::new(file), source, records)
}

fn not_written(path: &Path, error: std::io::Error) -> Failure {
    Failure::File {
        path: path.display().to_string(),
        error,
    }
}

/// Flushes what was exported: the disk may be full only now.
fn flushed<W: Write>(mut file: W) -> Result<(), Failure> {
    let flushed = file.flush();
    flushed.map_err(|error| Failure::NotDone(format!("the export cannot be written: {error}")))
}

/// `replay`: becomes kairo-rt.
pub fn replay(terminal: &Terminal, options: &ReplayOptions) -> Result<(), Failure> {
    let mut program = std::process::Command::new(kairo_rt());
    program.arg("--replay").arg(&options.file);
    for (name, tick) in [("--from", options.from), ("--to", options.to)] {
        if let Some(tick) = tick {
            program.arg(name).arg(tick.to_string());
        }
    }
    if let Some(config) = &options.config {
        program.arg("--config").arg(config);
    }
    if terminal.json {
        program.arg("--json");
    }
    let error = program.exec();
    let name = program.get_program().to_string_lossy().into_owned();
    Err(Failure::Program(format!(
        "{name} cannot be started: {error}; it must lie beside kairo or in the PATH"
    )))
}

/// The kairo-rt beside this program, which is of the same build; else that of the PATH.
fn kairo_rt() -> PathBuf {
    let beside = std::env::current_exe().map(|own| own.with_file_name("kairo-rt"));
    match beside {
        Ok(path) if path.exists() => path,
        _ => PathBuf::from("kairo-rt"),
    }
}

#[cfg(test)]
mod tests;
