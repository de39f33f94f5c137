//! Databases composed of the files of others, opened and used.

use super::*;

fn part<'a>(source: usize, column: &'a str, into: usize, keep: (u16, u16)) -> Part<'a> {
    Part {
        source,
        column,
        into,
        keep,
    }
}

/// The models of several sources as one.
fn union(sources: &[&Snapshot]) -> BTreeMap<String, Model> {
    let mut models = BTreeMap::<String, Model>::new();
    for source in sources {
        for (name, model) in &source.models {
            let of_all = models.entry(name.clone()).or_default();
            of_all.extend(model.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
    }
    models
}

/// A split: a database with both columns, of the groups `keep`.
fn split(source: &Snapshot, keep: (u16, u16)) -> Store {
    let parts = [part(0, "a", 0, keep), part(0, "b", 1, keep)];
    let (dir, _) = build(&[source], &["a", "b"], &parts).unwrap();
    Store::open(dir, within(&source.models, keep), keep, false)
}

/// A merge of databases whose ranges are `ranges`.
fn merge(sources: &[&Snapshot], ranges: &[(u16, u16)]) -> Result<Store> {
    let mut parts = Vec::new();
    for (index, range) in ranges.iter().enumerate() {
        parts.extend([part(index, "a", 0, *range), part(index, "b", 1, *range)]);
    }
    let (dir, _) = build(sources, &["a", "b"], &parts)?;
    let range = (ranges[0].0, ranges[ranges.len() - 1].1);
    Ok(Store::open(dir, union(sources), range, false))
}

#[test]
fn one_becomes_two() {
    let mut source = Store::create(&["a", "b"], (0, 19));
    source.churn(1, 1_500);
    let snapshot = source.snapshot();
    assert!(straddles(&snapshot.manifest, "a", (0, 9)));
    assert!(!straddles(&snapshot.manifest, "a", (0, u16::MAX)));
    assert!(!straddles(&snapshot.manifest, "none", (0, 9)));
    for keep in [(0, 9), (10, 19), (7, 7), (30, 40)] {
        split(&snapshot, keep).exercise(5);
    }
    // Their files are links: the children changed nothing.
    source.verify();
}

#[test]
fn two_become_one_though_their_sequence_numbers_overlap() {
    let mut left = Store::create(&["a", "b"], (0, 9));
    let mut right = Store::create(&["a", "b"], (10, 19));
    // Ends of ranges: tombstones up to the next group, which the other source has.
    left.churn(1, 700);
    right.churn(2, 400);
    left.delete_range("a", &key(9, 20), &begin(10));
    left.delete_range("b", &key(3, 0), &begin(10));
    let (l, r) = (left.snapshot(), right.snapshot());
    let both = [&l, &r];
    let ranges = [(0, 9), (10, 19)];
    let store = merge(&both, &ranges).unwrap();
    let merged = store.snapshot().manifest;
    assert!(
        merged.last_sequence >= l.manifest.last_sequence.max(r.manifest.last_sequence),
        "{merged:?}"
    );
    assert_eq!(merged.db_id, l.manifest.db_id);
    let store = store.exercise(5);
    store.db.flush_all().unwrap();
    // The other way round, too.
    let swapped = [&r, &l];
    let store = merge(&swapped, &[(10, 19), (0, 9)]).unwrap();
    let store = Store {
        range: (0, 19),
        ..store
    };
    store.exercise(6);
}

#[test]
fn files_of_level_0_keep_their_order_and_get_epochs_of_their_own() {
    let mut sources = Vec::new();
    for index in 0..3 {
        let mut store = Store::create(&["a", "b"], (index * 5, index * 5 + 4));
        for round in 0..6 {
            for n in 0..4 {
                let value = format!("{index}-{round}");
                store.put("a", key(index * 5 + n, 1), value.as_bytes());
            }
            if round % 2 == 1 {
                store.delete("a", &key(index * 5, 1));
            }
            store.db.flush_all().unwrap();
        }
        sources.push(store.snapshot());
    }
    let sources: Vec<&Snapshot> = sources.iter().collect();
    let ranges = [(0, 4), (5, 9), (10, 14)];
    let store = merge(&sources, &ranges).unwrap();
    let manifest = store.snapshot().manifest;
    let files = &manifest.column("a").unwrap().files;
    assert!(files.len() == 18 && files.iter().all(|file| file.level == 0));
    let epochs: HashSet<u64> = files.iter().map(|file| file.epoch).collect();
    assert_eq!(epochs.len(), files.len());
    store.exercise(7);
}

#[test]
fn a_chain_of_splits_and_merges_loses_nothing() {
    let mut source = Store::create(&["a", "b"], (0, 19));
    source.churn(1, 800);
    let mut whole = source.snapshot();
    for round in 0..3 {
        let ranges = [(0, 6 + round), (7 + round, 19)];
        let mut children = ranges.map(|range| split(&whole, range));
        for (child, seed) in children.iter_mut().zip(100..) {
            child.change(seed * 10 + u64::from(round), 400, 99);
            child.verify();
        }
        // What both have of the whole comes together as it was, each file once.
        let dirty: Vec<Snapshot> = children.iter().map(Store::snapshot).collect();
        assert!(straddles(&dirty[0].manifest, "a", ranges[0]));
        let merged = merge(&dirty.iter().collect::<Vec<_>>(), &ranges).unwrap();
        let files = |of: &Manifest| of.column("a").unwrap().files.len();
        let of_both: usize = dirty.iter().map(|child| files(&child.manifest)).sum();
        assert!(files(&merged.snapshot().manifest) < of_both);
        merged.exercise(u64::from(round) + 40);
        // What one of them has rewritten is no longer what the other has.
        children[1].column("a").compact().unwrap();
        let rewritten = [&dirty[0], &children[1].snapshot()];
        let refused = merge(&rewritten, &ranges).err().unwrap();
        assert!(
            refused.to_string().contains("cannot be in one"),
            "{refused}"
        );

        children.iter().for_each(Store::clean);
        let clean: Vec<Snapshot> = children.iter().map(Store::snapshot).collect();
        for (child, range) in clean.iter().zip(ranges) {
            assert!(!straddles(&child.manifest, "a", range));
            assert!(!straddles(&child.manifest, "b", range));
        }
        let merged = merge(&clean.iter().collect::<Vec<_>>(), &ranges).unwrap();
        merged.verify();
        let mut merged = merged.reopen();
        merged.churn(u64::from(round) + 500, 400);
        merged.verify();
        whole = merged.snapshot();
    }
    split(&whole, (3, 12)).exercise(9);
}

#[test]
fn parts_that_straddle_go_into_columns_of_their_own() {
    let mut left = Store::create(&["a"], (0, 9));
    let mut right = Store::create(&["a"], (0, 9)); // of the same groups: what is not kept differs
    left.churn(1, 500);
    right.churn(2, 500);
    let (l, r) = (left.snapshot(), right.snapshot());
    let sources = [&l, &r];
    let parts = [part(0, "a", 0, (0, 4)), part(1, "a", 1, (5, 9))];
    let (dir, composed) = build(&sources, &["a", "a/1"], &parts).unwrap();
    assert!(composed.files.iter().any(|file| file.straddles));
    let db = open(dir.path(), false, &[]);
    let a = dump(&db.column("a").unwrap(), (0, 4));
    assert!(a == within(&l.models, (0, 4))["a"]);
    let b = dump(&db.column("a/1").unwrap(), (5, 9));
    assert!(b == within(&r.models, (5, 9))["a"]);

    let parts = [part(0, "a", 0, (0, 4)), part(1, "a", 0, (5, 9))];
    let error = build(&sources, &["a"], &parts).err().unwrap();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
}

#[test]
fn nothing_makes_an_empty_database() {
    let store = Store::create(&["a"], (0, 9));
    let snapshot = store.snapshot();
    let none = [part(0, "missing", 0, (0, 9)), part(0, "a", 1, (0, 9))];
    for (sources, parts) in [(&[&snapshot][..], &none[..]), (&[], &[])] {
        let (dir, composed) = build(sources, &["a", "b"], parts).unwrap();
        assert!(composed.files.is_empty());
        let models = ["a", "b"].map(|name| (name.to_string(), Model::new()));
        Store::open(dir, models.into(), (0, 9), false).exercise(3);
    }
}
