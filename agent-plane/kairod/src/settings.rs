//! The file that says what kairod watches and records: `/config/observe.toml`. Read once, at the
//! start.
//!
//! Every key is optional, its unit is in its name, and absent means the default beside it here. A
//! file with an unknown key or an impossible value is refused as a whole, with place and remedy.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::spans::USUAL_RATIO;

/// Longest file, bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What is recorded of requests.
    pub traces: Traces,
    /// What is watched of the machine.
    pub metrics: Metrics,
}

/// `[traces]`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Traces {
    /// Share of the requests outside of every trace that begin one, 0 to 1.
    pub ratio: f64,
}

impl Default for Traces {
    fn default() -> Self {
        Self { ratio: USUAL_RATIO }
    }
}

/// `[metrics]`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// How often the machine is looked at, s: 1 to 3600; 0 for never.
    pub interval_s: u64,
    /// Temperature of every thermal zone, °C.
    pub temperature_c: Bound,
    /// Load average of one minute, a CPU.
    pub load_per_cpu: Bound,
    /// CPU time that was not idle, percent of all CPUs.
    pub cpu_busy_percent: Bound,
    /// Memory that programs could still have, percent.
    pub memory_available_percent: Bound,
    /// Charge of every battery, percent.
    pub battery_percent: Bound,
    /// What is free of the disk with the state directory, percent.
    pub disk_free_percent: Bound,
}

/// Where a value is told about: beyond `limit`, and again when it is back at `back`. Two numbers,
/// so that a value that swings around one does not tell about every swing.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// The value from which it is beyond.
    pub limit: f64,
    /// The value at which it is back.
    pub back: f64,
}

impl Default for Metrics {
    fn default() -> Self {
        let bound = |limit, back| Bound { limit, back };
        Self {
            interval_s: 10,
            temperature_c: bound(80.0, 75.0),
            load_per_cpu: bound(4.0, 2.0),
            cpu_busy_percent: bound(95.0, 85.0),
            memory_available_percent: bound(10.0, 15.0),
            battery_percent: bound(20.0, 25.0),
            disk_free_percent: bound(5.0, 10.0),
        }
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It is there and cannot be read.
    #[error("cannot read {}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// It does not say what it may.
    #[error("{}:{line}: {message}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What is wrong and what to write instead.
        message: String,
    },
}

impl Settings {
    /// The settings at `path`; the defaults if nothing is there.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let read = |error| SettingsError::Read {
            path: path.to_path_buf(),
            error,
        };
        let found = match std::fs::metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(read(error)),
        };
        if found.len() > MAX_BYTES {
            let message = format!("{} bytes, at most {MAX_BYTES} are read", found.len());
            return Err(content(path, 1, message));
        }
        Self::parse(&std::fs::read_to_string(path).map_err(read)?, path)
    }

    /// The settings in `text`, which came from `path`.
    ///
    /// # Errors
    /// [`SettingsError::Content`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, SettingsError> {
        let settings: Self = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = text.get(..at).unwrap_or(text).matches('\n').count() + 1;
            content(path, line, error.message().trim().into())
        })?;
        match settings.trouble() {
            Some((key, message)) => {
                let line = text.lines().position(|line| line.contains(key));
                let message = format!("{key}: {message}");
                Err(content(path, line.unwrap_or(0) + 1, message))
            }
            None => Ok(settings),
        }
    }

    /// What of it is impossible.
    fn trouble(&self) -> Option<(&'static str, String)> {
        let ratio = self.traces.ratio;
        if !(0.0..=1.0).contains(&ratio) {
            return Some(("ratio", format!("{ratio} is no share; write 0 to 1")));
        }
        let metrics = &self.metrics;
        let interval = metrics.interval_s;
        if interval > 3600 {
            return Some(("interval_s", format!("{interval} is above 3600, an hour")));
        }
        // The last word: whether beyond is above.
        let bounds = [
            ("temperature_c", metrics.temperature_c, true),
            ("load_per_cpu", metrics.load_per_cpu, true),
            ("cpu_busy_percent", metrics.cpu_busy_percent, true),
            (
                "memory_available_percent",
                metrics.memory_available_percent,
                false,
            ),
            ("battery_percent", metrics.battery_percent, false),
            ("disk_free_percent", metrics.disk_free_percent, false),
        ];
        bounds.into_iter().find_map(|(key, bound, above)| {
            let Bound { limit, back } = bound;
            let fits = limit.is_finite()
                && back.is_finite()
                && (if above { back <= limit } else { back >= limit });
            let side = if above { "at most" } else { "at least" };
            let text = format!("`back` is {back}, and must be {side} `limit`, {limit}");
            (!fits).then_some((key, text))
        })
    }
}

fn content(path: &Path, line: usize, message: String) -> SettingsError {
    SettingsError::Content {
        path: path.to_path_buf(),
        line,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(text, Path::new("observe.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn absent_keys_have_their_defaults() {
        assert_eq!(parse("").unwrap(), Settings::default());
        let text = "[traces]\nratio = 1.0\n[metrics]\nbattery_percent = {limit = 30, back = 40}\n";
        let settings = parse(text).unwrap();
        assert!((settings.traces.ratio - 1.0).abs() < f64::EPSILON);
        assert!((settings.metrics.battery_percent.back - 40.0).abs() < f64::EPSILON);
        assert_eq!(settings.metrics.interval_s, 10);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, wanted) in [
            (
                "[traces]\nratoi = 1\n",
                "observe.toml:2: unknown field `ratoi`",
            ),
            (
                "[traces]\nratio = 2\n",
                "observe.toml:2: ratio: 2 is no share",
            ),
            (
                "[traces]\nratio = nan\n",
                "observe.toml:2: ratio: NaN is no share",
            ),
            (
                "[metrics]\n\ninterval_s = 3601\n",
                "observe.toml:3: interval_s: 3601",
            ),
            (
                "[metrics]\ntemperature_c = {limit = 80, back = 90}\n",
                "observe.toml:2: temperature_c: `back` is 90, and must be at most `limit`, 80",
            ),
            (
                "[metrics]\nbattery_percent = {limit = 20, back = inf}\n",
                "battery_percent",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
