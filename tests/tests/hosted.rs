//! The hosted form, as a user starts it: both planes, the arm on a pseudo-terminal.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use board::demo;
use board::demo::hosted_world::HostedWorld;
use board::demo::ipc::{Ipc, refusal};
use board::hosted::{Hosted, Options};
use kairo_tests::{all_passed, binaries, outputs, paths};
use serde_json::{Value, json};

/// A user without privileges on every Linux.
const NOBODY: u32 = 65534;
/// Patience of every wait.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn the_hosted_demo_passes_and_leaves_its_report_and_plot() -> anyhow::Result<()> {
    let outputs = outputs("hosted-demo");
    let hosted = Hosted::start(
        &paths(),
        binaries(),
        &Options {
            seed: 1,
            ..Options::default()
        },
    )?;
    let report = demo::run(Box::new(HostedWorld::new(hosted)?), &outputs)?;
    all_passed(&report)?;
    let json = fs::read_to_string(outputs.json.expect("asked for"))?;
    let written: Value = serde_json::from_str(&json)?;
    for key in [
        "period_us",
        "ticks",
        "skipped",
        "lateness_us",
        "bringup",
        "allocations",
    ] {
        assert!(!written["rt"][key].is_null(), "rt.{key} is missing");
    }
    assert_eq!(written["steps"].as_array().map(Vec::len), Some(9));
    assert!(fs::read_to_string(outputs.plot)?.contains(report.cyclictest.program));
    Ok(())
}

/// Ends its process with itself.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program as a user without privileges, from a copy in `run`: the checkout may lie where
/// that user cannot look.
fn start_as_nobody(program: &str, arguments: &[&str], run: &Path) -> Running {
    let copy = run.join(program);
    fs::copy(binaries().path(program), &copy).expect("copy");
    let mut command = Command::new(copy);
    command.args(arguments).arg("--run-dir").arg(run);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    Running(command.spawn().expect("starts"))
}

fn linked(socket: &Path) -> (Ipc, Value) {
    let end = Instant::now() + PATIENCE;
    loop {
        let attempt = Ipc::connect(socket).and_then(|mut ipc| {
            let status = ipc.call("rt.status", &json!({}))?;
            Ok((ipc, status))
        });
        match attempt {
            Ok((ipc, status)) if status["connected"] == true => return (ipc, status),
            _ => assert!(Instant::now() < end, "the planes never found each other"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn strict_refuses_to_arm_without_real_time_rights_and_says_which_check_failed() {
    let dir = tempfile::tempdir().expect("tempdir");
    if nix::unistd::geteuid().is_root() {
        let nobody = (Some(NOBODY.into()), Some(NOBODY.into()));
        nix::unistd::chown(dir.path(), nobody.0, nobody.1).expect("chown");
    }
    let robot = dir.path().join("robot.toml");
    fs::copy(paths().workspace().join("board/robots/so101.toml"), &robot).expect("copy");
    let arguments = ["--config", robot.to_str().expect("text"), "--strict"];
    let _real_time = start_as_nobody("kairo-rt", &arguments, dir.path());
    let _kairod = start_as_nobody("kairod", &[], dir.path());
    let (mut ipc, status) = linked(&dir.path().join("kernel.sock"));
    assert_eq!(status["armed"], false, "{status}");
    let checks = status["bringup"].as_array().expect("the bring-up table");
    let failed: Vec<_> = checks
        .iter()
        .filter(|check| check["ok"] == false && check["required"] == true)
        .collect();
    assert!(
        failed.iter().any(|check| check["check"] == "policy"),
        "{failed:#?}"
    );
    assert!(
        failed.iter().all(|check| check["fix"] != ""),
        "a failed check without a fix"
    );
    let refused = refusal(ipc.call("device.claim", &json!({"device": "arm"}))).expect("refused");
    assert_eq!(refused.reason_name(), "not_armed", "{refused}");
}

#[test]
fn a_wrong_key_in_robot_toml_is_refused_with_line_and_fix() {
    let dir = tempfile::tempdir().expect("tempdir");
    let robot = dir.path().join("robot.toml");
    let good = fs::read_to_string(paths().workspace().join("board/robots/so101.toml"));
    let bad = good.expect("read").replacen("period_us", "perid_us", 1);
    let line = bad
        .lines()
        .position(|line| line.contains("perid_us"))
        .expect("there")
        + 1;
    fs::write(&robot, bad).expect("write");
    let output = Command::new(binaries().path("kairo-rt"))
        .arg("--config")
        .arg(&robot)
        .arg("--run-dir")
        .arg(dir.path())
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(
        text.contains(&format!("robot.toml:{line}")),
        "no line {line} in: {text}"
    );
    assert!(
        text.contains("perid_us`") && text.contains("did you mean `period_us`"),
        "{text}"
    );
}
