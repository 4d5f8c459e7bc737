//! A stand-in for any service, to try kairo-init in QEMU before the real ones exist: says who it
//! is, says READY=1, and beats at a third of its interval until it is told to end. Named `kairod`,
//! it also makes the socket that kairod makes, to prove that the run directory lets it.

use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::Duration;

fn main() {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let own = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let wanted = [
        "Uid:",
        "Gid:",
        "Groups:",
        "NoNewPrivs:",
        "Cpus_allowed_list:",
    ];
    for line in own("/proc/self/status").lines() {
        if wanted.iter().any(|key| line.starts_with(key)) {
            println!("{line}");
        }
    }
    println!(
        "{name} {:?} in {}",
        arguments.collect::<Vec<_>>(),
        own("/proc/self/cgroup").trim()
    );
    let run_dir = std::env::var("KAIRO_RUN_DIR").unwrap_or_default();
    let socket = format!("{run_dir}/kernel.sock");
    let _listener = name.ends_with("kairod").then(|| {
        let _an_older_one = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket);
        println!(
            "{socket}: {listener:?}; cannot remove init.sock: {:?}",
            std::fs::remove_file(format!("{run_dir}/init.sock"))
        );
        listener
    });
    let notify = std::env::var("NOTIFY_SOCKET").unwrap_or_default();
    let sender = UnixDatagram::unbound().expect("a socket");
    let say = |text: &str| {
        if let Err(error) = sender.send_to(text.as_bytes(), &notify) {
            println!("{notify}: {error}");
        }
    };
    say("READY=1\nSTATUS=standing in");
    let interval_us = std::env::var("WATCHDOG_USEC")
        .ok()
        .and_then(|text| text.parse().ok());
    loop {
        std::thread::sleep(Duration::from_micros(interval_us.unwrap_or(3_000_000) / 3));
        say("WATCHDOG=1");
    }
}
