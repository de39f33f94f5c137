//! The baselines: whole files are cached after some accesses, the least recently used one goes. Behind the interface of a
//! store, so that the same engine reads through them.
//!
//! A file that is not cached counts its accesses, and is fetched whole at the sixth; meanwhile and until then it is read
//! remotely. Four files are fetched at once; one that is on its way is not put out, and none is begun that would have to
//! put out such a one. What is cached is kept in memory, which is quicker than the disk that it stands for. With the [guards](Guards) of Flink's ForSt backend, as its source has them, fewer files are fetched.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use lazurite_env::{
    IoRuntime, Result,
    remote::{Capabilities, Copied, Key, Listed, ObjectWriter, RemoteStore},
};

/// Files fetched at once.
const LOADERS: usize = 4;

/// When a file is fetched, and when never again.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// What cached files may take, in bytes.
    pub budget_bytes: u64,
    /// Accesses until a file is fetched.
    pub accesses: u32,
    /// Without, nothing else matters.
    pub guards: Option<Guards>,
}

/// What keeps ForSt from fetching too much: accesses count anew where the file is in the colder half of those that are not
/// cached, and there is a limit. The files of a restore begin with all but two of their accesses.
#[derive(Debug, Clone, Copy)]
pub struct Guards {
    /// How often a file may be put out before it is never fetched again.
    pub evictions: u32,
}

/// A store whose table files are cached as wholes.
#[derive(Debug, Clone)]
pub struct WholeFileStore {
    inner: Arc<dyn RemoteStore>,
    runtime: IoRuntime,
    policy: Policy,
    state: Arc<Mutex<State>>,
}

/// What the cache did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub hits: u64,
    pub misses: u64,
    pub loads: u64,
    pub evictions: u64,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<Key, File>,
    /// Orders accesses: the higher, the later.
    clock: u64,
    /// Orders accesses of files that are not cached, as the policy counts them.
    cold_epoch: u64,
    used: u64,
    waiting: VecDeque<Key>,
    loading: usize,
    counts: Counts,
}

#[derive(Debug)]
struct File {
    len: u64,
    /// In the list of those that are cached, or about to be.
    hot: bool,
    bytes: Option<Bytes>,
    used_at: u64,
    epoch: u64,
    accesses: u32,
    evictions: u32,
}

impl WholeFileStore {
    /// Caches those of `files` (key, length in bytes) that are asked for often.
    pub fn new(
        inner: Arc<dyn RemoteStore>,
        runtime: &IoRuntime,
        policy: Policy,
        files: impl IntoIterator<Item = (Key, u64)>,
    ) -> Self {
        let mut state = State::default();
        for (key, len) in files {
            state.cold_epoch += 1;
            let file = File {
                len,
                hot: false,
                bytes: None,
                used_at: 0,
                epoch: state.cold_epoch,
                // Those of a restore are to come soon.
                accesses: match policy.guards {
                    Some(_) => policy.accesses.saturating_sub(2),
                    None => 0,
                },
                evictions: 0,
            };
            state.files.insert(key, file);
        }
        WholeFileStore {
            inner,
            runtime: runtime.clone(),
            policy,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// What it did so far.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to fetch what waits.
    fn load(&self) {
        loop {
            let key = {
                let mut state = self.state();
                if state.loading == LOADERS {
                    return;
                }
                let Some(key) = state.waiting.pop_front() else {
                    return;
                };
                state.loading += 1;
                key
            };
            let store = self.clone();
            self.runtime.spawn(async move {
                let fetched = store.inner.get(&key).await;
                {
                    let mut state = store.state();
                    state.loading -= 1;
                    state.counts.loads += 1;
                    match (state.files.get_mut(&key), fetched) {
                        (Some(file), Ok(bytes)) => file.bytes = Some(bytes),
                        (Some(file), Err(_)) => {
                            file.hot = false;
                            let len = file.len;
                            state.used -= len;
                        }
                        (None, _) => {}
                    }
                }
                store.load();
            });
        }
    }
}

impl State {
    /// Notes an access: the bytes of the file where it is cached, and whether it is to be fetched.
    fn access(&mut self, key: &Key, policy: &Policy) -> (Option<Bytes>, bool) {
        let cold = self.files.values().filter(|file| !file.hot).count() as u64;
        self.clock += 1;
        let (clock, epoch) = (self.clock, &mut self.cold_epoch);
        let Some(file) = self.files.get_mut(key) else {
            return (None, false);
        };
        file.used_at = clock;
        if file.hot {
            return (file.bytes.clone(), false);
        }
        if let Some(guards) = policy.guards {
            if *epoch - file.epoch >= cold / 2 {
                file.accesses = 0;
                *epoch += 1;
            }
            file.epoch = *epoch;
            if file.evictions >= guards.evictions {
                return (None, false);
            }
        }
        if file.len > policy.budget_bytes {
            return (None, false);
        }
        file.accesses += 1;
        if file.accesses < policy.accesses {
            return (None, false);
        }
        let len = file.len;
        if !self.make_room(policy.budget_bytes - len) {
            return (None, false);
        }
        self.used += len;
        if let Some(file) = self.files.get_mut(key) {
            file.hot = true;
            file.accesses = 0;
        }
        self.waiting.push_back(key.clone());
        (None, true)
    }

    /// Puts the least recently used files out until `most` bytes are used; `false`, and none, where one of these is on its
    /// way. Else a file that is read all the time would have to go for others as soon as it is the only one that has come.
    fn make_room(&mut self, most: u64) -> bool {
        let mut kept: Vec<_> = self.files.values_mut().filter(|file| file.hot).collect();
        kept.sort_unstable_by_key(|file| file.used_at);
        let (mut left, mut gone) = (self.used, 0);
        while left > most {
            match kept.get(gone) {
                Some(oldest) if oldest.bytes.is_some() => left -= oldest.len,
                _ => return false,
            }
            gone += 1;
        }
        for file in &mut kept[..gone] {
            file.hot = false;
            file.bytes = None;
            file.evictions += 1;
        }
        self.used = left;
        self.counts.evictions += gone as u64;
        true
    }
}

#[async_trait]
impl RemoteStore for WholeFileStore {
    fn uri(&self) -> &str {
        self.inner.uri()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Bytes> {
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let (cached, fetch) = {
            let mut state = self.state();
            let (cached, fetch) = state.access(key, &self.policy);
            if cached.is_some() {
                state.counts.hits += 1;
            } else {
                state.counts.misses += 1;
            }
            (cached, fetch)
        };
        if fetch {
            self.load();
        }
        match cached {
            Some(bytes) => Ok(bytes.slice(range.start as usize..range.end as usize)),
            None => self.inner.get_range(key, range).await,
        }
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.inner.put(key, bytes).await
    }

    async fn put_if_absent(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.inner.put_if_absent(key, bytes).await
    }

    async fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>> {
        self.inner.writer(key).await
    }

    async fn len(&self, key: &Key) -> Result<u64> {
        self.inner.len(key).await
    }

    async fn list(&self, prefix: Option<&Key>) -> Result<Vec<Listed>> {
        self.inner.list(prefix).await
    }

    async fn copy(&self, from: &Key, to: &Key, len: u64) -> Result<Copied> {
        self.inner.copy(from, to, len).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: u32) -> Key {
        Key::new(format!("f{i}")).unwrap()
    }

    fn state(files: u32) -> State {
        let runtime = IoRuntime::new(1).unwrap();
        let inner = Arc::new(lazurite_env::remote::MemoryStore::new());
        let files = (0..files).map(|i| (key(i), 100));
        let store = WholeFileStore::new(inner, &runtime, POLICY, files);
        Arc::try_unwrap(store.state).unwrap().into_inner().unwrap()
    }

    const POLICY: Policy = Policy {
        budget_bytes: 250,
        accesses: 6,
        guards: Some(Guards { evictions: 3 }),
    };

    fn promote(state: &mut State, i: u32) -> bool {
        (0..POLICY.accesses).any(|_| state.access(&key(i), &POLICY).1)
    }

    #[test]
    fn files_come_at_the_sixth_access_and_the_oldest_goes() {
        let mut state = state(10);
        // The last one that was registered is the warmest: two more accesses bring it.
        assert!(!state.access(&key(9), &POLICY).1);
        assert!(state.access(&key(9), &POLICY).1);
        // The first is in the colder half: its accesses count anew.
        let brought: Vec<_> = (0..6).map(|_| state.access(&key(0), &POLICY).1).collect();
        assert_eq!(brought, [false, false, false, false, false, true]);
        assert_eq!(state.used, 200);
        assert!(
            state.access(&key(9), &POLICY).0.is_none(),
            "not fetched yet"
        );
        assert!(!promote(&mut state, 5), "both are on their way");
        for i in [0, 9] {
            let file = state.files.get_mut(&key(i)).unwrap();
            file.bytes = Some(Bytes::from_static(b"x"));
        }
        assert!(promote(&mut state, 5));
        assert_eq!(state.used, 200);
        assert!(!state.files[&key(0)].hot, "the least recently used one");
        assert!(state.files[&key(9)].hot);
    }

    #[test]
    fn what_is_read_all_the_time_does_not_go_for_what_comes() {
        let mut state = state(10);
        assert!(promote(&mut state, 0));
        let file = state.files.get_mut(&key(0)).unwrap();
        file.bytes = Some(Bytes::from_static(b"x"));
        assert!(promote(&mut state, 9));
        assert!(state.access(&key(0), &POLICY).0.is_some());
        assert!(!promote(&mut state, 5), "the oldest is on its way");
        assert!(state.files[&key(0)].hot && state.files[&key(9)].hot);
        let file = state.files.get_mut(&key(9)).unwrap();
        file.bytes = Some(Bytes::from_static(b"x"));
        assert!(promote(&mut state, 5));
        assert!(state.files[&key(0)].hot && !state.files[&key(9)].hot);
    }

    #[test]
    fn a_file_that_was_put_out_too_often_never_comes_again() {
        let mut state = state(4);
        for round in 0..5 {
            let came = promote(&mut state, 0);
            assert_eq!(came, round < 3, "round {round}");
            if let Some(file) = state.files.get_mut(&key(0)).filter(|file| file.hot) {
                file.bytes = Some(Bytes::from_static(b"x"));
            }
            state.make_room(0);
        }
        assert_eq!(state.counts.evictions, 3);
    }
}
