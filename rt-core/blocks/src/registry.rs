//! Which kinds of block there are.
//!
//! setup-only. [`Registry::standard`] has the library; a program adds its own kinds to it and hands
//! it to `kairo_rt::daemon::run_with`.

use std::fmt;
use std::sync::Arc;

use crate::block::{Design, PORTS_MAX};
use crate::kinds;
use crate::settings::Settings;

/// Reads a block's settings and says what it is; `None` after complaining.
type Designer = Arc<dyn Fn(&mut Settings<'_>) -> Option<Design> + Send + Sync>;

/// Where a kind comes from, because trust differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This library.
    Standard,
    /// Rust of the program that runs.
    Program,
    /// A shared object.
    Plugin,
}

/// A kind of block.
#[derive(Clone)]
struct Kind {
    name: String,
    origin: Origin,
    design: Designer,
}

/// Why a kind was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindExists {
    /// Its name.
    pub name: String,
}

impl fmt::Display for KindExists {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        write!(
            formatter,
            "a block kind \"{name}\" is there already; choose another name"
        )
    }
}
impl std::error::Error for KindExists {}

/// See the module documentation.
#[derive(Clone, Default)]
pub struct Registry {
    kinds: Vec<Kind>,
}

impl Registry {
    /// The library of this crate.
    pub fn standard() -> Self {
        let kinds = kinds::STANDARD.iter().map(|(name, design)| Kind {
            name: (*name).to_owned(),
            origin: Origin::Standard,
            design: Arc::new(*design),
        });
        Self {
            kinds: kinds.collect(),
        }
    }

    /// Adds a kind written in Rust.
    ///
    /// # Errors
    /// The name is taken.
    pub fn add(
        &mut self,
        name: &str,
        design: impl Fn(&mut Settings<'_>) -> Option<Design> + Send + Sync + 'static,
    ) -> Result<(), KindExists> {
        self.add_from(Origin::Program, name, design)
    }

    /// Adds a kind from somewhere.
    ///
    /// # Errors
    /// The name is taken.
    pub fn add_from(
        &mut self,
        origin: Origin,
        name: &str,
        design: impl Fn(&mut Settings<'_>) -> Option<Design> + Send + Sync + 'static,
    ) -> Result<(), KindExists> {
        if self.kinds.iter().any(|kind| kind.name == name) {
            return Err(KindExists {
                name: name.to_owned(),
            });
        }
        self.kinds.push(Kind {
            name: name.to_owned(),
            origin,
            design: Arc::new(design),
        });
        Ok(())
    }

    /// Every kind's name, in the order they were added.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.kinds.iter().map(|kind| kind.name.as_str())
    }

    /// Where a kind comes from; `None` when there is none of that name.
    pub fn origin(&self, kind: &str) -> Option<Origin> {
        let found = self.kinds.iter().find(|known| known.name == kind);
        found.map(|kind| kind.origin)
    }

    /// Reads the settings of a block of `kind`; `None` after complaining, or when there is no such
    /// kind.
    pub fn design(&self, kind: &str, settings: &mut Settings<'_>) -> Option<Design> {
        let known = self.kinds.iter().find(|known| known.name == kind)?;
        let design = (known.design)(settings)?;
        let most = design.inputs.len().max(design.outputs.len());
        if most > PORTS_MAX {
            let message = format!("the block would have {most} ports, the most is {PORTS_MAX}");
            settings.complain("kind", message, "split it into several blocks");
            return None;
        }
        Some(design)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self.kinds.iter().map(|kind| (&kind.name, kind.origin));
        formatter.debug_map().entries(kinds).finish()
    }
}
