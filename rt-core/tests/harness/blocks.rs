//! Control blocks that several test programs use: as text of robot.toml, and plug-ins compiled.

use std::path::{Path, PathBuf};

/// A circle of blocks whose number grows a billionfold each period, from when the output `out` of a
/// block named `begins` is not 0.
pub const RUNAWAY: &str = r#"
[[block]]
name = "grows"
kind = "sum"
loop = "arm-loop"
input.in_1 = "begins.out"
input.in_2 = "thousands.out"

[[block]]
name = "before"
kind = "delay"
loop = "arm-loop"
input.in = "grows.out"

[[block]]
name = "thousands"
kind = "gain"
loop = "arm-loop"
gain = 1e9
input.in = "before.out"
"#;

/// Half the target of the first joint, computed by another loop at another rate.
pub const ACROSS: &str = r#"
[[loop]]
name = "slow"
period_us = 10000
priority = 75
overrun = "skip"
budget_us = 500

[[block]]
name = "ask"
kind = "gain"
loop = "arm-loop"
unit = "rad"
gain = 1.0
input.in = "arm.shoulder_pan.target"

[[block]]
name = "half"
kind = "gain"
loop = "slow"
unit = "rad"
gain = 0.5
max_age_ms = 10000
input.in = "ask.out"

[[block]]
name = "answer"
kind = "gain"
loop = "arm-loop"
unit = "rad"
gain = 1.0
max_age_ms = 2000
input.in = "half.out"
output.out = "arm.shoulder_pan.setpoint"
"#;

/// What makes the loop of [`ACROSS`] fail above a target of 0.35 rad; [`RUNAWAY`] on that loop.
pub fn fails_across() -> String {
    let begins = r#"
[[block]]
name = "lift"
kind = "compare"
loop = "arm-loop"
unit = "rad"
threshold_rad = 0.35
input.in = "arm.shoulder_pan.target"

[[block]]
name = "begins"
kind = "gain"
loop = "slow"
unit = "flag"
output_unit = "1"
gain = 1.0
max_age_ms = 10000
input.in = "lift.out"
"#;
    let runaway = RUNAWAY.replace("loop = \"arm-loop\"", "loop = \"slow\"");
    format!("{begins}{runaway}")
}

/// Compiles a plug-in as the documentation says.
pub fn compile(source: &str, more: &[&str], directory: &Path) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let object = directory.join("plugin.so");
    let status = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .arg(&object)
        .arg(here.join(source))
        .arg("-I")
        .arg(here.join("blocks/plugin/include"))
        .args(more)
        .status()
        .expect("a C compiler is there: Rust links with it");
    assert!(status.success());
    trusted(&object);
    object
}

/// Compiles the plug-in of `examples/deadband_plugin.rs` as the documentation says.
pub fn compile_rust(directory: &Path) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let object = directory.join("deadband.so");
    // Where the toolchain is pinned; cargo's own variables are those of this build.
    let status = std::process::Command::new("rustc")
        .current_dir(here)
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "cdylib",
            "-O",
            "-C",
            "panic=abort",
            "-o",
        ])
        .arg(&object)
        .arg("examples/deadband_plugin.rs")
        .status()
        .expect("a Rust compiler is there");
    assert!(status.success());
    trusted(&object);
    object
}

/// Whatever this machine's mask is: what a group may write is not loaded.
fn trusted(object: &Path) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(object, mode).expect("chmod");
}

/// The plug-in of `examples/backlash.c`, between `source` and the setpoint of the first joint.
pub fn backlash(object: &Path, source: &str) -> String {
    format!(
        "[[plugin]]\nname = \"gear\"\npath = \"{}\"\nbudget_us = 50000\n\
         [[block]]\nname = \"pan-gear\"\nkind = \"gear.backlash\"\nloop = \"arm-loop\"\n\
         width_rad = 0.02\ninput.in = \"{source}\"\n\
         output.out = \"arm.shoulder_pan.setpoint\"\n",
        object.display()
    )
}

/// The plug-in of the plug-ins' own tests, compiled in `directory`; it is in `mood` while a command
/// is followed, and drives the first joint.
pub fn moody(directory: &Path, mood: u32) -> String {
    let more = ["-DWRONG_VERSION=0", "-lm"];
    let object = compile("blocks/plugin/tests/mood.c", &more, directory);
    format!(
        "[[plugin]]\nname = \"test\"\npath = \"{}\"\nbudget_us = 5000\n\
         [[block]]\nname = \"begins\"\nkind = \"gain\"\nloop = \"arm-loop\"\nunit = \"flag\"\n\
         output_unit = \"1\"\ngain = {mood}\ninput.in = \"arm.following\"\n\
         [[block]]\nname = \"moody\"\nkind = \"test.moody\"\nloop = \"arm-loop\"\ngain = 1.0\n\
         input.mood = \"begins.out\"\ninput.in = \"arm.shoulder_pan.target\"\n\
         output.out = \"arm.shoulder_pan.setpoint\"\n",
        object.display()
    )
}
