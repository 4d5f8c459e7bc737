//! `kairo intent`: what callers are up to, and calling it off.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::call::Session;
use crate::failure::Failure;
use crate::terminal::{Cell, Table, Terminal, Tone, items, text};

/// Verbs of `intent`.
#[derive(Debug, Subcommand)]
pub enum IntentCommand {
    /// Lists intents as a tree, the live ones first.
    List {
        /// Ended ones too, as far as they are remembered.
        #[arg(long)]
        all: bool,
    },
    /// Begins an intent that outlives this command, and prints its id.
    Begin {
        /// What it is about.
        name: String,
        /// The intent that it serves.
        #[arg(long)]
        parent: Option<String>,
        /// When it ends by itself.
        #[arg(long = "for", value_name = "TIME", default_value = "1h",
              value_parser = humantime::parse_duration)]
        lasts: std::time::Duration,
    },
    /// Ends an intent.
    End {
        /// Its id.
        intent: String,
        /// It did not work out.
        #[arg(long)]
        failed: bool,
        /// Why.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Calls an intent off: what it and all below it set going ends now.
    Cancel {
        /// Its id.
        intent: String,
        /// Why.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

/// Does it.
pub fn intent(
    session: &mut Session<'_>,
    terminal: &Terminal,
    command: &IntentCommand,
) -> Result<(), Failure> {
    match command {
        IntentCommand::List { all } => list(session, terminal, *all),
        IntentCommand::Begin {
            name,
            parent,
            lasts,
        } => {
            let deadline_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
            let mut params = json!({"name": name, "detached": true, "deadline_ms": deadline_ms});
            if let Some(parent) = parent {
                params["parent"] = json!(parent);
            }
            let begun = session.call("intent.begin", params)?;
            match terminal.json {
                true => terminal.json_page(&begun),
                false => terminal.line(text(&begun["intent"])),
            }
        }
        IntentCommand::End {
            intent,
            failed,
            reason,
        } => {
            let status = if *failed { "failed" } else { "completed" };
            let params = json!({"intent": intent, "status": status, "reason": reason});
            ended(terminal, &session.call("intent.end", params)?)
        }
        IntentCommand::Cancel { intent, reason } => {
            let params = json!({"intent": intent, "reason": reason});
            ended(terminal, &session.call("intent.cancel", params)?)
        }
    }
}

fn ended(terminal: &Terminal, answer: &Value) -> Result<(), Failure> {
    if terminal.json {
        return terminal.json_page(answer);
    }
    let canceled = &answer["canceled"];
    terminal.line(format!(
        "{} intents ended; called off: {} claims, {} subscriptions, {} requests",
        items(&answer["intents"]).len(),
        text(&canceled["claims"]),
        text(&canceled["subscriptions"]),
        text(&canceled["requests"]),
    ))
}

fn list(session: &mut Session<'_>, terminal: &Terminal, all: bool) -> Result<(), Failure> {
    let params = match all {
        true => json!({}),
        false => json!({"status": "live"}),
    };
    let listed = session.call("intent.list", params)?;
    if terminal.json {
        return terminal.json_page(&listed);
    }
    let intents = items(&listed["intents"]);
    let mut table = Table::new(&["intent", "status", "name", "owner", "why"]);
    for top in intents.iter().filter(|one| !has_parent(one, intents)) {
        rows(&mut table, top, intents, 0);
    }
    terminal.table(&table)
}

/// Whether the intent that it serves is listed too.
fn has_parent(intent: &Value, all: &[Value]) -> bool {
    let parent = &intent["parent"];
    !parent.is_null() && all.iter().any(|other| other["intent"] == *parent)
}

/// The rows of an intent and of all below it. kairod bounds the depth.
fn rows(table: &mut Table, intent: &Value, all: &[Value], depth: usize) {
    let status = text(&intent["status"]);
    let tone = match status.as_str() {
        "live" | "completed" => Tone::Good,
        "canceled" => Tone::Warn,
        _ => Tone::Bad,
    };
    table.row([
        Cell::from(text(&intent["intent"])),
        Cell::toned(status, tone),
        Cell::from(format!("{}{}", "  ".repeat(depth), text(&intent["name"]))),
        Cell::from(text(&intent["owner"])),
        Cell::from(text(&intent["reason"])),
    ]);
    let below = all.iter().filter(|one| one["parent"] == intent["intent"]);
    for child in below {
        rows(table, child, all, depth + 1);
    }
}
