//! Threads that wait for the network so that their caller waits only once.
//!
//! Threads are started when there is more work than idle threads, up to a bound, and then wait for work until the pool is
//! dropped. No job holds the pool, and dropping it joins nobody: a thread ends when it finds the pool gone and the queue
//! empty.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

pub(super) struct Pool {
    shared: Arc<Shared>,
    name: &'static str,
    max_threads: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Pool {
    /// A pool of at most `max_threads` (at least 1) threads of that name. Starts none.
    pub(super) fn new(name: &'static str, max_threads: usize) -> Pool {
        Pool {
            shared: Arc::default(),
            name,
            max_threads: max_threads.max(1),
        }
    }

    /// `f` of every item, in the items' order, each on a thread of the pool; `None` where it panicked. Waits for all.
    pub(super) fn map<T, R>(
        &self,
        items: Vec<T>,
        f: impl Fn(T) -> R + Send + Sync + 'static,
    ) -> Vec<Option<R>>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        let f = Arc::new(f);
        let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
        let (sender, receiver) = mpsc::channel();
        for (index, item) in items.into_iter().enumerate() {
            let (f, sender) = (f.clone(), sender.clone());
            self.submit(Box::new(move || {
                let result = f(item);
                drop(f); // before the caller hears of it: what `f` holds is then the caller's alone
                let _ = sender.send((index, result)); // the receiver lives until all senders are gone
            }));
        }
        drop(sender);
        for (index, result) in receiver {
            results[index] = Some(result);
        }
        results
    }

    /// `f` of every item, in the items' order, each on a thread of the pool, to be awaited anywhere; an error where it panicked.
    pub(super) fn spawn<T, R>(
        &self,
        items: impl Iterator<Item = T>,
        f: impl Fn(T) -> R + Send + Sync + 'static,
    ) -> Vec<oneshot::Receiver<R>>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        let f = Arc::new(f);
        items
            .map(|item| {
                let (f, (sender, receiver)) = (f.clone(), oneshot::channel());
                self.submit(Box::new(move || {
                    let result = f(item);
                    drop(f); // as in `map`
                    let _ = sender.send(result); // nobody may wait any more
                }));
                receiver
            })
            .collect()
    }

    /// Has a thread of the pool run `job` at some time; never where the pool is dropped before.
    pub(super) fn submit(&self, job: Job) {
        let mut state = self.shared.lock();
        state.queue.push_back(job);
        let start = state.idle < state.queue.len() && state.threads < self.max_threads;
        if start {
            state.threads += 1;
        }
        drop(state);
        self.shared.work.notify_one();
        if start {
            self.start();
        }
    }

    fn start(&self) {
        let shared = self.shared.clone();
        if thread::Builder::new()
            .name(self.name.to_string())
            .spawn(move || shared.run())
            .is_ok()
        {
            return;
        }
        // The system is out of threads. If there is none at all, this one does the work.
        let mut state = self.shared.lock();
        state.threads -= 1;
        while state.threads == 0
            && let Some(job) = state.queue.pop_front()
        {
            drop(state);
            let _ = catch_unwind(AssertUnwindSafe(job)); // the caller sees that there is no result
            state = self.shared.lock();
        }
    }

    #[cfg(test)]
    fn threads(&self) -> usize {
        self.shared.lock().threads
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                let _ = catch_unwind(AssertUnwindSafe(job)); // the caller sees that there is no result
                state = self.lock();
            } else if state.closed {
                state.threads -= 1;
                return;
            } else {
                state.idle += 1;
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No job runs under the lock, so a panic leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Barrier,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn results_keep_their_order_and_a_panic_is_one_missing_result() {
        let pool = Pool::new("test", 4);
        let results = pool.map((0..100).collect(), |i: u32| {
            assert_ne!(i, 7, "the seventh");
            i * 2
        });
        for (i, result) in results.into_iter().enumerate() {
            assert_eq!(result, (i != 7).then_some(i as u32 * 2));
        }
        assert!(pool.threads() <= 4);
        assert!(pool.map(Vec::new(), |i: u32| i).is_empty());
    }

    #[test]
    fn jobs_run_at_the_same_time_up_to_the_bound() {
        let pool = Pool::new("test", 8);
        let all = Arc::new(Barrier::new(8));
        pool.map(vec![(); 8], move |()| all.wait().is_leader()); // ends only if all eight run at once
        assert_eq!(pool.threads(), 8);
        let started = Instant::now();
        pool.map(vec![(); 16], |()| thread::sleep(Duration::from_millis(20)));
        assert!(started.elapsed() >= Duration::from_millis(40));
        assert_eq!(pool.threads(), 8);
    }

    #[test]
    fn threads_end_with_the_pool() {
        let pool = Pool::new("test", 2);
        pool.map(vec![1, 2], |i| i);
        let shared = pool.shared.clone();
        drop(pool);
        let deadline = Instant::now() + Duration::from_secs(10);
        while shared.lock().threads > 0 {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
    }
}
