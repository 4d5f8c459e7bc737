//! `cargo xtask image`: the disk image of a board, its contents, and whether it is reproducible.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use board::image::{Board, BuiltImage, ImageOptions, Manifest, build, reproducible};
use board::kernel::{self, Arch};
use board::needs::{self, Work};
use board::paths::Paths;
use board::progress::readable_bytes;
use clap::Args;

/// Builds the disk image of a board under out/.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    inputs: Inputs,
    /// Print the manifest as JSON.
    #[arg(long)]
    json: bool,
    /// Print the files of the root with their sizes.
    #[arg(long, conflicts_with = "json")]
    list: bool,
    /// Build the root twice from nothing in two places and compare; builds no disk.
    #[arg(long)]
    check_reproducible: bool,
}

/// What an image is made of.
#[derive(Debug, Args)]
pub struct Inputs {
    /// The board: the name of a file in board/boards/.
    #[arg(long, default_value = "qemu-x86_64")]
    board: String,
    /// Use this board definition file instead.
    #[arg(long, conflicts_with = "board")]
    board_file: Option<PathBuf>,
    /// Use this kernel image instead of building one.
    #[arg(long)]
    kernel: Option<PathBuf>,
    /// Use this robot description instead of the board's.
    #[arg(long)]
    pub(super) robot: Option<PathBuf>,
    /// Derive the disk's GUIDs from this text instead of at random.
    #[arg(long)]
    seed: Option<String>,
}

impl Inputs {
    fn definition(&self, paths: &Paths) -> anyhow::Result<Board> {
        Ok(match &self.board_file {
            Some(file) => Board::from_file(file)?,
            None => Board::load(paths.workspace(), &self.board)?,
        })
    }

    /// Whether a kernel must be built, because none was named.
    pub fn builds_kernel(&self) -> bool {
        self.kernel.is_none()
    }

    /// Builds the image, and the kernel before it where none was named.
    pub fn build(&self, paths: &Paths) -> anyhow::Result<BuiltImage> {
        let board = self.definition(paths)?;
        let kernel = match &self.kernel {
            Some(file) => file.clone(),
            None => kernel::build(paths, Arch::X86_64)?.image,
        };
        let (robot, seed) = (self.robot.clone(), self.seed.clone());
        Ok(build(
            paths,
            &ImageOptions {
                board,
                kernel,
                robot,
                seed,
            },
        )?)
    }
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let paths = Paths::discover()?;
    if arguments.check_reproducible {
        let board = arguments.inputs.definition(&paths)?;
        let hash = reproducible::check(&paths, &board, arguments.inputs.robot.as_deref())?;
        println!("{hash}");
        return Ok(ExitCode::SUCCESS);
    }
    let builds_kernel = arguments.inputs.builds_kernel();
    needs::ensure(&paths, Work::Image { builds_kernel })?;
    let image = arguments.inputs.build(&paths)?;
    if arguments.json {
        println!("{}", image.manifest.to_json());
    } else if arguments.list {
        print!("{}", listing(&image.manifest));
    } else {
        print!("{}", report(&image.manifest, &image.disk));
    }
    Ok(ExitCode::SUCCESS)
}

fn report(manifest: &Manifest, disk: &Path) -> String {
    format!(
        "disk       {}\nroot hash  {}\nroot size  {} in {} files\nkernel     {}\ncommit     {}\n",
        disk.display(),
        manifest.root_hash,
        readable_bytes(manifest.root_bytes),
        manifest
            .files
            .iter()
            .filter(|entry| entry.sha256.is_some())
            .count(),
        readable_bytes(manifest.kernel_bytes),
        manifest.commit,
    )
}

/// One line per entry: size, path, and where a link leads or a host file came from.
fn listing(manifest: &Manifest) -> String {
    let mut text = String::new();
    for entry in &manifest.files {
        let note = match (&entry.link, &entry.host_file) {
            (Some(target), _) => format!(" -> {target}"),
            (None, Some(file)) => format!("  (host: {})", file.display()),
            (None, None) => String::new(),
        };
        text.push_str(&format!("{:>10}  {}{note}\n", entry.bytes, entry.path));
    }
    let total: u64 = manifest.files.iter().map(|entry| entry.bytes).sum();
    text.push_str(&format!(
        "{total:>10}  uncompressed, {} packed\n",
        manifest.root_bytes
    ));
    text
}
