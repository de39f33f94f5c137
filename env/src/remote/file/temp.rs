//! An object while it is being written: a file that nobody sees, until it is given its name.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Error, ErrorKind, Result, WritableFile};

use super::{FileStore, Inner, TEMP_DIR};
use crate::remote::{Key, ObjectWriter, full_path};

/// An unfinished file. Dropping it removes it.
pub(super) struct Temp {
    inner: Arc<Inner>,
    path: PathBuf,
    file: Box<dyn WritableFile>,
}

impl Temp {
    pub(super) fn create(inner: &Arc<Inner>) -> Result<Self> {
        let dir = inner.root.join(TEMP_DIR);
        let number = inner.temp_next.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{:016x}-{number}", inner.temp_token));
        let file = inner.in_dir(&dir, || inner.env.create(&path))?;
        Ok(Temp {
            inner: inner.clone(),
            path,
            file,
        })
    }

    pub(super) fn write_whole(inner: &Arc<Inner>, bytes: &[u8]) -> Result<Self> {
        let mut temp = Temp::create(inner)?;
        temp.file.append(bytes)?;
        Ok(temp)
    }

    /// Gives the file its name. Durable on return.
    pub(super) fn publish(mut self, target: &Path, exclusive: bool) -> Result<()> {
        self.file.sync()?;
        self.file.close()?;
        let env = &self.inner.env;
        let dir = target.parent().unwrap_or(&self.inner.root);
        self.inner.in_dir(dir, || {
            if exclusive {
                env.link(&self.path, target)
            } else {
                env.rename(&self.path, target)
            }
        })?;
        env.sync_dir(dir)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove; after a link, one of two names.
        let _ = self.inner.env.delete(&self.path);
    }
}

pub(super) struct FileWriter {
    store: FileStore,
    key: Key,
    /// `None` once a write failed: the file's end is not known then.
    temp: Option<Temp>,
}

impl FileWriter {
    pub(super) fn new(store: FileStore, key: Key, temp: Temp) -> Self {
        FileWriter {
            store,
            key,
            temp: Some(temp),
        }
    }

    fn take(&mut self, operation: &'static str) -> Result<Temp> {
        self.temp.take().ok_or_else(|| {
            Error::new(
                ErrorKind::Io,
                operation,
                full_path(&self.store.0.uri, &self.key),
                "an earlier write failed; begin the object again",
            )
        })
    }
}

#[async_trait]
impl ObjectWriter for FileWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let mut temp = self.take("write")?;
        let written = self
            .store
            .blocking("write", Some(&self.key), move |_| {
                temp.file.append(&bytes)?;
                Ok(temp)
            })
            .await?;
        self.temp = Some(written);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        let temp = self.take("finish")?;
        let target = self.store.0.path(&self.key);
        self.store
            .blocking("finish", Some(&self.key), move |_| {
                temp.publish(&target, false)
            })
            .await
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        let temp = self.temp.take();
        self.store
            .blocking("abort", Some(&self.key), move |_| {
                drop(temp);
                Ok(())
            })
            .await
    }
}
