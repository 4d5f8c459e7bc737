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
use crate::config::blocks::Read;
use crate::config::{DeviceConfig, OverrunPolicy, RobotConfig};
use crate::control_loop::{ControlLoop, Crossings, Guard, LoopParts, SeatParts};
use crate::device::Device;
use crate::exchange::{LoopSide, crossing, pair};
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
    let mut crossings = crossings_of(robot).into_iter();
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
            crossings: crossings.next().unwrap_or_default(),
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

/// The wires between loops, by loop.
fn crossings_of(robot: &RobotConfig) -> Vec<Crossings> {
    let mut ends: Vec<Crossings> = robot.loops.iter().map(|_| Crossings::default()).collect();
    for (index, inside) in robot.blocks.iter().enumerate() {
        for read in &inside.reads {
            if let Read::Crossing(from) = read {
                let (writer, reader) = crossing();
                ends[index].readers.push(reader);
                let sink = (from.from_node, from.from_port, writer);
                ends[from.from_loop].writers.push(sink);
            }
        }
    }
    ends
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bringup::{Need, check};
    use crate::config::parse;
    use kairo_link::abi::MAX_JOINTS;
    use kairo_link::control::{ControlSocket, MAX_DEVICES, Notice};
    use kairo_link::stats::{MAX_BUSES, MAX_LOOPS};
    use kairo_record::state::Sink;
    use kairo_record::tap::TICK_WORDS_MAX;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::fmt::Write as _;
    use std::path::Path;

    /// A robot of as much of everything as there may be.
    fn largest_robot() -> String {
        let mut text = "[robot]\nname = \"largest\"\nstrict = false\n".to_owned();
        for index in 0..MAX_BUSES {
            let _ = write!(
                text,
                "[[bus]]\nname = \"serial-bus-{index}\"\nkind = \"feetech-sts\"\n\
                 port = \"serial:usb-1-1.{index}\"\nbaud = 1_000_000\npriority = 70\n\
                 response_timeout_us = 30_000\nlost_after_cycles = 25\n"
            );
        }
        for index in 0..MAX_LOOPS {
            let _ = write!(
                text,
                "[[loop]]\nname = \"control-loop-{index}\"\nperiod_us = 4000\npriority = 80\n\
                 overrun = \"skip\"\nbudget_us = 100\n"
            );
        }
        for index in 0..MAX_DEVICES {
            let _ = write!(
                text,
                "[[device]]\nname = \"manipulator-{index}\"\nkind = \"servo-arm\"\n\
                 bus = \"serial-bus-{index}\"\nloop = \"control-loop-{index}\"\n\
                 safe_action = \"hold\"\nttl_max_ms = 1000\nfeedback_stale_ms = 500\n"
            );
            for joint in 1..=MAX_JOINTS {
                let _ = write!(
                    text,
                    "[[device.joint]]\nname = \"shoulder_pan_{joint}\"\nservo_id = {joint}\n\
                     zero_steps = 2048\ndirection = 1\nposition_min_rad = -1.91986\n\
                     position_max_rad = 1.91986\nvelocity_max_rad_s = 2.5\n\
                     acceleration_max_rad_s2 = 10.0\njerk_max_rad_s3 = 200.0\n\
                     following_error_max_rad = 0.5\nfollowing_error_time_ms = 1000\n"
                );
            }
        }
        text
    }

    #[test]
    fn a_keyframe_holds_as_many_devices_as_one_loop_can_have() {
        let mut text = largest_robot();
        for index in 1..MAX_DEVICES {
            text = text.replace(
                &format!("loop = \"control-loop-{index}\""),
                "loop = \"control-loop-0\"",
            );
        }
        let robot = parse(Path::new("robot.toml"), &text).unwrap();
        let stats = Stats::empty();
        let (bell, shared) = (Wake::new().unwrap(), Arc::new(Shared::default()));
        let mut made = assemble(&robot, &stats, &bell, &shared, Vec::new());
        let mut keyframe = Sink::new(TICK_WORDS_MAX);
        made.loops[0].0.save_keyframe(&mut keyframe);
        assert!(!keyframe.overflowed());
        let words = keyframe.words().len();
        assert!(words > 32 * 100, "{words} are not those of 32 devices");
    }

    #[test]
    fn the_welcome_of_the_largest_robot_fits_one_message() {
        let robot = parse(Path::new("robot.toml"), &largest_robot()).unwrap();
        let mut welcome = describe(&robot);
        // Ten lines a thread, all of them with a remedy.
        let threads = robot.loops.len() + robot.buses.len();
        let line = |number: usize| {
            let (wanted, found) = ("SCHED_FIFO with priority 80", "SCHED_OTHER, priority 0");
            let scope = format!("control-loop-{}", number / 10);
            let fix = "give kairo-rt CAP_SYS_NICE or LimitRTPRIO=98, as in the unit file";
            check(
                &scope,
                "locked_memory",
                wanted,
                found,
                false,
                Need::Required,
                fix,
            )
        };
        welcome.bringup = (0..10 * threads).map(line).collect();
        let kind = SockType::SeqPacket;
        let pair = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let (ours, theirs) = (
            ControlSocket::from_fd(pair.0),
            ControlSocket::from_fd(pair.1),
        );
        ours.send(&Notice::Welcome(Box::new(welcome.clone())), &[])
            .unwrap();
        let (received, _): (Notice, _) = theirs.receive().unwrap();
        assert_eq!(received, Notice::Welcome(Box::new(welcome)));
    }
}
