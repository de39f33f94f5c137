//! [`CacheFile`]: the bytes of one object on the local disk, and the map that says which of them are good.
//!
//! ```text
//! cache/<id>.data   sparse; as long as the object, whose bytes stand at their own offsets
//! cache/<id>.map    block 0: a framed document (format lazurite-chunk-map), padded with zeros
//!                   from byte 4,096: 8 bytes for each page of 1 KiB, little endian: the checksum of its bytes, 0 = absent
//! ```
//! `<id>` is the xxh3-128 of the object's length and checksum. A page's checksum is its xxh3-64, seeded with its
//! number and the id, so that a page in a wrong place or file is found too; a checksum of 0 is written as 1.
//!
//! # Crash story
//! A page is written before its checksum, and punched before its checksum is zeroed. Neither is synced. So whatever a
//! crash or a power cut leaves, a page whose bytes match its checksum is the page that was stored; any other is absent.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use lazurite_env::{Env, Error, ErrorKind, Result, SparseFile};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    Object, ObjectId,
    geometry::{
        BLOCK_BYTES, CHUNK_BYTES, ENTRY_BYTES, PAGE_BYTES, PAGES_PER_CHUNK, chunks_in, group_of,
        pages_in,
    },
};
use crate::{Checksum, framed, sync::lock};

const FORMAT: &str = "lazurite-chunk-map";
const VERSION: u32 = 1;

/// How much of a map is read at a time.
const READ_BYTES: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Header {
    length: u64,
    xxh3: Checksum,
    page_bytes: u64,
    chunk_bytes: u64,
}

/// Chunks and the bits of their resident pages, in order.
pub(super) type Resident = Vec<(u32, u64)>;

/// The two files of one object, open. Any thread may use it; who may write what, the [state](super::state) says.
#[derive(Debug)]
pub(crate) struct CacheFile {
    data: Box<dyn SparseFile>,
    map: Box<dyn SparseFile>,
    len: u64,
    seed: u64,
    /// Held by whoever writes the map, and while it is decided whether a block of it may go.
    pub map_writing: Mutex<()>,
}

/// The names of an object's files.
pub(crate) fn paths(dir: &Path, id: ObjectId) -> (PathBuf, PathBuf) {
    let name = |end: &str| dir.join(format!("{id}.{end}"));
    (name("data"), name("map"))
}

/// The object that a file in the cache directory belongs to; `None` for a foreign name.
pub(crate) fn object_of(name: &str) -> Option<ObjectId> {
    let stem = name
        .strip_suffix(".data")
        .or_else(|| name.strip_suffix(".map"))?;
    Checksum::from_hex(stem).map(|hash| ObjectId(u128::from_be_bytes(hash.to_bytes())))
}

impl CacheFile {
    /// New files without a resident page, in place of any of these names.
    pub fn create(base: &dyn Env, dir: &Path, object: &Object) -> Result<Arc<Self>> {
        let file = Self::open(base, dir, object)?;
        // The map first: old checksums never stand beside new bytes.
        for old in [&file.map, &file.data] {
            // ext4 writes a file out when it is closed if it was ever cut to nothing.
            if !old.is_empty()? {
                old.truncate(0)?;
            }
        }
        file.data.truncate(object.file.len)?;
        file.map.write_at(0, &header(object)?)?;
        file.map
            .truncate(BLOCK_BYTES + pages_in(file.len) * ENTRY_BYTES)?;
        Ok(Arc::new(file))
    }

    /// The files that are there, with the resident pages of each chunk as the map tells them. `None` where they are not
    /// this object's, not whole, or also known by another name.
    pub fn load(
        base: &dyn Env,
        dir: &Path,
        object: &Object,
    ) -> Result<Option<(Arc<Self>, Resident)>> {
        let (data, map) = paths(dir, object.id);
        for path in [&data, &map] {
            match base.stat(path) {
                // After a power cut a promoted file may be found under both names: it is the db directory's.
                Ok(stat) if stat.links == 1 => {}
                Ok(_) => return Ok(None),
                Err(e) if e.is_not_found() => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        let file = Self::open(base, dir, object)?;
        let mut block = vec![0; BLOCK_BYTES as usize];
        let whole = file.map.read_at(0, &mut block)? == block.len()
            && block == header(object)?
            && file.data.len()? == file.len
            && file.map.len()? == BLOCK_BYTES + pages_in(file.len) * ENTRY_BYTES;
        if !whole {
            return Ok(None);
        }
        let resident = file.read_map()?;
        Ok(Some((Arc::new(file), resident)))
    }

    fn open(base: &dyn Env, dir: &Path, object: &Object) -> Result<Self> {
        let (data, map) = paths(dir, object.id);
        Ok(CacheFile {
            data: base.open_sparse(&data)?,
            map: base.open_sparse(&map)?,
            len: object.file.len,
            seed: object.id.0 as u64,
            map_writing: Mutex::new(()),
        })
    }

    fn read_map(&self) -> Result<Resident> {
        let mut resident = Vec::new();
        let mut buf = vec![0; READ_BYTES as usize];
        let chunk_entries = (PAGES_PER_CHUNK * ENTRY_BYTES) as usize;
        let mut chunk = 0;
        while u64::from(chunk) < chunks_in(self.len) {
            let at = BLOCK_BYTES + u64::from(chunk) * chunk_entries as u64;
            let left = (BLOCK_BYTES + pages_in(self.len) * ENTRY_BYTES - at).min(READ_BYTES);
            let n = self.map.read_at(at, &mut buf[..left as usize])?;
            if (n as u64) < left {
                // The length was looked at: this is no end of file.
                let id = ObjectId(u128::from(self.seed)).to_string();
                return Err(Error::new(ErrorKind::Io, "read map", id, "short read"));
            }
            for entries in buf[..n].chunks(chunk_entries) {
                let mut bits = 0u64;
                for (page, entry) in entries.as_chunks::<8>().0.iter().enumerate() {
                    bits |= u64::from(*entry != [0; 8]) << page;
                }
                if bits != 0 {
                    resident.push((chunk, bits));
                }
                chunk += 1;
            }
        }
        Ok(resident)
    }

    /// The bytes of `page`, of those from `first` on.
    fn page<'a>(&self, first: u64, bytes: &'a [u8], page: u64) -> &'a [u8] {
        let begin = ((page - first) * PAGE_BYTES) as usize;
        &bytes[begin..bytes.len().min(begin + PAGE_BYTES as usize)]
    }

    fn checksum(&self, page: u64, bytes: &[u8]) -> [u8; 8] {
        let seed = self.seed ^ page.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        xxh3_64_with_seed(bytes, seed).max(1).to_le_bytes()
    }

    fn byte_range(&self, pages: &Range<u64>) -> Range<u64> {
        pages.start * PAGE_BYTES..(pages.end * PAGE_BYTES).min(self.len)
    }

    /// The bytes of pages; `None` where not every one of them matches its checksum.
    pub fn read(&self, pages: Range<u64>) -> Result<Option<Vec<u8>>> {
        let range = self.byte_range(&pages);
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let mut entries = vec![0; ((pages.end - pages.start) * ENTRY_BYTES) as usize];
        let at = BLOCK_BYTES + pages.start * ENTRY_BYTES;
        if self.map.read_at(at, &mut entries)? < entries.len()
            || self.data.read_at(range.start, &mut bytes)? < bytes.len()
        {
            return Ok(None);
        }
        let mut entries = entries.as_chunks::<8>().0.iter();
        let good = pages.clone().all(|page| {
            let expected = self.checksum(page, self.page(pages.start, &bytes, page));
            entries.next() == Some(&expected)
        });
        Ok(good.then_some(bytes))
    }

    /// Writes the bytes of `pages`, which are some of those in `bytes` from page `first` on.
    pub fn write_data(&self, first: u64, bytes: &[u8], pages: &Range<u64>) -> Result<()> {
        let range = self.byte_range(pages);
        let begin = (range.start - first * PAGE_BYTES) as usize;
        let end = (range.end - first * PAGE_BYTES) as usize;
        self.data.write_at(range.start, &bytes[begin..end])
    }

    /// Writes the checksums of `pages`, whose bytes are written.
    pub fn write_map(&self, first: u64, bytes: &[u8], pages: &Range<u64>) -> Result<()> {
        let entries: Vec<u8> = pages
            .clone()
            .flat_map(|page| self.checksum(page, self.page(first, bytes, page)))
            .collect();
        let _writing = lock(&self.map_writing);
        self.map
            .write_at(BLOCK_BYTES + pages.start * ENTRY_BYTES, &entries)
    }

    /// Gives the disk blocks of a chunk's bytes back. Its pages are bad until [`clear_map`](Self::clear_map).
    pub fn punch(&self, chunk: u32) -> Result<()> {
        let begin = u64::from(chunk) * CHUNK_BYTES;
        self.data.punch_hole(begin..begin + CHUNK_BYTES)
    }

    /// Makes every page of a chunk absent; `last`: no other chunk of its group has one, so the group's block goes too.
    /// The caller holds `map_writing`.
    pub fn clear_map(&self, chunk: u32, last: bool) -> Result<()> {
        if last {
            let begin = BLOCK_BYTES * (1 + u64::from(group_of(chunk)));
            return self.map.punch_hole(begin..begin + BLOCK_BYTES);
        }
        let first = u64::from(chunk) * PAGES_PER_CHUNK;
        let end = (first + PAGES_PER_CHUNK).min(pages_in(self.len));
        let zeros = vec![0; ((end - first) * ENTRY_BYTES) as usize];
        self.map.write_at(BLOCK_BYTES + first * ENTRY_BYTES, &zeros)
    }

    /// Gives back the blocks of `range`, which holds no resident page.
    pub fn punch_range(&self, range: Range<u64>) -> Result<()> {
        self.data.punch_hole(range)
    }

    /// What the bytes take on the disk.
    pub fn allocated(&self) -> Result<u64> {
        self.data.allocated()
    }

    /// What the map takes on the disk.
    pub fn map_allocated(&self) -> Result<u64> {
        self.map.allocated()
    }

    /// Makes the bytes durable.
    pub fn sync(&self) -> Result<()> {
        self.data.sync()
    }
}

/// The first block of an object's map.
fn header(object: &Object) -> Result<Vec<u8>> {
    let header = Header {
        length: object.file.len,
        xxh3: object.file.checksum,
        page_bytes: PAGE_BYTES,
        chunk_bytes: CHUNK_BYTES,
    };
    let key = object.file.key.as_str();
    let body = serde_json::to_vec(&header)
        .map_err(|e| Error::with_source(ErrorKind::InvalidInput, "encode", key, "", e))?;
    let mut block = framed::encode(FORMAT, VERSION, &body);
    block.resize(BLOCK_BYTES as usize, 0);
    Ok(block)
}
