//! What an operator says to the real-time plane directly: e-stop, clear, takeover and the like.
//!
//! Goes over kairo-rt's own `operator.sock`, past kairod, so it works while the agent plane is
//! stopped, hung or gone. Only root and kairo-rt's own user may. An e-stop that cannot go this way
//! goes over IPC instead, which anybody may who may move the robot.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use kairo_link::control::{ControlError, ControlSocket};
use kairo_link::operator::{DeviceFailsafe, OperatorReply, OperatorRequest, SOCKET_NAME};
use kairo_wire::Client;
use kairo_wire::endpoint::Endpoint;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::rt;
use crate::terminal::{Cell, Table, Terminal};

/// Default of KAIRO_RUN_DIR.
const RUN_DIR: &str = "/run/kairo";

fn socket_path() -> PathBuf {
    let directory = std::env::var_os("KAIRO_RUN_DIR").unwrap_or_else(|| RUN_DIR.into());
    PathBuf::from(directory).join(SOCKET_NAME)
}

/// Asks kairo-rt itself.
fn ask(request: &OperatorRequest, timeout: Duration) -> Result<OperatorReply, ControlError> {
    let socket = ControlSocket::connect(&socket_path())?;
    let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX).max(1);
    let patience = TimeVal::new(seconds, 0);
    setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &patience).map_err(|errno| {
        ControlError::System {
            call: "setsockopt",
            errno,
        }
    })?;
    socket.send(request, &[])?;
    socket.receive().map(|(reply, _)| reply)
}

/// Asks kairo-rt and shows what it answered; not done is exit status 3.
pub fn tell(
    terminal: &Terminal,
    request: &OperatorRequest,
    timeout: Duration,
) -> Result<(), Failure> {
    let reply = ask(request, timeout).map_err(|error| Failure::Operator {
        path: socket_path().display().to_string(),
        error,
    })?;
    show(terminal, &reply)?;
    match reply.done {
        true => Ok(()),
        false => Err(Failure::Refused(reply.text)),
    }
}

fn show(terminal: &Terminal, reply: &OperatorReply) -> Result<(), Failure> {
    if terminal.json {
        let devices: Vec<Value> = reply.devices.iter().map(described).collect();
        return terminal.json_page(&json!({
            "done": reply.done, "text": reply.text, "estop": reply.estop, "devices": devices,
            "lines": lines(reply),
        }));
    }
    if reply.done && !reply.text.is_empty() {
        return terminal.line(&reply.text);
    }
    if reply.text.is_empty() {
        terminal.line(if reply.estop {
            "e-stop LATCHED"
        } else {
            "e-stop clear"
        })?;
        let mut table = Table::new(&["DEVICE", "ACTION", "CAUSE", "LIVE CAUSES"]);
        for device in &reply.devices {
            let live = device.live.join(",");
            table.row([
                Cell::from(device.device.as_str()),
                device.action.as_str().into(),
                device.cause.as_str().into(),
                if live.is_empty() {
                    "-".into()
                } else {
                    live.into()
                },
            ]);
        }
        terminal.table(&table)?;
        return rt::lines(terminal, &lines(reply));
    }
    Ok(())
}

/// The GPIO lines as `rt.status` has them; null without.
fn lines(reply: &OperatorReply) -> Value {
    let Some(report) = &reply.lines else {
        return Value::Null;
    };
    let mut value = json!(report);
    value["line_stops"] = json!(report.stop.as_ref().map_or(0, |stop| stop.number));
    value["newest_stop"] = value["stop"].take();
    value
}

fn described(device: &DeviceFailsafe) -> Value {
    json!({
        "device": device.device, "action": device.action, "cause": device.cause,
        "live": device.live,
    })
}

/// An e-stop, by whichever way is open: kairo-rt's own socket first, then IPC.
pub fn estop(terminal: &Terminal, endpoint: &Endpoint, timeout: Duration) -> Result<(), Failure> {
    let direct = ask(&OperatorRequest::Estop, timeout);
    if let Ok(reply) = direct {
        return show(terminal, &reply);
    }
    let mut client = Client::connect_to(endpoint)?;
    let result = client.call("rt.estop", json!({}), timeout)?;
    match terminal.json {
        true => terminal.json_page(&result),
        false => terminal.line("the e-stop is latched, by way of kairod"),
    }
}
