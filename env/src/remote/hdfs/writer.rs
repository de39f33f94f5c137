//! An object while it is being written: a file that nobody sees, until it is given its name.

use async_trait::async_trait;
use bytes::Bytes;
use hdfs_native::file::FileWriter;

use crate::{Error, ErrorKind, Result};

use super::HdfsStore;
use crate::remote::ObjectWriter;

pub(super) struct HdfsWriter {
    pub(super) store: HdfsStore,
    pub(super) path: String,
    pub(super) target: String,
    pub(super) temp: String,
    /// `None` once the file was published, given up, or left with an unknown end by a failed write.
    pub(super) file: Option<FileWriter>,
}

impl HdfsWriter {
    fn take(&mut self, operation: &'static str) -> Result<FileWriter> {
        self.file.take().ok_or_else(|| {
            Error::new(
                ErrorKind::Io,
                operation,
                &self.path,
                "an earlier write failed; begin the object again",
            )
        })
    }
}

#[async_trait]
impl ObjectWriter for HdfsWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let mut file = self.take("write")?;
        let this = self.store.0.clone();
        let work = async move {
            this.append(&mut file, bytes).await?;
            Ok(file)
        };
        let file = self.store.spawned("write", self.path.clone(), work).await?;
        self.file = Some(file);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        let file = self.take("finish")?;
        let this = self.store.0.clone();
        let (temp, target) = (self.temp.clone(), self.target.clone());
        let work = async move { this.publish(file, &temp, &target, true).await };
        self.store
            .spawned("finish", self.path.clone(), work)
            .await?;
        self.temp.clear();
        Ok(())
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        drop(self.file.take());
        let (this, temp) = (self.store.0.clone(), std::mem::take(&mut self.temp));
        let work = async move {
            this.step(this.client.delete(&temp, false)).await?;
            Ok(())
        };
        self.store.spawned("abort", self.path.clone(), work).await
    }
}

impl Drop for HdfsWriter {
    fn drop(&mut self) {
        // Empty after a finish or an abort.
        if !self.temp.is_empty() {
            let (this, temp) = (self.store.0.clone(), std::mem::take(&mut self.temp));
            let runtime = this.runtime.clone();
            runtime.spawn(async move { this.remove(&temp).await });
        }
    }
}
