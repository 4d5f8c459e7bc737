//! `kairo-console`: the serial console, a last resort for a person and a socket for a test rig.
//!
//! It reads lines from a raw terminal and answers each in full before it reads the next. A line
//! that begins with `{` is a control request and is answered with one raw JSON line; anything
//! else is a command for people, answered in text. Bounded: [`line::LINE_BYTES_MAX`] per line,
//! [`session::REPLY_BYTES_MAX`] per reply of PID 1, output and time of the programs it runs.
//! Non-goal: it is no shell. It runs as root because the control socket admits only root, and
//! it is started only where the kernel command line asks for it.

pub mod command;
pub mod exec;
pub mod line;
pub mod render;
pub mod session;
pub mod terminal;
