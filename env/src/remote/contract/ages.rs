//! When an object was put here, as a listing tells it: what a clean-up tells the old from the new by.

use std::time::{Duration, SystemTime};

use super::{Check, Listed};

/// What a store's clock may be behind this machine's, its whole seconds among it.
const SKEW: Duration = Duration::from_secs(2);

/// Longer than the steps of a store's clock: whole seconds at the coarsest.
const STEP: Duration = Duration::from_millis(1100);

/// A store whose clock shows less than this (2001) has one that only counts: `file://` over a disk in memory.
const LOGICAL: Duration = Duration::from_secs(1_000_000_000);

impl Check<'_> {
    /// Whatever makes an object makes it new.
    pub(super) async fn ages(&self) {
        let began = SystemTime::now();
        for name in ["put", "kept", "written", "created", "original"] {
            self.put(&format!("ages/{name}"), "0123456789").await;
        }
        self.copy("ages/original", "ages/copied").await;
        let key = |name: &str| self.key(&format!("ages/{name}"));
        self.store.delete(&key("created")).await.unwrap();
        let before: Vec<_> = self.times().await;
        tokio::time::sleep(STEP).await;

        self.put("ages/put", "0123456789").await;
        self.copy("ages/original", "ages/copied").await;
        self.copy("ages/original", "ages/copied anew").await;
        let mut writer = self.store.writer(&key("written")).await.unwrap();
        writer.write("0123456789".into()).await.unwrap();
        writer.finish().await.unwrap();
        let created = key("created");
        let put = self.store.put_if_absent(&created, "new".into());
        put.await.unwrap();
        let after = self.times().await;

        let time = |times: &[(String, SystemTime)], name: &str| {
            let found = times.iter().find(|(of, _)| of == name);
            found.unwrap_or_else(|| panic!("{name} is not listed")).1
        };
        let old = before.iter().map(|(_, time)| *time).max().unwrap();
        for name in ["put", "copied", "copied anew", "written", "created"] {
            let new = time(&after, name);
            assert!(new > old, "{name} is as new as what was there before");
        }
        assert_eq!(time(&after, "kept"), time(&before, "kept"));
        for (name, time) in before.iter().chain(&after) {
            let is_logical = *time < SystemTime::UNIX_EPOCH + LOGICAL;
            let is_old = began.duration_since(*time).is_ok_and(|of| of > SKEW);
            assert!(is_logical || !is_old, "{name} is told as older than it is");
        }
    }

    async fn times(&self) -> Vec<(String, SystemTime)> {
        let listed = self.store.list(Some(&self.key("ages"))).await.unwrap();
        let times = listed.into_iter().map(|entry| match entry {
            Listed::Object { name, modified, .. } => (name, modified.expect("no time is told")),
            Listed::Prefix { name } => panic!("{name} is a prefix"),
        });
        times.collect()
    }
}
