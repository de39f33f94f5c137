//! The Arc of the Env is released once, by the last one that needs it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use lazurite_env::MemEnv;
use lazurite_env_rocksdb::rocksdb_env;

use crate::support::{HookEnv, PLACE, check, fill, open, options};

struct Counted(Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn counted() -> (Arc<HookEnv>, Arc<AtomicU64>) {
    let drops = Arc::new(AtomicU64::new(0));
    let guard = Counted(drops.clone());
    let env = HookEnv::new(MemEnv::new(), move |_, _| {
        let _keep = &guard;
        Ok(())
    });
    (Arc::new(env), drops)
}

#[test]
fn the_env_is_released_exactly_once() {
    let (env, drops) = counted();
    let rocks = rocksdb_env(env.clone()).unwrap();
    assert_eq!(Arc::strong_count(&env), 2);
    let second = rocks.env().clone();
    drop(rocks);
    assert_eq!(Arc::strong_count(&env), 2);
    drop(second);
    assert_eq!(Arc::strong_count(&env), 1);
    drop(env);
    assert_eq!(drops.load(SeqCst), 1);
}

#[test]
fn an_open_database_keeps_the_env() {
    let (env, drops) = counted();
    let rocks = rocksdb_env(env).unwrap();
    let options = options(&rocks);
    let db = open(&options, PLACE).unwrap();
    drop(options);
    drop(rocks);
    fill(&db, 0..5_000);
    db.flush().unwrap();
    check(&db, 0..5_000);
    assert_eq!(drops.load(SeqCst), 0);
    drop(db);
    assert_eq!(drops.load(SeqCst), 1);
}
