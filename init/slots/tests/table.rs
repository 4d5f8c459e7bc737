//! The table of moments and faults in the documentation is what the code does.

use std::fs;
use std::path::Path;

use kairo_slots::faults::table::table;

const BEGIN: &str = "<!-- made by init/slots/tests/table.rs -->\n";
const END: &str = "<!-- end -->";

#[test]
fn the_documented_table_is_what_happens() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/internals/updates.md");
    let text = fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the mark before the table");
    let (documented, after) = rest.split_once(END).expect("the mark behind the table");
    let found = format!("\n{}\n", table());
    if std::env::var_os("KAIRO_BLESS").is_some() {
        fs::write(&file, format!("{before}{BEGIN}{found}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(
        documented, found,
        "run with KAIRO_BLESS=1 and review the difference"
    );
}
