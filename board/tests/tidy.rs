//! The house rules as a test: the tree this was built from is tidy.
//!
//! Skips, and says so, where the sources are not a git checkout (a package of the sources).

use std::path::Path;

use board::tidy;

#[test]
fn the_tree_follows_the_house_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    if !root.join(".git").exists() {
        eprintln!("not a git checkout: skipped");
        return;
    }
    let problems = tidy::check(root).expect("readable");
    let list: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{}", list.join("\n"));
}
