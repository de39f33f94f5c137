//! Walks over spans: bounds, the moment that they show, and errors that arrive as they are.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use lazurite_env::{ErrorKind, MemEnv};
use lazurite_env_rocksdb::{Entries, Span, cause};
use rocksdb::{AsColumnFamilyRef, AsRawPtr, DB};

use crate::support::{HookEnv, PLACE, error, fill, is_sst, key, open, options, value, wrap};

/// A walk over parts of columns.
fn walk(db: &DB, spans: &[(&str, &[u8], &[u8])]) -> Entries {
    let columns: Vec<_> = spans
        .iter()
        .map(|(column, ..)| db.cf_handle(column).unwrap())
        .collect();
    let spans: Vec<_> = spans
        .iter()
        .zip(&columns)
        .map(|((_, lower, upper), column)| Span {
            column: column.inner(),
            lower,
            upper,
        })
        .collect();
    // SAFETY: no test closes the database or drops a column before the walk ends.
    unsafe { Entries::open(db.as_raw_ptr(), &spans, false) }.unwrap()
}

fn rest(entries: &mut Entries) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some((key, value)) = entries.next() {
        found.push((key.to_vec(), value.to_vec()));
    }
    assert_eq!(entries.error(), None);
    assert!(entries.next().is_none(), "an ended walk stays ended");
    found
}

fn expected(keys: impl IntoIterator<Item = u32>) -> Vec<(Vec<u8>, Vec<u8>)> {
    keys.into_iter().map(|i| (key(i), value(i))).collect()
}

#[test]
fn spans_come_in_their_order_within_their_bounds() {
    let env = wrap(MemEnv::new());
    let db = open(&options(&env), PLACE).unwrap();
    fill(&db, 0..300);
    db.create_cf("other", &options(&env)).unwrap();
    let other = db.cf_handle("other").unwrap();
    for i in 100..400 {
        db.put_cf(&other, key(i), value(i)).unwrap();
    }
    db.flush().unwrap();
    let (a, b, c) = (key(120), key(250), key(390));
    let all = [("other", &*b, &*c), ("default", &*a, &*b)];
    assert_eq!(
        rest(&mut walk(&db, &all)),
        expected((250..390).chain(120..250))
    );
    assert_eq!(
        rest(&mut walk(&db, &all[1..])),
        expected(120..250),
        "one alone"
    );
    let empty = [
        ("default", &*b, &*b),
        ("other", &*c, &*c),
        ("other", &*b, &*c),
    ];
    assert_eq!(rest(&mut walk(&db, &empty)), expected(250..390));
    assert_eq!(rest(&mut walk(&db, &empty[..2])), []);
    assert_eq!(rest(&mut walk(&db, &[])), []);
}

#[test]
fn all_spans_show_the_same_moment() {
    let env = wrap(MemEnv::new());
    let db = open(&options(&env), PLACE).unwrap();
    fill(&db, 0..100);
    let (first, middle, end) = (key(0), key(50), key(1000));
    for spans in [
        &[("default", &*first, &*end)][..],
        &[("default", &*first, &*middle), ("default", &*middle, &*end)],
    ] {
        let mut entries = walk(&db, spans);
        db.put(key(70), b"later").unwrap();
        db.delete(key(80)).unwrap();
        db.put(key(500), b"new").unwrap();
        db.flush().unwrap();
        assert_eq!(rest(&mut entries), expected(0..100));
        fill(&db, 0..100);
        db.delete(key(500)).unwrap();
    }
}

#[test]
fn a_failed_read_ends_the_walk_with_its_cause() {
    let broken = Arc::new(AtomicBool::new(false));
    let armed = broken.clone();
    let env = wrap(HookEnv::new(
        MemEnv::new(),
        move |operation, path| match operation {
            "read" | "read many" | "start read" if is_sst(path) && armed.load(SeqCst) => {
                Err(error(ErrorKind::TimedOut, operation, path))
            }
            _ => Ok(()),
        },
    ));
    let db = open(&options(&env), PLACE).unwrap();
    fill(&db, 0..100);
    db.flush().unwrap();
    db.create_cf("memory", &options(&env)).unwrap();
    let memory = db.cf_handle("memory").unwrap();
    db.put_cf(&memory, key(1), value(1)).unwrap();
    broken.store(true, SeqCst);
    let (first, end) = (key(0), key(1000));
    let spans = ["memory", "default", "memory"].map(|column| (column, &*first, &*end));
    let mut entries = walk(&db, &spans);
    assert!(entries.next().is_some());
    for _ in 0..2 {
        assert!(entries.next().is_none(), "nor is the span behind it");
        let message = entries.error().unwrap();
        assert_eq!(cause(&message).unwrap().kind(), ErrorKind::TimedOut);
    }
}
