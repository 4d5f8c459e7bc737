//! The `kairo.*` keys of the kernel command line. Anything malformed is left out and named, never
//! fatal: a typing error in a boot menu must not cost a boot.

use crate::cpus::Cpus;

/// At most this many consoles: there are rarely more serial ports.
pub const CONSOLES_MAX: usize = 4;

/// What the command line asked of PID 1. The default is an empty command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cmdline {
    /// `kairo.console=TTY`, names below /dev.
    pub consoles: Vec<String>,
    /// `kairo.forward=PORT`.
    pub forward_port: Option<u16>,
    /// `kairo.slot=a`.
    pub slot: Option<String>,
    /// `kairo.disk=/dev/vda`.
    pub disk: Option<String>,
    /// `kairo.rt_cpus=1`.
    pub rt_cpus: Cpus,
    /// One sentence for each word that was not understood.
    pub complaints: Vec<String>,
}

impl Cmdline {
    /// Reads the kernel command line; the last of repeated keys wins, except for consoles.
    pub fn parse(text: &str) -> Self {
        let mut cmdline = Self::default();
        for word in text.split_whitespace() {
            let Some((key, value)) = word.split_once('=') else {
                continue;
            };
            if let Some(key) = key.strip_prefix("kairo.")
                && let Err(why) = cmdline.apply(key, value)
            {
                cmdline
                    .complaints
                    .push(format!("kernel command line: {word}: {why}"));
            }
        }
        cmdline
    }

    fn apply(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "console" => {
                let plain = |c: char| c.is_ascii_alphanumeric();
                if value.is_empty() || !value.chars().all(plain) {
                    return Err("the name of a terminal is expected, like ttyS1".to_owned());
                }
                if self.consoles.len() == CONSOLES_MAX {
                    return Err(format!("at most {CONSOLES_MAX} consoles"));
                }
                self.consoles.push(value.to_owned());
            }
            "forward" => match value.parse() {
                Ok(port) if port != 0 => self.forward_port = Some(port),
                _ => return Err("a TCP port is expected".to_owned()),
            },
            "slot" => match value {
                "a" | "b" => self.slot = Some(value.to_owned()),
                _ => return Err("a or b is expected".to_owned()),
            },
            "disk" => {
                if !value.starts_with("/dev/") || value.contains("..") {
                    return Err("a device is expected, like /dev/vda".to_owned());
                }
                self.disk = Some(value.to_owned());
            }
            "rt_cpus" => {
                self.rt_cpus = Cpus::parse_list(value).map_err(|error| error.to_string())?;
            }
            _ => return Err("unknown key, ignored".to_owned()),
        }
        Ok(())
    }

    /// The device of partition `number`: `/dev/vda6`, but `/dev/mmcblk0p6`, as the kernel names
    /// partitions of a disk whose name ends in a digit.
    pub fn partition(&self, number: u8) -> Option<String> {
        let disk = self.disk.as_deref()?;
        let separator = match disk.ends_with(|c: char| c.is_ascii_digit()) {
            true => "p",
            false => "",
        };
        Some(format!("{disk}{separator}{number}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_contract_is_understood() {
        let cmdline = Cmdline::parse(
            "root=/dev/vda3 ro quiet kairo.console=ttyS1 kairo.console=hvc0 kairo.forward=7000 \
             kairo.slot=a kairo.disk=/dev/vda kairo.rt_cpus=1 console=ttyS0\n",
        );
        assert_eq!(cmdline.consoles, ["ttyS1", "hvc0"]);
        assert_eq!(cmdline.forward_port, Some(7000));
        assert_eq!(cmdline.slot.as_deref(), Some("a"));
        assert_eq!(cmdline.partition(6).as_deref(), Some("/dev/vda6"));
        assert_eq!(cmdline.rt_cpus.to_list(), "1");
        assert_eq!(cmdline.complaints, [""; 0]);
    }

    #[test]
    fn partitions_of_numbered_disks_have_a_p() {
        let cmdline = Cmdline::parse("kairo.disk=/dev/mmcblk0");
        assert_eq!(cmdline.partition(7).as_deref(), Some("/dev/mmcblk0p7"));
    }

    #[test]
    fn each_malformed_word_is_named_and_left_out() {
        let words = [
            "kairo.console=../etc",
            "kairo.forward=0",
            "kairo.forward=70000",
            "kairo.slot=c",
            "kairo.disk=vda",
            "kairo.disk=/dev/../etc",
            "kairo.rt_cpus=one",
            "kairo.speed=fast",
        ];
        let cmdline = Cmdline::parse(&words.join(" "));
        assert_eq!(cmdline.complaints.len(), words.len());
        for (word, complaint) in words.iter().zip(&cmdline.complaints) {
            assert!(complaint.contains(word), "{complaint}");
        }
        let understood = Cmdline {
            complaints: Vec::new(),
            ..cmdline
        };
        assert_eq!(understood, Cmdline::default());
    }
}
