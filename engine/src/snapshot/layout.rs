//! Where things lie in the store: the keys of one job, and how to read them back.
//!
//! ```text
//! <root>/<job>/shared/<unique id>-<suffix>.sst     a RocksDB table file, named by RocksDB's unique id of its content and a random suffix
//! <root>/<job>/shared/<token>.tails                the tails of files that one snapshot added, and of earlier ones merged in
//! <root>/<job>/chk-<n>/manifest-<writer>-<token>   MANIFEST and OPTIONS of snapshot n
//! <root>/<job>/chk-<n>/_metadata                   written last: the snapshot exists from here on
//! <root>/<job>/_claimed                            another job has taken all of it over
//! ```
//!
//! Invariant: a name under `shared/` never means two contents, and every key read from metadata has passed
//! [`Bounds::check`](super::place::Bounds::check).

use lazurite_env::remote::Key;

use super::place::Bounds;
use crate::{Error, Result};

/// The name of the object that makes a snapshot complete.
pub(crate) const METADATA: &str = "_metadata";

/// The keys of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobLayout {
    job: Key,
}

impl JobLayout {
    /// The layout of `job`: 1 to 128 characters of `A-Z a-z 0-9 . _ -`, not beginning with a dot.
    pub(crate) fn new(job: &str) -> Result<Self> {
        if !is_job_name(job) {
            return Err(Error::InvalidOption {
                option: "job",
                reason: format!(
                    "{job:?} is not a job name: use 1 to 128 characters of A-Z a-z 0-9 . _ -, the first not a dot"
                ),
            });
        }
        Ok(JobLayout {
            job: Key::new(job)?,
        })
    }

    pub(crate) fn job(&self) -> &Key {
        &self.job
    }

    /// `<job>/shared`, which holds what snapshots share.
    pub(crate) fn shared(&self) -> Key {
        self.below("shared")
    }

    /// A new name for a table file. No two uploads have the same, not even of one content: whoever removes what nobody needs never meets
    /// one that is put again at that moment.
    pub(crate) fn table_file(&self, unique_id: &str) -> Result<Key> {
        let suffix: u32 = rand::random();
        let name = format!("shared/{unique_id}-{suffix:08x}.sst");
        Ok(self.job.join(&name)?)
    }

    /// A new name for a copy of a table file, or of tails.
    pub(crate) fn copy(&self, original: &Key) -> Result<Key> {
        match original.name().ends_with(".sst") {
            true => self.table_file(unique_id(original.as_str())),
            false => Ok(self.tails(&token())),
        }
    }

    pub(crate) fn tails(&self, token: &str) -> Key {
        self.below(&format!("shared/{token}.tails"))
    }

    /// The manifest object of snapshot `id`, named by the directory that writes it and by a token of its own: a directory
    /// that is opened again after a crash may try a number twice.
    pub(crate) fn manifest(&self, id: u64, writer: &str, token: &str) -> Result<Key> {
        Ok(self
            .snapshot(id)
            .join(&format!("manifest-{writer}-{token}"))?)
    }

    /// True where `key` is a manifest object of snapshot `id` that the directory `writer` wrote.
    pub(crate) fn is_manifest_of(&self, key: &str, id: u64, writer: &str) -> bool {
        key.starts_with(&format!("{}/manifest-{writer}-", self.snapshot(id)))
    }

    /// The keys that the job names of its own, and of what it has claimed.
    pub(crate) fn bounds(&self, claimed: &[Key]) -> Bounds {
        Bounds::new(&self.job, claimed)
    }

    /// `<job>/chk-<n>`, below which all that is one snapshot's own lies.
    pub(crate) fn snapshot(&self, id: u64) -> Key {
        self.below(&format!("chk-{id}"))
    }

    pub(crate) fn metadata(&self, id: u64) -> Key {
        self.below(&format!("chk-{id}/{METADATA}"))
    }

    fn below(&self, part: &str) -> Key {
        self.job
            .join(part)
            .expect("a checked job name and a fixed part make a sound key")
    }
}

/// RocksDB's unique id of the table file whose object has this key.
pub(crate) fn unique_id(key: &str) -> &str {
    let name = key.rsplit('/').next().unwrap_or(key);
    let id = name.strip_suffix(".sst").unwrap_or(name);
    id.split('-').next().unwrap_or(id)
}

/// True for a name that a job may have.
pub(crate) fn is_job_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// The id in a directory name `chk-<n>`, from 1 up; `None` for any other name, `chk-007` included, and for a number that has
/// no next one.
pub(crate) fn snapshot_id(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("chk-")?;
    let id: u64 = digits.parse().ok()?;
    (id.to_string() == digits && (1..u64::MAX).contains(&id)).then_some(id)
}

/// A name that no other writer chooses: 128 random bits in hex.
pub(crate) fn token() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back_and_strangers_are_not() {
        assert_eq!(snapshot_id("chk-1"), Some(1));
        assert_eq!(snapshot_id("chk-17"), Some(17));
        for name in [
            "chk-",
            "chk-007",
            "chk-0",
            "chk-18446744073709551615",
            "chk-+1",
            "shared",
            "chk-99999999999999999999",
        ] {
            assert_eq!(snapshot_id(name), None, "{name}");
        }
    }

    #[test]
    fn job_names_cannot_leave_their_directory() {
        for job in ["", ".", "..", "a/b", ".hidden", "a\\b", "ä"] {
            assert!(JobLayout::new(job).is_err(), "{job:?}");
        }
    }
}
