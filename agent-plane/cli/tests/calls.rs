//! `kairo call` and `kairo completion`: what goes in, what comes out, and the exit status.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use kairo_wire::message::Message;
use kairo_wire::{Decoder, ErrorCode, ErrorInfo, Limits, Request, Response};
use serde_json::{Value, json};

/// A kernel that does what the method's name says: `echo` answers with the parameters, `E_…` with
/// that error, and anything else not at all.
struct Kernel {
    directory: tempfile::TempDir,
    requests: Receiver<Request>,
}

impl Kernel {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("kernel.sock")).unwrap();
        let (told, requests) = channel();
        // Ends with the test process; it serves one connection after another.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &told);
            }
        });
        Self {
            directory,
            requests,
        }
    }

    fn kairo(&self, arguments: &[&str], input: &[u8]) -> Output {
        kairo(self.directory.path(), arguments, input)
    }
}

fn serve(mut stream: UnixStream, told: &Sender<Request>) {
    let mut decoder = Decoder::default();
    let mut bytes = vec![0; 65_536];
    loop {
        while let Some(frame) = decoder.next_frame().unwrap() {
            let request: Request = Request::decode(&frame.payload, &Limits::default()).unwrap();
            let id = request.id.clone().unwrap();
            let response = match request.method.as_str() {
                "echo" => Some(Response {
                    id,
                    result: request.params.clone(),
                    error: None,
                    error_info: None,
                }),
                code if code.starts_with("E_") => {
                    let error = ErrorInfo::new(ErrorCode::from_name(code), "no")
                        .reason("because")
                        .retry(Some(7));
                    Some(Response::refuse(id, error))
                }
                _ => None,
            };
            let _ = told.send(request);
            if let Some(response) = response {
                let frame = response.encode(&Limits::default()).unwrap();
                let _ = stream.write_all(&frame);
            }
        }
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(count) => decoder.feed(&bytes[..count]),
        }
    }
}

fn kairo(run_dir: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kairo"))
        .args(arguments)
        .env_clear()
        .env("KAIRO_RUN_DIR", run_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may end without reading all.
    let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    output
}

fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn the_exit_status_says_whose_fault_it_is_and_json_says_the_rest() {
    let kernel = Kernel::start();
    for (code, status) in [
        ("E_PERMISSION_DENIED", 3),
        ("E_BUSY", 3),
        ("E_LIMIT", 3),
        ("E_CONFLICT", 3),
        ("E_INVALID_PARAMS", 2),
        ("E_INVALID_REQUEST", 2),
        ("E_NOT_FOUND", 1),
        ("E_TIMEOUT", 1),
        ("E_UNAVAILABLE", 1),
        ("E_UNSUPPORTED", 1),
        ("E_CANCELED", 1),
        ("E_INTERNAL", 1),
        ("E_OF_THE_FUTURE", 1),
    ] {
        let plain = kernel.kairo(&["call", code], b"");
        let said = String::from_utf8_lossy(&plain.stderr);
        assert_eq!(said, format!("kairo: no ({code})\n"));
        assert_eq!(plain.status.code(), Some(status), "{code}");
        assert!(plain.stdout.is_empty(), "{code}");
        let output = kernel.kairo(&["--json", "call", code], b"");
        assert_eq!(output.status.code(), Some(status), "{code}");
        let error = json!({"error": {
            "code": code, "message": "no", "details": {"reason": "because"},
            "retryable": true, "retry_after_ms": 7,
        }});
        assert_eq!(parsed(&output.stderr), error);
    }
    let done = kernel.kairo(&["call", "echo", "{\"a\": [1, 2.5, null]}"], b"");
    assert_eq!(done.status.code(), Some(0));
    assert_eq!(parsed(&done.stdout), json!({"a": [1, 2.5, null]}));
}

#[test]
fn parameters_come_from_standard_input_where_they_are_a_dash() {
    let kernel = Kernel::start();
    let long = json!({"text": "x".repeat(900_000)});
    let done = kernel.kairo(&["call", "echo", "-"], long.to_string().as_bytes());
    assert_eq!(parsed(&done.stdout), long);
    for wrong in [&b""[..], b"[1]", b"{\"a\": ", &[b' '; (4 << 20) + 2]] {
        let refused = kernel.kairo(&["call", "echo", "-"], wrong);
        assert_eq!(refused.status.code(), Some(2));
        assert!(!refused.stderr.is_empty());
    }
    // Beyond the protocol's limit nothing is sent.
    let long = json!({"text": "x".repeat(2 << 20)}).to_string();
    let refused = kernel.kairo(&["call", "echo", "-"], long.as_bytes());
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(kernel.requests.try_iter().count(), 1);
}

#[test]
fn a_deadline_is_kept_and_told_to_the_kernel_with_the_key() {
    let kernel = Kernel::start();
    let arguments = [
        "call",
        "nothing",
        "--timeout",
        "200ms",
        "--idempotency-key",
        "k1",
    ];
    let late = kernel.kairo(&arguments, b"");
    assert_eq!(late.status.code(), Some(1));
    let said = String::from_utf8_lossy(&late.stderr);
    assert!(
        said.contains("200 ms") && said.contains("--timeout"),
        "{said}"
    );
    let meta = kernel.requests.recv().unwrap().meta.unwrap();
    assert_eq!(meta.deadline_ms, Some(200));
    assert_eq!(meta.idempotency_key.as_deref(), Some("k1"));
}

#[test]
fn a_kernel_that_is_not_there_is_a_failure_with_a_hint() {
    let nowhere = tempfile::tempdir().unwrap();
    let output = kairo(nowhere.path(), &["--json", "call", "kernel.ping"], b"");
    assert_eq!(output.status.code(), Some(1));
    let error = parsed(&output.stderr);
    let text = |key: &str| error["error"][key].as_str().unwrap().to_string();
    assert!(text("message").contains("kernel.sock"), "{error}");
    assert!(text("hint").contains("KAIRO_IPC_SOCKET"), "{error}");
}

#[test]
fn completion_knows_nouns_verbs_and_options() {
    let nowhere = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = kairo(nowhere.path(), &["completion", shell], b"");
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = String::from_utf8(output.stdout).unwrap();
        for word in ["device", "claim", "estop", "idempotency-key"] {
            assert!(script.contains(word), "{word} for {shell}");
        }
    }
    let unknown = kairo(nowhere.path(), &["completion", "csh"], b"");
    assert_eq!(unknown.status.code(), Some(2));
}

#[test]
fn bash_completes_what_was_begun() {
    let nowhere = tempfile::tempdir().unwrap();
    let script = kairo(nowhere.path(), &["completion", "bash"], b"").stdout;
    let path = nowhere.path().join("completion.bash");
    std::fs::write(&path, script).unwrap();
    let asked = "source \"$1\"; COMP_WORDS=(kairo device cl); COMP_CWORD=2; \
                 _kairo kairo cl device; echo \"${COMPREPLY[@]}\"";
    let Ok(output) = Command::new("bash")
        .args(["-c", asked, "bash"])
        .arg(&path)
        .output()
    else {
        eprintln!("SKIPPED: there is no bash here");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "claim");
}
