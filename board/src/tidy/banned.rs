//! Calls that this project does not use, and what it uses instead.

use super::lexer;
use super::{Problem, SourceFile};

/// A banned piece of code.
struct Ban {
    /// Where it is banned: the beginning of a path; empty for everywhere.
    below: &'static str,
    /// The code, as it is written.
    code: &'static str,
    /// What to do instead, and why.
    instead: &'static str,
    /// Whether tests and the programs' `main.rs` may use it.
    except_edges: bool,
}

const BANS: [Ban; 13] = [
    Ban {
        below: "rt-core/",
        code: "thread::sleep",
        instead: "sleep to an absolute CLOCK_MONOTONIC time; relative sleeps drift",
        except_edges: true,
    },
    Ban {
        below: "rt-core/",
        code: "SystemTime",
        instead: "use the monotonic nanosecond clock; the wall clock jumps",
        except_edges: true,
    },
    Ban {
        below: "rt-core/",
        code: "println!",
        instead: "report through status or telemetry; printing locks and blocks",
        except_edges: true,
    },
    Ban {
        below: "rt-core/",
        code: "print!",
        instead: "report through status or telemetry; printing locks and blocks",
        except_edges: true,
    },
    Ban {
        below: "rt-core/",
        code: "tokio::",
        instead: "nothing in the real-time process depends on tokio",
        except_edges: false,
    },
    Ban {
        below: "hal/",
        code: "tokio::",
        instead: "nothing in the real-time process depends on tokio",
        except_edges: false,
    },
    Ban {
        below: "hal/src/",
        code: "println!",
        instead: "return an error; printing locks and blocks",
        except_edges: true,
    },
    Ban {
        below: "",
        code: "todo!",
        instead: "finish it or leave it out; a stub is not an implementation",
        except_edges: false,
    },
    Ban {
        below: "",
        code: "unimplemented!",
        instead: "return a typed error; a panic is no answer to a caller",
        except_edges: false,
    },
    Ban {
        below: "",
        code: "dbg!",
        instead: "remove it",
        except_edges: false,
    },
    Ban {
        below: "",
        code: "static mut",
        instead: "use an atomic, a lock, or a cell owned by one thread",
        except_edges: false,
    },
    Ban {
        below: "",
        code: "allow(dead_code)",
        instead: "delete what nothing calls",
        except_edges: false,
    },
    Ban {
        below: "",
        code: "mem::transmute",
        instead: "use from_ne_bytes, a cast, or a checked view",
        except_edges: false,
    },
];

/// Finds banned code in a file.
pub fn calls(file: &SourceFile, found: &mut Vec<Problem>) {
    if !file.is_rust() {
        return;
    }
    let code = lexer::split(&file.text).code;
    let is_edge_file = file.path.ends_with("/main.rs")
        || file.path.contains("/bin/")
        || file.path.contains("/tests/")
        || file.path.contains("/examples/")
        || file.path.contains("/benches/");
    // House convention: the tests are the end of a file.
    let tests_from = code.lines().position(|line| line.trim() == "#[cfg(test)]");
    for ban in BANS.iter().filter(|ban| file.path.starts_with(ban.below)) {
        for (index, line) in code.lines().enumerate() {
            let at_edge = is_edge_file || tests_from.is_some_and(|from| index >= from);
            if contains_word(line, ban.code) && !(ban.except_edges && at_edge) {
                let message = format!("`{}` is not used here: {}", ban.code, ban.instead);
                found.push(file.problem(index + 1, message));
            }
        }
    }
}

/// Whether `line` holds `code` and not merely a longer name that ends with it.
fn contains_word(line: &str, code: &str) -> bool {
    line.match_indices(code).any(|(at, _)| {
        !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::rust_file;

    fn found(path: &str, text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        calls(&rust_file(path, text), &mut problems);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn relative_sleeps_in_the_real_time_plane_name_the_replacement() {
        let text = "//! T.\nfn f() {\n    std::thread::sleep(d);\n}\n";
        let problems = found("rt-core/src/cycle.rs", text);
        assert!(
            problems[0].starts_with("rt-core/src/cycle.rs:3") && problems[0].contains("absolute")
        );
        assert_eq!(found("init/src/lib.rs", text), [""; 0], "allowed elsewhere");
    }

    #[test]
    fn tests_and_main_of_the_real_time_plane_may_print() {
        let text = "//! T.\n#[cfg(test)]\nmod tests {\n    fn f() { println!(); }\n}\n";
        assert_eq!(found("rt-core/src/a.rs", text), [""; 0]);
        assert_eq!(
            found("rt-core/src/main.rs", "fn f() { println!(); }\n"),
            [""; 0]
        );
        assert_eq!(
            found("rt-core/src/a.rs", "fn f() { println!(); }\n").len(),
            1
        );
        assert_eq!(
            found("rt-core/src/a.rs", "fn f() { eprint!(); }\n"),
            [""; 0],
            "another word"
        );
    }

    #[test]
    fn stubs_are_found_everywhere_but_not_in_texts_or_comments() {
        assert_eq!(found("init/src/a.rs", "fn f() { todo!() }\n").len(), 1);
        assert_eq!(
            found("init/src/a.rs", "// todo!()\nfn f() { g(\"todo!()\") }\n"),
            [""; 0]
        );
    }
}
