//! The boot and the shutdown as golden transcripts: `golden/NAME.golden` is everything PID 1
//! asks of the machine, in order, with the time it does. Reading one is reading the boot
//! sequence. `KAIRO_BLESS=1 cargo test -p kairo-init` rewrites them; the diff is then the review.

mod recorder;

use std::path::PathBuf;
use std::time::Duration;

use kairo_init::boot;
use kairo_init::supervisor::Supervisor;
use kairo_init::sys::{Event, Exit, Sys};
use nix::errno::Errno;
use recorder::{Actor, Recorder, Trouble, WELL_BEHAVED};

const CMDLINE: &str = "root=/dev/vda3 ro kairo.slot=a kairo.disk=/dev/vda kairo.rt_cpus=1\n";

/// Boots, lives for `seconds` of the pretended clock or until the end, and compares.
fn lives(name: &str, mut sys: Recorder, seconds: u64) -> (Recorder, Option<Supervisor>) {
    let mut supervisor = None;
    if let Some(booted) = boot::run(&mut sys) {
        let mut alive = Supervisor::new(booted, sys.now());
        while sys.now() < Duration::from_secs(seconds) && sys.ended.is_none() {
            if alive.tick(&mut sys) {
                break;
            }
            let until = alive.next_deadline().min(Duration::from_secs(seconds));
            for event in sys.wait(until) {
                alive.handle(&mut sys, event);
            }
        }
        supervisor = Some(alive);
    }
    sys.flush_feeds();
    compare(name, &sys.transcript);
    (sys, supervisor)
}

fn compare(name: &str, transcript: &[String]) {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.golden"));
    let actual = transcript.join("\n") + "\n";
    if std::env::var_os("KAIRO_BLESS").is_some() {
        std::fs::write(&path, &actual).expect("the golden directory is writable");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = expected
        .lines()
        .zip(actual.lines())
        .position(|(old, new)| old != new);
    let shorter = expected.lines().count().min(actual.lines().count());
    let line = differs.unwrap_or(shorter);
    assert!(
        expected == actual,
        "{name}.golden differs at line {}:\n  golden: {}\n  now:    {}\n\
         if this is meant, run KAIRO_BLESS=1 cargo test -p kairo-init and review the diff",
        line + 1,
        expected.lines().nth(line).unwrap_or("(end)"),
        actual.lines().nth(line).unwrap_or("(end)"),
    );
}

fn machine() -> Recorder {
    Recorder::new(CMDLINE)
}

fn power_off_at(seconds: f64, sys: Recorder) -> Recorder {
    sys.at(seconds, Event::PowerOff("the power button"))
}

#[test]
fn boots_and_powers_off() {
    let cmdline = "kairo.slot=a kairo.disk=/dev/vda kairo.rt_cpus=1 kairo.console=ttyS1 \
                   kairo.forward=7000 kairo.colour=red";
    let (sys, supervisor) = lives("normal", power_off_at(8.0, Recorder::new(cmdline)), 60);
    assert!(sys.ended.is_some());
    assert_eq!(supervisor.unwrap().status.degraded.len(), 1);
}

#[test]
fn broken_data_becomes_memory() {
    let sys = machine().trouble("mount ext4 /dev/vda7", Trouble::Fails(Errno::EUCLEAN));
    let (_, supervisor) = lives("data_broken", sys, 2);
    let report = supervisor.unwrap().report();
    assert_eq!(report["boot"]["data"], "tmpfs");
    assert!(report["boot"]["ready_ms"].is_u64());
}

#[test]
fn overlays_move_to_memory_when_data_is_full() {
    let sys = machine().trouble(
        "make directory /data/overlay",
        Trouble::Fails(Errno::ENOSPC),
    );
    lives("data_full", sys, 1);
}

#[test]
fn missing_config_means_defaults() {
    let sys = machine()
        .without_file("/config/kairo.toml")
        .without_file("/config/robot.toml");
    let (_, supervisor) = lives("config_missing", sys, 2);
    let config = supervisor.unwrap().status.config;
    assert!(
        config.starts_with("defaults: ") && config.contains("ENOENT"),
        "{config}"
    );
}

#[test]
fn a_wrong_key_means_defaults_and_names_the_line() {
    let sys = machine().file("/config/kairo.toml", "# ours\nhostnam = \"arm-1\"\n");
    let (_, supervisor) = lives("config_wrong_key", sys, 2);
    let config = supervisor.unwrap().status.config;
    assert!(
        config.contains("/config/kairo.toml:2: unknown field `hostnam`"),
        "{config}"
    );
}

#[test]
fn a_disk_that_hangs_costs_its_deadline_and_no_more() {
    let sys = machine().trouble("mount ext4", Trouble::Hangs);
    let (_, supervisor) = lives("mount_hangs", sys, 13);
    assert!(supervisor.unwrap().status.ready_ms.unwrap() < 12_000);
}

#[test]
fn a_first_boot_without_a_seed_is_not_degraded() {
    let sys = machine().without_file("/data/random-seed");
    let (_, supervisor) = lives("first_boot", sys, 1);
    assert!(supervisor.unwrap().status.degraded.is_empty());
}

#[test]
fn rt_cores_that_the_kernel_does_not_isolate_are_reported_with_the_remedy() {
    let sys = machine().file("/sys/devices/system/cpu/isolated", "\n");
    let (_, supervisor) = lives("not_isolated", sys, 1);
    let degraded = supervisor.unwrap().status.degraded.join("\n");
    assert!(
        degraded.contains("isolcpus=managed_irq,domain,1"),
        "{degraded}"
    );
}

#[test]
fn no_proc_means_reboot() {
    let sys = machine().trouble("mount proc", Trouble::Fails(Errno::ENODEV));
    let (sys, supervisor) = lives("no_proc", sys, 2);
    assert!(supervisor.is_none() && sys.ended.is_some());
}

#[test]
fn boots_without_a_watchdog() {
    let sys = machine().trouble("open /dev/watchdog", Trouble::Fails(Errno::ENOENT));
    let (_, supervisor) = lives("watchdog_missing", sys, 2);
    assert_eq!(
        supervisor.unwrap().report()["boot"]["watchdog"]["present"],
        false
    );
}

#[test]
fn feeds_a_watchdog_that_keeps_its_own_timeout() {
    let sys = machine().trouble("set the watchdog", Trouble::Fails(Errno::EINVAL));
    let (_, supervisor) = lives("watchdog_refuses_timeout", sys, 2);
    let watchdog = supervisor.unwrap().status.watchdog;
    assert!(watchdog.present && watchdog.fed && watchdog.timeout_s == 30);
}

#[test]
fn the_dog_bites_when_kairo_rt_never_gets_ready() {
    let mute = Actor {
        ready_after: None,
        ..WELL_BEHAVED
    };
    let (sys, _) = lives("rt_never_ready", machine().actor("kairo-rt", mute), 120);
    assert!(
        sys.transcript
            .last()
            .unwrap()
            .contains("the watchdog resets the machine")
    );
}

#[test]
fn a_silent_kairo_rt_is_restarted_before_the_dog_bites() {
    let silent = Actor {
        beats: false,
        ..WELL_BEHAVED
    };
    let (sys, supervisor) = lives("rt_goes_silent", machine().actor("kairo-rt", silent), 11);
    assert!(sys.ended.is_none());
    assert_eq!(supervisor.unwrap().services[0].restarts, 2);
}

#[test]
fn a_refused_configuration_neither_restarts_nor_reboots() {
    let refuses = Actor {
        ready_after: None,
        exits: Some((Duration::from_millis(100), Exit::Status(78))),
        ..WELL_BEHAVED
    };
    let (sys, supervisor) = lives(
        "rt_config_refused",
        machine().actor("kairo-rt", refuses),
        300,
    );
    assert!(sys.ended.is_none());
    let supervisor = supervisor.unwrap();
    assert!(supervisor.status.watchdog.fed);
    assert_eq!(supervisor.report()["services"][0]["state"], "refused");
}

#[test]
fn a_kairo_rt_that_never_gets_as_far_as_ready_still_leaves_a_kairod_to_ask() {
    let crashes = Actor {
        ready_after: None,
        exits: Some((Duration::from_millis(50), Exit::Signal(11))),
        ..WELL_BEHAVED
    };
    let sys = machine().actor("kairo-rt", crashes);
    let (_, supervisor) = lives("rt_crashes_at_once", sys, 8);
    let report = supervisor.unwrap().report();
    assert_eq!(report["services"][0]["state"], "crash-loop");
    assert_eq!(report["services"][1]["state"], "running");
    assert!(report["boot"]["ready_ms"].is_u64());
}

#[test]
fn the_dog_bites_when_a_kairo_rt_to_be_restarted_cannot_be_killed() {
    let held_by_a_device = Actor {
        obeys_sigterm: false,
        obeys_sigkill: false,
        beats: false,
        ..WELL_BEHAVED
    };
    let request = br#"{"op":"restart","service":"kairo-rt"}"#;
    let sys = machine()
        .actor("kairo-rt", held_by_a_device)
        .at(2.0, Event::Request(1, request.to_vec()));
    let (sys, _) = lives("restart_unkillable", sys, 120);
    let last = sys.transcript.last().unwrap();
    assert!(last.contains("the watchdog resets the machine"), "{last}");
}

#[test]
fn a_crashing_kairod_backs_off_and_leaves_kairo_rt_alone() {
    let crashes = Actor {
        exits: Some((Duration::from_millis(300), Exit::Status(101))),
        ..WELL_BEHAVED
    };
    let (_, supervisor) = lives("kairod_crash_loop", machine().actor("kairod", crashes), 20);
    let supervisor = supervisor.unwrap();
    assert_eq!(supervisor.services[0].restarts, 0);
    assert_eq!(supervisor.report()["services"][1]["state"], "crash-loop");
}

#[test]
fn a_service_that_ignores_sigterm_is_killed() {
    let stubborn = Actor {
        obeys_sigterm: false,
        ..WELL_BEHAVED
    };
    let sys = power_off_at(3.0, machine().actor("kairod", stubborn));
    let (sys, _) = lives("power_off_stubborn", sys, 60);
    assert!(sys.ended.is_some());
}

#[test]
fn kairo_rt_is_asked_to_stop_even_if_kairod_cannot_be_killed() {
    let held_by_a_device = Actor {
        obeys_sigterm: false,
        obeys_sigkill: false,
        ..WELL_BEHAVED
    };
    let sys = power_off_at(3.0, machine().actor("kairod", held_by_a_device));
    let (sys, _) = lives("power_off_unkillable", sys, 60);
    assert!(sys.ended.is_some());
    assert!(
        sys.transcript
            .iter()
            .any(|line| line.ends_with("signal 15 to kairo-rt"))
    );
}

#[test]
fn a_sync_that_hangs_does_not_keep_the_power_on() {
    let sys = power_off_at(3.0, machine().trouble("sync", Trouble::Hangs));
    let (sys, _) = lives("power_off_sync_hangs", sys, 60);
    assert!(sys.ended.is_some());
    assert!(!sys.transcript.iter().any(|line| line.contains("unmount")));
}

#[test]
fn orphans_are_reaped_and_forged_notices_refused() {
    let sys = machine()
        .at(2.0, Event::Exited(4711, Exit::Status(0)))
        .at(2.1, Event::Exited(4712, Exit::Signal(9)))
        .at(2.2, Event::Notify(4713, b"FORGED=1\nREADY=1".to_vec()));
    let (_, supervisor) = lives("orphans", sys, 4);
    let supervisor = supervisor.unwrap();
    assert_eq!(
        (supervisor.orphans_reaped, supervisor.notices_refused),
        (2, 1)
    );
}

#[test]
fn a_control_client_stops_starts_and_is_answered_when_it_is_done() {
    let request = |line: &str| Event::Request(1, line.as_bytes().to_vec());
    let sys = machine()
        .at(2.0, request(r#"{"op":"stop","service":"kairo-rt"}"#))
        .at(40.0, request(r#"{"op":"start","service":"kairo-rt"}"#))
        .at(
            42.0,
            request(r#"{"op":"signal","service":"kairod","signal":"KILL"}"#),
        )
        .at(43.0, request(r#"{"op":"restart","service":"kairod"}"#))
        .at(44.0, request(r#"{"op":"stop","service":"nobody"}"#))
        .at(45.0, request("nonsense"))
        .at(46.0, request(r#"{"op":"poweroff"}"#));
    let (sys, _) = lives("control", sys, 60);
    let ok: Vec<bool> = sys
        .replies
        .iter()
        .map(|(_, line)| line.contains(r#""ok":true"#))
        .collect();
    assert_eq!(
        ok,
        [true, true, true, true, false, false, true],
        "{:?}",
        sys.replies
    );
}
