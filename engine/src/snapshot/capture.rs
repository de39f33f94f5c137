//! The synchronous part of a snapshot: a consistent set of files, held still while writes go on.
//!
//! Flush, list the live files, hard-link those that the store does not have yet into `<dir>/staging/chk-<n>/`, copy the
//! MANIFEST as far as it is valid. Milliseconds beside the flush, and no work for a file that is in the store already.
//! RocksDB may delete any of the files as soon as this ended: the links keep the new ones, the store the others.
//!
//! Crash story: nothing here is needed after a crash; the staging directory is emptied at open.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use lazurite_env::{Env, EnvExt, ErrorKind};
use lazurite_tiering::UnionEnv;

use super::{
    heat::Heat,
    registry::{Registry, Uploaded},
};
use crate::{
    Error, Result,
    metrics::PhaseClock,
    rocks::{Db, LiveFile, LiveFileKind},
};

/// A table file of the captured set.
#[derive(Debug, Clone)]
pub(crate) struct CapturedFile {
    pub(crate) name: String,
    pub(crate) level: u8,
    pub(crate) len: u64,
    /// How often it was read, as of late; `None`: never, or unknown.
    pub(crate) heat: Option<u64>,
    /// Where a link to it waits to be uploaded; `None` where the store has it.
    pub(crate) staged: Option<PathBuf>,
}

/// The files of one moment.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) files: Vec<CapturedFile>,
    /// MANIFEST, CURRENT and OPTIONS: name and content.
    pub(crate) small: Vec<(String, Vec<u8>)>,
    /// The directory that holds the links; removed by [`discard`](Self::discard).
    staging: PathBuf,
}

impl Capture {
    /// Flushes and captures. What the registry does not have is staged for upload, and what it has where `is_staged` says so. Blocks for the flush; writers wait for it as for any flush.
    pub(crate) fn take(
        db: &Arc<Db>,
        union: &UnionEnv,
        registry: &mut Registry,
        is_staged: &dyn Fn(&Uploaded, &str) -> bool,
        staging: PathBuf,
        phases: &mut PhaseClock,
    ) -> Result<Self> {
        db.flush_all()?;
        phases.ended("flush");
        union.create_dir_all(&staging)?;
        let mut capture = Capture {
            files: Vec::new(),
            small: Vec::new(),
            staging,
        };
        match capture.fill(db, union, registry, is_staged) {
            Ok(()) => {
                phases.ended("link");
                Ok(capture)
            }
            Err(error) => {
                capture.discard(union);
                Err(error)
            }
        }
    }

    fn fill(
        &mut self,
        db: &Arc<Db>,
        union: &UnionEnv,
        registry: &mut Registry,
        is_staged: &dyn Fn(&Uploaded, &str) -> bool,
    ) -> Result<()> {
        // While this guard lives, RocksDB deletes no file: the listed ones can be linked and read.
        let _paused = db.pause_file_deletions()?;
        for live in db.live_files()? {
            let path = union.db_dir().join(&live.name);
            match live.kind {
                LiveFileKind::Table => {
                    let known = registry.get(&live.name);
                    let stage = known.is_none_or(|known| is_staged(known, &live.name));
                    self.add_table(union, (stage, known.is_some()), live, &path)?;
                }
                LiveFileKind::Manifest | LiveFileKind::Current | LiveFileKind::Options => {
                    let content = match live.contents {
                        Some(contents) => contents,
                        None => read_prefix(union, &path, live.len)?,
                    };
                    self.small.push((live.name, content));
                }
                // Every write before the flush is in a table file; those after it are not part of this snapshot.
                LiveFileKind::Wal => {}
                LiveFileKind::Blob | LiveFileKind::Other(_) => {
                    return Err(Error::LocalDirectory {
                        path,
                        reason: "it is of a kind that snapshots cannot hold (blob files are not supported)".into(),
                    });
                }
            }
        }
        self.files.sort_by(|a, b| a.name.cmp(&b.name));
        let live: HashSet<&str> = self.files.iter().map(|f| f.name.as_str()).collect();
        registry.keep_only(&live);
        Ok(())
    }

    fn add_table(
        &mut self,
        union: &UnionEnv,
        (stage, is_known): (bool, bool),
        live: LiveFile,
        path: &Path,
    ) -> Result<()> {
        let mut staged = None;
        if stage {
            let link = self.staging.join(&live.name);
            match union.link(path, &link) {
                Ok(()) => staged = Some(link),
                // Demoted this moment: the store has it, elsewhere.
                Err(error) if is_known && error.kind() == ErrorKind::Unsupported => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.files.push(CapturedFile {
            name: live.name,
            // Unknown only where a compaction replaced the file this very moment; the level orders downloads, no more.
            level: live.table.map_or(0, |table| table.level),
            len: live.len,
            heat: None,
            staged,
        });
        Ok(())
    }

    /// Notes the heat of the files.
    pub(crate) fn note_heat(&mut self, heat: &Heat) {
        for file in &mut self.files {
            file.heat = heat.of_file(&file.name);
        }
    }

    /// Removes the links. An error leaves files that the next open removes, so it is only logged.
    pub(crate) fn discard(&self, union: &UnionEnv) {
        if let Err(error) = union.remove_dir_all(&self.staging) {
            tracing::warn!(%error, "staged links were left behind; the next open removes them");
        }
    }
}

/// The first `len` bytes of a file that may be growing.
fn read_prefix(env: &UnionEnv, path: &Path, len: u64) -> Result<Vec<u8>> {
    let mut file = env.open_sequential(path)?;
    let mut content = vec![0; len as usize];
    let mut filled = 0;
    while filled < content.len() {
        let n = file.read(&mut content[filled..])?;
        if n == 0 {
            return Err(lazurite_env::Error::new(
                ErrorKind::Corruption,
                "read",
                path,
                format!("RocksDB says that it has {len} bytes, it has {filled}"),
            )
            .into());
        }
        filled += n;
    }
    Ok(content)
}
