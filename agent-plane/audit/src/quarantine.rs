//! Setting a broken chain aside: its files move, unchanged, into a directory of their own, and
//! their digest goes into the first record of the next chain. Evidence is never repaired.

use std::io;
use std::path::Path;

use crate::digest::Digest;
use crate::files::{
    BROKEN, Directory, Files, HEAD_NAME, KEY_NAME, Kind, Name, PUBLIC_KEY_NAME, segment_index,
    sync_directory,
};
use crate::record::Broken;
use crate::text::canonical;

/// Chains that a record lists; of more, the newest.
pub const LISTED_MAX: usize = 40;
/// Longest reason that is listed, bytes.
const WHY_BYTES_MAX: usize = 160;

/// The digest of a directory: names, lengths and contents of its files. None when it is not there,
/// or holds something else than files.
pub fn digest(files: &impl Files, directory: &str) -> io::Result<Option<Digest>> {
    if !is_name(directory) {
        return Ok(None);
    }
    let names = match files.names(directory) {
        Ok(names) if !names.is_empty() => names,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut contents = Vec::new();
    for Name { name, .. } in names {
        let Some(bytes) = files.read(&format!("{directory}/{name}"))? else {
            return Ok(None);
        };
        contents.push((name, bytes.len() as u64, Digest::of(&bytes)));
    }
    Ok(canonical(&contents).map(|text| Digest::of(&text)))
}

/// Whether a directory has the name of one that was set aside, which no path can pretend to have.
fn is_name(name: &str) -> bool {
    let digits = name.strip_prefix(BROKEN);
    digits.is_some_and(|digits| digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// Moves everything of the log, and with it the keys if they are of no use any more, aside.
///
/// The public key is copied where it stays, so that what was set aside can be verified by itself.
pub fn set_aside(path: &Path, with_keys: bool) -> io::Result<String> {
    let files = Directory(path.to_owned());
    let names = files.names("")?;
    let taken = |index: u32| {
        names
            .iter()
            .any(|found| found.name == directory_name(index))
    };
    let index = (1..1_000_000).find(|index| !taken(*index));
    let index = index.ok_or_else(|| io::Error::other("too many broken logs are kept"))?;
    let name = directory_name(index);
    let target = path.join(&name);
    std::fs::create_dir(&target)?;
    for Name { name, .. } in &names {
        let is_log = segment_index(name).is_some() || name == HEAD_NAME;
        let is_key = name == KEY_NAME || name == PUBLIC_KEY_NAME;
        if is_log || (is_key && with_keys) {
            std::fs::rename(path.join(name), target.join(name))?;
        } else if name == PUBLIC_KEY_NAME {
            std::fs::copy(path.join(name), target.join(name))?;
        }
    }
    sync_directory(&target)?;
    sync_directory(path)?;
    Ok(name)
}

/// Everything that was ever set aside here and is still kept, with its reason where it is known.
pub fn list(
    path: &Path,
    known: &[Broken],
    newest: Option<(&str, &str)>,
) -> io::Result<Vec<Broken>> {
    let files = Directory(path.to_owned());
    let mut broken = Vec::new();
    for Name { name, kind } in files.names("")? {
        if kind != Kind::Directory || !is_name(&name) {
            continue;
        }
        let before = known.iter().find(|known| known.directory == name);
        match (before, digest(&files, &name)?) {
            // Kept as it was first said, so that a later change of its files is found.
            (Some(before), _) => broken.push(before.clone()),
            (None, Some(digest)) => {
                let why = newest.filter(|(directory, _)| *directory == name);
                let why = why.map_or("set aside by a start that did not end", |(_, why)| why);
                broken.push(Broken {
                    directory: name,
                    digest,
                    why: why[..why.floor_char_boundary(WHY_BYTES_MAX)].to_owned(),
                });
            }
            (None, None) => {}
        }
    }
    let surplus = broken.len().saturating_sub(LISTED_MAX);
    broken.drain(..surplus);
    Ok(broken)
}

fn directory_name(index: u32) -> String {
    format!("{BROKEN}{index:06}")
}
