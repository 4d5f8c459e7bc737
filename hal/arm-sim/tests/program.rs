//! The program end to end: a real process, a real pseudo-terminal, the HAL's real serial port.
#![expect(
    clippy::unwrap_used,
    reason = "functions around the tests fail like the tests do"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use kairo_hal::feetech::{PacketBuffer, ServoBus, ServoBusError, ServoSample};
use kairo_hal::{BusError, MonoNs, SerialBus};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const IDS: [u8; 6] = [1, 2, 3, 4, 5, 6];
/// Generous: it bounds a wait on a loaded machine and is no claim about time.
const PATIENCE_NS: u64 = 5_000_000_000;

/// The running program, its directory and its control connection.
struct Program {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    directory: tempfile::TempDir,
    control: BufReader<UnixStream>,
}

impl Program {
    fn start(line_option: &str, line_name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let control_path = directory.path().join("control.sock");
        let mut child = Command::new(env!("CARGO_BIN_EXE_kairo-arm-sim"))
            .arg(line_option)
            .arg(directory.path().join(line_name))
            .arg("--control")
            .arg(&control_path)
            .args(["--seed", "7", "--json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let started: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(started["ok"], true, "{line}");
        let control = UnixStream::connect(&control_path).unwrap();
        control
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let control = BufReader::new(control);
        Self {
            child,
            _stdout: stdout,
            directory,
            control,
        }
    }

    fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.control.get_mut(), "{request}").unwrap();
        let mut line = String::new();
        self.control.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn soon() -> MonoNs {
    MonoNs::now().plus_ns(PATIENCE_NS)
}

fn count(counters: &Value, name: &str) -> u64 {
    counters[name]
        .as_u64()
        .unwrap_or_else(|| panic!("no {name} in {counters}"))
}

#[test]
fn two_hundred_cycles_with_damage_lose_samples_but_no_cycle() {
    let mut program = Program::start("--pty", "arm");
    let port = SerialBus::open(&program.path("arm"), 1_000_000).unwrap();
    let mut bus = ServoBus::new(port, &IDS).unwrap();
    for id in IDS {
        bus.ping(id, soon()).unwrap();
    }
    bus.sync_write_torque(&IDS, true, soon()).unwrap();
    let fault = json!({"op": "fault", "corrupt": 0.05, "drop": 0.0, "duration_ms": 0});
    assert_eq!(program.ask(&fault)["ok"], true);
    let began = MonoNs::now();
    let mut lost = 0;
    for cycle in 0..200 {
        let mut samples = [ServoSample::default(); 6];
        // Long enough that on a loaded machine only damaged replies are missing.
        let deadline = MonoNs::now().plus_ns(200_000_000);
        let summary = bus.sync_read_present(&IDS, &mut samples, deadline).unwrap();
        lost += u64::from(summary.missing);
        bus.sync_write_goals(&IDS, &[2048 + cycle; 6], soon())
            .unwrap();
    }
    // A sync write has no answer; the answer to what follows it says that it has arrived.
    assert_eq!(
        program.ask(&json!({"op": "fault", "corrupt": 0.0}))["ok"],
        true
    );
    bus.ping(1, soon()).unwrap();
    let counters = program.ask(&json!({"op": "counters"}));
    assert!(count(&counters, "corrupted") > 0);
    assert_eq!(lost, count(&counters, "corrupted"), "{counters}");
    let servos = IDS.map(|id| bus.servo_counters(id).unwrap());
    let replies: u64 = servos.iter().map(|servo| servo.replies).sum();
    // Six pings came back whole before the damage began, and one after it.
    assert_eq!(replies, 7 + 1200 - lost);
    assert_eq!(count(&counters, "replies"), 7 + 1200);
    assert_eq!(count(&counters, "packets"), 7 + 1 + 200 + 200);

    let goals = program.ask(&json!({"op": "goals", "since_ns": began.0}));
    let writes = goals["goals"].as_array().unwrap();
    assert_eq!((writes.len(), goals["lost"].as_u64()), (200, Some(0)));
    assert_eq!(writes[0]["ids"], json!(IDS));
    assert!(writes[0]["t_ns"].as_u64().unwrap() > began.0);
    let truth = program.ask(&json!({"op": "truth"}));
    assert_eq!(truth["joints"].as_array().unwrap().len(), 6);
    assert_eq!(truth["joints"][0]["torque_enabled"], true);
}

#[test]
fn a_pulled_cable_is_typed_and_the_next_plug_works() {
    let mut program = Program::start("--pty", "arm");
    let link = program.path("arm");
    let mut bus = ServoBus::new(SerialBus::open(&link, 1_000_000).unwrap(), &IDS).unwrap();
    bus.ping(1, soon()).unwrap();
    assert_eq!(program.ask(&json!({"op": "unplug"}))["ok"], true);
    let error = bus.ping(1, soon()).unwrap_err();
    assert!(
        matches!(error, ServoBusError::Line(BusError::Disconnected { .. })),
        "{error:?}"
    );
    assert!(!link.exists());
    assert_eq!(program.ask(&json!({"op": "plug"}))["ok"], true);
    let old = bus.replace_line(SerialBus::open(&link, 1_000_000).unwrap());
    drop(old);
    bus.ping(6, soon()).unwrap();
}

#[test]
fn the_port_can_be_opened_again_and_again() {
    let program = Program::start("--pty", "arm");
    for _ in 0..5 {
        let port = SerialBus::open(&program.path("arm"), 1_000_000).unwrap();
        ServoBus::new(port, &IDS).unwrap().ping(2, soon()).unwrap();
    }
}

#[test]
fn a_listening_line_takes_one_peer_after_the_other() {
    let mut program = Program::start("--listen-unix", "line.sock");
    for _ in 0..3 {
        let peer = UnixStream::connect(program.path("line.sock")).unwrap();
        ping_over(peer);
    }
    let refused = program.ask(&json!({"op": "unplug"}));
    assert_eq!(refused["ok"], false, "{refused}");
}

#[test]
fn a_connecting_line_waits_for_its_peer_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chardev.sock");
    let mut child = Command::new(env!("CARGO_BIN_EXE_kairo-arm-sim"))
        .arg("--connect-unix")
        .arg(&path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    for _ in 0..3 {
        let (peer, _) = listener.accept().unwrap();
        ping_over(peer);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

fn ping_over(mut peer: UnixStream) {
    peer.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    peer.write_all(PacketBuffer::ping(4).as_bytes()).unwrap();
    let mut answer = [0; 6];
    peer.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0xFF, 0xFF, 0x04, 0x02, 0x00, 0xF9]);
}

#[test]
fn bad_control_requests_are_refused_and_the_connection_lives() {
    let mut program = Program::start("--pty", "arm");
    for request in [
        json!({"op": "dance"}),
        json!({"op": "fault", "corrupt": 1.5}),
        json!({"op": "fault", "corupt": 0.5}),
        json!([1, 2]),
    ] {
        let answer = program.ask(&request);
        assert_eq!(answer["ok"], false, "{answer}");
        assert!(answer["error"].is_string());
    }
    assert_eq!(program.ask(&json!({"op": "truth"}))["ok"], true);
    // A line without end costs that client its connection, and nobody else.
    let mut babbler = UnixStream::connect(program.path("control.sock")).unwrap();
    babbler
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let _ = babbler.write_all(&vec![b'x'; 100_000]);
    assert!(matches!(babbler.read(&mut [0; 16]), Ok(0) | Err(_)));
    assert_eq!(program.ask(&json!({"op": "truth"}))["ok"], true);
}

#[test]
fn a_terminated_simulator_leaves_no_path_behind() {
    let mut program = Program::start("--pty", "arm");
    assert!(program.terminate().success());
    assert!(std::fs::symlink_metadata(program.path("arm")).is_err());
    assert!(!program.path("control.sock").exists());
}

#[test]
fn a_file_in_the_way_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_kairo-arm-sim"))
        .arg("--pty")
        .arg(&path)
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("precious") && error.contains("choose another path"),
        "{error}"
    );
}
