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
    // Whatever this machine's mask is: what a group may write is not loaded.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&object, mode).expect("chmod");
    object
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
