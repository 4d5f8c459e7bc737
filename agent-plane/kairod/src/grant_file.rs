//! Grants across restarts: one file in the state directory, replaced as a whole.
//!
//! Written under another name, synced, renamed: a power cut leaves the old grants or the new ones.
//! A file that cannot be understood is kept under another name and gives no grants: closed, not
//! open.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::permission::grant::{Grant, Kept};

/// Name of the file.
const NAME: &str = "grants.json";
/// Longest file that is read, bytes.
const MAX_BYTES: u64 = 1024 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    /// Version of this format.
    version: u32,
    /// The boot whose clock `ends_boot_s` counts by.
    boot: String,
    /// The number of the next grant: none is ever given again.
    next: u64,
    grants: Vec<Kept>,
}

/// Where grants are kept.
#[derive(Debug)]
pub struct GrantFile {
    path: PathBuf,
}

impl GrantFile {
    /// The file in `state_dir`.
    pub fn in_directory(state_dir: &Path) -> Self {
        Self {
            path: state_dir.join(NAME),
        }
    }

    /// The grants that were kept; none where there is no file.
    ///
    /// # Errors
    /// What is wrong with the file, in words. It was moved aside.
    pub fn load(&self) -> Result<(Vec<Grant>, u64), String> {
        let text = match fs::metadata(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok((Vec::new(), 1));
            }
            Ok(found) if found.len() > MAX_BYTES => Err(format!("{} bytes", found.len())),
            _ => fs::read_to_string(&self.path).map_err(|error| error.to_string()),
        };
        text.and_then(|text| parse(&text)).map_err(|trouble| {
            let aside = self.path.with_extension("json.bad");
            let moved = fs::rename(&self.path, &aside);
            let path = self.path.display();
            match moved {
                Ok(()) => format!("{path}: {trouble}; kept as {}", aside.display()),
                Err(error) => format!("{path}: {trouble}; and cannot be moved aside: {error}"),
            }
        })
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// What the system said. The old file is still there.
    pub fn keep(&self, grants: &[Grant], next: u64) -> std::io::Result<()> {
        let content = Content {
            version: 1,
            boot: boot(),
            next,
            grants: grants.iter().map(Kept::from).collect(),
        };
        let text = serde_json::to_vec_pretty(&content).map_err(std::io::Error::other)?;
        let fresh = self.path.with_extension("json.new");
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&fresh)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }
}

fn parse(text: &str) -> Result<(Vec<Grant>, u64), String> {
    let content: Content = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if content.version != 1 {
        return Err(format!(
            "version {} is newer than this kairod",
            content.version
        ));
    }
    let same_boot = !content.boot.is_empty() && content.boot == boot();
    let grants = content.grants.into_iter();
    let grants: Result<Vec<Grant>, String> =
        grants.map(|kept| kept.into_grant(same_boot)).collect();
    Ok((grants?, content.next))
}

/// What tells this boot from others; empty where the kernel does not say.
fn boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.map_or_else(|_| String::new(), |text| text.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permission::grant::{Ends, origin};
    use crate::permission::{Class, DeviceLimits, Right, Rule, Who};
    use crate::topics::Pattern;

    fn grant() -> Grant {
        Grant {
            id: 7,
            rule: Rule {
                origin: origin(7),
                who: Who {
                    class: Some(Class::Agent),
                    ..Who::default()
                },
                right: Right::DeviceWrite,
                target: Pattern::parse("arm").unwrap(),
                limits: DeviceLimits {
                    velocity_scale_max: Some(0.25),
                    ..DeviceLimits::default()
                },
            },
            ends: Some(Ends {
                wall_s: 99,
                boot_s: Some(9),
            }),
            granted_by: "operator".into(),
            reason: "a test".into(),
        }
    }

    #[test]
    fn grants_come_back_as_they_were() {
        let directory = tempfile::tempdir().unwrap();
        let file = GrantFile::in_directory(directory.path());
        assert_eq!(file.load().unwrap(), (Vec::new(), 1));
        file.keep(&[grant()], 8).unwrap();
        assert_eq!(file.load().unwrap(), (vec![grant()], 8));
    }

    #[test]
    fn a_file_of_another_boot_ends_by_the_wall_clock_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = GrantFile::in_directory(directory.path());
        file.keep(&[grant()], 8).unwrap();
        let text = fs::read_to_string(&file.path).unwrap();
        fs::write(&file.path, text.replace(&boot(), "another boot")).unwrap();
        let ends = file.load().unwrap().0[0].ends.unwrap();
        assert_eq!((ends.wall_s, ends.boot_s), (99, None));
    }

    #[test]
    fn a_damaged_file_gives_no_grants_and_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let file = GrantFile::in_directory(directory.path());
        file.keep(&[grant()], 8).unwrap();
        let text = fs::read_to_string(&file.path).unwrap();
        fs::write(&file.path, &text[..text.len() / 2]).unwrap();
        assert!(file.load().unwrap_err().contains("grants.json.bad"));
        assert_eq!(file.load().unwrap(), (Vec::new(), 1));
        assert!(directory.path().join("grants.json.bad").exists());
    }
}
