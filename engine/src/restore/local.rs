//! RocksDB's small files in `<dir>/db`: what a restore writes, and what decides whether there is a database.
//!
//! `CURRENT` is the switch: deleted first, written last and atomically. While it is missing there is no database here.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use lazurite_env::{Env, EnvExt, ErrorKind, FileKind};
use lazurite_tiering::UnionEnv;

use crate::{Error, Result, snapshot::ManifestRef};

const CURRENT: &str = "CURRENT";
const MANIFEST: &str = "MANIFEST-";

/// MANIFEST, OPTIONS and CURRENT of a snapshot.
pub(crate) struct SmallFiles {
    files: Vec<(String, Bytes)>,
    current: Bytes,
}

impl SmallFiles {
    /// Cuts the manifest object into its files. Refuses names that RocksDB would not use, and a CURRENT that points
    /// elsewhere.
    pub(crate) fn new(manifest: &ManifestRef, object: &Bytes) -> Result<Self> {
        let corrupt = |reason: String| Error::SnapshotCorrupt {
            path: manifest.key.clone(),
            reason,
        };
        let mut files = Vec::new();
        let mut current = None;
        let mut offset = 0;
        for (name, len) in &manifest.parts {
            // `SnapshotMetadata::decode` checked that the parts add up to the object, `fetch` the object's length.
            let bytes = object.slice(offset..offset + *len as usize);
            offset += *len as usize;
            match name.as_str() {
                CURRENT => current = Some(bytes),
                name if is_numbered(name, MANIFEST) || is_numbered(name, "OPTIONS-") => {
                    files.push((name.to_owned(), bytes));
                }
                name => return Err(corrupt(format!("it holds a file named {name:?}"))),
            }
        }
        let current = current.ok_or_else(|| corrupt("it holds no CURRENT".into()))?;
        let small = SmallFiles { files, current };
        match small.manifest() {
            Some(_) => Ok(small),
            None => Err(corrupt(format!(
                "its CURRENT names {:?}, which is not in it",
                small.current_name()
            ))),
        }
    }

    /// Those of a database whose MANIFEST has `number`.
    pub(super) fn composed(number: u64, manifest: Vec<u8>) -> Self {
        let name = format!("{MANIFEST}{number:06}");
        SmallFiles {
            current: format!("{name}\n").into(),
            files: vec![(name, manifest.into())],
        }
    }

    /// The MANIFEST that CURRENT names.
    pub(crate) fn manifest(&self) -> Option<&Bytes> {
        let current = self.current_name();
        let named = self.files.iter().find(|(name, _)| *name == current);
        named.map(|(_, bytes)| bytes)
    }

    fn current_name(&self) -> &str {
        std::str::from_utf8(&self.current)
            .unwrap_or_default()
            .trim_end()
    }

    /// Removes RocksDB's old small files and writes these, `CURRENT` last. Durable on return.
    pub(super) fn write(&self, union: &UnionEnv) -> Result<()> {
        let dir = union.db_dir();
        remove_files(union, dir, |name| !name.ends_with(".sst"))?;
        for (name, bytes) in &self.files {
            let path = dir.join(name);
            let mut file = union.create(&path)?;
            file.append(bytes)?;
            file.sync()?;
            file.close()?;
        }
        union.sync_dir(dir)?;
        union.write_atomic(&dir.join(CURRENT), &self.current)?;
        Ok(())
    }
}

/// True where the directory holds a database that can be opened.
pub(crate) fn has_database(union: &UnionEnv) -> Result<bool> {
    Ok(union.exists(&union.db_dir().join(CURRENT))?)
}

/// Makes sure, durably, that nothing opens the directory as a database.
pub(crate) fn clear_current(union: &UnionEnv) -> Result<()> {
    let current = union.db_dir().join(CURRENT);
    match union.delete(&current) {
        Ok(()) => Ok(union.sync_dir(union.db_dir())?),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Empties the database directory, its catalog included: the start of a job without a snapshot.
pub(crate) fn wipe(union: &UnionEnv) -> Result<()> {
    clear_current(union)?;
    union.restore(Vec::new(), Bytes::new(), "empty.tails")?;
    remove_files(union, union.db_dir(), |_| true)?;
    union.sync_dir(union.db_dir())?;
    Ok(())
}

fn remove_files(union: &UnionEnv, dir: &Path, which: impl Fn(&str) -> bool) -> Result<()> {
    for entry in union.list(dir)? {
        if entry.kind == FileKind::File && which(&entry.name) {
            let path: PathBuf = dir.join(&entry.name);
            match union.delete(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
    }
    Ok(())
}

fn is_numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}
