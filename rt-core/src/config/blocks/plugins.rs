//! `[[plugin]]` of `robot.toml`: shared objects whose kinds of block the file may use.
//!
//! setup-only. Loading runs the plug-in's constructors, also for `--check`: there is no other way
//! to know its ports. `kairo_plugin` refuses what others could have changed.

use std::path::Path;

use kairo_blocks::registry::Registry;

use super::super::diagnostic::Problems;
use super::super::table::TableReader;

/// Plug-ins a robot can have.
pub const PLUGINS_MAX: usize = 16;
/// Processor time a step may take when the file does not say, µs.
const BUDGET_US: i64 = 1000;

/// The kinds of `known` and those of the file's plug-ins.
pub(in super::super) fn load(
    file: &mut TableReader<'_>,
    known: &Registry,
    beside: &Path,
    problems: &mut Problems<'_>,
) -> Registry {
    let mut registry = known.clone();
    let mut names: Vec<String> = Vec::new();
    for mut table in file.tables_if_any(problems, "plugin", PLUGINS_MAX) {
        let name = table.text(problems, "name", "friction");
        let path = table.text(problems, "path", "plugins/friction.so");
        let budget = table.integer(problems, "budget_us", 10..=100_000, Some(BUDGET_US));
        let (name_key, path_key) = (table.path_of("name"), table.path_of("path"));
        table.finish(problems);
        let (Some(name), Some(path), Some(budget)) = (name, path, budget) else {
            continue;
        };
        if names.contains(&name.value) || name.value.contains(['.', ' ', '"']) {
            let message = format!("\"{}\" is used twice, or cannot name a kind", name.value);
            let fix = "give each plug-in a name of its own, of letters, digits, - and _";
            problems.add(name.span, name_key, message, fix);
            continue;
        }
        names.push(name.value.clone());
        let budget_ns = budget.value.unsigned_abs() * 1000;
        let object = beside.join(&path.value);
        if let Err(error) = kairo_plugin::load(&object, &name.value, budget_ns, &mut registry) {
            let message = format!("\"{}\" {error}", path.value);
            problems.add(path.span, path_key, message, error.fix());
        }
    }
    registry
}
