//! Replacing the whole catalog by that of a snapshot: [`UnionEnv::restore`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use lazurite_env::{FileKind, Result};

use super::{Core, UnionEnv};
use crate::{
    CatalogEntry, Checksum,
    catalog::{Entry, Residency},
    sync::lock,
    tails::{self, Bundle},
};

/// The local files that a restore found to be part of the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reuse {
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl UnionEnv {
    /// Makes the table files of a snapshot the content of the db directory: those that are here already stay, all
    /// others are remote. Blocks on the local disk; makes no request. The download is stopped, its progress begins anew.
    ///
    /// The objects of `entries` must be complete in the store: any of these files may be [demoted](crate::CacheOptions::disk_budget_bytes).
    ///
    /// `entries` and `tails_name` may come straight from remote metadata; `tails` is the tail bundle, whose checksum the
    /// caller verified; empty where there is none. No database may be open in the db directory.
    ///
    /// # Crash story
    /// The caller deleted `CURRENT` before, durably, so that nothing opens a half state, and writes it after.
    /// 1. Every table file goes that is not, by the old catalog, the same object; the directory is synced. From here on
    ///    no local file has a name of the new catalog and another content.
    /// 2. The tail bundle is written and synced. A bundle of the same name and another content may replace one that the
    ///    old catalog names; that one would then be found damaged, and not be used.
    /// 3. The new catalog replaces the old one, atomically.
    /// 4. Other tail bundles go, and what the cache holds of other objects; what it holds of these stays.
    ///
    /// A crash or an error anywhere leaves the old catalog or the new one, each with a true residency; restoring again
    /// finishes it.
    ///
    /// # Errors
    /// `Corruption` where a name is not a plain table file's, is there twice, or a tail lies outside of the bundle;
    /// nothing has changed then.
    pub fn restore(
        &self,
        entries: Vec<CatalogEntry>,
        tails: Bytes,
        tails_name: &str,
    ) -> Result<Reuse> {
        CatalogEntry::check_all(&entries, tails.len() as u64)?;
        let bundle = if tails.is_empty() {
            None
        } else {
            let checksum = Checksum::of(&tails);
            Some(Bundle::new(
                tails_name.to_owned(),
                tails.len() as u64,
                checksum,
            )?)
        };
        let _stopped = self.downloader.stop_and_hold();
        let core = &*self.core;
        let _naming = lock(&core.naming);

        let kept = drop_foreign(core, &entries)?;
        if let Some(bundle) = &bundle
            && (core.catalog.tails().as_ref() != Some(bundle)
                || bundle.load(&*core.base, &core.layout.tails)?.is_none())
        {
            bundle.store(&*core.base, &core.layout.tails, &tails)?;
        }
        let mut reuse = Reuse::default();
        let entries = entries
            .into_iter()
            .map(|facts| {
                let (tail, residency) = if kept.contains(&facts.name) {
                    reuse.files += 1;
                    reuse.bytes += facts.file.len;
                    (None, Residency::Local)
                } else {
                    (tails::slice(Some(&tails), &facts), Residency::Remote)
                };
                let entry = Arc::new(Entry::new(facts, tail));
                entry.set_stored();
                (entry, residency)
            })
            .collect();
        let keep = bundle.as_ref().map(|bundle| bundle.name.clone());
        core.catalog.replace(entries, bundle)?;
        let remote = core.catalog.remote_entries();
        let wanted: Vec<_> = remote.iter().map(|entry| entry.file().clone()).collect();
        core.cache.retain(&wanted);
        self.downloader.reset_progress();
        core.disk.prod();
        tails::remove_others(&*core.base, &core.layout.tails, |name| {
            Some(name) == keep.as_deref()
        });
        Ok(reuse)
    }
}

/// Deletes every local table file that is not, as catalogued until now, one of `entries`; the names of those that stay.
fn drop_foreign(core: &Core, entries: &[CatalogEntry]) -> Result<BTreeSet<String>> {
    let wanted: BTreeMap<_, _> = entries
        .iter()
        .map(|entry| (entry.name.as_str(), &entry.file))
        .collect();
    let mut kept = BTreeSet::new();
    for found in core.base.list(&core.layout.db)? {
        if found.kind != FileKind::File || !found.name.ends_with(".sst") {
            continue;
        }
        let path = core.layout.db.join(&found.name);
        let old = core
            .catalog
            .lookup(&found.name)
            .filter(|entry| entry.is_local());
        let same = match (&old, wanted.get(found.name.as_str())) {
            (Some(old), Some(&new)) => {
                old.file().same_content(new) && core.base.stat(&path)?.len == new.len
            }
            _ => false,
        };
        if same {
            kept.insert(found.name);
            continue;
        }
        if let Some(old) = old {
            // Should a later step fail, this union goes on with the old catalog, where the file is remote now.
            core.catalog.set_residency(&old, Residency::Remote);
        }
        core.base.delete(&path)?;
    }
    core.base.sync_dir(&core.layout.db)?;
    Ok(kept)
}
