//! Tails on the local disk: the bundle, one file with the ends of all table files that a restore left remote, one after
//! another; and one small file for each table that was demoted and is not in it.
//!
//! It is a cache of remote bytes that are also in the table files' objects, so a lost or damaged one costs requests
//! and nothing else: the entries are then used without it. That is why the small files are not synced.

use std::path::Path;

use bytes::Bytes;
use lazurite_env::{Env, EnvExt, Error, ErrorKind, FileKind, Result};

use crate::{CatalogEntry, Checksum, layout::is_plain_name};

/// The bundle that a catalog names. Its name was checked: one plain part of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bundle {
    pub name: String,
    pub len: u64,
    pub checksum: Checksum,
}

impl Bundle {
    /// `Corruption` where `name`, which comes from remote metadata, is not one plain part of a path.
    pub fn new(name: String, len: u64, checksum: Checksum) -> Result<Self> {
        if is_plain_name(&name) {
            Ok(Bundle {
                name,
                len,
                checksum,
            })
        } else {
            Err(Error::new(
                ErrorKind::Corruption,
                "check bundle name",
                name.escape_debug().to_string(),
                "the name must be one plain part of a path",
            ))
        }
    }

    /// Writes `bytes`, which are those that `self` describes, durably into `dir`.
    pub fn store(&self, base: &dyn Env, dir: &Path, bytes: &[u8]) -> Result<()> {
        base.write_atomic(&dir.join(&self.name), bytes)
    }

    /// The bundle's bytes, verified; `None`, with a warning, where they are not there or not right.
    pub fn load(&self, base: &dyn Env, dir: &Path) -> Result<Option<Bytes>> {
        let path = dir.join(&self.name);
        let bytes = match base.stat(&path) {
            Ok(stat) if stat.len == self.len => base.read_to_vec(&path, self.len)?,
            Ok(_) => Vec::new(),
            Err(e) if e.is_not_found() => Vec::new(),
            Err(e) => return Err(e),
        };
        if bytes.len() as u64 == self.len && Checksum::of(&bytes) == self.checksum {
            return Ok(Some(bytes.into()));
        }
        tracing::warn!(path = %path.display(), "tail bundle lost or damaged: opening tables will read the remote store");
        Ok(None)
    }
}

/// The part of the bundle that is the end of `entry`. The entry was checked against the bundle's length.
pub(crate) fn slice(bundle: Option<&Bytes>, entry: &CatalogEntry) -> Option<Bytes> {
    let (bundle, tail) = (bundle?, entry.tail?);
    let begin = usize::try_from(tail.bundle_offset?).ok()?;
    let len = usize::try_from(entry.file.len.checked_sub(tail.offset)?).ok()?;
    let end = begin.checked_add(len)?;
    (end <= bundle.len()).then(|| bundle.slice(begin..end))
}

/// The name of the file that holds the tail of the table `name` alone.
pub(crate) fn own_name(name: &str) -> String {
    format!("{name}.tail")
}

/// Keeps `bytes`, the end of the table of `entry`, in a file of its own, unless it is in the bundle.
pub(crate) fn store_own(
    base: &dyn Env,
    dir: &Path,
    entry: &CatalogEntry,
    bytes: &[u8],
) -> Result<()> {
    if entry.tail.is_none_or(|tail| tail.bundle_offset.is_some()) {
        return Ok(());
    }
    let mut file = base.create(&dir.join(own_name(&entry.name)))?;
    file.append(bytes)?;
    file.close()
}

/// The end of the table of `entry` from a file of its own, verified; `None` where it is not there or not right.
pub(crate) fn load_own(base: &dyn Env, dir: &Path, entry: &CatalogEntry) -> Option<Bytes> {
    let tail = entry.tail.filter(|tail| tail.bundle_offset.is_none())?;
    let len = entry.file.len.checked_sub(tail.offset)?;
    let path = dir.join(own_name(&entry.name));
    if base.stat(&path).ok()?.len != len {
        return None;
    }
    let bytes = base.read_to_vec(&path, len).ok()?;
    (Checksum::of(&bytes) == tail.checksum).then(|| bytes.into())
}

/// Removes the file that holds the tail of `entry` alone, where there may be one. What stays is removed at the next open.
pub(crate) fn remove_own(base: &dyn Env, dir: &Path, entry: &CatalogEntry) {
    if entry.tail.is_some_and(|tail| tail.bundle_offset.is_none()) {
        let _ = base.delete(&dir.join(own_name(&entry.name)));
    }
}

/// Removes every file in `dir` whose name is none to `keep`. What cannot be removed is left for the next time.
pub(crate) fn remove_others(base: &dyn Env, dir: &Path, keep: impl Fn(&str) -> bool) {
    let entries = base.list(dir).unwrap_or_default();
    for entry in entries {
        if entry.kind == FileKind::File && !keep(&entry.name) {
            let path = dir.join(&entry.name);
            if let Err(error) = base.delete(&path) {
                tracing::warn!(path = %path.display(), %error, "a file that is not needed any more stays");
            }
        }
    }
}
