//! Copies inside one store: what a copy tells of itself, and [`streamed`], the way that is open to every store.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use xxhash_rust::xxh3::Xxh3;

use crate::{Error, ErrorKind, Result};

use super::{Key, ObjectWriter, RemoteStore, full_path};

/// Bytes of one read of a streamed copy.
const PIECE_BYTES: u64 = 4 << 20;

/// Reads of a streamed copy on their way at once. What they bring waits in memory for its turn.
const PIECES_AHEAD: usize = 4;

/// How an object is copied inside its store: what the copy costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyKind {
    /// The copy is a second name of the same bytes: no time to speak of, and no space until the object's own name goes.
    Linked,
    /// The store copies by itself: some requests, no bytes over the link, and the space of a second object.
    ServerSide,
    /// The bytes are read and written again by this process.
    Streamed,
}

/// What [`RemoteStore::copy`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// How it was done; not always as [`Capabilities::copy`](super::Capabilities::copy) says.
    pub kind: CopyKind,
    /// Bytes of the object that went through this process, each of them read once and written once: its length where it
    /// was `Streamed`, else 0.
    pub streamed_bytes: u64,
    /// The xxh3-128 (seed 0) of these bytes as they were written; `None` where none went through this process. A caller
    /// who knows what it should be verifies the copy by it, and deletes it where it is another.
    pub xxh3: Option<u128>,
}

impl Copied {
    /// No byte went through this process.
    pub(super) fn without_bytes(kind: CopyKind) -> Self {
        Copied {
            kind,
            streamed_bytes: 0,
            xxh3: None,
        }
    }
}

/// `InvalidInput` for a copy onto itself, which the kinds of stores understand in different ways.
pub(super) fn check_keys(uri: &str, from: &Key, to: &Key) -> Result<()> {
    if from != to {
        return Ok(());
    }
    let message = "an object is not copied onto itself";
    let path = full_path(uri, from);
    Err(Error::new(ErrorKind::InvalidInput, "copy", path, message))
}

/// `Corruption` where the object at `path` has not the length that its copy is to have.
pub(super) fn check_len(path: String, expected: u64, found: u64) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let message = format!("a copy of {expected} bytes was asked for, but the object has {found}");
    Err(Error::new(ErrorKind::Corruption, "copy", path, message))
}

/// Copies through this process: reads ahead of the writer and writes in order. Holds at most 20 MiB, beside what the
/// store's writer holds. Its errors name the request that failed, not the copy.
pub(super) async fn streamed<S>(store: &S, from: &Key, to: &Key, len: u64) -> Result<Copied>
where
    S: RemoteStore + ?Sized,
{
    check_keys(store.uri(), from, to)?;
    let found = store.len(from).await?;
    check_len(full_path(store.uri(), from), len, found)?;
    let mut writer = store.writer(to).await?;
    match pump(store, from, len, &mut *writer).await {
        Ok(xxh3) => {
            writer.finish().await?;
            Ok(Copied {
                kind: CopyKind::Streamed,
                streamed_bytes: len,
                xxh3: Some(xxh3),
            })
        }
        Err(e) => {
            // The first error is the one that tells something.
            let _ = writer.abort().await;
            Err(e)
        }
    }
}

/// The xxh3-128 of what was written.
async fn pump<S>(store: &S, from: &Key, len: u64, writer: &mut dyn ObjectWriter) -> Result<u128>
where
    S: RemoteStore + ?Sized,
{
    let mut hasher = Xxh3::new();
    let starts = (0..len).step_by(PIECE_BYTES as usize);
    let reads = starts.map(|start| store.get_range(from, start..(start + PIECE_BYTES).min(len)));
    let mut pieces = stream::iter(reads).buffered(PIECES_AHEAD);
    let mut written = 0;
    while let Some(piece) = pieces.try_next().await? {
        let piece: Bytes = piece;
        hasher.update(&piece);
        written += piece.len() as u64;
        writer.write(piece).await?;
    }
    // A store that gave back less than it was asked for.
    check_len(full_path(store.uri(), from), len, written)?;
    Ok(hasher.digest128())
}
