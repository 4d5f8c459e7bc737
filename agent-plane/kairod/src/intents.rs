//! Intents: what a caller is up to, as a tree, so that all of it can be called off at once.
//!
//! An intent's id travels as the correlation id of what is done for it. Everything that can be
//! called off carries that id itself, so there is no second list that could disagree:
//! [`crate::cancellation`] walks the places where such things are. An intent always ends, in one of
//! six ways, and an event says which.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kairo_wire::ErrorInfo;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use crate::reasons::Reason;

/// Intents that have not ended, of all callers.
const MAX_LIVE: usize = 1024;
/// The same of one caller.
const MAX_LIVE_OF_ONE: usize = 256;
/// Deepest tree.
const MAX_DEPTH: usize = 32;
/// Ended intents that are remembered.
const REMEMBERED: usize = 4096;
/// The same of one caller.
const REMEMBERED_OF_ONE: usize = 256;

/// How an intent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not ended.
    Live,
    /// Its owner says it is done.
    Completed,
    /// Its owner says it did not work out.
    Failed,
    /// It was called off, or the intent that it belongs to was.
    Canceled,
    /// Its deadline passed.
    Expired,
    /// The connection that began it ended.
    Abandoned,
    /// kairod ended before it did.
    Interrupted,
}

impl Status {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Expired => "expired",
            Self::Abandoned => "abandoned",
            Self::Interrupted => "interrupted",
        }
    }
}

/// One intent.
#[derive(Debug)]
pub struct Intent {
    /// Its id, and the correlation id of what is done for it.
    pub id: String,
    /// What it is about, for people.
    pub name: String,
    /// The intent that it serves.
    pub parent: Option<String>,
    /// Whose it is: a subject, in words.
    pub owner: String,
    /// The connection that it ends with; none when it outlives it.
    pub connection: Option<u64>,
    /// How it stands.
    pub status: Status,
    /// Why it ended so, for people.
    pub reason: String,
    /// Ends it at its deadline.
    timer: Option<AbortHandle>,
}

/// Every intent.
#[derive(Debug, Default)]
pub struct Intents {
    live: BTreeMap<String, Intent>,
    ended: VecDeque<Intent>,
}

impl Intents {
    /// Those that have not ended, then those that have, the newest last.
    pub fn all(&self) -> impl Iterator<Item = &Intent> {
        self.live.values().chain(&self.ended)
    }

    /// The live intent of that id.
    pub fn live(&self, id: &str) -> Option<&Intent> {
        self.live.get(id)
    }

    /// Begins one.
    ///
    /// # Errors
    /// There are too many, the parent is not live, or the tree would be too deep.
    pub fn begin(&mut self, intent: Intent) -> Result<(), ErrorInfo> {
        let limit = |text: String| Reason::Intents.error(text);
        let of_owner = self
            .live
            .values()
            .filter(|other| other.owner == intent.owner);
        if self.live.len() >= MAX_LIVE || of_owner.count() >= MAX_LIVE_OF_ONE {
            let text = format!(
                "at most {MAX_LIVE_OF_ONE} intents of a caller and {MAX_LIVE} of all; end some"
            );
            return Err(limit(text));
        }
        let mut above = intent.parent.clone();
        for depth in 0.. {
            let Some(id) = above else { break };
            if depth >= MAX_DEPTH {
                return Err(limit(format!("intents nest at most {MAX_DEPTH} deep")));
            }
            let Some(parent) = self.live.get(&id) else {
                return Err(unknown(&id));
            };
            above = parent.parent.clone();
        }
        self.live.insert(intent.id.clone(), intent);
        Ok(())
    }

    /// Says what ends an intent at its deadline.
    pub fn set_timer(&mut self, id: &str, timer: AbortHandle) {
        match self.live.get_mut(id) {
            Some(intent) => intent.timer = Some(timer),
            None => timer.abort(),
        }
    }

    /// `id` and everything below it that is live, the leaves first.
    pub fn subtree(&self, id: &str) -> Vec<String> {
        let mut found = vec![id.to_string()];
        let mut next = 0;
        // A live intent's parent is live, so this is a tree and ends.
        while let Some(parent) = found.get(next).cloned() {
            let children = self.live.values();
            let children = children.filter(|intent| intent.parent.as_ref() == Some(&parent));
            found.extend(children.map(|intent| intent.id.clone()));
            next += 1;
        }
        found.reverse();
        found
    }

    /// Those that end with `connection`, without those below others of them.
    pub fn of_connection(&self, connection: u64) -> Vec<String> {
        let own = |intent: &&Intent| intent.connection == Some(connection);
        let all: BTreeSet<&String> = self.live.values().filter(own).map(|one| &one.id).collect();
        let tops = all.iter().filter(|id| {
            let parent = self.live.get(**id).and_then(|one| one.parent.as_ref());
            parent.is_none_or(|parent| !all.contains(parent))
        });
        tops.map(|id| (*id).clone()).collect()
    }

    /// Those that serve no other.
    pub fn tops(&self) -> Vec<String> {
        let tops = self.live.values().filter(|one| one.parent.is_none());
        tops.map(|one| one.id.clone()).collect()
    }

    /// Ends one; gives it as it was.
    pub fn end(&mut self, id: &str, status: Status, reason: &str) -> Option<&Intent> {
        let mut intent = self.live.remove(id)?;
        if let Some(timer) = intent.timer.take() {
            timer.abort();
        }
        intent.status = status;
        intent.reason = reason.into();
        // Of each owner so many: one that ends intents all the time must not make kairod forget
        // that another's was called off.
        let own = |other: &Intent| other.owner == intent.owner;
        if self.ended.iter().filter(|other| own(other)).count() >= REMEMBERED_OF_ONE {
            let oldest = self.ended.iter().position(own);
            oldest.map(|at| self.ended.remove(at));
        } else if self.ended.len() >= REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back(intent);
        self.ended.back()
    }

    /// Whether there was an intent of that id.
    pub fn has_ended(&self, id: &str) -> bool {
        self.ended.iter().any(|ended| ended.id == id)
    }

    /// Why there is no live intent of that id.
    pub fn missing(&self, id: &str) -> ErrorInfo {
        match self.ended.iter().find(|ended| ended.id == id) {
            Some(ended) => {
                let text = format!("intent {id} has ended: {}", ended.status.name());
                let status = ended.status.name().to_string();
                Reason::IntentEnded { status }.error(text)
            }
            None => unknown(id),
        }
    }
}

impl Intent {
    /// One that just began.
    pub fn new(id: String, name: String, parent: Option<String>, owner: String) -> Self {
        Self {
            id,
            name,
            parent,
            owner,
            connection: None,
            status: Status::Live,
            reason: String::new(),
            timer: None,
        }
    }
}

fn unknown(id: &str) -> ErrorInfo {
    let shown: String = id.chars().take(64).collect();
    let text = format!("there is no intent {shown:?}; see intent.list");
    Reason::UnknownIntent { intent: shown }.error(text)
}

#[cfg(test)]
mod tests {
    use kairo_wire::ErrorCode;

    use super::*;

    fn begin(intents: &mut Intents, id: &str, parent: Option<&str>) -> Result<(), ErrorInfo> {
        let parent = parent.map(str::to_string);
        intents.begin(Intent::new(id.into(), "test".into(), parent, "me".into()))
    }

    #[test]
    fn a_subtree_is_found_with_its_leaves_first() {
        let mut intents = Intents::default();
        begin(&mut intents, "a", None).unwrap();
        begin(&mut intents, "b", Some("a")).unwrap();
        begin(&mut intents, "c", Some("b")).unwrap();
        begin(&mut intents, "x", None).unwrap();
        assert_eq!(intents.subtree("a"), ["c", "b", "a"]);
        assert_eq!(intents.subtree("x"), ["x"]);
    }

    #[test]
    fn an_intent_ends_once_and_has_no_children_afterwards() {
        let mut intents = Intents::default();
        begin(&mut intents, "a", None).unwrap();
        assert!(intents.end("a", Status::Completed, "").is_some());
        assert!(intents.end("a", Status::Canceled, "").is_none());
        assert_eq!(intents.missing("a").reason_name(), "intent_ended");
        assert_eq!(intents.missing("z").reason_name(), "unknown_intent");
        let orphan = begin(&mut intents, "b", Some("a")).unwrap_err();
        assert_eq!(orphan.reason_name(), "unknown_intent");
    }

    #[test]
    fn intents_are_bounded_in_number_and_depth() {
        let mut intents = Intents::default();
        let mut parent: Option<String> = None;
        for depth in 0..=MAX_DEPTH {
            let id = format!("d{depth}");
            begin(&mut intents, &id, parent.as_deref()).unwrap();
            parent = Some(id);
        }
        let deep = begin(&mut intents, "deeper", parent.as_deref()).unwrap_err();
        assert_eq!(deep.code, ErrorCode::Limit);
        for number in 0..MAX_LIVE_OF_ONE - MAX_DEPTH - 1 {
            begin(&mut intents, &format!("n{number}"), None).unwrap();
        }
        let many = begin(&mut intents, "one more", None).unwrap_err();
        assert_eq!(many.code, ErrorCode::Limit);
    }

    #[test]
    fn only_the_tops_of_a_connection_are_given() {
        let mut intents = Intents::default();
        for (id, parent, connection) in [
            ("a", None, 1),
            ("b", Some("a"), 1),
            ("c", None, 1),
            ("d", None, 2),
        ] {
            let parent = parent.map(str::to_string);
            let mut intent = Intent::new(id.into(), "t".into(), parent, "me".into());
            intent.connection = Some(connection);
            intents.begin(intent).unwrap();
        }
        assert_eq!(intents.of_connection(1), ["a", "c"]);
    }
}
