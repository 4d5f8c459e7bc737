//! Which shared libraries a set of programs needs, found by reading the ELF files themselves.
//!
//! Follows PT_INTERP and DT_NEEDED recursively, the way the loader will, so that the root holds
//! exactly what is needed and a missing library is an error of the build, not of the robot.
//!
//! Non-goals: libraries opened at run time by name (`dlopen`) cannot be seen here; the image has
//! no program that does so, except glibc's own for thread cancellation, which needs libgcc_s, which
//! every Rust program names anyway. `ldd` is not used: it runs the program it looks at.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use goblin::elf::{Elf, header};

use super::error::ImageError;

/// Libraries one image may hold; a closure beyond it means a wrong program got in.
const MAX_LIBRARIES: usize = 64;

/// Bytes of `ld.so.conf` and its includes looked at, at most; such files have a few lines.
const MAX_LOADER_CONF_BYTES: u64 = 64 * 1024;

/// The shared objects a set of programs needs.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Closure {
    /// Loader path as the programs name it, and the host file that is behind it.
    pub interpreters: BTreeMap<PathBuf, PathBuf>,
    /// Soname, and the host file that is behind it.
    pub libraries: BTreeMap<String, PathBuf>,
}

/// What one ELF file asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// The program loader, for dynamic programs.
    pub interpreter: Option<String>,
    /// Sonames, in the order of the file.
    pub libraries: Vec<String>,
    /// Directories the file itself names (DT_RUNPATH, or DT_RPATH without it).
    pub search: Vec<PathBuf>,
}

/// Reads what `path` needs.
///
/// # Errors
/// [`ImageError::Elf`] when it is not a 64-bit x86-64 ELF file.
pub fn needs(path: &Path) -> Result<Needs, ImageError> {
    let bytes = fs::read(path).map_err(ImageError::file("read", path))?;
    let refuse = |reason: String| ImageError::Elf {
        path: path.to_path_buf(),
        reason,
    };
    let elf = Elf::parse(&bytes).map_err(|error| refuse(error.to_string()))?;
    if !elf.is_64 || elf.header.e_machine != header::EM_X86_64 {
        return Err(refuse(format!(
            "it is for machine {}, not x86-64",
            header::machine_to_str(elf.header.e_machine)
        )));
    }
    let origin = path
        .parent()
        .unwrap_or(Path::new("/"))
        .display()
        .to_string();
    let named = if elf.runpaths.is_empty() {
        &elf.rpaths
    } else {
        &elf.runpaths
    };
    let search = named
        .iter()
        .flat_map(|list| list.split(':'))
        .filter(|directory| !directory.is_empty())
        .map(|directory| {
            directory
                .replace("$ORIGIN", &origin)
                .replace("${ORIGIN}", &origin)
        })
        .map(PathBuf::from)
        .collect();
    Ok(Needs {
        interpreter: elf.interpreter.map(str::to_owned),
        libraries: elf.libraries.iter().map(|&name| name.to_owned()).collect(),
        search,
    })
}

/// The loader's usual directories on this host: multiarch first, then what `ld.so.conf` names.
#[must_use]
pub fn loader_directories() -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = [
        "/lib/x86_64-linux-gnu",
        "/usr/lib/x86_64-linux-gnu",
        "/lib64",
        "/usr/lib64",
        "/lib",
        "/usr/lib",
    ]
    .map(PathBuf::from)
    .to_vec();
    let mut files = vec![PathBuf::from("/etc/ld.so.conf")];
    if let Ok(entries) = fs::read_dir("/etc/ld.so.conf.d") {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    for file in files {
        let small = fs::metadata(&file).is_ok_and(|data| data.len() <= MAX_LOADER_CONF_BYTES);
        let Some(text) = small.then(|| fs::read_to_string(&file).ok()).flatten() else {
            continue;
        };
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with('/'))
        {
            let directory = PathBuf::from(line);
            if !directories.contains(&directory) {
                directories.push(directory);
            }
        }
    }
    directories
}

/// Everything `programs` need, directly or through another library.
///
/// # Errors
/// [`ImageError::LibraryMissing`] names the first library not found and who asked for it;
/// [`ImageError::Elf`] for files that are no x86-64 ELF.
pub fn closure(programs: &[PathBuf], directories: &[PathBuf]) -> Result<Closure, ImageError> {
    let mut closure = Closure::default();
    let mut queue: VecDeque<PathBuf> = programs.iter().cloned().collect();
    while let Some(path) = queue.pop_front() {
        let needs = needs(&path)?;
        if let Some(interpreter) = &needs.interpreter {
            let file = PathBuf::from(interpreter);
            if !file.exists() {
                return Err(missing(interpreter, &path, &[]));
            }
            closure.interpreters.insert(file.clone(), file);
        }
        for library in needs.libraries {
            // glibc's loader is also named as a library; it is placed once, as the loader.
            let is_loader = library.starts_with("ld-linux");
            if is_loader || closure.libraries.contains_key(&library) {
                continue;
            }
            let found = needs
                .search
                .iter()
                .chain(directories)
                .map(|dir| dir.join(&library));
            let Some(file) = found.into_iter().find(|file| usable(file)) else {
                return Err(missing(&library, &path, directories));
            };
            closure.libraries.insert(library, file.clone());
            if closure.libraries.len() > MAX_LIBRARIES {
                return Err(ImageError::Elf {
                    path,
                    reason: format!("the programs need more than {MAX_LIBRARIES} libraries"),
                });
            }
            queue.push_back(file);
        }
    }
    Ok(closure)
}

/// Whether the loader would take this file; like it, a library of another machine is passed over.
fn usable(file: &Path) -> bool {
    file.is_file() && needs(file).is_ok()
}

fn missing(library: &str, needed_by: &Path, directories: &[PathBuf]) -> ImageError {
    let searched: Vec<_> = directories
        .iter()
        .map(|dir| dir.display().to_string())
        .collect();
    ImageError::LibraryMissing {
        library: library.to_owned(),
        needed_by: needed_by.to_path_buf(),
        searched: searched.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn this_program() -> PathBuf {
        std::env::current_exe().unwrap()
    }

    #[test]
    fn finds_the_c_library_and_the_loader_of_a_rust_program() {
        let closure = closure(&[this_program()], &loader_directories()).unwrap();
        assert!(closure.libraries.contains_key("libc.so.6"), "{closure:?}");
        assert_eq!(closure.interpreters.len(), 1, "{closure:?}");
        for file in closure.libraries.values() {
            assert!(file.is_file(), "{file:?}");
        }
    }

    #[test]
    fn the_closure_is_closed() {
        let directories = loader_directories();
        let whole = closure(&[this_program()], &directories).unwrap();
        let files: Vec<_> = whole.libraries.values().cloned().collect();
        let again = closure(&files, &directories).unwrap();
        for library in again.libraries.keys() {
            assert!(
                whole.libraries.contains_key(library),
                "{library} is needed but left out"
            );
        }
    }

    #[test]
    fn a_missing_library_is_named_with_who_needs_it() {
        let empty = tempfile::tempdir().unwrap();
        let error = closure(&[this_program()], &[empty.path().to_path_buf()]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(".so"), "{text}");
        assert!(
            text.contains(&this_program().display().to_string()),
            "{text}"
        );
    }

    #[test]
    fn a_text_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "#!/bin/sh\n").unwrap();
        assert!(matches!(needs(file.path()), Err(ImageError::Elf { .. })));
    }

    #[test]
    fn an_elf_file_of_another_machine_is_refused() {
        let mut bytes = fs::read(this_program()).unwrap();
        bytes[18] = 0xb7; // e_machine, low byte: AArch64
        bytes.truncate(1 << 20);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        assert!(matches!(needs(file.path()), Err(ImageError::Elf { .. })));
    }
}
