//! Completion of this command's words, as a script for a shell.

use clap::CommandFactory;

use crate::arguments::{Arguments, Shell};
use crate::failure::Failure;
use crate::terminal::Terminal;

/// `kairo completion`.
pub fn print(terminal: &Terminal, shell: Shell) -> Result<(), Failure> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // Into memory first: the generator panics where its reader goes away.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "kairo", &mut script);
    terminal.line(String::from_utf8_lossy(&script).trim_end())
}
