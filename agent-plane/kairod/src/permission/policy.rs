//! The policy file: who is what, and who may do what. Read once, at the start.
//!
//! `/config/policy.toml` by default; absent means the built-in rules alone. A file that cannot be
//! read to its end, with an unknown key or an impossible rule, is refused as a whole, with place
//! and remedy: half a policy is none.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{Class, DeviceLimits, Right, Rule, Who};
use crate::topics::Pattern;

/// Longest policy file, bytes.
const MAX_BYTES: u64 = 256 * 1024;
/// Most rules of a kind: a decision may walk all of them.
const MAX_RULES: usize = 1024;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// Which class a connection is, the first that fits.
    pub identities: Vec<IdentityRule>,
    /// What is allowed.
    pub allow: Vec<Rule>,
    /// What is not, whatever else allows it.
    pub deny: Vec<Rule>,
}

/// Connections of this user or group are of this class.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityRule {
    /// The user.
    pub uid: Option<u32>,
    /// The primary group.
    pub gid: Option<u32>,
    /// What it is.
    pub class: Class,
    /// The name that its connections have.
    pub name: Option<String>,
}

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It is there and cannot be read.
    #[error("cannot read the policy {}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Others than its owner could write their own rules into it.
    #[error(
        "the policy {} can be written by group or others (mode {mode:o}); chmod go-w it",
        .path.display()
    )]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not a policy.
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    identity: Vec<Spanned<IdentityRule>>,
    #[serde(default)]
    allow: Vec<Spanned<Entry>>,
    #[serde(default)]
    deny: Vec<Spanned<Entry>>,
}

/// One `[[allow]]` or `[[deny]]`: whom, and any number of things of one kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    class: Option<Class>,
    name: Option<String>,
    uid: Option<u32>,
    #[serde(default)]
    methods: Vec<String>,
    #[serde(default)]
    devices: Vec<String>,
    #[serde(default)]
    publish: Vec<String>,
    #[serde(default)]
    subscribe: Vec<String>,
    #[serde(default)]
    serve: Vec<String>,
    #[serde(default)]
    memory: Vec<String>,
    /// What may be done to `devices` (`claim`, `read`, `write`) or `memory` (`read`, `write`);
    /// all of it if absent.
    rights: Option<Vec<Verb>>,
    limits: Option<DeviceLimits>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verb {
    Claim,
    Read,
    Write,
}

impl Policy {
    /// The policy at `path`; the empty one if nothing is there.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let read = |error| PolicyError::Read {
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
        let mode = found.mode() & 0o7777;
        if mode & 0o022 != 0 {
            let path = path.to_path_buf();
            return Err(PolicyError::Writable { path, mode });
        }
        if found.len() > MAX_BYTES {
            return Err(content(
                path,
                1,
                format!("{} bytes, at most {MAX_BYTES} are read", found.len()),
            ));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        Self::parse(&text, path)
    }

    /// The policy in `text`, which came from `path`.
    ///
    /// # Errors
    /// [`PolicyError::Content`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, PolicyError> {
        let line_of = |at: usize| text.get(..at).unwrap_or(text).matches('\n').count() + 1;
        let file: File = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(span.start));
            content(path, line, error.message().trim())
        })?;
        let mut policy = Self::default();
        for identity in file.identity {
            let line = line_of(identity.span().start);
            let rule = identity.into_inner();
            if rule.uid.is_none() && rule.gid.is_none() {
                let text = "an [[identity]] needs `uid` or `gid`, or it would mean everybody";
                return Err(content(path, line, text));
            }
            policy.identities.push(rule);
        }
        for (entries, rules) in [
            (file.allow, &mut policy.allow),
            (file.deny, &mut policy.deny),
        ] {
            for entry in entries {
                let line = line_of(entry.span().start);
                let made = entry.into_inner().rules(line);
                rules.extend(made.map_err(|message| content(path, line, message))?);
            }
            if rules.len() > MAX_RULES {
                let text = format!("{} rules of a kind, at most {MAX_RULES}", rules.len());
                return Err(content(path, 1, text));
            }
        }
        Ok(policy)
    }
}

fn content(path: &Path, line: usize, message: impl Into<String>) -> PolicyError {
    PolicyError::Content {
        path: path.to_path_buf(),
        line,
        message: message.into(),
    }
}

impl Entry {
    /// The rules that the entry stands for.
    fn rules(self, line: usize) -> Result<Vec<Rule>, String> {
        let who = Who {
            class: self.class,
            name: self.name.clone(),
            uid: self.uid,
        };
        if who.is_empty() {
            return Err("names nobody; add `class`, `name` or `uid`".into());
        }
        let limits = self.limits.clone().unwrap_or_default();
        if let Some(trouble) = limits.trouble() {
            return Err(trouble);
        }
        let wanted = |verb: Verb| {
            let rights = self.rights.as_ref();
            rights.is_none_or(|rights| rights.contains(&verb))
        };
        if !limits.is_empty() && (self.devices.is_empty() || !wanted(Verb::Write)) {
            return Err("`limits` need `devices` and the right to `write`".into());
        }
        if self.rights.is_some() && self.devices.is_empty() && self.memory.is_empty() {
            return Err("`rights` say what may be done to `devices` or `memory`; add one".into());
        }
        let lists: [(&[String], Right, bool); 9] = [
            (&self.methods, Right::MethodCall, true),
            (&self.devices, Right::DeviceClaim, wanted(Verb::Claim)),
            (&self.devices, Right::DeviceRead, wanted(Verb::Read)),
            (&self.devices, Right::DeviceWrite, wanted(Verb::Write)),
            (&self.publish, Right::TopicPublish, true),
            (&self.subscribe, Right::TopicSubscribe, true),
            (&self.serve, Right::ServiceRegister, true),
            (&self.memory, Right::MemoryRead, wanted(Verb::Read)),
            (&self.memory, Right::MemoryWrite, wanted(Verb::Write)),
        ];
        let mut rules = Vec::new();
        for (targets, right, _) in lists.into_iter().filter(|(_, _, wanted)| *wanted) {
            for target in targets {
                let target = Pattern::parse(target).map_err(|error| error.to_string())?;
                rules.push(Rule {
                    origin: format!("policy:{line}"),
                    who: who.clone(),
                    right,
                    target,
                    limits: match right {
                        Right::DeviceWrite => limits.clone(),
                        _ => DeviceLimits::default(),
                    },
                });
            }
        }
        if rules.is_empty() {
            return Err(
                "allows or denies nothing; add `methods`, `devices`, `publish`, `subscribe`, \
                 `serve` or `memory`"
                    .into(),
            );
        }
        Ok(rules)
    }
}
