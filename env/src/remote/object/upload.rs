//! An object that goes in parts.
//!
//! A multipart upload that is neither completed nor aborted costs space that nobody sees. So its state is owned by the tasks
//! that carry it on and not by the callers that may give them up: a write whose caller has gone ends, and what fails or is
//! dropped without an end is aborted, if need be later, when the store answers again. What remains is left by a process
//! that dies, and by a store whose answer to the begin of an upload was lost: nobody knows its number then.
//!
//! A step that failed is not tried again here: each request was, by [`transport`](super::transport).

use std::{mem, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use opendal::Buffer;
use tokio::{sync::Mutex, task::JoinHandle};

use crate::{Error, ErrorKind, IoRuntime, Result};

use super::parts::PartPlan;
use crate::remote::{ObjectWriter, error::from_opendal, join_error};

/// First and last pause between attempts to abort an upload that failed: about half an hour together.
const CLEAN_UP_PAUSE_MIN: Duration = Duration::from_secs(1);
const CLEAN_UP_PAUSE_MAX: Duration = Duration::from_secs(1024);

pub(super) struct Upload {
    sending: Arc<Mutex<Sending>>,
    path: String,
    runtime: IoRuntime,
    /// Finished or aborted.
    ended: bool,
}

struct Sending {
    /// `None` once the upload has ended, by a failure too.
    writer: Option<opendal::Writer>,
    path: String,
    plan: PartPlan,
    /// The next part's number, and what it holds so far.
    part: u32,
    gathered: Vec<Bytes>,
    gathered_len: u64,
}

impl Upload {
    /// Begins; no request is made before the second part is full.
    pub(super) fn new(
        writer: opendal::Writer,
        plan: PartPlan,
        path: String,
        runtime: IoRuntime,
    ) -> Self {
        Upload {
            sending: Arc::new(Mutex::new(Sending {
                writer: Some(writer),
                path: path.clone(),
                plan,
                part: 0,
                gathered: Vec::new(),
                gathered_len: 0,
            })),
            path,
            runtime,
            ended: false,
        }
    }

    /// Takes a step on the store's runtime, to its end even where the caller goes away.
    fn start(&self, step: Step) -> JoinHandle<Result<(), Failure>> {
        let sending = self.sending.clone();
        self.runtime
            .spawn(async move { sending.lock().await.take(step).await })
    }

    async fn run(&self, operation: &'static str, step: Step) -> Result<()> {
        match self.start(step).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => Err(failure.named(operation, self.path.clone())),
            Err(e) => Err(join_error(operation, self.path.clone(), &e)),
        }
    }

    /// Sends a whole object, in an operation of that name.
    pub(super) async fn send(mut self, operation: &'static str, bytes: Bytes) -> Result<()> {
        self.run(operation, Step::Write(bytes)).await?;
        self.run(operation, Step::Finish).await?;
        self.ended = true;
        Ok(())
    }
}

enum Step {
    Write(Bytes),
    Finish,
    Abort,
}

enum Failure {
    /// An earlier step failed, and its error was told.
    Ended,
    TooLong(u64),
    Store(opendal::Error),
}

impl Failure {
    fn named(self, operation: &'static str, path: String) -> Error {
        match self {
            Failure::Ended => {
                let message = "an earlier write failed; begin the object again";
                Error::new(ErrorKind::Io, operation, path, message)
            }
            Failure::TooLong(max) => {
                let message = format!(
                    "the object is longer than the {max} bytes that 10000 parts hold; raise upload_part_bytes"
                );
                Error::new(ErrorKind::InvalidInput, operation, path, message)
            }
            Failure::Store(e) => from_opendal(operation, path, &e),
        }
    }
}

impl From<opendal::Error> for Failure {
    fn from(error: opendal::Error) -> Self {
        Failure::Store(error)
    }
}

impl Sending {
    async fn take(&mut self, step: Step) -> Result<(), Failure> {
        let Some(mut writer) = self.writer.take() else {
            return match step {
                Step::Abort => Ok(()), // done by the step that failed
                _ => Err(Failure::Ended),
            };
        };
        let taken = match step {
            Step::Write(bytes) => self.write(&mut writer, bytes).await,
            Step::Finish => self.finish(&mut writer).await,
            Step::Abort => {
                return match writer.abort().await {
                    Ok(()) => Ok(()),
                    Err(e) => {
                        tokio::spawn(clean_up(writer, self.path.clone()));
                        Err(e.into())
                    }
                };
            }
        };
        match &taken {
            Ok(Goes::On) => self.writer = Some(writer),
            Ok(Goes::Ended) => {}
            // Parts that were sent cost space, but nobody waits for their removal.
            Err(_) => drop(tokio::spawn(clean_up(writer, self.path.clone()))),
        }
        taken.map(|_| ())
    }

    async fn write(
        &mut self,
        writer: &mut opendal::Writer,
        mut bytes: Bytes,
    ) -> Result<Goes, Failure> {
        while !bytes.is_empty() {
            let Some(part_bytes) = self.plan.part_bytes(self.part) else {
                return Err(Failure::TooLong(self.plan.object_bytes_max()));
            };
            let room = part_bytes - self.gathered_len;
            let piece = bytes.split_to(room.min(bytes.len() as u64) as usize);
            self.gathered_len += piece.len() as u64;
            self.gathered.push(piece);
            if self.gathered_len == part_bytes {
                self.send_part(writer).await?;
            }
        }
        Ok(Goes::On)
    }

    async fn send_part(&mut self, writer: &mut opendal::Writer) -> opendal::Result<()> {
        self.part += 1;
        self.gathered_len = 0;
        writer
            .write(Buffer::from(mem::take(&mut self.gathered)))
            .await
    }

    async fn finish(&mut self, writer: &mut opendal::Writer) -> Result<Goes, Failure> {
        if self.gathered_len > 0 {
            self.send_part(writer).await?;
        }
        writer.close().await?;
        Ok(Goes::Ended)
    }
}

/// Aborts an upload that failed, as soon as the store answers again.
async fn clean_up(mut writer: opendal::Writer, path: String) {
    let mut pause = CLEAN_UP_PAUSE_MIN;
    let error = loop {
        match writer.abort().await {
            Ok(()) => return,
            // It was completed or aborted before.
            Err(e) if e.kind() == opendal::ErrorKind::NotFound => return,
            Err(e) if e.kind() == opendal::ErrorKind::PermissionDenied => break e,
            Err(e) if pause > CLEAN_UP_PAUSE_MAX => break e,
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    };
    let error = from_opendal("abort", path, &error);
    tracing::warn!(%error, "parts of an unfinished upload stay in the store, for its own clean-up to remove");
}

/// What a step leaves behind.
enum Goes {
    On,
    Ended,
}

#[async_trait]
impl ObjectWriter for Upload {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.run("write", Step::Write(bytes)).await
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        self.run("finish", Step::Finish).await?;
        self.ended = true;
        Ok(())
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        // Not again when this is dropped.
        self.ended = true;
        self.run("abort", Step::Abort).await
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.ended {
            // Not waited for; where it fails, the bucket's own rule for incomplete uploads is what is left.
            drop(self.start(Step::Abort));
        }
    }
}
