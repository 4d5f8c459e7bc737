//! The kernel's own description of its options: which symbols exist and what they depend on.
//!
//! A reader of the Kconfig language, as far as it takes to explain why a requested symbol did
//! not come out as asked: definitions, enclosing menus and conditions, `depends on`, prompts,
//! `select`, choices. Compiler tests (`$(cc-option,…)`) are kept as opaque terms and count as
//! true, because only kconfig itself can run them.
//! Does not: compute a configuration. That is left to the kernel's `olddefconfig`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::expression::{self, Expression};

/// Files included from files: more is a loop.
const INCLUDE_DEPTH_MAX: usize = 32;

/// Why the tree could not be read.
#[derive(Debug, thiserror::Error)]
pub enum KconfigError {
    /// A file could not be read.
    #[error("cannot read {path}, sourced from the kernel's Kconfig tree: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Files source each other in a circle, or far too deep.
    #[error("{path}: Kconfig files source each other more than {INCLUDE_DEPTH_MAX} deep")]
    TooDeep {
        /// Where it was noticed.
        path: PathBuf,
    },
}

/// One `config` block. A symbol may have several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Definition {
    /// What must hold for the block to count, enclosing menus and conditions included.
    pub depends: Vec<Expression>,
    /// Whether a fragment can set it, and under which further conditions.
    pub prompt: Option<Vec<Expression>>,
    /// Which choice it is a member of, by number.
    pub choice: Option<usize>,
}

/// `select` of one symbol by another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The symbol that selects.
    pub by: String,
    /// Under which condition.
    pub condition: Option<Expression>,
}

/// All symbols of a kernel for one architecture.
#[derive(Debug, Default)]
pub struct Kconfig {
    definitions: BTreeMap<String, Vec<Definition>>,
    selections: BTreeMap<String, Vec<Selection>>,
    choice_members: Vec<Vec<String>>,
}

impl Kconfig {
    /// Reads the tree that begins at `root/Kconfig`; `source_arch` is the name of the
    /// directory below `arch/`.
    ///
    /// # Errors
    /// [`KconfigError`] when a file is missing or the tree is circular.
    pub fn read(root: &Path, source_arch: &str) -> Result<Self, KconfigError> {
        let mut reader = Reader {
            root,
            source_arch,
            tree: Self::default(),
            scopes: Vec::new(),
            block: Block::Other,
        };
        reader.file(&root.join("Kconfig"), 0)?;
        Ok(reader.tree)
    }

    /// The blocks that define `symbol`; empty when there is no such symbol.
    pub fn definitions(&self, symbol: &str) -> &[Definition] {
        self.definitions.get(symbol).map_or(&[], Vec::as_slice)
    }

    /// What selects `symbol`.
    pub fn selections(&self, symbol: &str) -> &[Selection] {
        self.selections.get(symbol).map_or(&[], Vec::as_slice)
    }

    /// The other members of the choices that `symbol` belongs to.
    pub fn rivals(&self, symbol: &str) -> impl Iterator<Item = &str> {
        self.definitions(symbol)
            .iter()
            .filter_map(|definition| definition.choice)
            .flat_map(|choice| &self.choice_members[choice])
            .map(String::as_str)
            .filter(move |member| *member != symbol)
    }
}

/// An enclosing `if`, `menu` or `choice`.
struct Scope {
    kind: ScopeKind,
    conditions: Vec<Expression>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ScopeKind {
    If,
    Menu,
    Choice(usize),
}

/// Which block the current line belongs to.
enum Block {
    Symbol(String),
    Scope,
    Other,
}

struct Reader<'a> {
    root: &'a Path,
    source_arch: &'a str,
    tree: Kconfig,
    scopes: Vec<Scope>,
    block: Block,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, depth: usize) -> Result<(), KconfigError> {
        if depth > INCLUDE_DEPTH_MAX {
            return Err(KconfigError::TooDeep {
                path: path.to_owned(),
            });
        }
        let bytes = fs::read(path).map_err(|source| KconfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let text = String::from_utf8_lossy(&bytes).replace("\\\n", " ");
        let mut help_indent: Option<Option<usize>> = None;
        for raw in text.lines() {
            let content = raw.trim();
            if content.is_empty() {
                continue;
            }
            if let Some(first_indent) = help_indent {
                let indent = indent_columns(raw);
                match first_indent {
                    None if indent > 0 => {
                        help_indent = Some(Some(indent));
                        continue;
                    }
                    Some(first) if indent >= first => continue,
                    _ => help_indent = None,
                }
            }
            if content.starts_with('#') {
                continue;
            }
            let (keyword, rest) = content
                .split_once([' ', '\t'])
                .map_or((content, ""), |(a, b)| (a, b.trim()));
            match keyword {
                "help" | "---help---" => help_indent = Some(None),
                "source" | "osource" | "rsource" | "orsource" => {
                    self.include(keyword, rest, path, depth)?;
                }
                _ => self.line(keyword, rest),
            }
        }
        Ok(())
    }

    fn include(
        &mut self,
        keyword: &str,
        rest: &str,
        from: &Path,
        depth: usize,
    ) -> Result<(), KconfigError> {
        let name = rest
            .trim_matches('"')
            .replace("$(SRCARCH)", self.source_arch)
            .replace("$(srctree)/", "")
            .replace("$(HEADER_ARCH)", self.source_arch);
        let base = if keyword.ends_with("rsource") {
            from.parent()
        } else {
            None
        };
        let path = base.unwrap_or(self.root).join(name);
        if keyword.starts_with('o') && !path.exists() {
            return Ok(());
        }
        self.file(&path, depth + 1)
    }

    fn line(&mut self, keyword: &str, rest: &str) {
        match keyword {
            "config" | "menuconfig" => self.begin_symbol(rest),
            "menu" => self.open(ScopeKind::Menu, Vec::new()),
            "choice" => {
                self.tree.choice_members.push(Vec::new());
                self.open(
                    ScopeKind::Choice(self.tree.choice_members.len() - 1),
                    Vec::new(),
                );
            }
            "if" => self.open(ScopeKind::If, expression::parse(rest).into_iter().collect()),
            "endif" | "endmenu" | "endchoice" => {
                self.scopes.pop();
                self.block = Block::Other;
            }
            "comment" | "mainmenu" => self.block = Block::Other,
            "depends" => self.depends(rest.strip_prefix("on").unwrap_or(rest).trim()),
            "bool" | "tristate" | "int" | "hex" | "string" | "prompt" => self.prompt(rest),
            "select" => self.select(rest),
            // def_bool, default, range, imply, visible, modules, optional, option: they do not
            // keep a requested symbol from being set. Lines such as `NAME := $(…)` neither.
            _ => {}
        }
    }

    fn open(&mut self, kind: ScopeKind, conditions: Vec<Expression>) {
        self.scopes.push(Scope { kind, conditions });
        self.block = if kind == ScopeKind::If {
            Block::Other
        } else {
            Block::Scope
        };
    }

    fn begin_symbol(&mut self, name: &str) {
        let depends = self
            .scopes
            .iter()
            .flat_map(|scope| scope.conditions.clone())
            .collect();
        // Only a direct member counts, or one below an `if` within the choice.
        let choice = self
            .scopes
            .iter()
            .rev()
            .find(|scope| scope.kind != ScopeKind::If)
            .and_then(|scope| match scope.kind {
                ScopeKind::Choice(number) => Some(number),
                ScopeKind::If | ScopeKind::Menu => None,
            });
        if let Some(number) = choice {
            self.tree.choice_members[number].push(name.to_owned());
        }
        let definition = Definition {
            depends,
            prompt: None,
            choice,
        };
        self.tree
            .definitions
            .entry(name.to_owned())
            .or_default()
            .push(definition);
        self.block = Block::Symbol(name.to_owned());
    }

    /// The block being read, if it is a symbol's.
    fn current(&mut self) -> Option<&mut Definition> {
        let Block::Symbol(name) = &self.block else {
            return None;
        };
        self.tree.definitions.get_mut(name)?.last_mut()
    }

    fn depends(&mut self, condition: &str) {
        let Some(parsed) = expression::parse(condition) else {
            return;
        };
        if let Some(definition) = self.current() {
            definition.depends.push(parsed);
        } else if let (Block::Scope, Some(scope)) = (&self.block, self.scopes.last_mut()) {
            scope.conditions.push(parsed);
        }
    }

    fn prompt(&mut self, rest: &str) {
        let Some((_text, after)) = quoted(rest) else {
            return;
        };
        let condition = after.trim().strip_prefix("if ").and_then(expression::parse);
        if let Some(definition) = self.current() {
            definition.prompt = Some(condition.into_iter().collect());
        }
    }

    fn select(&mut self, rest: &str) {
        let Block::Symbol(by) = &self.block else {
            return;
        };
        let (target, condition) = match rest.split_once(" if ") {
            Some((target, condition)) => (target.trim(), expression::parse(condition)),
            None => (rest.trim(), None),
        };
        let selection = Selection {
            by: by.clone(),
            condition,
        };
        self.tree
            .selections
            .entry(target.to_owned())
            .or_default()
            .push(selection);
    }
}

/// Splits a quoted text off the front.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let mark = text
        .chars()
        .next()
        .filter(|mark| matches!(mark, '"' | '\''))?;
    let rest = &text[1..];
    let mut escaped = false;
    for (index, character) in rest.char_indices() {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == mark {
            return Some((&rest[..index], &rest[index + 1..]));
        }
    }
    None
}

/// Columns of leading white space, with tabs to multiples of eight, as kconfig counts them.
fn indent_columns(line: &str) -> usize {
    let mut columns = 0;
    for byte in line.bytes() {
        match byte {
            b' ' => columns += 1,
            b'\t' => columns = (columns / 8 + 1) * 8,
            _ => break,
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Kconfig {
        let dir = tempfile::tempdir().expect("tempdir");
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            fs::write(path, text).expect("write");
        }
        Kconfig::read(dir.path(), "x86").expect("readable")
    }

    fn depends(kconfig: &Kconfig, symbol: &str) -> Vec<String> {
        kconfig.definitions(symbol)[0]
            .depends
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn conditions_of_menus_and_ifs_reach_the_symbols_inside() {
        let kconfig = tree(&[(
            "Kconfig",
            "menu \"Misc\"\n\tdepends on BLOCK\nif NET\nconfig A\n\tbool \"a\"\n\
             \tdepends on B && \\\n\t\tC\nendif\nendmenu\nconfig D\n\tbool \"d\"\n",
        )]);
        assert_eq!(depends(&kconfig, "A"), ["BLOCK", "NET", "B && C"]);
        assert_eq!(depends(&kconfig, "D"), Vec::<String>::new());
    }

    #[test]
    fn help_texts_are_not_read_as_kconfig() {
        let kconfig = tree(&[(
            "Kconfig",
            "config A\n\tbool \"a\"\n\thelp\n\t  config B is\n\n\t  depends on X\n\
             \tdepends on Y\nconfig C\n\tbool\n",
        )]);
        assert!(kconfig.definitions("B").is_empty());
        assert_eq!(depends(&kconfig, "A"), ["Y"]);
        assert!(
            kconfig.definitions("C")[0].prompt.is_none(),
            "no prompt, cannot be asked for"
        );
    }

    #[test]
    fn sourced_files_of_the_architecture_are_followed() {
        let kconfig = tree(&[
            (
                "Kconfig",
                "source \"arch/$(SRCARCH)/Kconfig\"\nosource \"absent/Kconfig\"\n",
            ),
            (
                "arch/x86/Kconfig",
                "config X86\n\tdef_bool y\n\tselect HAVE_X if 64BIT\n",
            ),
        ]);
        assert_eq!(kconfig.definitions("X86").len(), 1);
        assert_eq!(kconfig.selections("HAVE_X")[0].by, "X86");
    }

    #[test]
    fn files_that_source_themselves_are_an_error() {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::write(dir.path().join("Kconfig"), "source \"Kconfig\"\n").expect("write");
        let error = Kconfig::read(dir.path(), "x86").expect_err("circular");
        assert!(matches!(error, KconfigError::TooDeep { .. }), "{error}");
    }

    #[test]
    fn members_of_a_choice_know_their_rivals() {
        let kconfig = tree(&[(
            "Kconfig",
            "choice\n\tprompt \"hz\"\n\tdepends on T\nconfig HZ_100\n\tbool \"100\"\n\
             config HZ_250\n\tbool \"250\"\nendchoice\n",
        )]);
        assert_eq!(kconfig.rivals("HZ_250").collect::<Vec<_>>(), ["HZ_100"]);
        assert_eq!(depends(&kconfig, "HZ_250"), ["T"]);
    }

    #[test]
    fn conditional_prompts_keep_their_condition() {
        let kconfig = tree(&[("Kconfig", "config A\n\tbool \"a if\\\" b\" if EXPERT\n")]);
        let prompt = kconfig.definitions("A")[0].prompt.as_ref().expect("prompt");
        assert_eq!(prompt[0].to_string(), "EXPERT");
    }
}
