//! What a peer can make the server pile up, without a loop that takes anything away.

use super::*;
use crate::order::{EVENTS_MAX, ORDERS_MAX};

/// A server with one device under a lease of epoch 7, whose loop has stopped taking orders. The
/// loop's ends come along, because a ring without its other end looks like an ended loop.
fn server(
    directory: &std::path::Path,
) -> (LinkServer, rtrb::Consumer<Order>, rtrb::Producer<Event>) {
    let (orders, orders_end) = rtrb::RingBuffer::new(ORDERS_MAX);
    let (events_end, events) = rtrb::RingBuffer::new(EVENTS_MAX);
    let own = nix::unistd::geteuid().as_raw();
    let device = DeviceRoute {
        present: true,
        lease_epoch: Some(7),
        ..DeviceRoute::default()
    };
    let shared = Arc::new(Shared::default());
    let desk = Arc::new(crate::operator::Desk {
        shared: Arc::clone(&shared),
        memory: crate::estop_memory::EstopMemory::new(directory),
        devices: vec!["arm".into()],
        lines: Vec::new(),
        loops: 1,
        stats: kairo_link::stats::Stats::empty(),
    });
    let server = LinkServer {
        safety: Safety::new(desk, false),
        listener: Listener::bind(&directory.join("rt.sock"), own).unwrap(),
        welcome: Welcome::default(),
        not_armed_because: String::new(),
        stats: std::fs::File::open("/dev/null").unwrap().into(),
        ports: Vec::new(),
        devices: vec![device],
        loops: vec![LoopPort::new(orders, events)],
        epochs: EpochCounter::since_boot(),
        bell: Wake::new().unwrap(),
        shared,
        connection: None,
        pending: Vec::new(),
        retired: Vec::new(),
    };
    (server, orders_end, events_end)
}

#[test]
fn a_lease_that_is_closed_over_and_over_costs_one_order() {
    let directory = tempfile::tempdir().unwrap();
    let (mut server, mut orders, _events) = server(directory.path());
    for _ in 0..10_000 {
        server.close_lease(7, false);
    }
    assert!(
        !server.loops[0].has_backlog(),
        "a peer filled the queue of orders"
    );
    assert!(matches!(
        orders.pop(),
        Ok(Order::CloseLease { epoch: 7, .. })
    ));
    assert!(orders.pop().is_err());
}
