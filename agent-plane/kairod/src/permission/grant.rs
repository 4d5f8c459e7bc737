//! Rules given at run time, by an operator, for a while or until they are revoked.

use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DeviceLimits, Right, Rule, Who};
use crate::topics::Pattern;

/// Most grants at once: a decision walks all of them.
pub const MAX_GRANTS: usize = 256;

/// The two clocks that a grant ends by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Seconds since 1970: can be set, forwards and backwards.
    pub wall_s: u64,
    /// CLOCK_BOOTTIME, s: cannot be set, and begins anew with each boot.
    pub boot_s: u64,
}

impl Now {
    /// The clocks, read now.
    pub fn read() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
        Self {
            wall_s: wall.map_or(u64::MAX, |wall| wall.as_secs()),
            // A machine without the clock ends every limited grant: closed, not open.
            boot_s: boot.map_or(u64::MAX, |time| u64::try_from(time.tv_sec()).unwrap_or(0)),
        }
    }
}

/// When a grant ends: at whichever clock says so first, so that setting the wall clock back does
/// not prolong it within a boot, and a reboot does not within what the wall clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// Seconds since 1970.
    pub wall_s: u64,
    /// CLOCK_BOOTTIME of the boot it was made in, s; none after that boot.
    pub boot_s: Option<u64>,
}

/// One grant.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// Its number, never given again.
    pub id: u64,
    /// What it allows.
    pub rule: Rule,
    /// When it ends; none when only a revocation ends it.
    pub ends: Option<Ends>,
    /// Who gave it, in words.
    pub granted_by: String,
    /// Why.
    pub reason: String,
}

impl Grant {
    /// Whether it has ended.
    pub fn is_over(&self, now: Now) -> bool {
        self.ends.is_some_and(|ends| {
            now.wall_s >= ends.wall_s || ends.boot_s.is_some_and(|boot| now.boot_s >= boot)
        })
    }
}

/// A grant as it is kept in the state directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    id: u64,
    who: Who,
    right: Right,
    target: String,
    #[serde(default)]
    limits: DeviceLimits,
    ends_wall_s: Option<u64>,
    ends_boot_s: Option<u64>,
    granted_by: String,
    reason: String,
}

impl From<&Grant> for Kept {
    fn from(grant: &Grant) -> Self {
        Self {
            id: grant.id,
            who: grant.rule.who.clone(),
            right: grant.rule.right,
            target: grant.rule.target.to_string(),
            limits: grant.rule.limits.clone(),
            ends_wall_s: grant.ends.map(|ends| ends.wall_s),
            ends_boot_s: grant.ends.and_then(|ends| ends.boot_s),
            granted_by: grant.granted_by.clone(),
            reason: grant.reason.clone(),
        }
    }
}

impl Kept {
    /// The grant again; an error names what is wrong with it. `same_boot` says whether its boot
    /// clock is still the one that runs.
    pub fn into_grant(self, same_boot: bool) -> Result<Grant, String> {
        let target = Pattern::parse(&self.target).map_err(|error| error.to_string())?;
        if self.who.is_empty() {
            return Err(format!("grant {} names nobody", self.id));
        }
        let boot_s = self.ends_boot_s.filter(|_| same_boot);
        Ok(Grant {
            id: self.id,
            ends: self.ends_wall_s.map(|wall_s| Ends { wall_s, boot_s }),
            rule: Rule {
                origin: origin(self.id),
                who: self.who,
                right: self.right,
                target,
                limits: self.limits,
            },
            granted_by: self.granted_by,
            reason: self.reason,
        })
    }
}

/// How a grant is named in decisions.
pub fn origin(id: u64) -> String {
    format!("grant:{id}")
}
