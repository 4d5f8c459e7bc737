//! Tells when a measurement of the machine goes beyond its bound, and when it is back.
//!
//! Once each way, by an event and a line of the log; between the bound and the way back nothing is
//! told, however the value swings. A sensor that goes away while it is beyond ends that with an
//! event too, so that nobody waits for a return. Looks every [`Metrics::interval_s`] seconds, ten
//! if nothing else is configured, and wakes kairod for nothing else.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::daemon::Daemon;
use crate::facts::MetricsThreshold;
use crate::sensors::Sample;
use crate::settings::{Bound, Metrics};

/// A measurement and its bound.
#[derive(Clone, Debug, PartialEq)]
struct Reading {
    metric: &'static str,
    sensor: String,
    value: f64,
    unit: &'static str,
    bound: Bound,
    /// Whether beyond the bound is above it.
    is_maximum: bool,
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Beyond,
    Back,
    Gone,
}

/// What is beyond its bound.
#[derive(Debug, Default)]
struct Watch {
    beyond: BTreeMap<(&'static str, String), Reading>,
    /// Ticks of the CPUs when they were looked at last, busy and all.
    ticks: Option<(u64, u64)>,
}

impl Watch {
    /// What changed since the last look.
    fn look(&mut self, readings: Vec<Reading>) -> Vec<(State, Reading)> {
        let mut changes = Vec::new();
        let mut gone = std::mem::take(&mut self.beyond);
        for reading in readings {
            let key = (reading.metric, reading.sensor.clone());
            let was_beyond = gone.remove(&key).is_some();
            let Bound { limit, back } = reading.bound;
            let (is_beyond, is_back) = match reading.is_maximum {
                true => (reading.value >= limit, reading.value <= back),
                false => (reading.value <= limit, reading.value >= back),
            };
            // Where both bounds are one number, being beyond counts.
            if is_beyond || (was_beyond && !is_back) {
                if !was_beyond {
                    changes.push((State::Beyond, reading.clone()));
                }
                self.beyond.insert(key, reading);
            } else if was_beyond {
                changes.push((State::Back, reading));
            }
        }
        changes.extend(gone.into_values().map(|reading| (State::Gone, reading)));
        changes
    }

    /// Everything that a sample says and that has a bound.
    fn readings(&mut self, sample: &Sample, metrics: &Metrics) -> Vec<Reading> {
        let mut all = of_sensors(sample, metrics);
        let before = std::mem::replace(&mut self.ticks, sample.ticks);
        if let (Some((busy, total)), Some((busy_now, total_now))) = (before, sample.ticks)
            && total_now > total
        {
            let value = percent(busy_now.saturating_sub(busy), total_now - total);
            let bound = metrics.cpu_busy_percent;
            all.push(above("cpu_busy", "cpu", value, "percent", bound));
        }
        if let Some((available, total)) = sample.memory {
            let bound = metrics.memory_available_percent;
            let value = percent(available, total);
            all.push(below("memory_available", "memory", value, bound));
        }
        if let Some(disk) = &sample.disk {
            let value = percent(disk.free_bytes, disk.total_bytes);
            all.push(below(
                "disk_free",
                &disk.path,
                value,
                metrics.disk_free_percent,
            ));
        }
        all.retain(|reading| reading.value.is_finite());
        all
    }
}

/// What does not need an earlier look or a whole.
fn of_sensors(sample: &Sample, metrics: &Metrics) -> Vec<Reading> {
    let mut all = Vec::new();
    for zone in &sample.temperatures {
        let sensor = format!("{} {}", zone.sensor, zone.zone);
        let bound = metrics.temperature_c;
        all.push(above("temperature", &sensor, zone.celsius, "°C", bound));
    }
    for battery in &sample.batteries {
        let (sensor, percent) = (&battery.sensor, battery.percent);
        all.push(below("battery", sensor, percent, metrics.battery_percent));
    }
    if let Some(load) = sample.load.first()
        && sample.cpus > 0
    {
        let value = load / sample.cpus as f64;
        all.push(above(
            "load",
            "loadavg",
            value,
            "per CPU",
            metrics.load_per_cpu,
        ));
    }
    all
}

/// A measurement that must not be above its bound.
fn above(
    metric: &'static str,
    sensor: &str,
    value: f64,
    unit: &'static str,
    bound: Bound,
) -> Reading {
    Reading {
        metric,
        sensor: sensor.into(),
        value,
        unit,
        bound,
        is_maximum: true,
    }
}

/// A share, in percent, that must not be below its bound.
fn below(metric: &'static str, sensor: &str, value: f64, bound: Bound) -> Reading {
    Reading {
        is_maximum: false,
        ..above(metric, sensor, value, "percent", bound)
    }
}

/// Not a number where there is nothing to have a share of.
fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole as f64
}

/// Watches for ever.
pub async fn watch(daemon: Rc<Daemon>) {
    let metrics = daemon.settings.metrics.clone();
    if metrics.interval_s == 0 {
        return;
    }
    let interval = Duration::from_secs(metrics.interval_s);
    let mut watch = Watch::default();
    loop {
        if let Some((age, sample)) = daemon.sensors.sample(interval / 2).await
            // What a stuck driver gave long ago says nothing about now.
            && age <= interval
        {
            let readings = watch.readings(&sample, &metrics);
            for (state, reading) in watch.look(readings) {
                tell(&daemon, state, &reading);
            }
        }
        tokio::time::sleep(interval).await;
    }
}

fn tell(daemon: &Daemon, state: State, reading: &Reading) {
    let Reading {
        metric,
        sensor,
        value,
        unit,
        ..
    } = reading;
    let state = match state {
        State::Beyond => {
            let limit = reading.bound.limit;
            tracing::warn!(sensor, "{metric} is {value:.1} {unit}, beyond {limit}");
            "beyond"
        }
        State::Back => {
            tracing::info!(sensor, "{metric} is back at {value:.1} {unit}");
            "back"
        }
        State::Gone => {
            tracing::warn!(sensor, "{metric} cannot be measured any more");
            "gone"
        }
    };
    let fact = MetricsThreshold {
        metric: reading.metric,
        sensor: reading.sensor.clone(),
        state,
        value: reading.value,
        unit: reading.unit,
        limit: reading.bound.limit,
        back: reading.bound.back,
    };
    daemon.bus.publish(&fact, None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensors::{Battery, Disk, Temperature};

    fn reading(value: f64, is_maximum: bool) -> Reading {
        let (limit, back) = if is_maximum {
            (80.0, 75.0)
        } else {
            (20.0, 25.0)
        };
        Reading {
            metric: "m",
            sensor: "s".into(),
            value,
            unit: "u",
            bound: Bound { limit, back },
            is_maximum,
        }
    }

    fn told(values: &[f64], is_maximum: bool) -> Vec<Vec<State>> {
        let mut watch = Watch::default();
        let looks = values.iter().map(|value| {
            let changes = watch.look(vec![reading(*value, is_maximum)]);
            changes.into_iter().map(|(state, _)| state).collect()
        });
        looks.collect()
    }

    #[test]
    fn each_crossing_is_told_once_and_swinging_between_the_bounds_is_not() {
        use State::{Back, Beyond};
        let high = told(&[70.0, 80.0, 79.0, 81.0, 76.0, 75.0, 79.0, 80.0], true);
        let wanted: [&[State]; 8] = [&[], &[Beyond], &[], &[], &[], &[Back], &[], &[Beyond]];
        assert_eq!(high, wanted);
        let low = told(&[26.0, 20.0, 24.0, 19.0, 25.0, 21.0], false);
        let wanted: [&[State]; 6] = [&[], &[Beyond], &[], &[], &[Back], &[]];
        assert_eq!(low, wanted);
    }

    #[test]
    fn a_sensor_that_goes_away_while_beyond_is_told_once() {
        let mut watch = Watch::default();
        watch.look(vec![reading(90.0, true)]);
        assert_eq!(watch.look(Vec::new()), [(State::Gone, reading(90.0, true))]);
        assert_eq!(watch.look(Vec::new()), []);
        // And one that comes back too hot is beyond again.
        assert_eq!(watch.look(vec![reading(90.0, true)])[0].0, State::Beyond);
    }

    #[test]
    fn a_sample_has_a_reading_for_what_is_there_and_for_nothing_else() {
        let metrics = Metrics::default();
        let mut watch = Watch::default();
        assert_eq!(watch.readings(&Sample::default(), &metrics), []);
        let mut sample = Sample {
            load: vec![8.0],
            cpus: 4,
            ticks: Some((100, 1000)),
            memory: Some((1, 4)),
            temperatures: vec![Temperature {
                sensor: "thermal_zone0".into(),
                zone: "cpu".into(),
                celsius: 50.0,
            }],
            batteries: vec![Battery {
                sensor: "BAT0".into(),
                percent: 90.0,
                status: None,
                voltage_v: None,
            }],
            disk: Some(Disk {
                path: "/".into(),
                total_bytes: 0,
                free_bytes: 0,
            }),
        };
        watch.readings(&sample, &metrics);
        sample.ticks = Some((150, 1100));
        let values: Vec<_> = watch
            .readings(&sample, &metrics)
            .into_iter()
            .map(|reading| (reading.metric, reading.value))
            .collect();
        // A disk of no size has no share that is free.
        let wanted = [
            ("temperature", 50.0),
            ("battery", 90.0),
            ("load", 2.0),
            ("cpu_busy", 50.0),
            ("memory_available", 25.0),
        ];
        assert_eq!(values, wanted);
    }
}
