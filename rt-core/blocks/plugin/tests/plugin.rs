//! A plug-in in C, compiled here: what works, and every way to fail that must not take the process.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kairo_blocks::block::FaultKind;
use kairo_blocks::graph::{Graph, Node, Wire};
use kairo_blocks::program::{BlockFault, Program};
use kairo_blocks::registry::Registry;
use kairo_blocks::settings::{Complaint, Settings, Table};
use kairo_plugin::{PluginError, load};

/// Processor time a step may take: far more than any step here needs on a slow machine, so that
/// only the endless one spends it.
const BUDGET_NS: u64 = 500_000_000;

/// What the first input makes the block of `mood.c` do.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Mood {
    Work,
    Report,
    NotANumber,
    Segfault,
    Divide,
    Abort,
    Loop,
    Overflow,
    Overrun,
    Recurse,
}

fn compile(directory: &Path, wrong_version: u32) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let object = directory.join(format!("mood{wrong_version}.so"));
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-std=c11", "-Wall", "-Werror"])
        .arg(format!("-DWRONG_VERSION={wrong_version}"))
        .arg("-I")
        .arg(here.join("include"))
        .arg("-o")
        .arg(&object)
        .arg(here.join("tests/mood.c"))
        .args(["-Wno-infinite-recursion", "-lm"])
        .status()
        .expect("a C compiler is there: Rust links with it");
    assert!(status.success());
    std::fs::set_permissions(&object, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    object
}

fn registry() -> Registry {
    let directory = tempfile::tempdir().expect("a directory");
    let mut registry = Registry::standard();
    let added = load(
        &compile(directory.path(), 0),
        "test",
        BUDGET_NS,
        &mut registry,
    );
    assert_eq!(added.expect("it loads"), ["test.moody"]);
    registry
}

fn read(registry: &Registry, table: &Table) -> Result<Program, Vec<Complaint>> {
    let mut settings = Settings::new(table, 0.004, &[]);
    let design = registry.design("test.moody", &mut settings);
    let complaints = settings.finish();
    let Some(design) = design.filter(|_| complaints.is_empty()) else {
        return Err(complaints);
    };
    let wires = vec![Wire::External(0), Wire::External(1)];
    let node = Node {
        name: "mood".to_owned(),
        kind: "test.moody".to_owned(),
        design,
        wires,
    };
    let graph = Graph {
        externals: 2,
        nodes: vec![node],
    };
    Ok(graph.compile().expect("no cycle"))
}

fn program() -> Program {
    read(&registry(), &Table::default().with("gain", 2.0)).expect("good settings")
}

fn step(program: &mut Program, mood: Mood) -> Result<(), BlockFault> {
    program.set_external(0, f64::from(mood as u8));
    program.set_external(1, 0.5);
    program.step()
}

#[test]
fn a_plugin_computes_keeps_its_state_and_resets() {
    let mut program = program();
    for tick in 1..=3 {
        assert_eq!(step(&mut program, Mood::Work), Ok(()));
        assert_eq!(program.output(0, 0), 1.0);
        assert_eq!(program.output(0, 1), 0.5 * f64::from(tick));
    }
    program.engage();
    assert_eq!(step(&mut program, Mood::Work), Ok(()));
    assert_eq!(program.output(0, 1), 0.5);
}

#[test]
fn the_state_goes_on_in_another_block_and_its_settings_stay_that_blocks_own() {
    let registry = registry();
    let with_gain = |gain: f64| read(&registry, &Table::default().with("gain", gain));
    let mut first = with_gain(2.0).expect("good settings");
    for _ in 0..3 {
        assert_eq!(step(&mut first, Mood::Work), Ok(()));
    }
    let mut saved = Vec::new();
    first.save(&mut |word| saved.push(word));
    assert_eq!(saved.len() as u64, first.memory_words());
    // Another block has other settings, and a state that is to be forgotten.
    let mut second = with_gain(3.0).expect("good settings");
    assert_eq!(step(&mut second, Mood::Work), Ok(()));
    assert!(step(&mut second, Mood::Report).is_err());
    let mut words = saved.iter();
    let loaded = second.load(&mut || *words.next().expect("as many words"));
    assert_eq!(loaded, Ok(()));
    assert_eq!(step(&mut second, Mood::Work), Ok(()));
    assert_eq!(second.output(0, 0), 1.5, "the gain is its own");
    assert_eq!(second.output(0, 1), 2.0, "the sum went on");
}

/// The fault that a mood ends in, on a thread like a loop's; and nothing calls the plug-in again.
fn fault_of(mood: Mood) -> FaultKind {
    let mut program = program();
    let thread = std::thread::spawn(move || {
        assert_eq!(step(&mut program, Mood::Work), Ok(()));
        let fault = step(&mut program, mood).expect_err("it must fail");
        assert_eq!(
            step(&mut program, Mood::Work),
            Err(fault),
            "{mood:?} came back"
        );
        // The thread itself is as good as before.
        let sum: f64 = (0..1000).map(f64::from).sum();
        assert_eq!(sum, 499_500.0);
        fault.kind
    });
    thread.join().expect("the thread survives")
}

#[test]
fn what_a_step_reports_is_a_fault_of_the_block() {
    assert_eq!(fault_of(Mood::Report), FaultKind::Reported { code: 42 });
    assert_eq!(
        fault_of(Mood::NotANumber),
        FaultKind::NotFinite { output: 1 }
    );
}

#[test]
fn a_fault_of_the_processor_ends_the_block_and_not_the_process() {
    const { assert!(kairo_plugin::CONTAINS_FAULTS) };
    let signal = |number| FaultKind::Signal { number };
    assert_eq!(fault_of(Mood::Segfault), signal(libc::SIGSEGV));
    #[cfg(target_arch = "x86_64")]
    assert_eq!(fault_of(Mood::Divide), signal(libc::SIGFPE));
    assert_eq!(fault_of(Mood::Abort), signal(libc::SIGABRT));
    assert_eq!(fault_of(Mood::Recurse), signal(libc::SIGSEGV));
}

#[test]
fn an_endless_loop_ends_when_its_budget_does() {
    assert_eq!(fault_of(Mood::Loop), FaultKind::Budget);
}

#[test]
fn a_thread_that_renews_its_timer_between_periods_is_guarded_as_well() {
    const BUDGET_NS: u64 = 20_000_000;
    let directory = tempfile::tempdir().expect("a directory");
    let mut registry = Registry::standard();
    load(
        &compile(directory.path(), 0),
        "test",
        BUDGET_NS,
        &mut registry,
    )
    .expect("it loads");
    let table = Table::default().with("gain", 2.0);
    let mut program = read(&registry, &table).expect("good settings");
    let thread = std::thread::spawn(move || {
        // Many periods that together use far more than the budget.
        for _ in 0..100 {
            assert_eq!(step(&mut program, Mood::Work), Ok(()));
            let began = std::time::Instant::now();
            while began.elapsed() < std::time::Duration::from_millis(2) {
                std::hint::spin_loop();
            }
            kairo_plugin::renew();
        }
        step(&mut program, Mood::Loop)
            .expect_err("it never ends")
            .kind
    });
    assert_eq!(
        thread.join().expect("the thread survives"),
        FaultKind::Budget
    );
}

#[test]
fn writing_beyond_the_state_faults_at_once() {
    let signal = FaultKind::Signal {
        number: libc::SIGSEGV,
    };
    assert_eq!(fault_of(Mood::Overflow), signal);
    assert_eq!(fault_of(Mood::Overrun), signal);
}

#[test]
fn settings_are_checked_like_any_others_and_by_the_plugin_itself() {
    let registry = registry();
    let refused = |table: Table| match read(&registry, &table) {
        Ok(_) => panic!("{table:?} was accepted"),
        Err(complaints) => complaints,
    };
    assert_eq!(refused(Table::default())[0].message, "is missing");
    let found = refused(Table::default().with("gain", 200.0));
    assert_eq!(found[0].message, "200 is out of range");
    let found = refused(Table::default().with("gain", 13.0));
    assert!(
        found[0].message.contains("Reported { code: 3 }"),
        "{found:?}"
    );
}

#[test]
fn what_others_could_change_or_another_version_is_not_loaded() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut registry = Registry::standard();
    let newer = compile(directory.path(), 1);
    let error = load(&newer, "test", BUDGET_NS, &mut registry).expect_err("another version");
    assert!(error.to_string().contains("version 2"), "{error}");
    let mut open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(&newer, open.clone()).expect("chmod");
    let error = load(&newer, "test", BUDGET_NS, &mut registry).expect_err("open to all");
    assert!(
        matches!(error, PluginError::Untrusted { mode: 0o777, .. }),
        "{error}"
    );
    let text = directory.path().join("text.so");
    std::fs::write(&text, "no object").expect("written");
    open.set_mode(0o644);
    std::fs::set_permissions(&text, open).expect("chmod");
    let error = load(&text, "test", BUDGET_NS, &mut registry).expect_err("no object");
    assert!(matches!(error, PluginError::Linker(_)), "{error}");
    let error = load(
        &directory.path().join("no.so"),
        "test",
        BUDGET_NS,
        &mut registry,
    );
    assert!(matches!(error, Err(PluginError::Unreadable(_))));
}
