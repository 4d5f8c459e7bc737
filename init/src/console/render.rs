//! Answers of PID 1 as text for people. Plain ASCII, at most 79 columns for a status: it is read
//! on the oldest terminal in the room.

use std::fmt::Write;

use serde_json::Value;

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Any reply, by what it contains. Lines end in `\n`; the terminal turns that into CR LF.
pub fn reply(reply: &Value) -> String {
    if reply["ok"] != true {
        return format!("error: {}\n", text(&reply["error"]));
    }
    if reply["services"].is_array() {
        return status(reply);
    }
    if let Some(lines) = reply["lines"].as_array() {
        let shown = lines.iter().map(|line| {
            let seconds = line["ms"].as_u64().unwrap_or(0) as f64 / 1000.0;
            format!(
                "{seconds:10.3} {}: {}\n",
                text(&line["service"]),
                printable(&line["text"])
            )
        });
        return shown.collect();
    }
    match &reply["pid"] {
        Value::Null => "ok\n".to_owned(),
        pid => format!("ok, pid {pid}\n"),
    }
}

/// A service's words may carry terminal escapes; the console shows none.
fn printable(value: &Value) -> String {
    text(value)
        .chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '?',
            c => c,
        })
        .collect()
}

fn status(reply: &Value) -> String {
    let mut out = format!(
        "{:<16}{:>6}  {:<11}{:>8}{:>10}  {}\n",
        "SERVICE", "PID", "STATE", "RESTARTS", "READY ms", "LAST EXIT"
    );
    for service in reply["services"].as_array().into_iter().flatten() {
        let field = |key: &str| printable(&service[key]);
        // Writing to a String cannot fail.
        let _infallible = writeln!(
            out,
            "{:<16}{:>6}  {:<11}{:>8}{:>10}  {}",
            field("name"),
            field("pid"),
            field("state"),
            field("restarts"),
            field("ready_ms"),
            field("last_exit")
        );
    }
    let boot = &reply["boot"];
    let dog = &boot["watchdog"];
    let watchdog = match (dog["present"] == true, dog["fed"] == true) {
        (false, _) => "absent".to_owned(),
        (true, true) => format!("fed, bites after {} s", dog["timeout_s"]),
        (true, false) => "NOT FED".to_owned(),
    };
    let why = match &dog["why"] {
        Value::Null => String::new(),
        why => format!(": {}", text(why)),
    };
    let _infallible = writeln!(
        out,
        "init at {} ms, ready at {} ms; data {}; slot {}; watchdog {watchdog}{why}",
        text(&boot["init_start_ms"]),
        text(&boot["ready_ms"]),
        text(&boot["data"]),
        text(&boot["slot"]),
    );
    for degraded in boot["degraded"].as_array().into_iter().flatten() {
        let _infallible = writeln!(out, "degraded: {}", printable(degraded));
    }
    out
}

/// cyclictest's last line as a short table, in microseconds.
pub fn latency(answer: &Value) -> String {
    if answer["ok"] != true {
        return reply(answer);
    }
    let stdout = text(&answer["stdout"]);
    let summary = stdout.lines().rev().find(|line| line.starts_with("T:"));
    let number = |key: &str| {
        let after = summary?.split_once(key)?.1;
        after.split_whitespace().next()?.parse::<u64>().ok()
    };
    match (number("C:"), number("Min:"), number("Avg:"), number("Max:")) {
        (Some(cycles), Some(least), Some(mean), Some(most)) => format!(
            "{:<12}{:>9}{:>9}{:>9}{:>9}\n{:<12}{cycles:>9}{least:>9}{mean:>9}{most:>9}\n",
            "latency us", "cycles", "min", "avg", "max", "cyclictest"
        ),
        _ => format!(
            "cyclictest ended with status {}: {}{stdout}",
            answer["status"],
            text(&answer["stderr"])
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn status_is_a_table() {
        let shown = reply(&json!({"ok": true,
            "boot": {"init_start_ms": 300, "ready_ms": 900, "data": "ext4", "slot": "a",
                "watchdog": {"present": true, "fed": true, "timeout_s": 15, "why": null},
                "degraded": ["/config: \u{1b}[2J"]},
            "services": [{"name": "kairo-rt", "pid": 101, "state": "running", "restarts": 0,
                "last_exit": null, "ready_ms": 700}]}));
        let expected = "\
SERVICE            PID  STATE      RESTARTS  READY ms  LAST EXIT
kairo-rt           101  running           0       700  -
init at 300 ms, ready at 900 ms; data ext4; slot a; watchdog fed, bites after 15 s
degraded: /config: ?[2J
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn log_lines_cannot_drive_the_terminal() {
        let line = json!({"ms": 1500, "service": "kairod", "text": "\u{1b}]0;x\u{7}"});
        let shown = reply(&json!({"ok": true, "lines": [line]}));
        assert_eq!(shown, "     1.500 kairod: ?]0;x?\n");
    }

    #[test]
    fn cyclictest_becomes_a_table() {
        let stdout = "# /dev/cpu_dma_latency set to 0us\nT: 0 (  123) P:80 I:4000 C:   1250 \
                      Min:      7 Act:   12 Avg:   15 Max:     233\n";
        let shown = latency(&json!({"ok": true, "status": 0, "stdout": stdout, "stderr": ""}));
        assert!(
            shown.ends_with("cyclictest       1250        7       15      233\n"),
            "{shown}"
        );
    }

    #[test]
    fn a_cyclictest_that_fails_is_shown() {
        let answer = json!({"ok": true, "status": 1, "stdout": "", "stderr": "no such core\n"});
        assert!(latency(&answer).contains("no such core"));
    }
}
