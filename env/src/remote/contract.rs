//! [`check_store`]: what every [`RemoteStore`] promises, as one test that any implementation can be put through.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use xxhash_rust::xxh3::xxh3_128;

use crate::{ErrorKind, Result};

use super::{CommitPrimitive, Copied, CopyKind, Key, Listed, RemoteStore};

mod ages;

/// Length of the object that is large enough to go in several parts.
const LARGE_BYTES: usize = 20 << 20;

/// Rounds of writers that race to create one object.
const RACE_ROUNDS: usize = 20;

/// Rounds of copies of different objects to one name.
const COPY_ROUNDS: usize = 8;

/// Checks the whole contract under a fresh prefix of `store`, and removes what it wrote. Takes about 45 MiB of
/// traffic, and 80 MiB more where copies are streamed.
///
/// # Panics
/// Where the store breaks the contract; that is the verdict of a test.
pub async fn check_store(store: Arc<dyn RemoteStore>) {
    let root = Key::new(format!("contract-{:016x}", rand::random::<u64>())).expect("a sound key");
    let check = Check {
        store: &*store,
        root,
    };
    check.missing_things().await;
    check.whole_objects().await;
    check.ranges().await;
    check.create_once().await;
    check.races().await;
    check.writers().await;
    check.large_object().await;
    check.copies().await;
    check.copies_that_cannot_be().await;
    check.copies_are_apart().await;
    check.copies_race().await;
    check.listing().await;
    check.ages().await;
    check.deleting().await;
    assert_ne!(store.capabilities().commit, CommitPrimitive::None);
}

struct Check<'a> {
    store: &'a dyn RemoteStore,
    root: Key,
}

impl Check<'_> {
    fn key(&self, name: &str) -> Key {
        self.root.join(name).expect("a sound key")
    }

    async fn put(&self, name: &str, bytes: impl Into<Bytes>) {
        let put = self.store.put(&self.key(name), bytes.into()).await;
        put.unwrap_or_else(|e| panic!("put {name}: {e:?}"));
    }

    async fn assert_holds(&self, name: &str, expected: &[u8]) {
        let key = self.key(name);
        let got = self.store.get(&key).await;
        let got = got.unwrap_or_else(|e| panic!("get {name}: {e:?}"));
        assert!(
            got == expected,
            "{name}: {} bytes, not those written",
            got.len()
        );
        assert_eq!(self.store.len(&key).await.unwrap(), expected.len() as u64);
    }

    /// The listing, without times.
    async fn names(&self, prefix: &Key) -> Vec<Listed> {
        let listed = self.store.list(Some(prefix)).await;
        timeless(listed.unwrap_or_else(|e| panic!("list {prefix}: {e:?}")))
    }

    async fn missing_things(&self) {
        let key = self.key("missing");
        assert_kind(self.store.get(&key).await, ErrorKind::NotFound);
        assert_kind(self.store.get_range(&key, 0..4).await, ErrorKind::NotFound);
        assert_kind(self.store.len(&key).await, ErrorKind::NotFound);
        assert_eq!(self.names(&self.root).await, []);
        assert_eq!(self.names(&key).await, []);
        self.store.delete(&key).await.expect("nothing to delete");
    }

    async fn whole_objects(&self) {
        self.put("whole", "first").await;
        self.assert_holds("whole", b"first").await;
        self.put("whole", "second, and longer").await;
        self.assert_holds("whole", b"second, and longer").await;
        self.put("whole", "3").await;
        self.assert_holds("whole", b"3").await;
        self.put("empty", "").await;
        self.assert_holds("empty", b"").await;
        self.put("a/b c/d+e=f%20~ü", "deep").await;
        self.assert_holds("a/b c/d+e=f%20~ü", b"deep").await;
        // A prefix is not an object.
        assert_kind(self.store.get(&self.key("a")).await, ErrorKind::NotFound);
        assert_kind(self.store.len(&self.key("a")).await, ErrorKind::NotFound);
    }

    async fn ranges(&self) {
        self.put("range", "0123456789").await;
        let key = self.key("range");
        for (range, expected) in [
            (0..10, "0123456789"),
            (0..1, "0"),
            (9..10, "9"),
            (3..7, "3456"),
        ] {
            let got = self.store.get_range(&key, range.clone()).await;
            assert_eq!(got.unwrap(), expected, "{range:?}");
        }
        for empty in [0..0, 5..5, 10..10, 99..99] {
            assert_eq!(self.store.get_range(&key, empty).await.unwrap(), "");
        }
        for beyond in [0..11, 9..12, 10..11, 50..60] {
            assert_kind(
                self.store.get_range(&key, beyond).await,
                ErrorKind::Corruption,
            );
        }
    }

    async fn create_once(&self) {
        let key = self.key("once");
        let create = |text: &'static str| self.store.put_if_absent(&key, text.into());
        create("mine").await.expect("the first to create it");
        assert_kind(create("yours").await, ErrorKind::AlreadyExists);
        assert_kind(create("mine").await, ErrorKind::AlreadyExists);
        self.assert_holds("once", b"mine").await;
        self.put("once", "replaced").await;
        assert_kind(create("mine").await, ErrorKind::AlreadyExists);
        self.store.delete(&key).await.unwrap();
        create("again").await.expect("creatable after a delete");
        self.assert_holds("once", b"again").await;
    }

    async fn races(&self) {
        for round in 0..RACE_ROUNDS {
            let name = format!("race/{round}");
            let key = self.key(&name);
            let texts: Vec<Bytes> = (0..4).map(|i| format!("writer {i}").into()).collect();
            let tries = texts
                .iter()
                .map(|t| self.store.put_if_absent(&key, t.clone()));
            let results = join_all(tries).await;
            let mut winners = Vec::new();
            for (result, text) in results.into_iter().zip(&texts) {
                match result {
                    Ok(()) => winners.push(text),
                    // Not known: as its callers do, read it back. Ceph answers some of those that race with half an answer.
                    Err(e) if e.is_temporary() => {
                        if self.store.get(&key).await.unwrap() == *text {
                            winners.push(text);
                        }
                    }
                    lost => assert_kind(lost, ErrorKind::AlreadyExists),
                }
            }
            assert_eq!(winners.len(), 1, "round {round}");
            self.assert_holds(&name, winners[0]).await;
        }
    }

    async fn writers(&self) {
        let key = self.key("written/object");
        let mut writer = self.store.writer(&key).await.unwrap();
        writer.write("some ".into()).await.unwrap();
        writer.write(Bytes::new()).await.unwrap();
        writer.write("bytes".into()).await.unwrap();
        assert_kind(self.store.get(&key).await, ErrorKind::NotFound);
        assert_eq!(self.names(&self.key("written")).await, []);
        writer.finish().await.unwrap();
        self.assert_holds("written/object", b"some bytes").await;

        let writer = self.store.writer(&key).await.unwrap();
        writer.finish().await.unwrap();
        self.assert_holds("written/object", b"").await;

        for key in [key, self.key("aborted/object")] {
            let mut writer = self.store.writer(&key).await.unwrap();
            writer.write("never seen".into()).await.unwrap();
            writer.abort().await.unwrap();
            let writer = self.store.writer(&key).await.unwrap();
            drop(writer);
        }
        self.assert_holds("written/object", b"").await;
        assert_eq!(self.names(&self.key("aborted")).await, []);
    }

    async fn large_object(&self) {
        let mut bytes = Vec::with_capacity(LARGE_BYTES + 8);
        let mut word = 0x9e37_79b9_7f4a_7c15u64;
        while bytes.len() < LARGE_BYTES {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let bytes = Bytes::from(bytes);
        let key = self.key("large");
        let mut writer = self.store.writer(&key).await.unwrap();
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(3 << 20));
            writer.write(piece).await.unwrap();
        }
        writer.finish().await.unwrap();
        self.assert_holds("large", &bytes).await;
        let reads = (0..64).map(|i| {
            let start = i * (bytes.len() / 64);
            let range = start..(start + 70_000).min(bytes.len());
            let (key, bytes) = (&key, &bytes);
            async move {
                let got = self
                    .store
                    .get_range(key, range.start as u64..range.end as u64);
                assert!(got.await.unwrap() == bytes[range.clone()], "{range:?}");
            }
        });
        join_all(reads).await;

        let key = self.key("large, aborted");
        let mut writer = self.store.writer(&key).await.unwrap();
        writer.write(bytes).await.unwrap();
        writer.abort().await.unwrap();
        assert_kind(self.store.get(&key).await, ErrorKind::NotFound);
    }

    /// Copies, and looks whether the copy is the original and how it was made.
    async fn copy(&self, from: &str, to: &str) {
        let bytes = self.store.get(&self.key(from)).await.unwrap();
        let len = bytes.len() as u64;
        let copied = self.store.copy(&self.key(from), &self.key(to), len).await;
        let copied = copied.unwrap_or_else(|e| panic!("copy {from} to {to}: {e:?}"));
        let kind = self.store.capabilities().copy;
        let streamed = kind == CopyKind::Streamed;
        let expected = Copied {
            kind,
            streamed_bytes: if streamed { len } else { 0 },
            xxh3: streamed.then(|| xxh3_128(&bytes)),
        };
        assert_eq!(copied, expected, "{from} to {to}");
        self.assert_holds(to, &bytes).await;
        self.assert_holds(from, &bytes).await;
    }

    async fn copies(&self) {
        self.put("copy/a", "0123456789").await;
        self.copy("copy/a", "copy/b").await;
        self.copy("copy/b", "copy/new/place/c").await;
        // Again, as after an answer that was lost, and over another one.
        self.copy("copy/a", "copy/b").await;
        self.put("copy/longer", "replaced by what is shorter").await;
        self.copy("copy/a", "copy/longer").await;
        self.put("copy/empty", "").await;
        self.copy("copy/empty", "copy/empty copy").await;
        self.put("copy/d e/f+g=h%20~ü?", "odd").await;
        self.copy("copy/d e/f+g=h%20~ü?", "copy/i j/k+l=m%2B~ß&")
            .await;
        // What `large_object` left.
        self.copy("large", "copy/large").await;
    }

    async fn copies_that_cannot_be(&self) {
        let (there, gone) = (self.key("copy/a"), self.key("copy/gone"));
        let copy = async |from: &Key, len| self.store.copy(from, &gone, len).await;
        assert_kind(copy(&self.key("missing"), 10).await, ErrorKind::NotFound);
        // A prefix is not an object.
        assert_kind(copy(&self.key("copy/new"), 0).await, ErrorKind::NotFound);
        for wrong in [0, 9, 11] {
            assert_kind(copy(&there, wrong).await, ErrorKind::Corruption);
        }
        assert_kind(self.store.get(&gone).await, ErrorKind::NotFound);
        // What is there stays.
        let target = self.key("copy/empty");
        for (from, len) in [(&there, 9), (&gone, 10)] {
            self.store.copy(from, &target, len).await.unwrap_err();
        }
        self.assert_holds("copy/empty", b"").await;
        let itself = self.store.copy(&there, &there, 10).await;
        assert_kind(itself, ErrorKind::InvalidInput);
        self.assert_holds("copy/a", b"0123456789").await;
    }

    /// What becomes of a copy is nothing to the original, and the other way round.
    async fn copies_are_apart(&self) {
        for (changed, kept) in [("apart/a", "apart/b"), ("apart/b", "apart/a")] {
            self.put("apart/a", "0123456789").await;
            self.copy("apart/a", "apart/b").await;
            self.put(changed, "something else").await;
            self.assert_holds(kept, b"0123456789").await;
            self.copy(kept, changed).await;
            let mut writer = self.store.writer(&self.key(changed)).await.unwrap();
            writer.write("third".into()).await.unwrap();
            writer.finish().await.unwrap();
            self.assert_holds(kept, b"0123456789").await;
            self.copy(kept, changed).await;
            self.store.delete(&self.key(changed)).await.unwrap();
            let gone = self.store.get(&self.key(changed)).await;
            assert_kind(gone, ErrorKind::NotFound);
            self.assert_holds(kept, b"0123456789").await;
        }
    }

    /// Of copies to one name one is there, whole.
    async fn copies_race(&self) {
        let texts: Vec<String> = (0..4).map(|i| format!("{i}").repeat(9000 + i)).collect();
        for (i, text) in texts.iter().enumerate() {
            self.put(&format!("copies/{i}"), text.clone()).await;
        }
        for round in 0..COPY_ROUNDS {
            let target = self.key(&format!("copies/target {}", round % 2));
            let copies = texts.iter().enumerate().map(|(i, text)| {
                let (from, target) = (self.key(&format!("copies/{i}")), &target);
                async move { self.store.copy(&from, target, text.len() as u64).await }
            });
            let copied = join_all(copies).await;
            let got = self.store.get(&target).await.unwrap();
            assert!(texts.iter().any(|text| got == *text), "round {round}");
            for result in copied {
                match result {
                    Ok(_) => {}
                    // A look for the copy met that of another one.
                    Err(e) => assert!(e.kind() == ErrorKind::Corruption, "{e:?}"),
                }
            }
        }
    }

    async fn listing(&self) {
        let root = self.key("list");
        for name in ["b", "a", "c/d", "c/e/f", "ab", "z/y"] {
            self.put(&format!("list/{name}"), name).await;
        }
        self.put("list2", "not below list").await;
        let object = |name: &str, len| Listed::Object {
            name: name.into(),
            len,
            modified: None,
        };
        let prefix = |name: &str| Listed::Prefix { name: name.into() };
        assert_eq!(
            self.names(&root).await,
            [
                object("a", 1),
                object("ab", 2),
                object("b", 1),
                prefix("c"),
                prefix("z")
            ]
        );
        let below = root.join("c").unwrap();
        assert_eq!(self.names(&below).await, [object("d", 3), prefix("e")]);
        assert_eq!(self.names(&root.join("a").unwrap()).await, []);
        let all = self.store.list(None).await.unwrap();
        assert!(all.contains(&prefix(self.root.as_str())), "{all:?}");
        assert!(
            !all.iter()
                .any(|l| matches!(l, Listed::Prefix { name } if name.starts_with('.')))
        );

        for i in 0..30 {
            self.put(&format!("list/many/{i:02}"), "").await;
        }
        let many = self.names(&root.join("many").unwrap()).await;
        assert_eq!(many.len(), 30);
        assert_eq!((&many[0], &many[29]), (&object("00", 0), &object("29", 0)));
        self.put("list/many/10-below/object", "").await;
        let prefix = root.join("many").unwrap();
        let many = self.names(&prefix).await;
        // What is likely need not be there. So many names make several requests of it, where the store gives out pages.
        let likely: Vec<String> = (0..3000).map(|i| format!("{i:04}")).collect();
        let mut likely: Vec<&str> = likely.iter().map(String::as_str).rev().collect();
        likely.extend(["00", "29"]);
        for likely in [&likely[..], &[]] {
            let listed = self.store.list_likely(&prefix, likely).await.unwrap();
            assert_eq!(timeless(listed), many, "by {} likely names", likely.len());
        }
    }

    /// Removes everything that the checks wrote, and looks whether it is gone.
    async fn deleting(&self) {
        let mut prefixes = vec![self.root.clone()];
        while let Some(prefix) = prefixes.pop() {
            for listed in self.names(&prefix).await {
                match listed {
                    Listed::Prefix { name } => prefixes.push(prefix.join(&name).unwrap()),
                    Listed::Object { name, .. } => {
                        let key = prefix.join(&name).unwrap();
                        self.store.delete(&key).await.unwrap();
                        self.store
                            .delete(&key)
                            .await
                            .expect("deleting twice is well");
                        assert_kind(self.store.get(&key).await, ErrorKind::NotFound);
                    }
                }
            }
        }
        assert_eq!(self.names(&self.root).await, []);
    }
}

/// What is listed, all that there is of it but the times.
fn timeless(mut listed: Vec<Listed>) -> Vec<Listed> {
    for entry in &mut listed {
        if let Listed::Object { name, modified, .. } = entry {
            assert!(modified.take().is_some(), "{name} is told by no time");
        }
    }
    listed
}

fn assert_kind<T: std::fmt::Debug>(result: Result<T>, expected: ErrorKind) {
    match result {
        Err(e) => assert!(e.kind() == expected, "{expected:?} was expected: {e:?}"),
        Ok(value) => panic!("{expected:?} was expected, not {value:?}"),
    }
}
