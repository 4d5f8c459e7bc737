//! Makes the threads' parts out of a configuration: rings, buffers, seats, descriptions.
//!
//! setup-only. Nothing runs yet; [`crate::daemon`] spawns what is made here.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kairo_link::control::{
    BusDescription, DeviceDescription, JointDescription, LoopDescription, Welcome,
};
use kairo_link::segment::VERSION;
use kairo_link::stats::Stats;
use kairo_record::tap::Tap;

use crate::bringup::thread::ThreadPlan;
use crate::bus_loop::{BusLoop, BusParts, BusSeat};
use crate::bus_supervisor::{BusSupervisor, PortPath, ServoPlan};
use crate::config::{DeviceConfig, OverrunPolicy, RobotConfig};
use crate::control_loop::{ControlLoop, Guard, LoopParts, SeatParts};
use crate::device::Device;
use crate::exchange::{LoopSide, pair};
use crate::link_server::{DeviceRoute, LoopPort};
use crate::order::{EVENTS_MAX, ORDERS_MAX};
use crate::periodic::Terms;
use crate::schedule::Timing;
use crate::servo_map::ServoMap;
use crate::shared::Shared;
use crate::wake::Wake;

/// Room for lines on their way: one is all there is; one more keeps the ring from looking full.
const LINES_MAX: usize = 2;

/// Everything that will run, not running yet.
#[derive(Debug)]
pub struct Assembly {
    /// The control loops, each with its terms.
    pub loops: Vec<(ControlLoop, Terms)>,
    /// The bus threads, each with its terms.
    pub buses: Vec<(BusLoop, Terms)>,
    /// A supervisor for each bus.
    pub supervisors: Vec<BusSupervisor>,
    /// The link server's ends towards the loops.
    pub ports: Vec<LoopPort>,
    /// Where each device sits.
    pub routes: Vec<DeviceRoute>,
    /// Where each bus is.
    pub paths: Vec<PortPath>,
}

/// A device's part of its loop.
fn seat(robot: &RobotConfig, number: usize, period_ns: u64, link: LoopSide) -> SeatParts {
    SeatParts {
        device: Device::new(&robot.devices[number], period_ns),
        link,
        number,
        guard: Guard::new(&robot.failsafe),
    }
}

/// Makes all parts of `robot`. setup-only.
///
/// `taps` are those of the loops, in order; loops without one are not recorded.
pub fn assemble(
    robot: &RobotConfig,
    stats: &Stats,
    bell: &Wake,
    shared: &Arc<Shared>,
    taps: Vec<Tap>,
) -> Assembly {
    let mut taps = taps.into_iter();
    let mut made = Assembly {
        loops: Vec::new(),
        buses: Vec::new(),
        supervisors: Vec::new(),
        ports: Vec::new(),
        routes: vec![DeviceRoute::default(); robot.devices.len()],
        paths: Vec::new(),
    };
    let mut loop_sides: Vec<Option<LoopSide>> = robot.devices.iter().map(|_| None).collect();
    for index in 0..robot.buses.len() {
        assemble_bus(robot, index, stats, shared, &mut loop_sides, &mut made);
    }
    for (index, config) in robot.loops.iter().enumerate() {
        let period_ns = config.period_us * 1000;
        let mut devices = Vec::new();
        for (number, device) in robot.devices.iter().enumerate() {
            if device.control_loop != index {
                continue;
            }
            let route = &mut made.routes[number];
            (route.control_loop, route.seat) = (index, devices.len());
            // Every device is on exactly one bus, so its side was made above.
            if let Some(side) = loop_sides[number].take() {
                devices.push(seat(robot, number, period_ns, side));
            }
        }
        let (orders, orders_end) = rtrb::RingBuffer::new(ORDERS_MAX);
        let (events_end, events) = rtrb::RingBuffer::new(EVENTS_MAX);
        made.ports.push(LoopPort::new(orders, events));
        let control_loop = ControlLoop::new(LoopParts {
            index,
            period_ns,
            overrun: config.overrun,
            devices,
            orders: orders_end,
            events: events_end,
            bell: bell.clone(),
            stats: stats.clone(),
            shared: Arc::clone(shared),
            tap: taps.next().unwrap_or_else(Tap::off),
            blocks: robot.blocks[index].clone(),
            seats: made.routes.iter().map(|route| route.seat).collect(),
        });
        let terms = Terms {
            plan: plan(&config.name, config.priority, config.core),
            timing: Timing {
                period_ns,
                phase_ns: config.phase_us * 1000,
                overrun: config.overrun,
            },
            budget_ns: config.budget_us * 1000,
            trace_system_calls: robot.trace_system_calls,
            shared: Arc::clone(shared),
        };
        made.loops.push((control_loop, terms));
    }
    made
}

fn plan(name: &str, priority: u8, core: Option<usize>) -> ThreadPlan {
    ThreadPlan {
        name: name.to_owned(),
        priority,
        core,
    }
}

fn on_bus(robot: &RobotConfig, bus: usize) -> impl Iterator<Item = (usize, &DeviceConfig)> {
    robot
        .devices
        .iter()
        .enumerate()
        .filter(move |(_, device)| device.bus == bus)
}

fn assemble_bus(
    robot: &RobotConfig,
    index: usize,
    stats: &Stats,
    shared: &Arc<Shared>,
    loop_sides: &mut [Option<LoopSide>],
    made: &mut Assembly,
) {
    let config = &robot.buses[index];
    let mut servos = Vec::new();
    let mut seats = Vec::new();
    for (number, device) in on_bus(robot, index) {
        let (loop_side, bus_side) = pair();
        loop_sides[number] = Some(loop_side);
        let maps = device.joints.iter().map(ServoMap::from).collect();
        seats.push(BusSeat::new(bus_side, servos.len(), maps));
        let plans = device.joints.iter();
        servos.extend(plans.map(|joint| ServoPlan {
            id: joint.servo_id,
            gains: joint.gains,
        }));
    }
    let period_ns = robot.bus_period_us(index) * 1000;
    stats.block().buses[index]
        .servos_in_use
        .store(servos.len() as u64, Ordering::Relaxed);
    let (to_bus, incoming) = rtrb::RingBuffer::new(LINES_MAX);
    let (outgoing, from_bus) = rtrb::RingBuffer::new(LINES_MAX);
    let path = PortPath::default();
    made.paths.push(path.clone());
    let bus = BusLoop::new(BusParts {
        index,
        response_timeout_ns: config.response_timeout_us * 1000,
        lost_after_cycles: config.lost_after_cycles,
        ids: servos.iter().map(|servo| servo.id).collect(),
        seats,
        incoming,
        outgoing,
        stats: stats.clone(),
        shared: Arc::clone(shared),
    });
    let terms = Terms {
        plan: plan(&config.name, config.priority, config.core),
        timing: Timing {
            period_ns,
            phase_ns: robot.bus_phase_us(index) * 1000,
            overrun: OverrunPolicy::Skip,
        },
        // Most of a cycle is waiting for the wire, which may take the whole period.
        budget_ns: period_ns,
        // A cycle is made of system calls.
        trace_system_calls: false,
        shared: Arc::clone(shared),
    };
    made.buses.push((bus, terms));
    made.supervisors.push(BusSupervisor {
        config: config.clone(),
        servos,
        to_bus,
        from_bus,
        path,
        shared: Arc::clone(shared),
    });
}

/// What an agent plane is told on connecting, before presence and bring-up are known. setup-only.
pub fn describe(robot: &RobotConfig) -> Welcome {
    Welcome {
        version: VERSION,
        build: env!("CARGO_PKG_VERSION").to_owned(),
        robot: robot.name.clone(),
        armed: false,
        loops: robot
            .loops
            .iter()
            .enumerate()
            .map(|(index, config)| LoopDescription {
                name: config.name.clone(),
                period_us: config.period_us,
                phase_us: config.phase_us,
                priority: u32::from(config.priority),
                core: config.core.and_then(|core| u32::try_from(core).ok()),
                blocks: block_names(robot, index),
            })
            .collect(),
        buses: (0..robot.buses.len())
            .map(|index| describe_bus(robot, index))
            .collect(),
        devices: robot
            .devices
            .iter()
            .map(|device| describe_device(robot, device))
            .collect(),
        bringup: Vec::new(),
        lines: Vec::new(),
    }
}

fn block_names(robot: &RobotConfig, control_loop: usize) -> Vec<String> {
    let nodes = robot.blocks[control_loop].graph.nodes.iter();
    nodes.map(|node| node.name.clone()).collect()
}

fn describe_bus(robot: &RobotConfig, index: usize) -> BusDescription {
    let joints = on_bus(robot, index).flat_map(|(_, device)| &device.joints);
    BusDescription {
        name: robot.buses[index].name.clone(),
        port: robot.buses[index].port.clone(),
        path: String::new(),
        servo_ids: joints.map(|joint| joint.servo_id).collect(),
    }
}

fn describe_device(robot: &RobotConfig, device: &DeviceConfig) -> DeviceDescription {
    DeviceDescription {
        name: device.name.clone(),
        kind: "servo-arm".to_owned(),
        bus: robot.buses[device.bus].name.clone(),
        control_loop: robot.loops[device.control_loop].name.clone(),
        safe_action: device.safe_action.name().to_owned(),
        torque_at_start: device.torque_at_start,
        ttl_max_ms: device.ttl_max_ms,
        joints: device
            .joints
            .iter()
            .map(|joint| JointDescription {
                name: joint.name.clone(),
                servo_id: joint.servo_id,
                position_min_rad: joint.position_min_rad,
                position_max_rad: joint.position_max_rad,
                velocity_max_rad_s: joint.velocity_max_rad_s,
                acceleration_max_rad_s2: joint.acceleration_max_rad_s2,
                jerk_max_rad_s3: joint.jerk_max_rad_s3,
                following_error_max_rad: joint.following_error_max_rad,
                following_error_time_ms: joint.following_error_time_ms,
                rest_position_rad: joint.rest_position_rad,
            })
            .collect(),
        present: false,
    }
}
