//! The console over a real pseudo-terminal, against a pretended control socket. Every wait is
//! bounded by [`PATIENCE`].

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;

const PATIENCE_MS: u16 = 60_000;

struct Rig {
    terminal: File,
    console: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _gone_already = self.console.kill();
        let _reaped = self.console.wait();
    }
}

/// A console whose PID 1 answers every request with what it was asked.
fn rig() -> Rig {
    let dir = tempfile::tempdir().expect("the rig works");
    let socket = dir.path().join("init.sock");
    let listener = UnixListener::bind(&socket).expect("the rig works");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut line = String::new();
            BufReader::new(&stream)
                .read_line(&mut line)
                .expect("the rig works");
            let asked = line.trim();
            let answer = format!("{{\"ok\":true,\"pid\":7,\"asked\":{asked}}}\n");
            (&stream)
                .write_all(answer.as_bytes())
                .expect("the rig works");
        }
    });
    let pty = openpty(None, None).expect("the rig works");
    let path = nix::unistd::ttyname(&pty.slave).expect("the rig works");
    let console = Command::new(env!("CARGO_BIN_EXE_kairo-console"))
        .arg("--tty")
        .arg(path)
        .arg("--init-socket")
        .arg(&socket)
        .spawn()
        .expect("the rig works");
    let mut rig = Rig {
        terminal: File::from(pty.master),
        console,
        _dir: dir,
    };
    // The prompt means that the terminal is raw; typing earlier would meet the kernel's echo.
    rig.until("kairo> ");
    rig
}

impl Rig {
    fn until(&mut self, end: &str) -> String {
        let mut seen = Vec::new();
        while !seen.ends_with(end.as_bytes()) {
            let mut fds = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::from(PATIENCE_MS)).expect("the rig works");
            assert!(
                ready == 1,
                "waited for {end:?} and saw {:?}",
                String::from_utf8_lossy(&seen)
            );
            let mut byte = [0];
            self.terminal.read_exact(&mut byte).expect("the rig works");
            seen.push(byte[0]);
        }
        String::from_utf8(seen).expect("the rig works")
    }

    fn say(&mut self, bytes: &[u8]) {
        // In pieces, as a serial line delivers them, and with room for the other side to drain.
        for piece in bytes.chunks(1024) {
            self.terminal.write_all(piece).expect("the rig works");
        }
    }
}

#[test]
fn a_person_types_and_is_answered_in_text() {
    let mut rig = rig();
    rig.say(b"sginal\x7f\x7f\x7f\x7f\x7fignal kairod KILL\r");
    let seen = rig.until("kairo> ");
    assert!(seen.ends_with("ok, pid 7\r\nkairo> "), "{seen:?}");
    rig.say(b"dance\r");
    assert!(
        rig.until("kairo> ")
            .contains("no command 'dance'; try help")
    );
}

#[test]
fn a_program_gets_one_line_in_column_zero_and_no_echo() {
    let mut rig = rig();
    rig.say(b"{\"op\":\"status\"}\n");
    assert_eq!(
        rig.until("}\n"),
        "\r\n{\"asked\":{\"op\":\"status\"},\"ok\":true,\"pid\":7}\n"
    );
    rig.say(b"{\"op\":\"status\"}\n{nonsense\n");
    assert!(rig.until("}\n").starts_with("{\"asked\""));
    assert!(rig.until("}\n").contains("not JSON"));
}

#[test]
fn a_line_of_tens_of_kilobytes_arrives_whole_and_goes_back_whole() {
    let mut rig = rig();
    let text = "0123456789abcdef".repeat(4096);
    let request = serde_json::json!({"op": "exec", "argv": ["/bin/echo", "-n", text]});
    rig.say(format!("{request}\n").as_bytes());
    let answer: serde_json::Value = serde_json::from_str(rig.until("}\n").trim()).unwrap();
    assert_eq!(answer["stdout"].as_str().unwrap().len(), text.len());
    assert_eq!(answer["status"], 0);
}

#[test]
fn a_silent_init_is_named() {
    let mut rig = rig();
    std::fs::remove_file(rig._dir.path().join("init.sock")).unwrap();
    rig.say(b"{\"op\":\"status\"}\n");
    assert!(rig.until("}\n").contains("kairo-init does not answer on"));
}
