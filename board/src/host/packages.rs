//! Installing Debian packages: whether this machine allows it, as whom, and what a failure means.
//!
//! Guarantees: one refresh of the package lists and one installation per call; no question is
//! asked except sudo's for the password, and that before a bar is drawn.
//! Does not: add package sources, upgrade or remove anything.

use std::env;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::geteuid;

use super::{HostError, program_path};
use crate::progress::{ChildError, Step, Trouble};

/// The longest the package tools may take, downloads included.
const INSTALL_DEADLINE: Duration = Duration::from_secs(30 * 60);
/// Debian releases whose package names are known to be right.
const DEBIAN_VERSIONS: [&str; 2] = ["12", "13"];

/// How to become root for the package tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Privilege {
    AlreadyRoot,
    Sudo,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Install(Privilege),
    Refuse(String),
}

/// What decides whether packages may be installed here.
#[derive(Debug)]
pub(super) struct Situation {
    distribution: String,
    version: String,
    is_root: bool,
    sudo: Sudo,
    forbidden: bool,
}

impl Situation {
    pub(super) fn of_this_machine() -> Self {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let is_root = geteuid().is_root();
        Self {
            distribution: os_release_value(&release, "ID"),
            version: os_release_value(&release, "VERSION_ID"),
            is_root,
            sudo: if is_root { Sudo::Absent } else { sudo() },
            forbidden: env::var("KAIRO_INSTALL").is_ok_and(|value| value == "never"),
        }
    }
}

/// What sudo is good for here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sudo {
    /// It is not installed, or nobody needs it.
    Absent,
    /// It wants a password and there is nobody to type it.
    NeedsPassword,
    /// It works without a question, or there is a person to ask.
    Usable,
}

fn sudo() -> Sudo {
    let Some(sudo) = program_path("sudo") else {
        return Sudo::Absent;
    };
    if io::stdin().is_terminal() {
        return Sudo::Usable;
    }
    let silent = Command::new(sudo)
        .args(["-n", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match silent {
        Ok(status) if status.success() => Sudo::Usable,
        _ => Sudo::NeedsPassword,
    }
}

fn os_release_value(text: &str, key: &str) -> String {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value.trim().trim_matches('"').to_owned())
        .unwrap_or_default()
}

pub(super) fn decide(situation: &Situation) -> Decision {
    if situation.forbidden {
        return Decision::Refuse("KAIRO_INSTALL=never forbids installing".to_owned());
    }
    let known =
        situation.distribution == "debian" && DEBIAN_VERSIONS.contains(&situation.version.as_str());
    if !known {
        return Decision::Refuse(format!(
            "packages are installed on Debian 12 and 13 only, and this is {:?} {:?}",
            situation.distribution, situation.version
        ));
    }
    match (situation.is_root, situation.sudo) {
        (true, _) => Decision::Install(Privilege::AlreadyRoot),
        (false, Sudo::Usable) => Decision::Install(Privilege::Sudo),
        (false, Sudo::Absent) => Decision::Refuse("not root, and there is no sudo".to_owned()),
        (false, Sudo::NeedsPassword) => {
            Decision::Refuse("not root, and sudo wants a password".to_owned())
        }
    }
}

/// Asks for sudo's password now, while no bar is drawn over the prompt. False when refused.
pub(super) fn may_proceed(privilege: Privilege) -> bool {
    match privilege {
        Privilege::AlreadyRoot => true,
        Privilege::Sudo => Command::new("sudo")
            .arg("-v")
            .status()
            .is_ok_and(|status| status.success()),
    }
}

/// Refreshes the package lists and installs `packages`.
///
/// # Errors
/// [`HostError`], by what the package tool said.
pub(super) fn install(
    packages: &[&str],
    privilege: Privilege,
    log_dir: &Path,
) -> Result<(), HostError> {
    let names = packages.join(" ");
    let step = Step::start("Installing host packages", None);
    step.note(&names);
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(packages);
    let update_log = log_dir.join("apt-update.log");
    let install_log = log_dir.join("apt-install.log");
    let never = |_: &str| false;
    // Old package lists are often good enough, and one broken source of several does not
    // matter here: the install step tells for sure.
    let updated = step.run(
        apt(privilege, &["update"]),
        &update_log,
        INSTALL_DEADLINE,
        never,
    );
    if updated.is_err() {
        step.note("the package lists could not be refreshed; trying with the old ones");
    }
    let installed = step.run(
        apt(privilege, &arguments),
        &install_log,
        INSTALL_DEADLINE,
        never,
    );
    let Err(error) = installed else {
        step.done(&names);
        return Ok(());
    };
    step.failed(&names);
    let update_said = fs::read_to_string(&update_log).unwrap_or_default();
    Err(install_error(error, &update_said, names, install_log))
}

fn apt(privilege: Privilege, arguments: &[&str]) -> Command {
    let mut words = match privilege {
        Privilege::AlreadyRoot => vec![],
        Privilege::Sudo => vec!["sudo"],
    };
    // Another package tool may hold the lock for a moment: wait for it, within bounds.
    words.extend([
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "LC_ALL=C",
        "apt-get",
        "--option",
        "DPkg::Lock::Timeout=120",
    ]);
    words.extend(arguments);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// What a failed installation means. `update_said` is the output of the refresh before it, which
/// succeeds with warnings where there is no network.
fn install_error(
    error: ChildError,
    update_said: &str,
    packages: String,
    log: PathBuf,
) -> HostError {
    const UNKNOWN_SIGNS: [&str; 2] = ["Unable to locate package", "has no installation candidate"];
    if matches!(error, ChildError::NoNetwork { .. }) {
        return HostError::NoNetwork { packages, log };
    }
    if !UNKNOWN_SIGNS.iter().any(|sign| error.tail().contains(sign)) {
        return HostError::Install {
            packages,
            source: error,
        };
    }
    match Trouble::in_output(update_said) {
        Some(Trouble::NoNetwork) => HostError::NoNetwork { packages, log },
        _ => HostError::NotOffered { packages, log },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn debian(version: &str) -> Situation {
        Situation {
            distribution: "debian".to_owned(),
            version: version.to_owned(),
            is_root: true,
            sudo: Sudo::Absent,
            forbidden: false,
        }
    }

    #[test]
    fn installs_on_the_known_debian_releases_only() {
        assert_eq!(
            decide(&debian("12")),
            Decision::Install(Privilege::AlreadyRoot)
        );
        assert_eq!(
            decide(&debian("13")),
            Decision::Install(Privilege::AlreadyRoot)
        );
        assert!(matches!(decide(&debian("10")), Decision::Refuse(_)));
        let other = Situation {
            distribution: "fedora".to_owned(),
            ..debian("42")
        };
        assert!(matches!(decide(&other), Decision::Refuse(_)));
    }

    #[test]
    fn sudo_is_used_when_not_root_and_refused_when_unusable() {
        let user = Situation {
            is_root: false,
            sudo: Sudo::Usable,
            ..debian("12")
        };
        assert_eq!(decide(&user), Decision::Install(Privilege::Sudo));
        for sudo in [Sudo::Absent, Sudo::NeedsPassword] {
            let stuck = Situation {
                is_root: false,
                sudo,
                ..debian("12")
            };
            assert!(matches!(decide(&stuck), Decision::Refuse(_)), "{sudo:?}");
        }
    }

    #[test]
    fn installing_can_be_forbidden() {
        let forbidden = Situation {
            forbidden: true,
            ..debian("12")
        };
        assert!(matches!(decide(&forbidden), Decision::Refuse(_)));
    }

    fn failed(tail: &str) -> ChildError {
        ChildError::Failed {
            program: "apt-get".to_owned(),
            status: ExitStatus::from_raw(100 << 8),
            log: PathBuf::from("apt.log"),
            tail: tail.to_owned(),
        }
    }

    fn meaning(error: ChildError, update_said: &str) -> HostError {
        install_error(
            error,
            update_said,
            "flex".to_owned(),
            PathBuf::from("apt.log"),
        )
    }

    #[test]
    fn a_package_that_cannot_be_found_is_a_lack_of_network_if_the_refresh_had_none() {
        let unknown = || failed("E: Unable to locate package flex");
        let error = meaning(unknown(), "Err:1 Temporary failure resolving 'mirror'");
        assert!(matches!(error, HostError::NoNetwork { .. }), "{error}");
        let error = meaning(unknown(), "Get:1 bookworm InRelease");
        assert!(matches!(error, HostError::NotOffered { .. }), "{error}");
        let download = ChildError::NoNetwork {
            program: "apt-get".to_owned(),
            log: PathBuf::from("apt.log"),
        };
        let error = meaning(download, "");
        assert!(matches!(error, HostError::NoNetwork { .. }), "{error}");
    }

    #[test]
    fn other_failures_keep_the_package_tools_words() {
        let error = meaning(
            failed("E: dpkg was interrupted"),
            "Temporary failure resolving",
        );
        assert!(
            error.to_string().contains("dpkg was interrupted"),
            "{error}"
        );
    }

    #[test]
    fn os_release_values_lose_their_quotes() {
        let text = "PRETTY_NAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\n";
        assert_eq!(os_release_value(text, "ID"), "debian");
        assert_eq!(os_release_value(text, "VERSION_ID"), "12");
        assert_eq!(os_release_value(text, "ABSENT"), "");
    }
}
