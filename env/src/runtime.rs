//! [`IoRuntime`]: the threads on which every remote request runs.
//!
//! RocksDB's threads and user threads, tokio workers among them, submit a future and wait for it on a plain channel;
//! they never enter or block on a runtime, so calling the engine from inside another tokio runtime neither deadlocks
//! nor panics. Calling [`IoRuntime::wait`] on one of the I/O threads themselves would deadlock; nothing in this
//! workspace does, and it is refused with an error.

use std::{
    cell::Cell,
    future::Future,
    sync::{Arc, mpsc},
};

use crate::{Error, ErrorKind, Result};

thread_local! {
    static IS_IO_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// A shared handle to the I/O threads. The threads end, without waiting for requests, when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct IoRuntime(Arc<Owned>);

#[derive(Debug)]
struct Owned(Option<tokio::runtime::Runtime>);

impl IoRuntime {
    /// Starts `threads` I/O threads (at least one). They wait for the network, so two are enough for hundreds of
    /// requests at once.
    pub fn new(threads: usize) -> Result<Self> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("lazurite-io")
            .on_thread_start(|| IS_IO_THREAD.set(true))
            .enable_all()
            .build()
            .map(|runtime| IoRuntime(Arc::new(Owned(Some(runtime)))))
            .map_err(|e| Error::from_io("start", "I/O threads", e))
    }

    /// Runs `future` on the I/O threads and blocks the calling thread until it has ended.
    pub fn wait<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        if IS_IO_THREAD.get() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "wait",
                "I/O thread",
                "a blocking call was made on a thread that must not block",
            ));
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        self.spawn(async move {
            // The receiver is alive: the calling thread is blocked on it.
            let _ = sender.send(future.await);
        });
        receiver.recv().unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Panicked,
                "wait",
                "I/O task",
                "the task panicked or the runtime was stopped",
            ))
        })
    }

    /// Runs `future` on the I/O threads without waiting for it.
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.handle().spawn(future)
    }

    /// The tokio handle of the I/O threads.
    pub fn handle(&self) -> &tokio::runtime::Handle {
        self.0
            .0
            .as_ref()
            .expect("the runtime is taken only by Drop")
            .handle()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Never blocks, so that the last handle may be dropped inside another runtime.
            runtime.shutdown_background();
        }
    }
}
