//! A board definition: `board/boards/NAME.toml`, the one readable file that says what an image of
//! that board holds and how its kernel is started.
//!
//! Unknown keys are errors, with the line. Paths in it are relative to the workspace.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::ImageError;
use super::kboot::Slot;

/// A board definition, checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// The board's name; also the name of its directory under `out/`.
    pub name: String,
    /// The Rust target the programs are built for.
    pub target: String,
    /// The robot description put into the root as a fall-back and into `/config`.
    pub robot: PathBuf,
    /// The default `/config/kairo.toml`.
    pub system: PathBuf,
    /// The default `/config/policy.toml`.
    pub policy: PathBuf,
    /// The boot disk as the kernel names it.
    pub disk: String,
    /// Kernel command line, but for the words that differ between slots.
    pub command_line: Vec<String>,
    /// The programs of the workspace that go into `/usr/bin`.
    pub program: Vec<Program>,
    /// Programs of the host's distribution that go into `/usr/bin`.
    #[serde(default)]
    pub host_program: Vec<HostProgram>,
    /// The emulated machine, where the board is one.
    pub qemu: Option<Emulated>,
}

/// A program built from this workspace.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// The cargo package.
    pub package: String,
    /// The binary target, and the name in `/usr/bin`.
    pub binary: String,
    /// Linked without a loader, for what must run when nothing else does.
    #[serde(default)]
    pub r#static: bool,
}

/// A program taken from the build host.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostProgram {
    /// Where the host has it.
    pub path: PathBuf,
}

/// What QEMU emulates for the board.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Emulated {
    /// `-machine`.
    pub machine: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// The USB device on the arm's cable.
    pub arm_cable: String,
    /// The watchdog device.
    pub watchdog: String,
    /// TCP port of `kairo-forward` inside the guest.
    pub forward_port: u16,
}

impl Board {
    /// Reads and checks a definition; `name` is the stem of a file in `board/boards/`.
    ///
    /// # Errors
    /// [`ImageError::Definition`] with the line for a wrong key or value.
    pub fn load(workspace: &Path, name: &str) -> Result<Board, ImageError> {
        Board::from_file(&workspace.join("board/boards").join(format!("{name}.toml")))
    }

    /// Reads and checks the definition in `path`.
    ///
    /// # Errors
    /// As [`Board::load`].
    pub fn from_file(path: &Path) -> Result<Board, ImageError> {
        let text = fs::read_to_string(path).map_err(ImageError::file("read", path))?;
        let refuse = |reason: String| ImageError::Definition {
            path: path.to_path_buf(),
            reason,
        };
        let board: Board = toml::from_str(&text).map_err(|error| refuse(error.to_string()))?;
        let plain = |name: &str| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        for program in &board.program {
            if !plain(&program.binary) {
                return Err(refuse(format!(
                    "binary {:?} is no file name",
                    program.binary
                )));
            }
        }
        if !plain(&board.name) {
            return Err(refuse(format!(
                "name {:?} is no directory name",
                board.name
            )));
        }
        if let Some(word) = board
            .command_line
            .iter()
            .find(|w| w.contains(char::is_whitespace))
        {
            return Err(refuse(format!(
                "command_line has {word:?} with a space inside; write one word per entry"
            )));
        }
        Ok(board)
    }

    /// The kernel command line that boots `slot`.
    #[must_use]
    pub fn command_line(&self, slot: Slot) -> String {
        let root = match slot {
            Slot::A => 3,
            Slot::B => 5,
        };
        // The kernel puts a `p` between a disk name that ends in a digit and the number.
        let digit = self.disk.ends_with(|last: char| last.is_ascii_digit());
        let separator = if digit { "p" } else { "" };
        let own = [
            format!("root={}{separator}{root}", self.disk),
            "ro".to_owned(),
            "rootfstype=erofs".to_owned(),
            format!("kairo.disk={}", self.disk),
            format!("kairo.slot={}", slot.letter()),
        ];
        let words: Vec<String> = own.into_iter().chain(self.command_line.clone()).collect();
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap()
            .to_path_buf()
    }

    #[test]
    fn the_shipped_boards_load() {
        for entry in fs::read_dir(workspace().join("board/boards")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "toml") {
                let board = Board::from_file(&path).unwrap();
                assert_eq!(
                    Some(board.name.as_str()),
                    path.file_stem().unwrap().to_str()
                );
            }
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let shipped = workspace().join("board/boards/qemu-x86_64.toml");
        let text = fs::read_to_string(shipped).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("nmae = \"x\"\n{text}")).unwrap();
        let message = Board::from_file(file.path()).unwrap_err().to_string();
        assert!(
            message.contains("nmae") && message.contains("line 1"),
            "{message}"
        );
    }

    #[test]
    fn each_slot_boots_its_own_root() {
        let mut board = Board::load(&workspace(), "qemu-x86_64").unwrap();
        assert!(
            board
                .command_line(Slot::A)
                .starts_with("root=/dev/vda3 ro rootfstype=erofs")
        );
        assert!(board.command_line(Slot::B).contains("kairo.slot=b"));
        board.disk = "/dev/mmcblk0".to_owned();
        assert!(
            board
                .command_line(Slot::B)
                .starts_with("root=/dev/mmcblk0p5 ")
        );
    }

    #[test]
    fn pid_1_and_the_console_are_static() {
        let board = Board::load(&workspace(), "qemu-x86_64").unwrap();
        for name in ["kairo-init", "kairo-console"] {
            assert!(
                board.program.iter().any(|p| p.binary == name && p.r#static),
                "{name}"
            );
        }
    }
}
