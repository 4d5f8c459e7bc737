//! `kairo run`: becomes a program whose connection to the kernel is already less than this one.
//!
//! The connection is made and confined here, and then this process *becomes* the program: it is
//! still the process that connected, which is whom the kernel pins. Nothing is passed over a
//! socket, and there is no moment in which the program has more than it should.

use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Args;
use kairo_wire::endpoint::Endpoint;
use serde_json::json;

use crate::call::Session;
use crate::failure::Failure;

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// What the program is to the kernel: agent, skill, driver or service.
    #[arg(long, default_value = "agent")]
    pub class: String,
    /// The name that rules and events know it by.
    #[arg(long)]
    pub name: Option<String>,
    /// The program and its arguments. It finds its connection in KAIRO_IPC_FD.
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// Becomes the program; returns only if that fails.
pub fn run(
    session: &mut Session<'_>,
    endpoint: &Endpoint,
    options: &RunOptions,
) -> Result<(), Failure> {
    let params = match &options.name {
        Some(name) => json!({"class": options.class, "name": name}),
        None => json!({"class": options.class}),
    };
    session.call("kernel.confine", params)?;
    let inherited = session.inheritable(endpoint)?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&inherited);
    let [program, rest @ ..] = options.command.as_slice() else {
        return Err(Failure::Usage("no program was given".into()));
    };
    let error = Command::new(program)
        .args(rest)
        .env("KAIRO_IPC_FD", number.to_string())
        // Ways to another connection, which would be as much as this command was.
        .env_remove("KAIRO_IPC_SOCKET")
        .env_remove("KAIRO_RUN_DIR")
        .exec();
    Err(Failure::Program(format!("cannot run {program:?}: {error}")))
}
