//! The patches in `kernel-config/patches/`: the few changes to the kernel's source that no
//! configuration can make, and why.
//!
//! Guarantees: a patch without a reason in front of it, and one that does not apply to the last
//! line, are errors that name it; nothing is half applied to a tree that is used.
//! Does not: know what a patch is for; the reason is for people.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::KernelError;
use super::source::hexadecimal;
use crate::progress::Step;

/// The longest that a patch may take.
const PATCH_DEADLINE: Duration = Duration::from_secs(60);

/// The patches, in the order in which they are applied: that of their names.
#[derive(Debug, Clone, Default)]
pub struct Patches {
    files: Vec<PathBuf>,
    /// SHA-256 of all of them; empty where there are none.
    digest: String,
}

impl Patches {
    /// Reads the patches in `dir`, which may be absent.
    ///
    /// # Errors
    /// [`KernelError::PatchWithoutReason`], or what reading them says.
    pub fn load(dir: &Path) -> Result<Self, KernelError> {
        if !dir.is_dir() {
            return Ok(Self::default());
        }
        let unreadable = |source| KernelError::io("read", dir, source);
        let mut files = Vec::new();
        for entry in fs::read_dir(dir).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|end| end == "patch") {
                files.push(path);
            }
        }
        files.sort();
        let mut hasher = Sha256::new();
        for file in &files {
            let text =
                fs::read_to_string(file).map_err(|source| KernelError::io("read", file, source))?;
            let Some((reason, change)) = text.split_once("\n--- ") else {
                return Err(without_reason(file));
            };
            if reason.trim().is_empty() {
                return Err(without_reason(file));
            }
            // With its length in front, so that moving text between patches gives another digest;
            // without the reason: a better one needs no new kernel.
            hasher.update((change.len() as u64).to_le_bytes());
            hasher.update(change.as_bytes());
        }
        let digest = match files.is_empty() {
            true => String::new(),
            false => hexadecimal(&hasher.finalize()),
        };
        Ok(Self { files, digest })
    }

    /// Names the set: equal for equal changes; empty where there are none.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Applies them to `tree`.
    ///
    /// # Errors
    /// [`KernelError::Patch`] for the first that does not apply.
    pub fn apply(&self, tree: &Path, log: &Path) -> Result<(), KernelError> {
        for file in &self.files {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let mut patch = Command::new("patch");
            // No fuzz: a patch that fits only nearly is not what was reviewed.
            patch.args(["--strip=1", "--forward", "--fuzz=0", "--batch"]);
            patch.arg("--directory").arg(tree);
            patch.arg("--input").arg(file).env("LC_ALL", "C");
            let step = Step::start(&format!("Applying {name}"), None);
            match step.run(patch, log, PATCH_DEADLINE, |_| false) {
                Ok(_) => step.done("applied"),
                Err(error) => {
                    step.failed("see below");
                    return Err(KernelError::Patch {
                        patch: file.clone(),
                        said: error.tail().trim().to_owned(),
                    });
                }
            }
        }
        Ok(())
    }
}

fn without_reason(patch: &Path) -> KernelError {
    KernelError::PatchWithoutReason {
        patch: patch.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "Say two.\n\n--- a/x\n+++ b/x\n@@ -1,1 +1,1 @@\n-one\n+two\n";

    /// A directory of patches and a tree with one file.
    fn with(patch: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::create_dir(dir.path().join("patches")).expect("mkdir");
        fs::write(dir.path().join("patches/0001-two.patch"), patch).expect("write");
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).expect("mkdir");
        fs::write(tree.join("x"), text).expect("write");
        (dir, tree)
    }

    #[test]
    fn a_patch_changes_the_tree_and_the_digest() {
        let (dir, tree) = with(PATCH, "one\n");
        let patches = Patches::load(&dir.path().join("patches")).expect("loads");
        patches
            .apply(&tree, &dir.path().join("log"))
            .expect("applies");
        assert_eq!(fs::read_to_string(tree.join("x")).expect("read"), "two\n");
        let (other, _) = with(&PATCH.replace("+two", "+three"), "");
        let other = Patches::load(&other.path().join("patches")).expect("loads");
        assert_ne!(patches.digest(), other.digest());
        let (same, _) = with(&PATCH.replace("Say two.", "Two is right."), "");
        let same = Patches::load(&same.path().join("patches")).expect("loads");
        assert_eq!(patches.digest(), same.digest());
        let none = Patches::load(&dir.path().join("absent")).expect("none");
        assert_eq!(none.digest(), "");
    }

    #[test]
    fn a_patch_that_does_not_apply_is_named() {
        let (dir, tree) = with(PATCH, "three\n");
        let patches = Patches::load(&dir.path().join("patches")).expect("loads");
        let outcome = patches.apply(&tree, &dir.path().join("log"));
        let text = outcome.expect_err("another text").to_string();
        assert!(text.contains("0001-two.patch"), "{text}");
    }

    #[test]
    fn a_patch_without_a_reason_is_refused() {
        let (dir, _) = with(PATCH.trim_start_matches("Say two."), "");
        let error = Patches::load(&dir.path().join("patches")).expect_err("no reason");
        assert!(error.to_string().contains("0001-two.patch"), "{error}");
    }
}
