//! What a person may type, and what it asks for.

use serde_json::{Value, json};

/// Answer to `help`.
pub const HELP: &str = "\
status                        services, boot, watchdog
log [LINES] [SERVICE]         newest lines of the log, 50 if not said
signal SERVICE SIGNAL         for example: signal kairod KILL
stop|start|restart SERVICE
latency [--seconds N] [--period-us N] [--priority N] [--core N]
                              cyclictest beside kairo-rt
poweroff, reboot              ordered: safe outputs first, disks last
{...}                         a raw control request, answered by one JSON line";

/// Parameters of `latency`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// How long to measure.
    pub seconds: u32,
    /// Period of the measuring thread.
    pub period_us: u32,
    /// Its SCHED_FIFO priority.
    pub priority: u32,
    /// The core it is pinned to.
    pub core: u32,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            seconds: 5,
            period_us: 4000,
            priority: 80,
            core: 1,
        }
    }
}

/// A command.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// An empty line.
    Nothing,
    /// Show [`HELP`].
    Help,
    /// Ask PID 1 this.
    Ask(Value),
    /// Measure latency.
    Latency(Latency),
}

/// Reads a line.
///
/// # Errors
/// A sentence that says what would have been right.
pub fn parse(line: &str) -> Result<Command, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let usage = |usage: &str| Err(format!("write: {usage}"));
    match words.as_slice() {
        [] => Ok(Command::Nothing),
        ["help" | "?"] => Ok(Command::Help),
        ["status" | "poweroff" | "reboot"] => Ok(Command::Ask(json!({"op": words[0]}))),
        ["log", rest @ ..] => parse_log(rest),
        ["signal", service, signal] => Ok(Command::Ask(
            json!({"op": "signal", "service": service, "signal": signal}),
        )),
        ["signal", ..] => usage("signal SERVICE SIGNAL, for example signal kairod KILL"),
        ["stop" | "start" | "restart", service] => {
            Ok(Command::Ask(json!({"op": words[0], "service": service})))
        }
        ["stop" | "start" | "restart", ..] => usage(&format!("{} SERVICE", words[0])),
        ["latency", rest @ ..] => parse_latency(rest).map(Command::Latency),
        [word, ..] => Err(format!("no command '{word}'; try help")),
    }
}

fn parse_log(words: &[&str]) -> Result<Command, String> {
    let lines = words.first().and_then(|word| word.parse::<usize>().ok());
    let rest = match lines {
        Some(_) => &words[1..],
        None => words,
    };
    let lines = lines.unwrap_or(50);
    match rest {
        [] => Ok(Command::Ask(json!({"op": "log", "lines": lines}))),
        [service] => Ok(Command::Ask(
            json!({"op": "log", "lines": lines, "service": service}),
        )),
        _ => Err("write: log [LINES] [SERVICE]".to_owned()),
    }
}

fn parse_latency(words: &[&str]) -> Result<Latency, String> {
    let mut latency = Latency::default();
    for pair in words.chunks(2) {
        let &[key, value] = pair else {
            return Err(format!("{} needs a number", pair[0]));
        };
        let (place, most) = match key {
            "--seconds" => (&mut latency.seconds, 600),
            "--period-us" => (&mut latency.period_us, 1_000_000),
            "--priority" => (&mut latency.priority, 98),
            "--core" => (&mut latency.core, 63),
            _ => return Err(format!("latency has no {key}; try help")),
        };
        let least = u32::from(key != "--core");
        match value.parse() {
            Ok(number) if (least..=most).contains(&number) => *place = number,
            _ => return Err(format!("{key} takes {least} to {most}, not '{value}'")),
        }
    }
    Ok(latency)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_become_requests() {
        let table = [
            ("status", json!({"op": "status"})),
            (" log ", json!({"op": "log", "lines": 50})),
            (
                "log 5 kairod",
                json!({"op": "log", "lines": 5, "service": "kairod"}),
            ),
            (
                "log kairod",
                json!({"op": "log", "lines": 50, "service": "kairod"}),
            ),
            (
                "stop kairo-rt",
                json!({"op": "stop", "service": "kairo-rt"}),
            ),
            (
                "signal kairod KILL",
                json!({"op": "signal", "service": "kairod", "signal": "KILL"}),
            ),
        ];
        for (line, request) in table {
            assert_eq!(parse(line), Ok(Command::Ask(request)));
        }
    }

    #[test]
    fn latency_takes_the_documented_options() {
        let line = "latency --seconds 7 --period-us 2000 --priority 70 --core 0";
        let expected = Latency {
            seconds: 7,
            period_us: 2000,
            priority: 70,
            core: 0,
        };
        assert_eq!(parse(line), Ok(Command::Latency(expected)));
    }

    #[test]
    fn mistakes_are_explained() {
        for (line, part) in [
            ("stopp kairod", "no command 'stopp'"),
            ("stop", "write: stop SERVICE"),
            ("latency --seconds", "--seconds needs a number"),
            ("latency --priority 99", "--priority takes 1 to 98"),
            ("latency --speed 1", "no --speed"),
            ("log 1 2 3", "write: log"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
