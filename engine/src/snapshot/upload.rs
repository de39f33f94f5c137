//! Uploads staged table files: in parallel, each hashed on its way and named by RocksDB's unique id of its content.
//!
//! A file is in the registry as soon as its upload ended. An interrupted upload leaves nothing visible in the store; a
//! completed one that no snapshot came to refer to is an orphan.

use std::{
    path::Path,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use bytes::Bytes;
use lazurite_env::{
    Env, RandomFile, ReadHint,
    remote::{Key, ObjectWriter, RemoteStore},
};
use lazurite_env_rocksdb::sst_info;
use lazurite_tiering::{Checksum, ChecksumHasher, TransferBudget};

use super::{
    capture::CapturedFile,
    context::Context,
    moment::Moment,
    pending::Deadline,
    registry::{Fresh, Uploaded},
};
use crate::{Error, Result};

/// Bytes read and sent at a time; also the size up to which a file is sent in one request.
const PIECE_BYTES: usize = 8 << 20;

/// Pieces that wait between the disk and the store.
const PIECES_AHEAD: usize = 2;

/// How long an upload that failed tries to remove what it sent.
const TAKE_BACK_TIME: Duration = Duration::from_secs(5);

/// What was sent.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// Uploads every staged file, `context.upload_threads` at once. The first error stops the rest.
pub(crate) fn upload_all(
    context: &Context,
    files: &[CapturedFile],
    deadline: &Deadline,
) -> Result<Sent> {
    let queue = Mutex::new(files.iter().filter(|f| f.staged.is_some()));
    let outcome: Mutex<Result<Sent>> = Mutex::new(Ok(Sent::default()));
    let next = || {
        let failed = outcome.lock().is_ok_and(|o| o.is_err());
        if failed {
            None
        } else {
            queue.lock().ok()?.next()
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..context.upload_threads {
            scope.spawn(|| {
                while let Some(file) = next() {
                    let result = upload_one(context, file, deadline);
                    let Ok(mut outcome) = outcome.lock() else {
                        return;
                    };
                    match (&mut *outcome, result) {
                        (Ok(sent), Ok(bytes)) => {
                            sent.files += 1;
                            sent.bytes += bytes;
                        }
                        (Ok(_), Err(error)) => *outcome = Err(error),
                        (Err(_), _) => {}
                    }
                }
            });
        }
    });
    outcome
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn upload_one(context: &Context, file: &CapturedFile, deadline: &Deadline) -> Result<u64> {
    let Some(path) = &file.staged else {
        return Ok(0);
    };
    let since = Moment::now();
    let info = sst_info(context.rocks_env.env(), path)?;
    let key = context.layout.table_file(&info.unique_id)?;
    let source = context.union.open_random(path)?;
    let checksum = if file.len <= PIECE_BYTES as u64 {
        send_whole(context, &key, &*source, file.len, path, deadline)?
    } else {
        send_in_pieces(context, &key, &*source, file.len, path, deadline)?
    };
    let tail = read(
        &*source,
        info.tail_offset,
        (file.len - info.tail_offset.min(file.len)) as usize,
        path,
    )?;
    let mut registry = context.registry();
    // A state that is another job's: where this comes to nothing, the file may be here no more.
    let original = registry.get(&file.name).map(|known| known.key.clone());
    registry.insert(
        file.name.clone(),
        Uploaded {
            key,
            len: file.len,
            checksum,
            tail_offset: info.tail_offset,
            tail_checksum: Checksum::of(&tail),
            stored_tail: None,
            fresh: Some(Fresh::upload(since, original)),
        },
    );
    Ok(file.len)
}

fn send_whole(
    context: &Context,
    key: &Key,
    source: &dyn RandomFile,
    len: u64,
    path: &Path,
    deadline: &Deadline,
) -> Result<Checksum> {
    deadline.check()?;
    let bytes = read(source, 0, len as usize, path)?;
    let checksum = Checksum::of(&bytes);
    let (store, key) = (context.store.clone(), key.clone());
    let budget = context.union.transfer_budget().clone();
    deadline.wait(&context.runtime, async move {
        budget.take(bytes.len() as u64).await;
        store.put(&key, bytes).await
    })?;
    Ok(checksum)
}

fn send_in_pieces(
    context: &Context,
    key: &Key,
    source: &dyn RandomFile,
    len: u64,
    path: &Path,
    deadline: &Deadline,
) -> Result<Checksum> {
    let (pieces, receiver) = tokio::sync::mpsc::channel(PIECES_AHEAD);
    let (done, outcome) = mpsc::sync_channel(1);
    let (store, key, until) = (context.store.clone(), key.clone(), deadline.clone());
    let budget = context.union.transfer_budget().clone();
    context.runtime.spawn(async move {
        // The receiving thread waits below; if it is gone, nobody wants the outcome.
        let _ = done.send(write_pieces(store, key, receiver, until, budget).await);
    });
    let mut hasher = ChecksumHasher::new();
    let read_all = || -> Result<()> {
        let mut offset = 0;
        while offset < len {
            deadline.check()?;
            let piece = read(
                source,
                offset,
                PIECE_BYTES.min((len - offset) as usize),
                path,
            )?;
            hasher.update(&piece);
            offset += piece.len() as u64;
            if pieces.blocking_send(Piece::Bytes(piece)).is_err() {
                return Ok(()); // The writer failed; its own error is the one to report.
            }
        }
        // A failed writer has dropped its end: its error comes through `outcome`.
        let _ = pieces.blocking_send(Piece::End);
        Ok(())
    };
    let read_result = { read_all }();
    drop(pieces);
    let written = outcome.recv().map_err(|_| Error::Closed)?;
    read_result?;
    written?;
    Ok(hasher.finish())
}

enum Piece {
    Bytes(Bytes),
    End,
}

async fn write_pieces(
    store: Arc<dyn RemoteStore>,
    key: Key,
    mut pieces: tokio::sync::mpsc::Receiver<Piece>,
    deadline: Deadline,
    budget: Arc<TransferBudget>,
) -> Result<()> {
    let mut writer = deadline.within(store.writer(&key)).await?;
    loop {
        let result = match pieces.recv().await {
            Some(Piece::Bytes(bytes)) => {
                let write = async {
                    budget.take(bytes.len() as u64).await;
                    writer.write(bytes).await
                };
                deadline.within(write).await
            }
            Some(Piece::End) => return deadline.within(writer.finish()).await,
            // The reader gave up: it holds the error.
            None => {
                take_back(writer).await;
                return Ok(());
            }
        };
        if let Err(error) = result {
            take_back(writer).await;
            return Err(error);
        }
    }
}

/// Removes what was sent. Best effort: a store that hangs must not hold up the error.
async fn take_back(writer: Box<dyn ObjectWriter>) {
    let left = match tokio::time::timeout(TAKE_BACK_TIME, writer.abort()).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer".into(),
    };
    tracing::warn!(
        error = left,
        "an upload could not be taken back; the store's own clean-up must"
    );
}

/// Exactly `len` bytes from `offset`.
pub(crate) fn read(source: &dyn RandomFile, offset: u64, len: usize, path: &Path) -> Result<Bytes> {
    let mut buf = vec![0; len];
    let n = source.read_at(offset, &mut buf, ReadHint::default())?;
    if n != len {
        return Err(lazurite_env::Error::new(
            lazurite_env::ErrorKind::Corruption,
            "read",
            path,
            format!("it ends {} bytes before RocksDB says that it does", len - n),
        )
        .into());
    }
    Ok(buf.into())
}
