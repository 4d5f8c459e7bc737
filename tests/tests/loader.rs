//! The boot script under real U-Boot, in QEMU, beside what `kairo_slots::loader` says it does.
//!
//! One boot goes through a table of state areas: a script of the test copies each to its place,
//! runs the selection as it is shipped, and copies the result away. The line the selection prints
//! and all eight sectors afterwards must be what [`decide`] says.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use board::boot::{self, SCRIPT_FILE};
use board::host;
use board::image::layout::{self, SECTOR_BYTES};
use board::kernel::{self, Arch};
use kairo_slots::area::{Place, Slot, Snapshot};
use kairo_slots::loader::{Decision, Disk, decide};
use kairo_slots::record::{
    Canary, LOADER_VERSION, ManifestHash, Nonce, Record, Release, SEQUENCE_MAX, Seal, Token, Trial,
};
use kairo_slots::sector::Sector;
use kairo_tests::{out, paths};

/// Patience with a whole boot: 5 s on a free machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Where the table is on the disk: behind the area, in front of the first partition.
const TABLE_LBA: u64 = 0x4100;

/// Sectors of a row: eight to begin with, and eight that came of them.
const ROW_SECTORS: u64 = 16;

/// Where the firmware files of `u-boot-qemu` are; another release can be tried with this variable.
fn firmware(file: &str) -> PathBuf {
    let directory = std::env::var_os("KAIRO_UBOOT").unwrap_or_else(|| "/usr/lib/u-boot".into());
    Path::new(&directory).join(file)
}

/// A machine with U-Boot.
struct Loader {
    program: &'static str,
    machine: &'static [&'static str],
    firmware: &'static str,
    disk: &'static str,
    /// Memory for one sector, and for two scripts.
    addresses: [u64; 3],
}

const X86: Loader = Loader {
    program: "qemu-system-x86_64",
    machine: &["-M", "pc"],
    firmware: "qemu-x86/u-boot.rom",
    disk: "virtio-blk-pci,drive=disk",
    addresses: [0x310_0000, 0x320_0000, 0x330_0000],
};

const ARM64: Loader = Loader {
    program: "qemu-system-aarch64",
    machine: &["-M", "virt", "-cpu", "cortex-a57"],
    firmware: "qemu_arm64/u-boot.bin",
    disk: "virtio-blk-device,drive=disk",
    addresses: [0x5000_0000, 0x5100_0000, 0x5200_0000],
};

impl Loader {
    /// Boots `disk` until the machine resets, and returns what it said.
    fn boot(&self, disk: &Path, log: &Path) -> anyhow::Result<String> {
        host::ensure(&boot::NEEDS, &paths().cache_dir("log")?)?;
        let drive = format!("file={},if=none,id=disk,format=raw", disk.display());
        let mut child = Command::new(self.program)
            .args(self.machine)
            .args([
                "-accel", "tcg", "-m", "512", "-display", "none", "-monitor", "none",
            ])
            .args(["-nic", "none", "-no-reboot", "-serial", "stdio", "-bios"])
            .arg(firmware(self.firmware))
            .args(["-drive", &drive, "-device", self.disk])
            .stdin(Stdio::null())
            .stdout(File::create(log)?)
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program))?;
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "{}: {status}", self.program);
                return Ok(String::from_utf8_lossy(&fs::read(log)?).replace('\r', ""));
            }
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                anyhow::bail!(
                    "the loader did not end; what it said is in {}",
                    log.display()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A disk with the partitions of every board.
fn make_disk(directory: &Path) -> anyhow::Result<PathBuf> {
    let disk = directory.join("disk.img");
    let file = File::create(&disk)?;
    file.set_len(layout::disk_sectors() * SECTOR_BYTES)?;
    layout::write_table(&disk, "loader test")?;
    Ok(disk)
}

/// Makes the file system of partition `number` with `files` in it.
fn fill(disk: &Path, number: usize, files: &[(&str, Vec<u8>)]) -> anyhow::Result<()> {
    let partition = layout::partitions()[number - 1];
    let place = format!("{}@@{}", disk.display(), partition.offset_bytes());
    let sectors = partition.sectors.to_string();
    let format = ["-i", &place, "-T", &sectors, "-h", "4", "-s", "32", "::"];
    let made = Command::new("mformat").args(format).status()?;
    ensure!(made.success(), "mformat: {made}");
    let directory = tempfile::tempdir()?;
    for (name, content) in files {
        let source = directory.path().join(name);
        fs::write(&source, content)?;
        let copied = Command::new("mcopy")
            .args(["-i", &place])
            .arg(&source)
            .arg("::")
            .status()?;
        ensure!(copied.success(), "mcopy of {name}: {copied}");
    }
    Ok(())
}

/// The rows, each with the sector where it begins in the table.
fn placed(table: &[Row]) -> impl Iterator<Item = (&Row, u64)> {
    table
        .iter()
        .zip((TABLE_LBA..).step_by(ROW_SECTORS as usize))
}

/// The script that brings each area to its place, selects, and takes the result away.
fn rows_script(table: &[Row]) -> anyhow::Result<String> {
    let mut script = String::new();
    let copy = |script: &mut String, from: u64, to: u64| {
        let read = format!("virtio read ${{sector}} {from:#x} 1");
        writeln!(script, "{read}; virtio write ${{sector}} {to:#x} 1")
    };
    for (_, first) in placed(table) {
        for (place, lba) in Place::ALL.into_iter().zip(first..) {
            copy(&mut script, lba, place.lba())?;
        }
        writeln!(script, "echo ROW {first:#x}; source ${{selection}}")?;
        for (place, lba) in Place::ALL.into_iter().zip(first + 8..) {
            copy(&mut script, place.lba(), lba)?;
        }
    }
    script.push_str("echo TABLE DONE\n");
    Ok(script)
}

/// Runs the selection over every area of `table`.
fn run_table(loader: &Loader, name: &str, table: &[Row]) -> anyhow::Result<()> {
    let directory = out(name);
    let disk = make_disk(&directory)?;
    let [sector, selection, rows] = loader.addresses;
    // U-Boot takes a boot.scr of 64 KiB at most, so the rows are a script of their own.
    let start = format!(
        "setenv sector {sector:#x}; setenv selection {selection:#x}; setenv rows {rows:#x}\n\
         load ${{devtype}} ${{devnum}}:1 ${{selection}} select.scr\n\
         load ${{devtype}} ${{devnum}}:1 ${{rows}} rows.scr\n\
         source ${{rows}}\n\
         reset\n"
    );
    let file = File::options().read(true).write(true).open(&disk)?;
    for (row, first) in placed(table) {
        let end = first + ROW_SECTORS;
        ensure!(end <= layout::FIRST_PARTITION_LBA, "too many rows");
        for (place, lba) in Place::ALL.into_iter().zip(first..) {
            file.write_all_at(&row.area.at(place).0, lba * SECTOR_BYTES)?;
        }
    }
    let rows = rows_script(table)?;
    let files = [
        (SCRIPT_FILE, boot::script_image("table", &start)),
        ("rows.scr", boot::script_image("rows", &rows)),
        ("select.scr", boot::script_image("selection", boot::SELECT)),
    ];
    fill(&disk, 1, &files)?;
    let said = loader.boot(&disk, &directory.join("serial.log"))?;
    let is_done = said.contains("\nTABLE DONE\n");
    ensure!(is_done, "the table was not finished:\n{}", tail(&said));
    let version = said.lines().find(|line| line.starts_with("U-Boot "));
    let version = version.unwrap_or("U-Boot ?");
    println!("{name}: {} areas under {version}", table.len());
    placed(table).try_for_each(|(row, first)| judge(row, first, &said, &file))
}

/// Compares what the script said and left with what the model says.
fn judge(row: &Row, first: u64, said: &str, disk: &File) -> anyhow::Result<()> {
    let name = &row.name;
    let (_, behind) = said
        .split_once(&format!("\nROW {first:#x}\n"))
        .context("a row")?;
    let mut lines = behind.lines();
    let line = lines.find(|line| line.starts_with("KBOOT "));
    let line = line.context("a line")?;
    let decision = decide(&row.area, Disk::Writable);
    let expected = decision.to_string();
    ensure!(line == expected, "{name}: `{line}`, not `{expected}`");
    let area = afterwards(&row.area, &decision);
    for (place, lba) in Place::ALL.into_iter().zip(first + 8..) {
        let mut found = Sector::VOID;
        disk.read_exact_at(&mut found.0, lba * SECTOR_BYTES)?;
        let wanted = area.at(place);
        ensure!(
            found == *wanted,
            "{name}, {place:?}: {found:?}, not {wanted:?}"
        );
    }
    Ok(())
}

fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

fn afterwards(area: &Snapshot, decision: &Decision) -> Snapshot {
    let mut area = area.clone();
    for (place, sector) in &decision.writes {
        area.put(*place, *sector);
    }
    area
}

/// One state area.
struct Row {
    name: String,
    area: Snapshot,
}

const NONCE: Nonce = Nonce([0xab; 8]);
const RELEASE: Release = Release {
    manifest: ManifestHash([7; 32]),
    number: 7,
    floor: 3,
};

/// A sector with right checksum and any text.
fn text(text: &str) -> Sector {
    let mut sector = Sector::VOID;
    sector.0[4..4 + text.len()].copy_from_slice(text.as_bytes());
    let checksum = crc32fast::hash(&sector.0[4..]);
    sector.0[..4].copy_from_slice(&checksum.to_le_bytes());
    sector
}

fn garbage() -> Sector {
    let mut sector = text("kseq=9\0kact=b\0");
    sector.0[7] ^= 1;
    sector
}

fn record(sequence: u32, active: Slot, tries: bool) -> Sector {
    let trial = Trial {
        slot: active.other(),
        nonce: NONCE,
        release: RELEASE,
    };
    Record {
        sequence,
        active,
        trial: tries.then_some(trial),
        ..Record::factory(1)
    }
    .to_sector()
}

fn seal(sequence: u32) -> Sector {
    Seal {
        sequence,
        release: RELEASE,
    }
    .to_sector()
}

/// Adds a row with these sectors, and all others void.
fn add(rows: &mut Vec<Row>, name: String, sectors: &[(Place, Sector)]) {
    let mut area = Snapshot::EMPTY;
    for (place, sector) in sectors {
        area.put(*place, *sector);
    }
    rows.push(Row { name, area });
}

/// Right checksums over what no writer of ours writes, or over half of it.
const STRANGE: [&str; 14] = [
    "kseq=5\0kact=c\0",
    "kseq=5\0",
    "kact=b\0",
    "kseq=0\0kact=b\0",
    "kseq=abc\0kact=b\0",
    "kseq=\0kact=b\0",
    "kseq=5\0kact=b\0ktry=b\0knon=1\0",
    "kseq=5\0kact=b\0ktry=c\0knon=1\0",
    "kseq=5\0kact=b\0ktry=a\0",
    "kseq=5\0kact=b\0ktry=a\0knon=1\0",
    "kact=b\0kseq=5\0",
    "kseq=5\0kact=a\0kact=b\0",
    "kseq=5\0kact=\0kact=b\0",
    "kseq=5\0kact=b\0kother=1\0",
];

/// Every pair of records, every set of tokens, every pair of seals, canaries, and strange sectors.
fn table() -> Vec<Row> {
    let mut rows = Vec::new();
    let copies = [
        ("void", Sector::VOID),
        ("garbage", garbage()),
        ("4 a", record(4, Slot::A, false)),
        ("5 b", record(5, Slot::B, false)),
        ("5 a, b on trial", record(5, Slot::A, true)),
        ("largest b, a on trial", record(SEQUENCE_MAX, Slot::B, true)),
    ];
    for (first_name, first) in copies {
        for (second_name, second) in copies {
            let name = format!("records {first_name} / {second_name}");
            let sectors = [(Place::Record0, first), (Place::Record1, second)];
            add(&mut rows, name, &sectors);
        }
    }
    let used = Token { nonce: NONCE }.to_sector();
    let nonce = Nonce([1; 8]);
    let other = Token { nonce }.to_sector();
    for tokens in 0..27 {
        let token = |place: u32| [other, used, garbage()][tokens / 3_usize.pow(place) % 3];
        let mut sectors = vec![(Place::Record0, record(5, Slot::A, true))];
        sectors.extend(Place::ATTEMPTS.into_iter().zip((0..).map(token)));
        add(&mut rows, format!("tokens {tokens}"), &sectors);
    }
    let active = (Place::Record0, record(5, Slot::B, false));
    let seals = [Sector::VOID, seal(1), seal(2), garbage()];
    for (index, a) in seals.into_iter().enumerate() {
        for (other, b) in seals.into_iter().enumerate() {
            let [a, b] = [(Place::SealA, a), (Place::SealB, b)];
            add(&mut rows, format!("seals {index} / {other}"), &[a, b]);
            let name = format!("b with seals {index} / {other}");
            add(&mut rows, name, &[a, b, active]);
        }
    }
    for (sequence, loader) in [(5, LOADER_VERSION), (5, 0), (4, LOADER_VERSION)] {
        let canary = Canary { sequence, loader }.to_sector();
        let name = format!("canary {sequence} {loader}");
        add(&mut rows, name, &[(Place::Canary, canary), active]);
    }
    for strange in STRANGE {
        let sound = (Place::Record1, record(3, Slot::A, true));
        let sectors = [(Place::Record0, text(strange)), sound];
        add(&mut rows, strange.replace('\0', " "), &sectors);
    }
    rows
}

#[test]
fn the_script_decides_as_the_model_does_on_x86_64() -> anyhow::Result<()> {
    run_table(&X86, "loader-x86", &table())
}

#[test]
fn the_script_decides_as_the_model_does_on_arm64() -> anyhow::Result<()> {
    run_table(&ARM64, "loader-arm64", &table())
}

/// A slot's kernel partition.
fn slot_files(kernel: &[u8], checksum_of: &[u8]) -> anyhow::Result<[(&'static str, Vec<u8>); 2]> {
    let environment = boot::environment(checksum_of, ["quiet a", "quiet b"]).context("it fits")?;
    Ok([("boot.env", environment), ("kernel", kernel.to_vec())])
}

/// A kernel that is no kernel starts on no machine, so each boot goes through all it would try.
fn starts(
    name: &str,
    loader: &Loader,
    area: &Snapshot,
    damaged: &[Slot],
) -> anyhow::Result<String> {
    let directory = out(name);
    let disk = make_disk(&directory)?;
    fill(&disk, 1, &[(SCRIPT_FILE, boot::script())])?;
    for (slot, number) in [(Slot::A, 2), (Slot::B, 4)] {
        let installed: &[u8] = b"no kernel at all";
        let kernel: &[u8] = if damaged.contains(&slot) {
            b"no kernel at aLl"
        } else {
            installed
        };
        fill(&disk, number, &slot_files(kernel, installed)?)?;
    }
    let file = File::options().write(true).open(&disk)?;
    for place in Place::ALL {
        file.write_all_at(&area.at(place).0, place.lba() * SECTOR_BYTES)?;
    }
    let said = loader.boot(&disk, &directory.join("serial.log"))?;
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("KBOOT s"))
        .collect();
    ensure!(
        said.contains("KBOOT nothing starts: reset"),
        "it did not end in a reset"
    );
    Ok(lines[1..].join("; "))
}

#[test]
fn a_damaged_kernel_is_never_started_and_the_other_slot_is() -> anyhow::Result<()> {
    let mut area = Snapshot::EMPTY;
    area.put(Place::Record0, record(5, Slot::A, true));
    area.put(Place::SealA, seal(1));
    for (name, loader) in [
        ("loader-fallback-x86", &X86),
        ("loader-fallback-arm64", &ARM64),
    ] {
        // The trial of b falls back to a in the same boot.
        let said = starts(name, loader, &area, &[Slot::B])?;
        assert_eq!(
            said,
            "KBOOT slot b does not start; KBOOT start slot=a; KBOOT slot a does not start"
        );
    }
    // Nothing is on trial: b was never committed, so it is not tried.
    area.put(Place::Record0, record(5, Slot::A, false));
    let said = starts("loader-unsealed", &X86, &area, &[Slot::A])?;
    assert_eq!(said, "KBOOT slot a does not start");
    area.put(Place::SealB, seal(2));
    let said = starts("loader-sealed", &X86, &area, &[Slot::A])?;
    assert_eq!(
        said,
        "KBOOT slot a does not start; KBOOT start slot=b; KBOOT slot b does not start"
    );
    Ok(())
}

#[test]
fn a_kernel_is_started_with_its_slots_command_line_word_for_word() -> anyhow::Result<()> {
    let directory = out("loader-kernel");
    let disk = make_disk(&directory)?;
    fill(&disk, 1, &[(SCRIPT_FILE, boot::script())])?;
    let kernel = fs::read(kernel::build(&paths(), Arch::X86_64)?.image)?;
    // As long as a real one, with quotes and commas; there is no root, so the kernel panics.
    let hash = "0123456789abcdef".repeat(4);
    let line = |root: u32| {
        format!(
            "console=ttyS0,115200 panic=-1 root=/dev/dm-0 ro dm-mod.create=\"vroot,,,ro,0 \
             131072 verity 1 /dev/vda{root} /dev/vda{root} 4096 4096 16384 16385 sha256 {hash} \
             {hash}\" {}",
            "kairo.pad=0123456789abcdef ".repeat(20)
        )
    };
    let environment = boot::environment(&kernel, [&line(3), &line(5)]).context("it fits")?;
    fill(&disk, 4, &[("boot.env", environment), ("kernel", kernel)])?;
    let mut area = Snapshot::EMPTY;
    area.put(Place::Record0, record(5, Slot::A, true));
    let file = File::options().write(true).open(&disk)?;
    for place in Place::ALL {
        file.write_all_at(&area.at(place).0, place.lba() * SECTOR_BYTES)?;
    }
    let said = X86.boot(&disk, &directory.join("serial.log"))?;
    let words = "kairo.slot=b kairo.attempt=1 kairo.seq=5 kairo.from=record";
    let expected = format!("Command line: {} {words}\n", line(5));
    ensure!(
        said.contains(&expected),
        "not started with\n{expected}\n{}",
        tail(&said)
    );
    Ok(())
}
