//! A disk that is full, or that hangs: what must be kept before it happens does not happen, what
//! is taken away is gone at once, and kairod answers meanwhile.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::fs::File;
use std::path::PathBuf;

use kairo_wire::{Client, ClientError, ErrorCode, ErrorInfo, Meta};
use serde_json::{Value, json};
use support::{PATIENCE, System, call, claim, eventually, limit_files, send};

fn ask() -> Value {
    json!({
        "who": {"class": "agent"}, "right": "device.claim", "target": "arm", "reason": "a test",
    })
}

fn allowed(operator: &mut Client) -> bool {
    let params = json!({"right": "device.claim", "target": "arm", "who": {"class": "agent"}});
    let checked = call(operator, "permission.check", params).unwrap();
    checked["allowed"].as_bool().unwrap()
}

#[test]
fn on_a_full_disk_privileged_acts_fail_closed_and_the_robot_goes_on() {
    let system = System::start();
    let mut operator = system.client();
    let given = call(&mut operator, "permission.grant", ask()).unwrap();
    limit_files(system.kairod_pid(), 1);
    let closed = |refused: ErrorInfo| {
        assert_eq!(refused.code, ErrorCode::Unavailable, "{refused}");
        assert_eq!(refused.reason_name(), "no_audit", "{refused}");
    };
    closed(call(&mut operator, "permission.grant", ask()).unwrap_err());
    closed(call(&mut operator, "rt.clear_estop", json!({})).unwrap_err());
    // What is taken away is gone, though it cannot be written down, and says so.
    assert!(allowed(&mut operator));
    let revoked = call(
        &mut operator,
        "permission.revoke",
        json!({"id": given["id"]}),
    )
    .unwrap();
    assert_eq!(revoked["kept"], false);
    assert!(!allowed(&mut operator));
    // Moving and stopping need no disk.
    let epoch = claim(&mut operator);
    send(&mut operator, epoch, json!({"elbow_flex": 0.1})).unwrap();
    call(&mut operator, "rt.estop", json!({})).unwrap();
    // With room again everything works, and what was taken away stays away.
    limit_files(system.kairod_pid(), libc::RLIM_INFINITY);
    eventually("grants can be given again", || {
        call(&mut operator, "permission.grant", ask()).ok()
    });
}

#[test]
fn a_revocation_that_could_not_be_written_is_written_later_and_does_not_come_back() {
    let mut system = System::start();
    let mut operator = system.client();
    let given = call(&mut operator, "permission.grant", ask()).unwrap();
    limit_files(system.kairod_pid(), 1);
    call(
        &mut operator,
        "permission.revoke",
        json!({"id": given["id"]}),
    )
    .unwrap();
    limit_files(system.kairod_pid(), libc::RLIM_INFINITY);
    // Nobody asks for anything: kairod tries again by itself.
    let file = system.directory.path().join("state/grants.json");
    eventually("the grant is gone from the file", || {
        let text = std::fs::read_to_string(&file).unwrap();
        (!text.contains("device.claim")).then_some(())
    });
    system.restart_kairod();
    assert!(!allowed(&mut system.client()));
}

/// A pipe in the place of the file that grants are written into first: opening it hangs until
/// somebody reads, as a disk may.
fn hang(system: &System) -> PathBuf {
    let path = system.directory.path().join("state/grants.json.new");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    path
}

#[test]
fn a_disk_that_hangs_holds_up_no_other_request_and_no_revocation() {
    let system = System::start();
    let mut operator = system.client();
    let given = call(&mut operator, "permission.grant", ask()).unwrap();
    let pipe = hang(&system);
    let meta = Meta {
        deadline_ms: Some(300),
        ..Meta::default()
    };
    let late = operator.call_with_meta::<Value>("permission.grant", ask(), Some(meta), PATIENCE);
    let Err(ClientError::Refused(late)) = late else {
        panic!("{late:?}");
    };
    assert_eq!(late.code, ErrorCode::Timeout);
    // The writer hangs; nobody else does.
    call(&mut system.client(), "kernel.ping", json!({})).unwrap();
    let mut agent = system.confined("agent", "planner");
    let revoked = call(
        &mut operator,
        "permission.revoke",
        json!({"id": given["id"]}),
    )
    .unwrap();
    assert_eq!(revoked["kept"], false);
    let refused = call(&mut agent, "device.claim", json!({"device": "arm"})).unwrap_err();
    assert_eq!(
        refused.code,
        ErrorCode::PermissionDenied,
        "neither grant is in force"
    );
    // The disk comes back, and with it the writer. A pipe cannot be synced: the grant that its
    // caller gave up is refused, and what ended is tried again and written.
    let reader = File::open(&pipe).unwrap();
    std::fs::remove_file(&pipe).unwrap();
    drop(reader);
    let file = system.directory.path().join("state/grants.json");
    eventually("no grant is left in the file", || {
        let text = std::fs::read_to_string(&file).unwrap();
        (!text.contains("device.claim")).then_some(())
    });
    assert!(!allowed(&mut operator));
}
