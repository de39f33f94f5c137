//! [`DelayStore`]: puts one slow link between this process and a store, for benches and demos.
//!
//! All requests share the link, as they do a real one. Each waits the latency once; latencies of different requests
//! overlap. Their bytes pass one after another, upstream and downstream apart, in slices that are dealt out in turn, so
//! that a small read waits for some slices of a large download and not for its end.
//!
//! The link is a clock: the instant at which it will next be free. A slice moves it on by the time that its bytes take.
//! While any transfer is under way the clock never waits for a sleeper that woke late, so that timers that are exact to
//! a millisecond do not cost bandwidth.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use crate::{Error, ErrorKind, Result};

use super::{Capabilities, Copied, Key, Listed, ObjectWriter, RemoteStore};

/// Bytes that pass before the next transfer has its turn.
const SLICE_BYTES: u64 = 64 << 10;

/// How far a transfer may run ahead of the clock without sleeping: what a timer is exact to.
const AHEAD_MAX: Duration = Duration::from_millis(1);

/// How far the link's clock may lag behind real time while transfers are under way, so that a process that was stopped
/// does not make up for it in one burst.
const BEHIND_MAX: Duration = Duration::from_millis(20);

/// A link's properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkOptions {
    /// What each request waits, there and back together, beyond the time of its bytes.
    pub latency: Duration,
    /// What passes in a second, upstream and downstream each, of all requests together. 0: no limit.
    pub bytes_per_second: u64,
}

impl LinkOptions {
    /// `InvalidInput` for a latency above one minute, or a bandwidth at which one slice of 64 KiB would take longer.
    pub fn validate(&self) -> Result<()> {
        let slow = (1..1_100).contains(&self.bytes_per_second);
        if slow || self.latency > Duration::from_secs(60) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "check options",
                "link",
                "the latency must be at most 60 s, the bandwidth 0 (no limit) or at least 1100 bytes/s",
            ));
        }
        Ok(())
    }
}

/// `inner` behind a slow link. The link's delays are exact to about 1 ms; they come on top of `inner`'s own time.
#[derive(Debug)]
pub struct DelayStore {
    inner: Arc<dyn RemoteStore>,
    link: Arc<Link>,
}

#[derive(Debug)]
struct Link {
    latency: Duration,
    up: Lane,
    down: Lane,
}

impl DelayStore {
    /// Wraps `inner`. `InvalidInput` where [`LinkOptions::validate`] says so.
    pub fn new(inner: Arc<dyn RemoteStore>, options: LinkOptions) -> Result<Self> {
        options.validate()?;
        Ok(DelayStore {
            inner,
            link: Arc::new(Link {
                latency: options.latency,
                up: Lane::new(options.bytes_per_second),
                down: Lane::new(options.bytes_per_second),
            }),
        })
    }

    async fn wait(&self) {
        self.link.wait().await;
    }
}

impl Link {
    async fn wait(&self) {
        if !self.latency.is_zero() {
            sleep_until(Instant::now() + self.latency).await;
        }
    }
}

/// One direction of the link.
#[derive(Debug)]
struct Lane {
    bytes_per_second: u64,
    clock: Mutex<Clock>,
}

#[derive(Debug)]
struct Clock {
    /// When the bytes that were let in so far will have passed.
    free_at: Instant,
    /// Transfers under way.
    active: usize,
}

impl Lane {
    fn new(bytes_per_second: u64) -> Self {
        Lane {
            bytes_per_second,
            clock: Mutex::new(Clock {
                free_at: Instant::now(),
                active: 0,
            }),
        }
    }

    /// Ends when `bytes` have passed.
    async fn pass(&self, bytes: u64) {
        if self.bytes_per_second == 0 || bytes == 0 {
            return;
        }
        let _turn = Turn::begin(self);
        let mut left = bytes;
        let mut end;
        loop {
            let slice = left.min(SLICE_BYTES);
            end = self.let_in(slice);
            left -= slice;
            if left == 0 {
                break;
            }
            if end > Instant::now() + AHEAD_MAX {
                sleep_until(end).await;
            }
        }
        sleep_until(end).await;
    }

    /// Gives the link to `bytes` and says when they will have passed.
    fn let_in(&self, bytes: u64) -> Instant {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let mut clock = self.clock();
        if let Some(earliest) = Instant::now().checked_sub(BEHIND_MAX) {
            clock.free_at = clock.free_at.max(earliest);
        }
        clock.free_at += Duration::from_nanos(nanos as u64);
        clock.free_at
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        // Two numbers, each set at once.
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transfer under way.
struct Turn<'a>(&'a Lane);

impl<'a> Turn<'a> {
    fn begin(lane: &'a Lane) -> Self {
        let mut clock = lane.clock();
        if clock.active == 0 {
            // The link was idle until now.
            clock.free_at = clock.free_at.max(Instant::now());
        }
        clock.active += 1;
        Turn(lane)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.clock().active -= 1;
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl RemoteStore for DelayStore {
    fn uri(&self) -> &str {
        self.inner.uri()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Bytes> {
        self.wait().await;
        let bytes = self.inner.get(key).await?;
        self.link.down.pass(bytes.len() as u64).await;
        Ok(bytes)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return self.inner.get_range(key, range).await;
        }
        self.wait().await;
        let bytes = self.inner.get_range(key, range).await?;
        self.link.down.pass(bytes.len() as u64).await;
        Ok(bytes)
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.link.up.pass(bytes.len() as u64).await;
        self.wait().await;
        self.inner.put(key, bytes).await
    }

    async fn put_if_absent(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.link.up.pass(bytes.len() as u64).await;
        self.wait().await;
        self.inner.put_if_absent(key, bytes).await
    }

    async fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(DelayWriter {
            inner: self.inner.writer(key).await?,
            link: self.link.clone(),
            begun: false,
        }))
    }

    async fn len(&self, key: &Key) -> Result<u64> {
        self.wait().await;
        self.inner.len(key).await
    }

    async fn list(&self, prefix: Option<&Key>) -> Result<Vec<Listed>> {
        self.wait().await;
        self.inner.list(prefix).await
    }

    async fn list_likely(&self, prefix: &Key, likely: &[&str]) -> Result<Vec<Listed>> {
        self.wait().await;
        self.inner.list_likely(prefix, likely).await
    }

    /// One round trip, and for what is streamed the time of its bytes, down and up at once as it is done.
    async fn copy(&self, from: &Key, to: &Key, len: u64) -> Result<Copied> {
        self.wait().await;
        let copied = self.inner.copy(from, to, len).await?;
        let (down, up) = (&self.link.down, &self.link.up);
        tokio::join!(
            down.pass(copied.streamed_bytes),
            up.pass(copied.streamed_bytes)
        );
        Ok(copied)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.wait().await;
        self.inner.delete(key).await
    }
}

/// Waits the latency at its first write and at its end; between them parts follow one another without a pause, as
/// uploads with several parts on their way do.
struct DelayWriter {
    inner: Box<dyn ObjectWriter>,
    link: Arc<Link>,
    begun: bool,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ObjectWriter for DelayWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if !self.begun {
            self.begun = true;
            self.link.wait().await;
        }
        self.link.up.pass(bytes.len() as u64).await;
        self.inner.write(bytes).await
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        self.link.wait().await;
        self.inner.finish().await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.link.wait().await;
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;
    use crate::remote::{memory::MemoryStore, tests::Streaming};

    const GIGABIT: u64 = 125_000_000;

    async fn store(latency_ms: u64, bytes_per_second: u64) -> (DelayStore, Key) {
        let inner = Arc::new(MemoryStore::new());
        let key = Key::new("a").unwrap();
        inner.put(&key, vec![0; 16 << 20].into()).await.unwrap();
        let options = LinkOptions {
            latency: Duration::from_millis(latency_ms),
            bytes_per_second,
        };
        (DelayStore::new(inner, options).unwrap(), key)
    }

    /// Lower bounds are the model's and strict. Upper ones hold for one of many tries: a busy machine makes a try longer, and
    /// a fault makes all of them too long.
    async fn check(what: &str, least_ms: f64, most_ms: f64, work: impl AsyncFn()) {
        let mut shortest = f64::INFINITY;
        for _ in 0..30 {
            let start = Instant::now();
            work().await;
            let ms = start.elapsed().as_secs_f64() * 1000.0;
            assert!(ms >= least_ms, "{what}: {ms:.1} ms");
            shortest = shortest.min(ms);
            if shortest < most_ms {
                println!("{what}: {ms:.1} ms");
                return;
            }
        }
        panic!("{what}: {shortest:.1} ms at best");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn latencies_overlap() {
        let (store, key) = store(20, 0).await;
        check("50 requests at once", 20.0, 60.0, async || {
            join_all((0..50).map(|_| store.len(&key))).await;
        })
        .await;
        check("5 requests in turn", 100.0, 200.0, async || {
            for _ in 0..5 {
                store.get_range(&key, 0..10).await.unwrap();
            }
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn all_transfers_share_the_bandwidth() {
        let (store, key) = store(0, GIGABIT).await;
        let whole_ms = (16 << 20) as f64 / GIGABIT as f64 * 1000.0;
        let (least, most) = (whole_ms - 1.0, whole_ms * 1.4);
        check("one of 16 MiB", least, most, async || {
            store.get(&key).await.unwrap();
        })
        .await;
        check("8 of 2 MiB at once", least, most, async || {
            join_all((0..8).map(|i| store.get_range(&key, i << 21..(i + 1) << 21))).await;
        })
        .await;
        let bytes = Bytes::from(vec![0; 16 << 20]);
        check("down and up at once", least, most, async || {
            let (down, up) = tokio::join!(store.get(&key), store.put(&key, bytes.clone()));
            down.and(up.map(|()| Bytes::new())).unwrap();
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn only_a_streamed_copy_costs_bandwidth() {
        let (inside, key) = store(0, 0).await;
        let to = Key::new("b").unwrap();
        let len = 16 << 20;
        let link = LinkOptions {
            latency: Duration::from_millis(20),
            bytes_per_second: GIGABIT,
        };
        let near = DelayStore::new(inside.inner.clone(), link).unwrap();
        check("16 MiB in the store", 20.0, 40.0, async || {
            near.copy(&key, &to, len).await.unwrap();
        })
        .await;
        let far = DelayStore::new(Arc::new(Streaming(inside.inner)), link).unwrap();
        let whole_ms = len as f64 / GIGABIT as f64 * 1000.0;
        check(
            "16 MiB streamed",
            whole_ms + 19.0,
            whole_ms * 1.6,
            async || {
                far.copy(&key, &to, len).await.unwrap();
            },
        )
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_small_read_passes_a_large_one() {
        let (store, key) = store(0, GIGABIT).await;
        for attempt in 1.. {
            let small = async {
                tokio::time::sleep(Duration::from_millis(30)).await;
                let start = Instant::now();
                store.get_range(&key, 0..4096).await.unwrap();
                start.elapsed()
            };
            let (_, took) = tokio::join!(store.get(&key), small);
            if took < Duration::from_millis(30) {
                break;
            }
            assert!(attempt < 30, "4 KiB beside 16 MiB: {took:?}");
        }
    }
}
