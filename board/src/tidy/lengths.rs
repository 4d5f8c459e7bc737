//! Lengths of lines, files and functions.
//!
//! Functions are found by their indentation, which rustfmt guarantees: a function ends at the
//! first `}` in the column where it began.

use super::lexer;
use super::{Allowances, Problem, SourceFile};

/// Columns of a line.
const LINE_COLUMNS_MAX: usize = 100;
/// Lines of a file; the target is half of it.
const FILE_LINES_MAX: usize = 800;
/// Lines of a function, signature and closing brace included.
const FUNCTION_LINES_MAX: usize = 70;

/// Lines of source, fragments and prose; tables, code blocks and links may be longer.
pub fn lines(file: &SourceFile, found: &mut Vec<Problem>) {
    let is_prose = file.path.ends_with(".md");
    if !(file.is_rust() || is_prose || file.path.ends_with(".config")) {
        return;
    }
    let mut in_code_block = false;
    for (index, line) in file.text.lines().enumerate() {
        if is_prose && line.trim_start().starts_with("```") {
            in_code_block = !in_code_block;
        }
        let exempt = is_prose
            && (in_code_block || line.trim_start().starts_with('|') || line.contains("]("));
        let columns = line.chars().count();
        if columns > LINE_COLUMNS_MAX && !exempt {
            let message =
                format!("{columns} columns, more than {LINE_COLUMNS_MAX}; break the line");
            found.push(file.problem(index + 1, message));
        }
    }
}

/// Files and functions against their limits and against the exceptions.
pub fn files_and_functions(
    files: &[SourceFile],
    allowances: &Allowances,
    found: &mut Vec<Problem>,
) {
    let mut used_files = vec![false; allowances.file.len()];
    let mut used_functions = vec![false; allowances.function.len()];
    for file in files.iter().filter(|file| file.is_rust()) {
        let length = file.text.lines().count();
        if length > FILE_LINES_MAX {
            let entry = allowances
                .file
                .iter()
                .position(|entry| entry.path == file.path);
            let limit = entry.map_or(FILE_LINES_MAX, |entry| {
                used_files[entry] = true;
                allowances.file[entry].lines
            });
            if length > limit {
                let message = format!("{length} lines, more than {limit}; one idea per module");
                found.push(file.problem(0, message));
            }
        }
        for function in functions(&file.text) {
            if function.lines <= FUNCTION_LINES_MAX {
                continue;
            }
            let entry = allowances
                .function
                .iter()
                .position(|entry| entry.path == file.path && entry.name == function.name);
            let limit = entry.map_or(FUNCTION_LINES_MAX, |entry| {
                used_functions[entry] = true;
                allowances.function[entry].lines
            });
            if function.lines > limit {
                let (name, lines) = (&function.name, function.lines);
                let message = format!("fn {name} has {lines} lines, more than {limit}; split it");
                found.push(file.problem(function.line, message));
            }
        }
    }
    let stale_files = unused(&used_files).map(|entry| allowances.file[entry].path.clone());
    let stale_functions = unused(&used_functions).map(|entry| {
        let entry = &allowances.function[entry];
        format!("{} fn {}", entry.path, entry.name)
    });
    for what in stale_files.chain(stale_functions) {
        let message = format!("the exception for {what} is no longer needed; remove it");
        found.push(Problem {
            path: super::ALLOW_FILE.to_owned(),
            line: 0,
            message,
        });
    }
}

fn unused(used: &[bool]) -> impl Iterator<Item = usize> {
    used.iter()
        .enumerate()
        .filter(|(_, used)| !**used)
        .map(|(index, _)| index)
}

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

fn functions(text: &str) -> Vec<Function> {
    let code = lexer::split(text).code;
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let closing = format!("{}}}", " ".repeat(indent));
        let end = lines[index..].iter().position(|later| {
            later.trim_end() == closing || later.strip_prefix(&closing).is_some_and(ends_signature)
        });
        // No closing brace of its own: a one-liner, or a declaration in a trait.
        let next_function = lines[index + 1..].iter().position(|later| {
            function_name(later).is_some() && later.len() - later.trim_start().len() == indent
        });
        if let Some(end) = end
            && next_function.is_none_or(|next| end <= next + 1)
        {
            found.push(Function {
                name,
                line: index + 1,
                lines: end + 1,
            });
        }
    }
    found
}

/// What may follow a function's closing brace on its line: nothing but punctuation.
fn ends_signature(rest: &str) -> bool {
    rest.trim()
        .chars()
        .all(|character| matches!(character, ')' | ',' | ';'))
}

/// The name of the function that a line declares.
fn function_name(line: &str) -> Option<String> {
    const QUALIFIERS: [&str; 7] = [
        "pub",
        "pub(crate)",
        "pub(super)",
        "const",
        "async",
        "unsafe",
        "extern",
    ];
    let mut words = line.split_whitespace();
    loop {
        match words.next()? {
            "fn" => break,
            word if QUALIFIERS.contains(&word) => {}
            _ => return None,
        }
    }
    let name: String = words
        .next()?
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::rust_file;

    fn long_function(name: &str, body_lines: usize) -> String {
        format!(
            "//! Test.\nfn {name}() {{\n{}}}\n",
            "    call();\n".repeat(body_lines)
        )
    }

    fn checked(file: SourceFile, allow: &str) -> Vec<String> {
        let mut found = Vec::new();
        let allowances = Allowances::parse(allow).expect("valid");
        files_and_functions(&[file], &allowances, &mut found);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn long_lines_are_found_but_tables_and_code_blocks_are_not() {
        let long = "x".repeat(101);
        let mut found = Vec::new();
        lines(
            &rust_file("a.rs", &format!("//! T.\n// {long}\n")),
            &mut found,
        );
        assert_eq!(found.len(), 1, "{found:?}");
        let prose = format!("| {long} |\n```\n{long}\n```\n[link]({long})\n");
        lines(&rust_file("a.md", &prose), &mut found);
        assert_eq!(found.len(), 1, "{found:?}");
        lines(&rust_file("a.md", &format!("{long}\n")), &mut found);
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_function_just_past_the_limit_is_found() {
        assert_eq!(
            checked(rust_file("a.rs", &long_function("fits", 68)), ""),
            [""; 0]
        );
        let found = checked(rust_file("a.rs", &long_function("grows", 69)), "");
        assert!(
            found[0].starts_with("a.rs:2: fn grows has 71 lines"),
            "{found:?}"
        );
    }

    #[test]
    fn short_functions_beside_each_other_are_not_taken_for_one() {
        let one_liners = "fn a();\n".repeat(100);
        let text = format!("//! T.\ntrait T {{\n{one_liners}}}\nfn end() {{\n}}\n");
        assert_eq!(checked(rust_file("a.rs", &text), ""), [""; 0]);
    }

    #[test]
    fn exceptions_hold_up_to_their_own_limit_and_are_refused_when_stale() {
        let entry = "[[function]]\npath = \"a.rs\"\nname = \"grows\"\nlines = 80\n\
                     reason = \"one table\"\n";
        assert_eq!(
            checked(rust_file("a.rs", &long_function("grows", 70)), entry),
            [""; 0]
        );
        let further = checked(rust_file("a.rs", &long_function("grows", 79)), entry);
        assert!(further[0].contains("more than 80"), "{further:?}");
        let stale = checked(rust_file("a.rs", &long_function("grows", 10)), entry);
        assert!(stale[0].contains("no longer needed"), "{stale:?}");
    }

    #[test]
    fn long_files_are_found() {
        let found = checked(rust_file("a.rs", &"\n".repeat(801)), "");
        assert!(found[0].starts_with("a.rs: 801 lines"), "{found:?}");
    }
}
