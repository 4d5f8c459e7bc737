//! What the system tests share: programs, an image and machines, built when first asked for.
//!
//! The tests are in `tests/tests/`: `hosted.rs` needs no more than this machine, `image.rs` boots
//! the image in QEMU. They run one at a time (`cargo xtask test` sees to it), because each has
//! real-time threads or a machine of its own. Each wait has a deadline; no measured time is a
//! pass condition.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Context as _;
use board::binaries::Binaries;
use board::demo::Outputs;
use board::demo::qemu_world::QemuWorld;
use board::demo::report::Report;
use board::image::{Board, BuiltImage, ImageOptions};
use board::kernel::{self, Arch};
use board::paths::Paths;
use board::qemu::MachineBuilder;
use board::simulator::{Line, Simulator};

/// The workspace.
pub fn paths() -> Paths {
    Paths::discover().expect("the tests run inside a checkout")
}

/// The programs for this machine, built once.
pub fn binaries() -> &'static Binaries {
    static BUILT: OnceLock<Binaries> = OnceLock::new();
    BUILT.get_or_init(|| Binaries::build(&paths()).expect("the programs build"))
}

/// The image of the QEMU board, built once.
pub fn image() -> &'static BuiltImage {
    static BUILT: OnceLock<BuiltImage> = OnceLock::new();
    BUILT.get_or_init(|| {
        let paths = paths();
        let kernel = kernel::build(&paths, Arch::X86_64)
            .expect("the kernel builds")
            .image;
        let board = Board::load(paths.workspace(), "qemu-x86_64").expect("the board is defined");
        let options = ImageOptions {
            board,
            kernel,
            robot: None,
            seed: None,
        };
        board::image::build(&paths, &options).expect("the image builds")
    })
}

/// A directory below `out/` for one test's logs.
pub fn out(test: &str) -> PathBuf {
    paths()
        .out_dir(&format!("tests/{test}"))
        .expect("out/ can be written")
}

/// A booted image with a simulated arm, as `change` makes it.
///
/// # Errors
/// When the machine does not come up.
pub fn booted(
    test: &str,
    change: impl FnOnce(MachineBuilder) -> MachineBuilder,
) -> anyhow::Result<QemuWorld> {
    let out = out(test);
    let program = binaries().path("kairo-arm-sim");
    let simulator = Simulator::start(&program, Line::UnixSocket, &out, 1)?;
    let machine = MachineBuilder::of_image(image(), &out)?.arm(&simulator.line_path());
    QemuWorld::new(change(machine).start()?, simulator, image().clone())
}

/// Where a demo run by a test leaves its files.
pub fn outputs(test: &str) -> Outputs {
    let out = out(test);
    Outputs {
        json: Some(out.join("demo.json")),
        plot: out.join("latency.svg"),
        cli: binaries().path("kairo"),
    }
}

/// Fails with every step that did not pass.
///
/// # Errors
/// When there is one, or no step at all.
pub fn all_passed(report: &Report) -> anyhow::Result<()> {
    let failed: Vec<_> = report
        .steps
        .iter()
        .filter(|step| !step.ok)
        .map(|step| format!("{}: {}", step.name, step.detail))
        .collect();
    report
        .passed()
        .then_some(())
        .with_context(|| format!("failed steps: {failed:#?}"))
}
