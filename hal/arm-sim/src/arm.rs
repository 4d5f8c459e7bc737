//! The arm: six joints with inertia, friction, weight and hard stops, integrated in fixed steps.
//!
//! Zero pose: upper arm straight up, forearm level and forward, hand in line with the forearm,
//! gripper closed to its zero. The three pitch joints carry the links beyond them; their weight
//! torques derive from one potential, so energy is conserved where friction and motors take none.
//!
//! Parameters: link lengths of the SO-101 (shoulder to elbow 0.116 m, elbow to wrist 0.135 m,
//! wrist to the gripper's middle 0.08 m), masses estimated from its printed parts and servos
//! (57 g each). The inertia of a joint is the rotor's plus the links' at mid-stretch, constant: at
//! 1:345 the rotor dominates. Stops are those of the SO-101's published joint ranges.
//!
//! Non-goals: Coriolis terms, changing inertia, contact, flexibility, backlash.

use crate::motor::{COULOMB_FRICTION_NM, ROTOR_INERTIA_KG_M2, VISCOUS_FRICTION_NM_S};
use crate::servo::{FIRMWARE_PERIOD_S, Servo};

/// Joints of the arm.
pub const JOINTS: usize = 6;
/// Their names, from the base outward; servo ids are 1 to 6 in this order.
pub const JOINT_NAMES: [&str; JOINTS] = [
    "shoulder_pan",
    "shoulder_lift",
    "elbow_flex",
    "wrist_flex",
    "wrist_roll",
    "gripper",
];
/// The integration step, ns. The fastest motion (stiff loop, ω about 25 rad/s) is 1000 times
/// slower.
pub const STEP_NS: u64 = 250_000;
/// Hard stops, rad.
pub const STOPS_RAD: [(f64, f64); JOINTS] = [
    (-1.92, 1.92),
    (-1.75, 1.75),
    (-1.69, 1.69),
    (-1.66, 1.66),
    (-2.74, 2.84),
    (-0.17, 1.75),
];

const STEP_S: f64 = STEP_NS as f64 * 1e-9;
const STEPS_PER_FIRMWARE_PERIOD: u64 = (FIRMWARE_PERIOD_S / STEP_S) as u64;
const LINK_INERTIA_KG_M2: [f64; JOINTS] = [0.010, 0.012, 0.005, 0.0012, 0.0004, 0.0002];

const GRAVITY_M_S2: f64 = 9.81;
const UPPER_ARM_M: f64 = 0.116;
const FOREARM_M: f64 = 0.135;
const UPPER_ARM_CENTER_M: f64 = 0.06;
const FOREARM_CENTER_M: f64 = 0.07;
const HAND_CENTER_M: f64 = 0.08;
const UPPER_ARM_KG: f64 = 0.11;
const FOREARM_KG: f64 = 0.10;
const HAND_KG: f64 = 0.15;

const SUPPLY_V: f64 = 12.1;
/// Resistance of supply, cable and connectors, Ω.
const SUPPLY_RESISTANCE_OHM: f64 = 0.15;

/// Whether something holds the arm before its servos do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cradle {
    /// Each joint rests in a cradle until its torque is first enabled.
    UntilTorque,
    /// Nothing holds the arm: with the torque off it falls to its stops.
    Absent,
}

/// The motion of one joint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct JointState {
    /// Angle, rad.
    pub position_rad: f64,
    /// Speed, rad/s.
    pub velocity_rad_s: f64,
}

/// The arm and its servos.
#[derive(Clone, Debug)]
pub struct Arm {
    /// The servos, by joint.
    pub servos: [Servo; JOINTS],
    joints: [JointState; JOINTS],
    in_cradle: [bool; JOINTS],
    jammed: [bool; JOINTS],
    steps: u64,
    supply_v: f64,
}

impl Arm {
    /// An arm at rest in `pose_rad` (limited to the stops), switched on, torque off.
    #[must_use]
    pub fn new(seed: u64, pose_rad: [f64; JOINTS], cradle: Cradle) -> Self {
        let mut joints = [JointState::default(); JOINTS];
        for (joint, (angle, stops)) in joints.iter_mut().zip(pose_rad.iter().zip(STOPS_RAD)) {
            joint.position_rad = angle.clamp(stops.0, stops.1);
        }
        Self {
            servos: std::array::from_fn(|index| {
                Servo::new(index as u8 + 1, seed, joints[index].position_rad)
            }),
            joints,
            in_cradle: [cradle == Cradle::UntilTorque; JOINTS],
            jammed: [false; JOINTS],
            steps: 0,
            supply_v: SUPPLY_V,
        }
    }

    /// The joints' true motion.
    #[must_use]
    pub const fn joints(&self) -> &[JointState; JOINTS] {
        &self.joints
    }

    /// The servo with this bus address.
    pub fn servo_mut(&mut self, id: u8) -> Option<&mut Servo> {
        self.servos.iter_mut().find(|servo| servo.id() == id)
    }

    /// Blocks a joint where it is, or lets it go again.
    pub fn jam(&mut self, joint: usize, jammed: bool) {
        self.jammed[joint] = jammed;
    }

    /// Advances the arm by one step of [`STEP_NS`].
    pub fn step(&mut self) {
        if self.steps.is_multiple_of(STEPS_PER_FIRMWARE_PERIOD) {
            let supply_v = self.supply_v;
            for (servo, joint) in self.servos.iter_mut().zip(&self.joints) {
                servo.run_firmware(joint.position_rad, supply_v);
            }
        }
        self.steps += 1;
        let weight_nm = weight_torques_nm(&self.angles());
        let mut supply_a = 0.0;
        for (index, weight_nm) in weight_nm.into_iter().enumerate() {
            let servo = &mut self.servos[index];
            let joint = &mut self.joints[index];
            servo
                .motor
                .drive(servo.duty, self.supply_v, joint.velocity_rad_s, STEP_S);
            supply_a += servo
                .duty
                .map_or(0.0, |duty| (duty * servo.motor.current_a).max(0.0));
            self.in_cradle[index] &= servo.duty.is_none();
            if self.jammed[index] {
                joint.velocity_rad_s = 0.0;
            } else if !self.in_cradle[index] {
                let torque_nm = servo.motor.torque_nm + weight_nm;
                move_joint(joint, index, torque_nm);
            }
        }
        self.supply_v = SUPPLY_V - SUPPLY_RESISTANCE_OHM * supply_a;
    }

    /// Kinetic and potential energy, J; the potential is 0 at the shoulder's height.
    #[must_use]
    pub fn energy_j(&self) -> f64 {
        let kinetic: f64 = self
            .joints
            .iter()
            .enumerate()
            .map(|(index, joint)| 0.5 * inertia_kg_m2(index) * joint.velocity_rad_s.powi(2))
            .sum();
        let [upper, fore, hand] = link_angles(&self.angles());
        let elbow_m = UPPER_ARM_M * upper.cos();
        let wrist_m = elbow_m + FOREARM_M * fore.cos();
        let potential = GRAVITY_M_S2
            * (UPPER_ARM_KG * UPPER_ARM_CENTER_M * upper.cos()
                + FOREARM_KG * (elbow_m + FOREARM_CENTER_M * fore.cos())
                + HAND_KG * (wrist_m + HAND_CENTER_M * hand.cos()));
        kinetic + potential
    }

    fn angles(&self) -> [f64; JOINTS] {
        self.joints.map(|joint| joint.position_rad)
    }
}

fn inertia_kg_m2(joint: usize) -> f64 {
    ROTOR_INERTIA_KG_M2 + LINK_INERTIA_KG_M2[joint]
}

/// Angles of upper arm, forearm and hand from the vertical.
fn link_angles(joints_rad: &[f64; JOINTS]) -> [f64; 3] {
    let upper = joints_rad[1];
    let fore = upper + std::f64::consts::FRAC_PI_2 + joints_rad[2];
    [upper, fore, fore + joints_rad[3]]
}

/// The torques of the links' weight: minus the derivative of the potential by each joint angle.
fn weight_torques_nm(joints_rad: &[f64; JOINTS]) -> [f64; JOINTS] {
    let [upper, fore, hand] = link_angles(joints_rad);
    let hand_nm = GRAVITY_M_S2 * HAND_KG * HAND_CENTER_M * hand.sin();
    let fore_nm = GRAVITY_M_S2 * (FOREARM_KG * FOREARM_CENTER_M + HAND_KG * FOREARM_M) * fore.sin();
    let upper_nm = GRAVITY_M_S2
        * (UPPER_ARM_KG * UPPER_ARM_CENTER_M + (FOREARM_KG + HAND_KG) * UPPER_ARM_M)
        * upper.sin();
    [
        0.0,
        upper_nm + fore_nm + hand_nm,
        fore_nm + hand_nm,
        hand_nm,
        0.0,
        0.0,
    ]
}

/// One semi-implicit Euler step of one joint. Dry friction stops a joint but never reverses it.
fn move_joint(joint: &mut JointState, index: usize, torque_nm: f64) {
    let inertia = inertia_kg_m2(index);
    let viscous_nm = VISCOUS_FRICTION_NM_S * joint.velocity_rad_s;
    let free = joint.velocity_rad_s + (torque_nm - viscous_nm) / inertia * STEP_S;
    let dry = COULOMB_FRICTION_NM / inertia * STEP_S;
    joint.velocity_rad_s = free.signum() * (free.abs() - dry).max(0.0);
    joint.position_rad += joint.velocity_rad_s * STEP_S;
    let (low, high) = STOPS_RAD[index];
    if joint.position_rad < low {
        *joint = JointState {
            position_rad: low,
            velocity_rad_s: joint.velocity_rad_s.max(0.0),
        };
    } else if joint.position_rad > high {
        *joint = JointState {
            position_rad: high,
            velocity_rad_s: joint.velocity_rad_s.min(0.0),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::{Arm, Cradle, JOINTS, STOPS_RAD};
    use kairo_hal::feetech::StatusError;
    use kairo_hal::feetech::registers::{self, steps_from_radians};
    use std::f64::consts::FRAC_PI_2;

    const STEPS_PER_S: usize = 4000;

    fn powered(pose_rad: [f64; JOINTS]) -> Arm {
        let mut arm = Arm::new(1, pose_rad, Cradle::UntilTorque);
        for servo in &mut arm.servos {
            servo.write(registers::TORQUE_ENABLE.address, &[1]);
        }
        arm
    }

    fn set_goal(arm: &mut Arm, joint: usize, goal_rad: f64) {
        let bytes = registers::GOAL_POSITION
            .encode(steps_from_radians(goal_rad))
            .unwrap();
        arm.servos[joint].write(registers::GOAL_POSITION.address, &bytes);
    }

    #[test]
    fn weight_is_the_slope_of_the_potential() {
        let pose_rad = [0.3, 0.4, -0.5, 0.6, 0.1, 0.2];
        let energy_at = |pose_rad| Arm::new(1, pose_rad, Cradle::Absent).energy_j();
        let torques_nm = super::weight_torques_nm(&pose_rad);
        for joint in 0..JOINTS {
            let (mut above, mut below) = (pose_rad, pose_rad);
            above[joint] += 1e-5;
            below[joint] -= 1e-5;
            let slope = (energy_at(above) - energy_at(below)) / 2e-5;
            assert!((torques_nm[joint] + slope).abs() < 1e-6, "joint {joint}");
        }
        // Stretched out level, the shoulder carries all links at their distances.
        let level = super::weight_torques_nm(&[0.0, FRAC_PI_2, -FRAC_PI_2, 0.0, 0.0, 0.0]);
        assert!((level[1] - 0.738).abs() < 0.01, "{}", level[1]);
    }

    #[test]
    fn energy_never_grows_without_torque() {
        let mut arm = Arm::new(1, [0.3, 0.4, -0.5, 0.6, 0.1, 0.2], Cradle::Absent);
        let mut last = arm.energy_j();
        for _ in 0..20 * STEPS_PER_S {
            arm.step();
            let now = arm.energy_j();
            // The integrator's own error per step, far below what friction takes.
            assert!(now <= last + 1e-6, "{now} after {last}");
            last = now;
        }
    }

    #[test]
    fn falls_and_settles_when_the_torque_is_off() {
        let mut arm = Arm::new(1, [0.0, 0.4, 0.0, 0.0, 0.0, 0.0], Cradle::Absent);
        for _ in 0..20 * STEPS_PER_S {
            arm.step();
        }
        let lift = arm.joints()[1];
        assert!(
            (lift.position_rad - STOPS_RAD[1].1).abs() < 1e-9,
            "{lift:?}"
        );
        assert!(
            arm.joints()
                .iter()
                .all(|joint| joint.velocity_rad_s.abs() < 1e-3)
        );
    }

    #[test]
    fn the_cradle_holds_until_the_torque_does() {
        let mut arm = Arm::new(1, [0.0; JOINTS], Cradle::UntilTorque);
        for _ in 0..STEPS_PER_S {
            arm.step();
        }
        assert_eq!(arm.joints()[2].position_rad, 0.0);
        for servo in &mut arm.servos {
            servo.write(registers::TORQUE_ENABLE.address, &[1]);
        }
        for _ in 0..STEPS_PER_S {
            arm.step();
        }
        for servo in &mut arm.servos {
            servo.write(registers::TORQUE_ENABLE.address, &[0]);
        }
        for _ in 0..2 * STEPS_PER_S {
            arm.step();
        }
        assert!(arm.joints()[1].position_rad > 1.0, "{:?}", arm.joints()[1]);
    }

    #[test]
    fn a_step_is_reached_against_the_weight() {
        for joint in 0..JOINTS {
            let mut arm = powered([0.0; JOINTS]);
            for _ in 0..2 * STEPS_PER_S {
                arm.step();
            }
            set_goal(&mut arm, joint, 0.5);
            let mut highest: f64 = 0.0;
            for _ in 0..3 * STEPS_PER_S {
                arm.step();
                highest = highest.max(arm.joints()[joint].position_rad);
            }
            let end = arm.joints()[joint].position_rad;
            println!("joint {joint}: end {end:.4}, highest {highest:.4}");
            assert!((end - 0.5).abs() < 0.006, "joint {joint} ended at {end}");
            assert!(highest < 0.65, "joint {joint} overshot to {highest}");
            for servo in &arm.servos {
                assert_eq!(servo.status(), StatusError::NONE);
            }
        }
    }

    #[test]
    fn without_integral_gain_the_weight_leaves_an_error() {
        let mut arm = powered([0.0; JOINTS]);
        for servo in &mut arm.servos {
            servo.write(registers::LOCK.address, &[0]);
            servo.write(registers::I_GAIN.address, &[0]);
        }
        for _ in 0..3 * STEPS_PER_S {
            arm.step();
        }
        let sag_steps = arm.joints()[1].position_rad / registers::RADIANS_PER_STEP;
        assert!((5.0..30.0).contains(&sag_steps), "{sag_steps}");
    }

    #[test]
    fn speed_and_acceleration_registers_shape_the_motion() {
        let mut arm = powered([0.0; JOINTS]);
        arm.servos[0].write(registers::ACCELERATION.address, &[20]);
        arm.servos[0].write(registers::GOAL_SPEED.address, &[0xF4, 0x01]); // 500 steps/s
        set_goal(&mut arm, 0, 1.5);
        let mut fastest: f64 = 0.0;
        for _ in 0..4 * STEPS_PER_S {
            arm.step();
            fastest = fastest.max(arm.joints()[0].velocity_rad_s);
        }
        assert!(
            (0.70..0.95).contains(&fastest),
            "500 steps/s are 0.767 rad/s, got {fastest}"
        );
        assert!((arm.joints()[0].position_rad - 1.5).abs() < 0.006);
    }

    #[test]
    fn a_blocked_joint_reports_overload_and_gives_way() {
        let mut arm = powered([0.0; JOINTS]);
        // Far beyond the stop at 1.75 rad: the loop pushes with all it has.
        set_goal(&mut arm, 5, 3.0);
        for _ in 0..5 * STEPS_PER_S {
            arm.step();
        }
        let gripper = &arm.servos[5];
        assert!(
            gripper.status().contains(StatusError::OVERLOAD),
            "{}",
            gripper.status()
        );
        assert!(gripper.duty.unwrap().abs() <= 0.2 + 1e-9);
        assert!(gripper.motor.temperature_c > 28.0);
    }
}
