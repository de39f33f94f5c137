//! An object that goes in parts.

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Error, ErrorKind, IoRuntime, Result};

use crate::remote::{ObjectWriter, error::from_opendal, spawned};

pub(super) struct Upload {
    /// `None` once a write failed.
    pub(super) writer: Option<opendal::Writer>,
    pub(super) path: String,
    pub(super) runtime: IoRuntime,
}

impl Upload {
    /// Hands the writer to `work` on the store's runtime.
    async fn with_writer<T, F>(
        &mut self,
        operation: &'static str,
        work: impl FnOnce(opendal::Writer) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = opendal::Result<T>> + Send + 'static,
    {
        let path = self.path.clone();
        let Some(writer) = self.writer.take() else {
            let message = "an earlier write failed; begin the object again";
            return Err(Error::new(ErrorKind::Io, operation, path, message));
        };
        let work = work(writer);
        let work = {
            let path = path.clone();
            async move { work.await.map_err(|e| from_opendal(operation, path, &e)) }
        };
        spawned(&self.runtime, operation, path, work).await
    }
}

#[async_trait]
impl ObjectWriter for Upload {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let writer = self.with_writer("write", |mut writer| async move {
            match writer.write(bytes).await {
                Ok(()) => Ok(writer),
                Err(e) => {
                    // Parts that were sent cost space; the first error is the one to tell.
                    let _ = writer.abort().await;
                    Err(e)
                }
            }
        });
        self.writer = Some(writer.await?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        let finished = self.with_writer("finish", |mut writer| async move {
            match writer.close().await {
                Ok(_) => Ok(()),
                Err(e) => {
                    let _ = writer.abort().await;
                    Err(e)
                }
            }
        });
        finished.await
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        if self.writer.is_none() {
            return Ok(()); // done by the write that failed
        }
        let aborted = self.with_writer("abort", |mut writer| async move { writer.abort().await });
        aborted.await
    }
}
