//! The drive of one servo: direct-current motor, gearbox, heat.
//!
//! Everything is at the output shaft. Parameters are those of the 12 V, 1:345 variant
//! (STS3215-C018) in Feetech's data sheet: stall torque 30 kg·cm (2.94 N·m) at 2.7 A, no-load
//! speed 45 rpm (4.71 rad/s). From these follow the winding resistance, the torque per ampere and
//! the back-EMF constant; their product gives 0.63 N·m·s/rad of electrical damping, which agrees
//! with published identifications of this servo (0.60). Friction and rotor inertia are from those
//! identifications as well (0.05 N·m, 0.028 kg·m²). The thermal model fits a published hold test:
//! 1.5 N·m for an hour gives 48 °C.

/// Nominal supply, V.
pub const NOMINAL_VOLTAGE_V: f64 = 12.0;
/// Torque with the shaft blocked at nominal supply, N·m.
pub const STALL_TORQUE_NM: f64 = 2.94;
/// Current with the shaft blocked at nominal supply, A.
pub const STALL_CURRENT_A: f64 = 2.7;
/// Speed without load at nominal supply, rad/s.
pub const NO_LOAD_SPEED_RAD_S: f64 = 4.71;
/// Rotor and gear inertia seen at the output, kg·m².
pub const ROTOR_INERTIA_KG_M2: f64 = 0.028;
/// Dry friction of the gearbox, N·m.
pub const COULOMB_FRICTION_NM: f64 = 0.052;
/// Viscous friction of the gearbox with the bridge open, N·m·s/rad.
pub const VISCOUS_FRICTION_NM_S: f64 = 0.05;

const RESISTANCE_OHM: f64 = NOMINAL_VOLTAGE_V / STALL_CURRENT_A;
const TORQUE_PER_AMPERE_NM: f64 = STALL_TORQUE_NM / STALL_CURRENT_A;
const BACK_EMF_V_S: f64 = NOMINAL_VOLTAGE_V / NO_LOAD_SPEED_RAD_S;
const AMBIENT_C: f64 = 25.0;
const HEATING_K_PER_W: f64 = 2.9;
const HEATING_TIME_S: f64 = 200.0;

/// The electrical and thermal state of one motor.
#[derive(Clone, Copy, Debug)]
pub struct Motor {
    /// Winding current, A, positive in the direction of positive torque.
    pub current_a: f64,
    /// Torque at the output before friction, N·m.
    pub torque_nm: f64,
    /// Temperature, °C.
    pub temperature_c: f64,
}

impl Default for Motor {
    fn default() -> Self {
        Self {
            current_a: 0.0,
            torque_nm: 0.0,
            temperature_c: AMBIENT_C + 3.0,
        }
    }
}

impl Motor {
    /// Drives the motor with `duty` (-1 to 1) of `supply_v`, or lets it spin freely with `None`,
    /// for `step_s` at `velocity_rad_s`.
    ///
    /// The electrical time constant (below 1 ms) is neglected against the mechanical ones.
    pub fn drive(&mut self, duty: Option<f64>, supply_v: f64, velocity_rad_s: f64, step_s: f64) {
        self.current_a = duty.map_or(0.0, |duty| {
            (duty.clamp(-1.0, 1.0) * supply_v - BACK_EMF_V_S * velocity_rad_s) / RESISTANCE_OHM
        });
        self.torque_nm = TORQUE_PER_AMPERE_NM * self.current_a;
        let heat_w = self.current_a * self.current_a * RESISTANCE_OHM;
        let final_c = AMBIENT_C + HEATING_K_PER_W * heat_w;
        self.temperature_c += (final_c - self.temperature_c) * step_s / HEATING_TIME_S;
    }
}

#[cfg(test)]
mod tests {
    use super::{Motor, NO_LOAD_SPEED_RAD_S, STALL_CURRENT_A, STALL_TORQUE_NM};

    #[test]
    fn matches_the_data_sheet_at_both_ends() {
        let mut motor = Motor::default();
        motor.drive(Some(1.0), 12.0, 0.0, 0.001);
        assert!((motor.torque_nm - STALL_TORQUE_NM).abs() < 1e-9);
        assert!((motor.current_a - STALL_CURRENT_A).abs() < 1e-9);
        motor.drive(Some(1.0), 12.0, NO_LOAD_SPEED_RAD_S, 0.001);
        assert!(motor.torque_nm.abs() < 1e-9);
        motor.drive(None, 12.0, 3.0, 0.001);
        assert!(motor.torque_nm.abs() < 1e-9);
    }

    #[test]
    fn warms_up_as_in_the_published_hold_test() {
        let mut motor = Motor::default();
        for _ in 0..36_000 {
            motor.drive(Some(0.5), 12.0, 0.0, 0.1);
        }
        assert!(
            (40.0..56.0).contains(&motor.temperature_c),
            "{}",
            motor.temperature_c
        );
    }
}
