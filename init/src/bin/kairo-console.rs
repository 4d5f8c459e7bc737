//! The serial console: `kairo-console --tty PATH --init-socket PATH`.

use std::path::PathBuf;
use std::process::ExitCode;

use kairo_init::console::session::Session;
use kairo_init::console::terminal::open_raw;

const USAGE: &str = "kairo-console answers commands and raw control requests on a terminal.\n\
                     usage: kairo-console --tty PATH --init-socket PATH";

fn main() -> ExitCode {
    let mut tty = None;
    let mut init_socket = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(key) = arguments.next() {
        let value = arguments.next();
        match (key.as_str(), value) {
            ("--tty", Some(path)) => tty = Some(path),
            ("--init-socket", Some(path)) => init_socket = Some(PathBuf::from(path)),
            ("--help", _) => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            _ => {
                eprintln!("{key}: not understood\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    let (Some(tty), Some(init_socket)) = (tty, init_socket) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let terminal = match open_raw(&tty) {
        Ok(terminal) => terminal,
        Err(error) => {
            eprintln!("{tty}: {error}; kairo.console= names a serial port of this machine?");
            return ExitCode::FAILURE;
        }
    };
    match Session::new(terminal, &init_socket).run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{tty}: {error}");
            ExitCode::FAILURE
        }
    }
}
