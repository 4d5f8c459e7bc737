//! Mixers for arms whose motors do not turn one joint each.
//!
//! rt-safe. `arm-mixer` multiplies joint values by a coupling matrix (`actuator = C * joint`), as
//! for a forearm whose belt runs over the elbow. `differential` is the two-motor case of a
//! differential wrist: `left = ratio * (pitch + roll)`, `right = ratio * (pitch - roll)`.

use super::POSITIVE;
use crate::block::{Block, Design, FaultKind, Port};
use crate::memory::Memory;
use crate::settings::{Settings, Value};
use crate::unit::Unit;

/// Joints of one mixer.
const AXES_MAX: usize = 8;
/// Smallest pivot of a matrix that can be undone: below, two motors pull at the same combination.
const PIVOT_MIN: f64 = 1e-6;

type Matrix = [[f64; AXES_MAX]; AXES_MAX];

struct Mixer {
    rows: Matrix,
    axes: usize,
}

impl Block for Mixer {
    fn step(&mut self, inputs: &[f64], outputs: &mut [f64]) -> Result<(), FaultKind> {
        for (output, row) in outputs.iter_mut().zip(&self.rows[..self.axes]) {
            *output = row
                .iter()
                .zip(inputs)
                .map(|(part, joint)| part * joint)
                .sum();
        }
        Ok(())
    }

    fn memory(&mut self, _: &mut Memory<'_>) {}
}

/// Whether Gaussian elimination with row pivoting goes through.
fn is_invertible(mut rows: Matrix, axes: usize) -> bool {
    for column in 0..axes {
        let mut pivot = column;
        for row in column..axes {
            if rows[row][column].abs() > rows[pivot][column].abs() {
                pivot = row;
            }
        }
        if rows[pivot][column].abs() < PIVOT_MIN {
            return false;
        }
        rows.swap(column, pivot);
        let head = rows[column];
        for row in &mut rows[column + 1..axes] {
            let part = row[column] / head[column];
            for (value, head) in row.iter_mut().zip(head) {
                *value -= part * head;
            }
        }
    }
    true
}

fn numbered(name: &str, axes: usize, unit: Unit) -> Vec<Port> {
    let ports = (1..=axes).map(|axis| Port::new(format!("{name}_{axis}"), unit));
    ports.collect()
}

/// `arm-mixer`.
pub fn matrix(settings: &mut Settings<'_>) -> Option<Design> {
    let unit = settings.unit("unit", Some(Unit::RAD))?;
    let Some(entry) = settings.raw("coupling") else {
        let fix = "add `coupling = [[1.0, 0.0], [-1.0, 1.0]]`, a row an actuator";
        settings.complain("coupling", "is missing", fix);
        return None;
    };
    let rows = match &entry.value {
        Value::List(list) if (1..=AXES_MAX).contains(&list.len()) => list,
        _ => {
            let fix = "write rows of numbers, as in [[1.0, 0.0], [-1.0, 1.0]]";
            settings.complain(
                "coupling",
                format!("is no list of 1 to {AXES_MAX} rows"),
                fix,
            );
            return None;
        }
    };
    let axes = rows.len();
    let mut matrix = [[0.0; AXES_MAX]; AXES_MAX];
    for ((row, span), target) in rows.iter().zip(&mut matrix) {
        let Some(numbers) = row_of(row, axes) else {
            let message = format!("a row is not {axes} finite numbers");
            let fix = format!("write {axes} rows of {axes} numbers each");
            settings.complain_at(span.clone(), "coupling", message, fix);
            return None;
        };
        target[..axes].copy_from_slice(&numbers);
    }
    if !is_invertible(matrix, axes) {
        let message = "cannot be undone: some motion of the joints moves no actuator";
        settings.complain("coupling", message, "check signs and ratios of its rows");
        return None;
    }
    let (inputs, outputs) = (
        numbered("joint", axes, unit),
        numbered("actuator", axes, unit),
    );
    Some(Design::new(inputs, outputs, move || Mixer {
        rows: matrix,
        axes,
    }))
}

fn row_of(row: &Value, axes: usize) -> Option<Vec<f64>> {
    let Value::List(list) = row else { return None };
    let numbers = list.iter().map(|(value, _)| match value {
        Value::Number(number) if number.is_finite() => Some(*number),
        _ => None,
    });
    numbers
        .collect::<Option<Vec<_>>>()
        .filter(|numbers| numbers.len() == axes)
}

/// `differential`.
pub fn differential(settings: &mut Settings<'_>) -> Option<Design> {
    let unit = settings.unit("unit", Some(Unit::RAD))?;
    let ratio = settings.number("ratio", POSITIVE, Some(1.0))?;
    let mut rows = [[0.0; AXES_MAX]; AXES_MAX];
    rows[0][..2].copy_from_slice(&[ratio, ratio]);
    rows[1][..2].copy_from_slice(&[ratio, -ratio]);
    let ports = |names: [&str; 2]| names.map(|name| Port::new(name, unit)).to_vec();
    let (inputs, outputs) = (ports(["pitch", "roll"]), ports(["left", "right"]));
    Some(Design::new(inputs, outputs, move || Mixer {
        rows,
        axes: 2,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::harness::{Bench, complaints};
    use crate::settings::Table;

    #[test]
    fn a_belt_over_the_elbow_is_undone() {
        let rows = vec![vec![1.0, 0.0], vec![-1.0, 2.0]];
        let mut mixer = Bench::new("arm-mixer", &Table::default().with("coupling", rows));
        assert_eq!(mixer.step(&[0.5, 0.25]), [0.5, 0.0]);
    }

    #[test]
    fn a_differential_turns_both_ways() {
        let mut wrist = Bench::new("differential", &Table::default().with("ratio", 2.0));
        assert_eq!(wrist.step(&[0.3, 0.0]), [0.6, 0.6]);
        assert_eq!(wrist.step(&[0.0, 0.3]), [0.6, -0.6]);
    }

    #[test]
    fn a_matrix_that_loses_a_motion_or_a_number_is_refused() {
        let singular = vec![vec![1.0, 2.0], vec![2.0, 4.0]];
        let found = complaints("arm-mixer", &Table::default().with("coupling", singular));
        assert!(found[0].message.contains("cannot be undone"), "{found:?}");
        let ragged = vec![vec![1.0, 2.0], vec![2.0]];
        let found = complaints("arm-mixer", &Table::default().with("coupling", ragged));
        assert!(found[0].fix.contains("2 rows of 2"), "{found:?}");
    }
}
