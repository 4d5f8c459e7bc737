//! `kairo permission`: who may do what, why, and giving rights for a while.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::call::Session;
use crate::failure::Failure;
use crate::terminal::{Cell, Table, Terminal, Tone, items, text};

/// Verbs of `permission`.
#[derive(Debug, Subcommand)]
pub enum PermissionCommand {
    /// Lists every rule in the order in which they are asked.
    List,
    /// Says whether somebody may do something, and which rule decides. Exit status 3 if not.
    Check {
        /// The right, such as device.claim.
        right: String,
        /// The method, device, topic or scope.
        target: String,
        /// Whom it is about; this connection if nothing is said.
        #[command(flatten)]
        who: Who,
    },
    /// Lists the rights that somebody asks for.
    Requests,
    /// Gives a right, for a while or until it is revoked: what was asked for, or any.
    Grant(GrantOptions),
    /// Refuses a right that somebody asks for.
    Deny {
        /// The request, as `permission requests` shows it.
        request: u64,
        /// Why: whoever asks again is told.
        #[arg(long)]
        reason: String,
    },
    /// Takes a grant away; claims that rest on it end at once.
    Revoke {
        /// Its number, as `permission list` shows it.
        id: u64,
    },
}

/// Whom it is about.
#[derive(Debug, Args)]
pub struct Who {
    /// Everybody of this class: operator, agent, skill, driver, service.
    #[arg(long)]
    pub class: Option<String>,
    /// The session of this name.
    #[arg(long)]
    pub name: Option<String>,
    /// This user.
    #[arg(long)]
    pub uid: Option<u32>,
}

impl Who {
    fn params(&self) -> Option<Value> {
        let mut who = Map::new();
        if let Some(class) = &self.class {
            who.insert("class".into(), json!(class));
        }
        if let Some(name) = &self.name {
            who.insert("name".into(), json!(name));
        }
        if let Some(uid) = self.uid {
            who.insert("uid".into(), json!(uid));
        }
        (!who.is_empty()).then_some(Value::Object(who))
    }
}

/// Options of `permission grant`.
#[derive(Debug, Args)]
pub struct GrantOptions {
    /// The right, such as device.claim.
    #[arg(required_unless_present = "request")]
    pub right: Option<String>,
    /// The method, device, topic or scope; `*` is one segment, `>` the tail.
    #[arg(required_unless_present = "request")]
    pub target: Option<String>,
    /// What this request asks for, to who asks, as `permission requests` shows it.
    #[arg(long, value_name = "ID", conflicts_with_all = ["right", "class", "name", "uid"])]
    pub request: Option<u64>,
    /// Whom.
    #[command(flatten)]
    pub who: Who,
    /// How long; until it is revoked, or as long as was asked for, if absent.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub lasts: Option<std::time::Duration>,
    /// Why, for people and for the audit log.
    #[arg(long, required_unless_present = "request")]
    pub reason: Option<String>,
    /// With device.write: highest fraction of the velocity limits.
    #[arg(long, value_name = "FRACTION")]
    pub velocity_scale_max: Option<f64>,
    /// With device.write: longest time to live of a command, ms.
    #[arg(long, value_name = "MS")]
    pub ttl_max_ms: Option<u64>,
    /// With device.write: the joints that may be commanded.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub joints: Vec<String>,
}

/// Does it.
pub fn permission(
    session: &mut Session<'_>,
    terminal: &Terminal,
    command: &PermissionCommand,
) -> Result<(), Failure> {
    match command {
        PermissionCommand::List => list(session, terminal),
        PermissionCommand::Check { right, target, who } => {
            check(session, terminal, right, target, who)
        }
        PermissionCommand::Requests => requests(session, terminal),
        PermissionCommand::Deny { request, reason } => {
            let params = json!({"request": request, "reason": reason});
            let denied = session.call("permission.deny", params)?;
            if terminal.json {
                return terminal.json_page(&denied);
            }
            terminal.line(format!("request {request} is refused"))
        }
        PermissionCommand::Grant(options) => grant(session, terminal, options),
        PermissionCommand::Revoke { id } => {
            let revoked = session.call("permission.revoke", json!({"id": id}))?;
            if terminal.json {
                return terminal.json_page(&revoked);
            }
            if revoked["kept"] == false {
                terminal.line("revoked; it could not be written down and may return at a restart")
            } else {
                terminal.line(format!("grant {id} is revoked"))
            }
        }
    }
}

fn list(session: &mut Session<'_>, terminal: &Terminal) -> Result<(), Failure> {
    let listed = session.call("permission.list", json!({}))?;
    if terminal.json {
        return terminal.json_page(&listed);
    }
    terminal.heading("Rules, the first that speaks decides")?;
    let mut table = Table::new(&["rule", "", "who", "right", "to", "limits", "why"]);
    for rule in items(&listed["rules"]) {
        let verdict = match rule["allows"] == true {
            true => Cell::toned("allow", Tone::Good),
            false => Cell::toned("deny", Tone::Bad),
        };
        let who = described(&rule["who"]);
        table.row([
            Cell::from(text(&rule["origin"])),
            verdict,
            Cell::from(if who.is_empty() {
                "everybody".into()
            } else {
                who
            }),
            Cell::from(text(&rule["right"])),
            Cell::from(text(&rule["target"])),
            Cell::from(described(&rule["limits"])),
            Cell::from(rule["reason"].as_str().unwrap_or_default().to_string()),
        ]);
    }
    terminal.table(&table)
}

/// A text of a peer's as one harmless cell.
fn plain(words: &Value) -> String {
    let words = text(words);
    words
        .chars()
        .filter(|letter| !letter.is_control())
        .collect()
}

fn requests(session: &mut Session<'_>, terminal: &Terminal) -> Result<(), Failure> {
    let listed = session.call("permission.list", json!({}))?;
    let requests = &listed["requests"];
    if terminal.json {
        return terminal.json_page(&json!({"requests": requests}));
    }
    if items(requests).is_empty() {
        return terminal.line("nobody asks for a right");
    }
    let mut table = Table::new(&["id", "who", "right", "to", "for s", "ends in s", "says"]);
    for request in items(requests) {
        table.row([
            Cell::from(text(&request["request"])),
            Cell::from(plain(&Value::from(described(&request["who"])))),
            Cell::from(text(&request["right"])),
            Cell::from(plain(&request["target"])),
            Cell::from(
                request["ttl_s"]
                    .as_u64()
                    .map_or("good".into(), |ttl| ttl.to_string()),
            ),
            Cell::from(text(&request["expires_s"])),
            Cell::from(plain(&request["reason"])),
        ]);
    }
    terminal.table(&table)
}

/// `key value` pairs of a map, for a cell.
fn described(map: &Value) -> String {
    let entries = map.as_object().into_iter().flatten();
    let shown = entries.filter(|(_, value)| !value.is_null());
    let words: Vec<String> = shown
        .map(|(key, value)| format!("{key} {}", text(value)))
        .collect();
    words.join(", ")
}

fn check(
    session: &mut Session<'_>,
    terminal: &Terminal,
    right: &str,
    target: &str,
    who: &Who,
) -> Result<(), Failure> {
    let mut params = json!({"right": right, "target": target});
    if let Some(who) = who.params() {
        params["who"] = who;
    }
    let checked = session.call("permission.check", params)?;
    let rule = text(&checked["rule"]);
    let allowed = checked["allowed"] == true;
    if terminal.json {
        terminal.json_page(&checked)?;
    } else if allowed {
        let limits = described(&checked["limits"]);
        let limits = if limits.is_empty() {
            String::new()
        } else {
            format!(", within {limits}")
        };
        terminal.line(format!("allowed by rule {rule}{limits}"))?;
    }
    match allowed {
        true => Ok(()),
        false => Err(Failure::Refused(format!(
            "{right} to {target} is denied by rule {rule}"
        ))),
    }
}

fn grant(
    session: &mut Session<'_>,
    terminal: &Terminal,
    options: &GrantOptions,
) -> Result<(), Failure> {
    let mut limits = Map::new();
    if let Some(scale) = options.velocity_scale_max {
        limits.insert("velocity_scale_max".into(), json!(scale));
    }
    if let Some(ttl) = options.ttl_max_ms {
        limits.insert("ttl_max_ms".into(), json!(ttl));
    }
    if !options.joints.is_empty() {
        limits.insert("joints".into(), json!(options.joints));
    }
    let mut params = json!({"limits": limits});
    if let Some(request) = options.request {
        params["request"] = json!(request);
    } else {
        let Some(who) = options.who.params() else {
            let text = "say whom: --class, --name or --uid";
            return Err(Failure::Usage(text.into()));
        };
        params["who"] = who;
        params["right"] = json!(options.right);
        params["target"] = json!(options.target);
    }
    if let Some(reason) = &options.reason {
        params["reason"] = json!(reason);
    }
    if let Some(lasts) = options.lasts {
        params["ttl_s"] = json!(lasts.as_secs());
    }
    let granted = session.call("permission.grant", params)?;
    if terminal.json {
        return terminal.json_page(&granted);
    }
    let id = text(&granted["id"]);
    terminal.line(format!(
        "grant {id}; `kairo permission revoke {id}` takes it away"
    ))
}
