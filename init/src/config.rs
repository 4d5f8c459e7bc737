//! `/config/kairo.toml`: the system's settings, all optional.
//!
//! An unknown key or a value out of range refuses the whole file, with file and line, and the
//! defaults apply: half a configuration is a third system nobody tested. Defaults are in one
//! place, `Default`. The robot's own file, robot.toml, is kairo-rt's business and not read here.

use serde::Deserialize;

/// The settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SystemConfig {
    /// Name of the machine: letters, digits and hyphens, at most 63.
    pub hostname: String,
    /// Limits of the agent plane.
    pub agent: AgentLimits,
    /// Guarantees of the real-time plane.
    pub rt: RtGuarantees,
}

/// What the agent plane may use altogether.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentLimits {
    /// Share of one CPU in percent; 200 is two CPUs.
    pub cpu_percent: u32,
    /// Memory beyond which it is slowed down and reclaimed, MiB.
    pub memory_high_mib: u32,
    /// Memory beyond which its largest process is killed, MiB.
    pub memory_max_mib: u32,
    /// Processes and threads.
    pub tasks_max: u32,
}

/// What is kept for the real-time plane.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RtGuarantees {
    /// Memory that is never reclaimed from it, MiB.
    pub memory_min_mib: u32,
}

impl Default for SystemConfig {
    fn default() -> Self {
        Self {
            hostname: "kairo".to_owned(),
            agent: AgentLimits::default(),
            rt: RtGuarantees::default(),
        }
    }
}

impl Default for AgentLimits {
    fn default() -> Self {
        Self {
            // 90 % of one CPU: kernel threads and PID 1 keep a tenth even on one housekeeping core.
            cpu_percent: 90,
            memory_high_mib: 192,
            memory_max_mib: 256,
            tasks_max: 512,
        }
    }
}

impl Default for RtGuarantees {
    fn default() -> Self {
        Self { memory_min_mib: 32 }
    }
}

impl SystemConfig {
    /// Reads the file's text; `file` is its name for messages.
    ///
    /// # Errors
    /// One line: file, line, what is wrong and what would be right.
    pub fn parse(file: &str, text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            format!(
                "{file}:{}: {}",
                line_of(text, start),
                error.message().replace('\n', " ")
            )
        })?;
        match config.complaint() {
            None => Ok(config),
            Some((key, why)) => {
                let line = text
                    .lines()
                    .position(|line| line.trim_start().starts_with(key));
                Err(format!(
                    "{file}:{}: {key}: {why}",
                    line.map_or(1, |index| index + 1)
                ))
            }
        }
    }

    fn complaint(&self) -> Option<(&'static str, String)> {
        let name = &self.hostname;
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || name.len() > 63 || !name.chars().all(allowed) || name.starts_with('-')
        {
            return Some((
                "hostname",
                format!("'{name}' must be 1 to 63 letters, digits and hyphens"),
            ));
        }
        let ranges = [
            ("cpu_percent", self.agent.cpu_percent, 10, 6400),
            ("memory_high_mib", self.agent.memory_high_mib, 16, 1 << 20),
            ("memory_max_mib", self.agent.memory_max_mib, 16, 1 << 20),
            ("tasks_max", self.agent.tasks_max, 16, 1 << 20),
            ("memory_min_mib", self.rt.memory_min_mib, 0, 1 << 20),
        ];
        for (key, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return Some((
                    key,
                    format!("{value} is outside {least} to {most}; correct the value"),
                ));
            }
        }
        if self.agent.memory_high_mib > self.agent.memory_max_mib {
            let why = "must not exceed memory_max_mib, or it never slows anything down";
            return Some(("memory_high_mib", why.to_owned()));
        }
        None
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    before.filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(
            SystemConfig::parse("f", "").unwrap(),
            SystemConfig::default()
        );
    }

    #[test]
    fn wrong_files_are_refused_with_their_line() {
        let table = [
            (
                "hostname = \"arm\"\nhostnam = \"x\"\n",
                "kairo.toml:2: unknown field `hostnam`",
            ),
            ("hostname = \"a b\"", "kairo.toml:1: hostname: 'a b'"),
            (
                "\n[agent]\ncpu_percent = 5\n",
                "kairo.toml:3: cpu_percent: 5 is outside 10",
            ),
            (
                "[agent]\nmemory_high_mib = 300\n",
                "kairo.toml:2: memory_high_mib: must not",
            ),
            ("[agent\n", "kairo.toml:1: "),
            (
                "[agent]\ntasks_max = \"many\"\n",
                "kairo.toml:2: invalid type",
            ),
            ("[agent]\ntasks_max = -1\n", "kairo.toml:2: invalid value"),
        ];
        for (text, expected) in table {
            let message = SystemConfig::parse("kairo.toml", text).unwrap_err();
            assert!(message.starts_with(expected), "{text:?} gave {message:?}");
            assert!(!message.contains('\n'));
        }
    }

    #[test]
    fn settings_are_taken() {
        let text = "hostname = \"arm-1\"\n[agent]\ntasks_max = 64\n[rt]\nmemory_min_mib = 8\n";
        let config = SystemConfig::parse("f", text).unwrap();
        assert_eq!(config.hostname, "arm-1");
        assert_eq!((config.agent.tasks_max, config.rt.memory_min_mib), (64, 8));
        assert_eq!(config.agent.cpu_percent, 90);
    }
}
