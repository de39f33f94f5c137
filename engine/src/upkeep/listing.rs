//! What lies below a job, told by names alone. A name that this program would not give makes an object unknown, whatever it is.

use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt, stream};
use lazurite_env::remote::{Key, Listed};
use serde::Serialize;

use super::PARALLEL;
use crate::{
    Result, SnapshotStore,
    snapshot::{
        layout::{JobLayout, METADATA, snapshot_id},
        place::CLAIMED,
    },
};

/// What the name of a clock marker begins with; a token follows.
pub(super) const CLOCK: &str = "_gc-";

/// What is directly below a job and holds what its snapshots share.
pub(super) const SHARED: &str = "shared";

/// What an object is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ObjectKind {
    /// A table file, `<job>/shared/<unique id>-<suffix>.sst`.
    TableFile,
    /// Tails of table files, `<job>/shared/<token>.tails`.
    Tails,
    /// MANIFEST and OPTIONS of a subtask, `<job>/chk-<n>/manifest-<writer>-<token>`.
    Manifest,
    /// What makes a snapshot complete, or a fence, `<job>/chk-<n>/_metadata`.
    Metadata,
    /// `<job>/_claimed`: another job may need what is here.
    Claim,
    /// `<job>/_gc-<token>`: what a clean-up reads the store's clock from, and deletes at once unless it is killed.
    Clock,
}

/// Something that no job gives such a name: never touched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct UnknownObject {
    /// Where it lies; of what holds further objects, with a slash at the end. Control characters are escaped.
    pub key: String,
    /// Its length; `None` for what holds further objects, which are not looked at.
    pub bytes: Option<u64>,
}

/// An object with a name that a job gives.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) key: Key,
    pub(super) kind: ObjectKind,
    pub(super) len: u64,
    pub(super) modified: Option<SystemTime>,
    /// The number that it lies under; 0 under none.
    pub(super) id: u64,
}

/// All that lies below a job.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) job: String,
    pub(super) objects: Vec<Stored>,
    pub(super) unknown: Vec<UnknownObject>,
}

/// Lists what lies below `job`: a request for the job, and for each number and `shared` one, or one for each 1,000 names.
pub(super) fn list_job(of: &SnapshotStore, job: &str) -> Result<Listing> {
    let layout = JobLayout::new(job)?;
    let store = of.store.clone();
    of.wait(async move {
        let mut listing = Listing {
            job: layout.job().to_string(),
            objects: Vec::new(),
            unknown: Vec::new(),
        };
        let top = store.list(Some(layout.job())).await?;
        let is_metadata =
            |entry: &Listed| matches!(entry, Listed::Object { name, .. } if name == METADATA);
        if top.iter().any(is_metadata) {
            // A snapshot that lies on its own, under a name that a job could have: nothing in it is a job's.
            let key = format!("{job}/", job = listing.job);
            listing.unknown.push(UnknownObject { key, bytes: None });
            return Ok(listing);
        }
        let mut below = Vec::new();
        for entry in top {
            match &entry {
                Listed::Prefix { name } if name == SHARED => below.push((layout.shared(), 0)),
                Listed::Prefix { name } => match snapshot_id(name) {
                    Some(id) => below.push((layout.snapshot(id), id)),
                    None => listing.take(layout.job(), 0, entry, |_| None),
                },
                Listed::Object { .. } => listing.take(layout.job(), 0, entry, kind_at_top),
            }
        }
        let mut listed = stream::iter(below)
            .map(|(prefix, id)| {
                let store = store.clone();
                async move { Ok((store.list(Some(&prefix)).await?, prefix, id)) }
            })
            .buffered(PARALLEL);
        while let Some((entries, prefix, id)) = listed.try_next().await? {
            if id == 0 && entries.iter().any(is_metadata) {
                // A savepoint that somebody has copied to this name.
                let key = format!("{prefix}/");
                listing.unknown.push(UnknownObject { key, bytes: None });
                continue;
            }
            let kind = if id == 0 {
                kind_in_shared
            } else {
                kind_in_snapshot
            };
            for entry in entries {
                listing.take(&prefix, id, entry, kind);
            }
        }
        Ok(listing)
    })
}

impl Listing {
    fn take(
        &mut self,
        prefix: &Key,
        id: u64,
        entry: Listed,
        kind: impl Fn(&str) -> Option<ObjectKind>,
    ) {
        let unknown = match entry {
            Listed::Object {
                name,
                len,
                modified,
            } => match kind(&name).zip(prefix.join(&name).ok()) {
                Some((kind, key)) => {
                    self.objects.push(Stored {
                        key,
                        kind,
                        len,
                        modified,
                        id,
                    });
                    return;
                }
                None => UnknownObject {
                    key: shown(prefix, &name),
                    bytes: Some(len),
                },
            },
            Listed::Prefix { name } => UnknownObject {
                key: shown(prefix, &name) + "/",
                bytes: None,
            },
        };
        self.unknown.push(unknown);
    }
}

fn shown(prefix: &Key, name: &str) -> String {
    let escaped = name.chars().map(|c| match c.is_control() {
        true => c.escape_debug().to_string(),
        false => c.to_string(),
    });
    format!("{prefix}/{}", escaped.collect::<String>())
}

fn kind_at_top(name: &str) -> Option<ObjectKind> {
    match name.strip_prefix(CLOCK) {
        Some(token) => is_hex(token, 32).then_some(ObjectKind::Clock),
        None => (name == CLAIMED).then_some(ObjectKind::Claim),
    }
}

fn kind_in_shared(name: &str) -> Option<ObjectKind> {
    match name.rsplit_once('.')? {
        (name, "sst") => {
            let (id, suffix) = name.split_once('-')?;
            (is_hex(id, 48) && is_hex(suffix, 8)).then_some(ObjectKind::TableFile)
        }
        (token, "tails") => is_hex(token, 32).then_some(ObjectKind::Tails),
        _ => None,
    }
}

fn kind_in_snapshot(name: &str) -> Option<ObjectKind> {
    if name == METADATA {
        return Some(ObjectKind::Metadata);
    }
    let (writer, token) = name.strip_prefix("manifest-")?.split_once('-')?;
    (is_hex(writer, 32) && is_hex(token, 32)).then_some(ObjectKind::Manifest)
}

fn is_hex(text: &str, len: usize) -> bool {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == len && text.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_job_gives_are_known() {
        let (token, id) = ("0123456789abcdef".repeat(2), "0123456789abcdef".repeat(3));
        let upper = token.to_uppercase();
        assert_eq!(
            kind_in_shared(&format!("{id}-01234567.sst")),
            Some(ObjectKind::TableFile)
        );
        assert_eq!(
            kind_in_shared(&format!("{token}.tails")),
            Some(ObjectKind::Tails)
        );
        assert_eq!(
            kind_in_snapshot(&format!("manifest-{token}-{token}")),
            Some(ObjectKind::Manifest)
        );
        assert_eq!(
            kind_at_top(&format!("_gc-{token}")),
            Some(ObjectKind::Clock)
        );
        assert_eq!(kind_at_top("_claimed"), Some(ObjectKind::Claim));
        for name in [
            String::new(),
            ".sst".into(),
            format!("{id}.sst"),
            format!("{id}-0123456.sst"),
            format!("{token}-01234567.sst"),
            format!("{id}.tails"),
            format!("{id}.sst.bak"),
            format!("{id}.SST"),
            format!("{upper}.tails"),
            format!("_gc-{upper}"),
            "_gc-".into(),
            "_metadata2".into(),
            format!("manifest-{token}"),
            format!("manifest-{token}-{token}-{token}"),
            format!("manifest-{token}-{upper}"),
        ] {
            assert_eq!(kind_in_shared(&name), None, "{name}");
            assert_eq!(kind_in_snapshot(&name), None, "{name}");
            assert_eq!(kind_at_top(&name), None, "{name}");
        }
    }
}
