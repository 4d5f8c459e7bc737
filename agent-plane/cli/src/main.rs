//! `kairo`: the command for people and scripts. It is a client of the wire protocol and nothing
//! else: whatever it can do, any program can, and the kernel decides about it in the same way.
//!
//! `--json` prints what the kernel said, with the protocol's stable names. Exit status: 0 done,
//! 1 failed, 2 wrong usage, 3 refused by policy or by the real-time plane.
#![forbid(unsafe_code)]

mod arguments;
mod audit;
mod call;
mod completion;
mod config_check;
mod cyclictest;
mod device;
mod diagnostics;
mod doctor;
mod events;
mod explain;
mod failsafe;
mod failure;
mod intent;
mod latency;
mod latency_window;
mod metrics;
mod operator;
mod permission;
mod plot;
mod record;
mod rt;
mod run;
mod send;
mod status;
mod terminal;
mod trace;

use clap::Parser;
use kairo_link::operator::OperatorRequest;
use kairo_wire::Client;
use kairo_wire::endpoint::Endpoint;

use crate::arguments::{
    Arguments, AuditCommand, Command, ConfigCommand, DeviceCommand, EventsCommand, FailsafeCommand,
    RecordCommand, RtCommand,
};
use crate::failure::Failure;
use crate::terminal::Terminal;
use crate::trace::TraceCommand;

fn main() -> std::process::ExitCode {
    // clap ends the process with status 2 on wrong usage, and with 0 after --help.
    let arguments = Arguments::parse();
    let mut terminal = Terminal::new(arguments.json);
    let failure = match run(&arguments, &mut terminal) {
        Ok(()) => return std::process::ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    // A reader that went away, as in `kairo events | head`, is not a failure to report.
    if !matches!(failure, Failure::OutputClosed) {
        terminal.report(&failure);
    }
    failure.exit_code()
}

fn run(arguments: &Arguments, terminal: &mut Terminal) -> Result<(), Failure> {
    if let Some(done) = without_kernel(arguments, terminal) {
        return done;
    }
    match &arguments.command {
        Command::Doctor(options) => return doctor::rt(arguments, terminal, options),
        Command::Config { command } => {
            let ConfigCommand::Check(options) = command;
            return config_check::check(terminal, options);
        }
        _ => {}
    }
    let endpoint = endpoint(arguments)?;
    match &arguments.command {
        Command::Rt {
            command: RtCommand::Estop,
        } => return operator::estop(terminal, &endpoint, arguments.timeout),
        Command::Trace {
            command: TraceCommand::Export(options),
        } => return trace::export(terminal, &endpoint, arguments.timeout, options),
        _ => {}
    }
    let mut client = Client::connect_to(&endpoint)?;
    let mut session = call::Session::new(&mut client, arguments.timeout);
    match &arguments.command {
        Command::Status => status::show(&mut session, terminal),
        Command::Call(options) => call::raw(&mut session, terminal, options),
        Command::Methods { name } => explain::methods(&mut session, terminal, name.as_deref()),
        Command::Topics { name } => explain::topics(&mut session, terminal, name.as_deref()),
        Command::Errors { name } => explain::errors(&mut session, terminal, name.as_deref()),
        Command::Run(options) => run::run(&mut session, &endpoint, options),
        Command::Intent { command } => intent::intent(&mut session, terminal, command),
        Command::Permission { command } => permission::permission(&mut session, terminal, command),
        Command::Trace { command } => trace::trace(&mut session, terminal, command),
        Command::Diagnostics(options) => diagnostics::take(&mut session, terminal, options),
        Command::Metrics(options) => metrics::show(&mut session, terminal, options),
        Command::Latency(options) => latency::compare(&mut session, terminal, options),
        Command::Events { command } => match command {
            EventsCommand::Tail(options) => events::tail(&mut session, terminal, options),
            EventsCommand::Query(options) => events::query(&mut session, terminal, options),
            EventsCommand::Replay(options) => events::replay(&mut session, terminal, options),
        },
        Command::Device { command } => device(&mut session, terminal, &endpoint, command),
        // Need no kernel, and were done above.
        Command::Failsafe { .. }
        | Command::Record { .. }
        | Command::Replay(_)
        | Command::Audit { .. }
        | Command::Completion { .. }
        | Command::Doctor(_)
        | Command::Config { .. } => Ok(()),
        Command::Rt { command } => match command {
            RtCommand::Status => rt::status(&mut session, terminal),
            RtCommand::Histogram(options) => rt::histogram(&mut session, terminal, options),
            RtCommand::Reset => rt::reset(&mut session, terminal),
            // As above.
            RtCommand::Estop | RtCommand::ClearEstop | RtCommand::Safety => Ok(()),
        },
    }
}

/// What is asked of a device.
fn device(
    session: &mut call::Session<'_>,
    terminal: &mut Terminal,
    endpoint: &Endpoint,
    command: &DeviceCommand,
) -> Result<(), Failure> {
    match command {
        DeviceCommand::List => device::list(session, terminal),
        DeviceCommand::Info { device } => device::info(session, terminal, device),
        DeviceCommand::Claim(options) => device::claim(session, terminal, endpoint, options),
        DeviceCommand::Release { device } => device::release(session, terminal, device),
        DeviceCommand::Send(options) => send::send(session, terminal, options),
        DeviceCommand::Reset { device } => send::reset(session, terminal, device),
        DeviceCommand::Watch(options) => device::watch(session, terminal, options),
    }
}

/// The kernel that is meant.
fn endpoint(arguments: &Arguments) -> Result<Endpoint, Failure> {
    let endpoint = match &arguments.socket {
        Some(text) => Endpoint::parse(text),
        None => Endpoint::from_environment(),
    };
    Ok(endpoint.map_err(kairo_wire::ClientError::from)?)
}

/// What goes past kairod, or needs nobody at all; none for everything else.
fn without_kernel(arguments: &Arguments, terminal: &Terminal) -> Option<Result<(), Failure>> {
    let ask = |request| Some(operator::tell(terminal, &request, arguments.timeout));
    match &arguments.command {
        Command::Rt { command } => match command {
            RtCommand::ClearEstop => ask(OperatorRequest::ClearEstop),
            RtCommand::Safety => ask(OperatorRequest::Status),
            _ => None,
        },
        Command::Record { command } => Some(match command {
            RecordCommand::List { directory } => record::list(terminal, directory),
            RecordCommand::Info { file } => record::info(terminal, file),
            RecordCommand::Export(options) => record::export(terminal, options),
        }),
        Command::Replay(options) => Some(record::replay(terminal, options)),
        Command::Audit { command } => Some(match command {
            AuditCommand::List(options) => audit::list(terminal, options),
            AuditCommand::Verify(options) => audit::verify(terminal, options),
            AuditCommand::Checkpoint { place } => audit::checkpoint(terminal, place),
        }),
        Command::Completion { shell } => Some(completion::print(terminal, *shell)),
        Command::Failsafe { command } => match command {
            FailsafeCommand::List(options) => Some(failsafe::list(terminal, options)),
            FailsafeCommand::Simulate(options) => Some(failsafe::simulate(terminal, options)),
            FailsafeCommand::Raise { cause } => ask(OperatorRequest::Raise {
                cause: cause.clone(),
            }),
            FailsafeCommand::Lower { cause } => ask(OperatorRequest::Lower {
                cause: cause.clone(),
            }),
            FailsafeCommand::TakeOver => ask(OperatorRequest::TakeOver),
            FailsafeCommand::Defer { end } => ask(OperatorRequest::Defer { on: !end }),
        },
        _ => None,
    }
}
