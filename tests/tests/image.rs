//! The image in QEMU: real kernel, real PID 1, real drivers.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use board::demo;
use board::demo::stage::Stage;
use board::demo::world::World;
use board::image::layout::{Role, partitions};
use board::image::reproducible;
use board::qemu::MachineBuilder;
use kairo_tests::{all_passed, booted, image, out, outputs, paths};
use serde_json::{Value, json};

/// Patience of every wait.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn the_demo_passes_on_the_image() -> anyhow::Result<()> {
    let world = booted("image-demo", |machine| machine)?;
    let report = demo::run(Box::new(world), &outputs("image-demo"))?;
    all_passed(&report)?;
    assert!(
        report.kernel.preempt_rt,
        "not a PREEMPT_RT kernel: {:?}",
        report.kernel
    );
    let image = report.image.context("an image")?;
    assert!(
        image.root_bytes <= 40_000_000 && image.kernel_bytes <= 8_000_000,
        "{image:?}"
    );
    assert_eq!((report.rt.major_faults, report.rt.allocations), (0, 0));
    Ok(())
}

#[test]
fn a_broken_data_partition_is_replaced_by_memory_and_the_arm_works() -> anyhow::Result<()> {
    let disk = out("broken-data").join("disk.img");
    fs::copy(&image().disk, &disk)?;
    let data = partitions()
        .into_iter()
        .find(|part| part.role == Role::Data)
        .context("p7")?;
    let mut file = File::options().write(true).open(&disk)?;
    file.seek(SeekFrom::Start(data.offset_bytes()))?;
    // The first superblock and the group descriptors behind it.
    file.write_all(&vec![0xA5; 64 * 1024])?;
    drop(file);
    let hardware = image().board.qemu.clone().context("a [qemu] section")?;
    let words = image().manifest.command_line.clone();
    let kernel = image().kernel.clone();
    let mut world = booted("broken-data", |_| {
        MachineBuilder::new(&kernel, &disk, &words, hardware, &out("broken-data"))
    })?;
    let status = world.control(&json!({"op": "status"}))?;
    assert_eq!(status["boot"]["data"], "tmpfs", "{status}");
    let said = world.power_off()?;
    assert!(said.contains("power-off after"), "{said}");
    Ok(())
}

fn service(status: &Value, name: &str) -> Value {
    let services = status["services"].as_array().cloned().unwrap_or_default();
    services
        .into_iter()
        .find(|service| service["name"] == name)
        .unwrap_or(Value::Null)
}

#[test]
fn a_hung_real_time_plane_is_restarted_and_holds_the_arm_again() -> anyhow::Result<()> {
    let mut world = booted("hung-rt", |machine| machine)?;
    let before = service(&world.control(&json!({"op": "status"}))?, "kairo-rt");
    world.control(&json!({"op": "signal", "service": "kairo-rt", "signal": "STOP"}))?;
    let end = Instant::now() + PATIENCE;
    loop {
        let now = service(&world.control(&json!({"op": "status"}))?, "kairo-rt");
        if now["pid"] != before["pid"] && now["state"] == "running" {
            assert!(
                now["restarts"].as_u64() > before["restarts"].as_u64(),
                "{now}"
            );
            break;
        }
        assert!(Instant::now() < end, "never restarted: {now}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut stage = Stage::enter(Box::new(world))?;
    stage.wait_for_phase(&["holding", "safe"], PATIENCE)?;
    stage.world.power_off()?;
    Ok(())
}

#[test]
fn two_builds_of_one_commit_in_two_places_give_one_root_hash() -> anyhow::Result<()> {
    let hash = reproducible::check(&paths(), &image().board, None)?;
    assert_eq!(
        hash,
        image().manifest.root_hash,
        "and a third, in this checkout"
    );
    Ok(())
}
