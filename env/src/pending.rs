//! A read that was begun and is waited for later: [`PendingRead`].
//!
//! The waiting thread may be any thread, a tokio worker included: it waits on a standard channel and never enters a
//! runtime.

use std::{fmt, sync::mpsc};

use bytes::Bytes;

use crate::Result;

/// A read under way, or its result. Dropping it abandons the read; the bytes are thrown away when they come.
pub struct PendingRead(State);

enum State {
    Ready(Result<Bytes>),
    Waiting(mpsc::Receiver<Result<Bytes>>),
    Mapped(Box<PendingRead>, Finish),
}

type Finish = Box<dyn FnOnce(Result<Bytes>) -> Result<Bytes> + Send>;

impl PendingRead {
    /// A read that has ended already.
    pub fn ready(result: Result<Bytes>) -> Self {
        PendingRead(State::Ready(result))
    }

    /// A read whose result will be sent through `receiver`. The sender must not be dropped without sending.
    pub fn waiting(receiver: mpsc::Receiver<Result<Bytes>>) -> Self {
        PendingRead(State::Waiting(receiver))
    }

    /// This read with `finish` run on its result, by the thread that waits and when it does; never if nobody waits.
    pub fn map(self, finish: impl FnOnce(Result<Bytes>) -> Result<Bytes> + Send + 'static) -> Self {
        PendingRead(State::Mapped(Box::new(self), Box::new(finish)))
    }

    /// Blocks until the read has ended. Bytes are fewer than asked for only at the end of the file.
    pub fn wait(self) -> Result<Bytes> {
        match self.0 {
            State::Ready(result) => result,
            State::Waiting(receiver) => receiver.recv().unwrap_or_else(|_| {
                Err(crate::Error::new(
                    crate::ErrorKind::Panicked,
                    "read",
                    "",
                    "the task that read ended without a result",
                ))
            }),
            State::Mapped(read, finish) => finish(read.wait()),
        }
    }
}

impl fmt::Debug for PendingRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::Ready(_) => "PendingRead(ready)",
            State::Waiting(_) | State::Mapped(..) => "PendingRead(waiting)",
        })
    }
}
