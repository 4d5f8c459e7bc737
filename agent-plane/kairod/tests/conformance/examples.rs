//! The Python code of the documentation, run as it is printed.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::python::python;
use crate::support::{PATIENCE, System, eventually};

/// The contents of a page's fenced blocks of a language, in order.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<String> = None;
    for line in page.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(name)) if name == language => open = Some(String::new()),
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(block), None) => {
                block.push_str(line);
                block.push('\n');
            }
            _ => {}
        }
    }
    found
}

/// Runs a program against `system`, with a watchdog.
fn run(mut python: Command, system: &System, program: &str) -> Output {
    let mut child = python
        .args(["-W", "default", "-c"])
        .arg(program)
        .env("KAIRO_IPC_SOCKET", system.socket())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let until = std::time::Instant::now() + 3 * PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if std::time::Instant::now() > until {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

/// Runs all Python blocks of a page as one program and gives what it printed.
fn printed(page: &str) -> Option<String> {
    let program = blocks(page, "python").join("\n");
    assert!(!program.is_empty());
    let python = python()?;
    let system = System::start();
    let output = run(python, &system, &program);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}\n{errors}", output.status);
    assert!(!errors.contains("Warning"), "{errors}");
    // What was claimed is free again.
    let mut client = system.client();
    eventually("the arm is free", || {
        let params = serde_json::json!({"device": "arm"});
        crate::support::call(&mut client, "device.claim", params).ok()
    });
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_guide_to_writing_an_agent_does_what_it_prints() {
    let page = include_str!("../../../../docs/do/write-an-agent.md");
    let Some(output) = printed(page) else { return };
    // What is printed beside the code, line by line; numbers that change are not shown there.
    for line in blocks(page, "text").iter().flat_map(|block| block.lines()) {
        assert!(
            output.lines().any(|found| found.starts_with(line)),
            "{line:?} not in:\n{output}"
        );
    }
}

#[test]
fn the_python_reference_runs() {
    printed(include_str!("../../../../docs/reference/python.md"));
}

#[test]
fn the_packages_readme_runs() {
    printed(include_str!("../../../python/README.md"));
}
