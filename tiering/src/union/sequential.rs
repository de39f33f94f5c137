//! A remote table file read from front to back: [`Sequential`]. Used by verification and the like.

use lazurite_env::{Activity, PendingRead, RandomFile, ReadHint, Result, SequentialFile};

use bytes::{Buf, Bytes};

use super::random::TableFile;

/// Read at a time. Two such reads are under way, so a sequential scan is bound by bandwidth and not by latency.
const READ_AHEAD_BYTES: usize = 1 << 20;

/// Reads through a [`TableFile`], one piece ahead of its reader.
#[derive(Debug)]
pub(super) struct Sequential {
    file: TableFile,
    len: u64,
    /// Where the next byte that is handed out lies.
    position: u64,
    /// Bytes from `position` on.
    piece: Bytes,
    /// The piece after `piece`.
    next: Option<PendingRead>,
}

impl Sequential {
    pub fn new(file: TableFile, len: u64) -> Self {
        Sequential {
            file,
            len,
            position: 0,
            piece: Bytes::new(),
            next: None,
        }
    }

    fn start(&self, offset: u64) -> Option<PendingRead> {
        // Whole-file reads are no user's: what is read from front to back is not kept.
        let hint = ReadHint {
            activity: Activity::Verify,
            ..ReadHint::default()
        };
        let read = || self.file.start_read(offset, READ_AHEAD_BYTES, hint);
        (offset < self.len).then(read)
    }
}

impl SequentialFile for Sequential {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buf.len() && self.position < self.len {
            if self.piece.is_empty() {
                let Some(read) = self.next.take().or_else(|| self.start(self.position)) else {
                    break;
                };
                // After an error nothing is kept: the next call reads this place again.
                self.piece = read.wait()?;
                if self.piece.is_empty() {
                    break;
                }
                self.next = self.start(self.position + self.piece.len() as u64);
            }
            let n = self.piece.len().min(buf.len() - filled);
            self.piece.copy_to_slice(&mut buf[filled..filled + n]);
            self.position += n as u64;
            filled += n;
        }
        Ok(filled)
    }

    fn skip(&mut self, n: u64) -> Result<()> {
        if n <= self.piece.len() as u64 {
            self.piece.advance(n as usize);
        } else {
            self.piece = Bytes::new();
            self.next = None;
        }
        self.position = self.position.saturating_add(n).min(self.len);
        Ok(())
    }
}
