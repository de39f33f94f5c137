//! What the chunk cache of a dead process holds on the disk, and whether anybody asks for it again.

use std::{
    collections::HashMap,
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use lazurite::snapshot::{SnapshotFile, SnapshotMetadata};
use lazurite_env::{
    Result as StoreResult,
    remote::{Capabilities, Copied, Key, Listed, ObjectWriter, RemoteStore},
};
use serde::Deserialize;

use crate::error::{Error, Result};

/// Of the map of an object: where the checksums begin, and the bytes that one of 8 bytes is for.
const MAP_ENTRIES: usize = 4096;
const PAGE_BYTES: u64 = 1024;

/// What a cache holds of one object.
#[derive(Debug)]
pub struct Kept {
    map: PathBuf,
    /// Its pages, sorted.
    pages: Vec<u64>,
}

impl Kept {
    /// What they hold.
    pub fn bytes(&self) -> u64 {
        self.pages.len() as u64 * PAGE_BYTES
    }
}

/// What the cache of the local directory `dir` holds of the objects of `snapshot`, by its maps, which name objects by their content. No backend is open there.
pub fn kept_below(dir: &Path, snapshot: &SnapshotMetadata) -> Result<HashMap<Key, Kept>> {
    #[derive(Deserialize)]
    struct Header {
        length: u64,
        xxh3: String,
    }
    let content = |file: &SnapshotFile| (file.len, file.checksum.to_string());
    let keys = snapshot.files().map(|file| (content(file), &file.key));
    let keys: HashMap<_, _> = keys.collect();
    let cache = dir.join("cache");
    let mut found = HashMap::new();
    for entry in fs::read_dir(&cache).map_err(Error::file("list", &cache))? {
        let map = entry.map_err(Error::file("list", &cache))?.path();
        if map.extension().is_none_or(|end| end != "map") {
            continue;
        }
        let bytes = fs::read(&map).map_err(Error::file("read", &map))?;
        let (header, entries) = bytes.split_at(bytes.len().min(MAP_ENTRIES));
        let body = header.splitn(2, |byte| *byte == b'\n').nth(1);
        let body = body.unwrap_or_default().trim_ascii_end();
        let end = body.iter().position(|byte| *byte == 0);
        let Ok(header) = serde_json::from_slice::<Header>(&body[..end.unwrap_or(body.len())])
        else {
            // Killed while it was made: nothing is in it.
            continue;
        };
        let entries = (0..).zip(entries.as_chunks::<8>().0);
        let pages = entries.filter(|(_, entry)| **entry != [0; 8]);
        let pages = pages.map(|(page, _)| page).collect();
        if let Some(key) = keys.get(&(header.length, header.xxh3)) {
            found.insert(Key::new(key.as_str())?, Kept { map, pages });
        }
    }
    Ok(found)
}

/// A store that looks, at each request, whether the cache has what is asked for.
#[derive(Debug)]
pub struct Again {
    inner: Arc<dyn RemoteStore>,
    /// What was there when the process was dead.
    kept: HashMap<Key, Kept>,
    there: AtomicU64,
    gone: AtomicU64,
}

impl Again {
    /// Looks for what was `kept`.
    pub fn new(inner: Arc<dyn RemoteStore>, kept: HashMap<Key, Kept>) -> Self {
        Again {
            inner,
            kept,
            there: AtomicU64::new(0),
            gone: AtomicU64::new(0),
        }
    }

    /// Bytes that were kept, were still there, and were asked for all the same.
    pub fn there_bytes(&self) -> u64 {
        self.there.load(Relaxed)
    }

    /// Bytes that were kept, had to go since, and were asked for.
    pub fn gone_bytes(&self) -> u64 {
        self.gone.load(Relaxed)
    }

    fn look(&self, key: &Key, range: &Range<u64>) {
        let Some(kept) = self.kept.get(key) else {
            return;
        };
        for page in range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES) {
            if kept.pages.binary_search(&page).is_err() {
                continue;
            }
            let mut entry = [0; 8];
            let at = MAP_ENTRIES as u64 + page * 8;
            // By its name: it may be another file by now, or none.
            let read = File::open(&kept.map).and_then(|map| map.read_exact_at(&mut entry, at));
            let is_there = read.is_ok() && entry != [0; 8];
            let begin = range.start.max(page * PAGE_BYTES);
            let bytes = range.end.min((page + 1) * PAGE_BYTES) - begin;
            let counter = if is_there { &self.there } else { &self.gone };
            counter.fetch_add(bytes, Relaxed);
        }
    }
}

#[async_trait]
impl RemoteStore for Again {
    fn uri(&self) -> &str {
        self.inner.uri()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &Key) -> StoreResult<Bytes> {
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> StoreResult<Bytes> {
        let result = self.inner.get_range(key, range.clone()).await;
        // Now, before it is stored: what was being put out when it was asked for is gone by now.
        self.look(key, &range);
        result
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> StoreResult<()> {
        self.inner.put(key, bytes).await
    }

    async fn put_if_absent(&self, key: &Key, bytes: Bytes) -> StoreResult<()> {
        self.inner.put_if_absent(key, bytes).await
    }

    async fn writer(&self, key: &Key) -> StoreResult<Box<dyn ObjectWriter>> {
        self.inner.writer(key).await
    }

    async fn len(&self, key: &Key) -> StoreResult<u64> {
        self.inner.len(key).await
    }

    async fn list(&self, prefix: Option<&Key>) -> StoreResult<Vec<Listed>> {
        self.inner.list(prefix).await
    }

    async fn list_likely(&self, prefix: &Key, likely: &[&str]) -> StoreResult<Vec<Listed>> {
        self.inner.list_likely(prefix, likely).await
    }

    async fn copy(&self, from: &Key, to: &Key, len: u64) -> StoreResult<Copied> {
        self.inner.copy(from, to, len).await
    }

    async fn delete(&self, key: &Key) -> StoreResult<()> {
        self.inner.delete(key).await
    }
}
