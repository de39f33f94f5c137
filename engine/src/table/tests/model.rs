//! Both kinds of table against `BTreeMap`: random operations, in several namespaces, alone and in batches, with flushes in
//! between, local and as if remote. Keys are few, so that operations meet; one is long.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};
use tempfile::TempDir;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Put(u8, u8, u8, u32),
    Remove(u8, u8, u8),
    Clear(u8, u8),
    Batch(Vec<Op>),
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    let single = prop_oneof![
        6 => (0u8..6, 0u8..3, 0u8..5, any::<u32>()).prop_map(|(k, n, u, v)| Op::Put(k, n, u, v)),
        2 => (0u8..6, 0u8..3, 0u8..5).prop_map(|(k, n, u)| Op::Remove(k, n, u)),
        1 => (0u8..6, 0u8..3).prop_map(|(k, n)| Op::Clear(k, n)),
    ];
    prop_oneof![
        8 => single.clone(),
        1 => vec(single, 0..6).prop_map(Op::Batch),
        1 => Just(Op::Flush),
    ]
}

fn key_of(k: u8) -> String {
    if k == 5 {
        "k".repeat(200)
    } else {
        format!("k{k}")
    }
}

fn namespace_of(n: u8) -> Vec<u8> {
    [&b""[..], b"n", b"\xff\xff"][usize::from(n)].to_vec()
}

fn user_key_of(u: u8) -> String {
    ["", "a", "b", "ab", "\u{10ffff}"][usize::from(u)].to_string()
}

type ValueModel = BTreeMap<(Vec<u8>, String), u64>;
type MapModel = BTreeMap<(Vec<u8>, String), BTreeMap<String, u32>>;

fn apply_value(
    state: &ValueState<String, u64>,
    model: &mut ValueModel,
    batch: &mut Option<WriteBatch>,
    op: &Op,
) {
    match op {
        Op::Put(k, n, _, v) => {
            let (key, value) = (key_of(*k), u64::from(*v));
            let state = state.in_namespace(namespace_of(*n));
            match batch {
                Some(batch) => state.put_to(batch, &key, &value).unwrap(),
                None => state.put(&key, &value).unwrap(),
            }
            model.insert((namespace_of(*n), key), value);
        }
        Op::Remove(k, n, _) | Op::Clear(k, n) => {
            let state = state.in_namespace(namespace_of(*n));
            match batch {
                Some(batch) => state.remove_to(batch, &key_of(*k)).unwrap(),
                None => state.remove(&key_of(*k)).unwrap(),
            }
            model.remove(&(namespace_of(*n), key_of(*k)));
        }
        Op::Batch(_) | Op::Flush => {}
    }
}

fn apply_map(
    state: &MapState<String, String, u32>,
    model: &mut MapModel,
    batch: &mut Option<WriteBatch>,
    op: &Op,
) {
    match op {
        Op::Put(k, n, u, v) => {
            let state = state.in_namespace(namespace_of(*n));
            match batch {
                Some(batch) => state
                    .put_to(batch, &key_of(*k), &user_key_of(*u), v)
                    .unwrap(),
                None => state.put(&key_of(*k), &user_key_of(*u), v).unwrap(),
            }
            model
                .entry((namespace_of(*n), key_of(*k)))
                .or_default()
                .insert(user_key_of(*u), *v);
        }
        Op::Remove(k, n, u) => {
            let state = state.in_namespace(namespace_of(*n));
            match batch {
                Some(batch) => state
                    .remove_to(batch, &key_of(*k), &user_key_of(*u))
                    .unwrap(),
                None => state.remove(&key_of(*k), &user_key_of(*u)).unwrap(),
            }
            if let Some(map) = model.get_mut(&(namespace_of(*n), key_of(*k))) {
                map.remove(&user_key_of(*u));
            }
        }
        Op::Clear(k, n) => {
            let state = state.in_namespace(namespace_of(*n));
            match batch {
                Some(batch) => state.clear_to(batch, &key_of(*k)).unwrap(),
                None => state.clear(&key_of(*k)).unwrap(),
            }
            model.remove(&(namespace_of(*n), key_of(*k)));
        }
        Op::Batch(_) | Op::Flush => {}
    }
}

fn check_value(state: &ValueState<String, u64>, model: &ValueModel) {
    let keys: Vec<String> = (0..6).map(key_of).collect();
    for n in 0..3 {
        let (namespace, state) = (namespace_of(n), state.in_namespace(namespace_of(n)));
        let expected: Vec<Option<u64>> = keys
            .iter()
            .map(|k| model.get(&(namespace.clone(), k.clone())).copied())
            .collect();
        for (key, value) in keys.iter().zip(&expected) {
            assert_eq!(state.get(key).unwrap(), *value);
            assert_eq!(state.contains(key).unwrap(), value.is_some());
        }
        assert_eq!(state.multi_get(&keys).unwrap(), expected);
        let entries: BTreeMap<String, u64> = state.iter().unwrap().map(Result::unwrap).collect();
        let mut iter = state.iter().unwrap();
        let mut undecoded = BTreeMap::new();
        while let Some(entry) = iter.next_entry() {
            let entry = entry.unwrap();
            let (key, value) = (entry.key().unwrap(), entry.value().unwrap());
            assert_eq!(entry.key_group(), group_of(&key));
            assert_eq!(entry.encoded_key(), postcard::to_stdvec(&key).unwrap());
            assert_eq!(entry.encoded_value(), postcard::to_stdvec(&value).unwrap());
            undecoded.insert(key, value);
        }
        assert!(iter.next_entry().is_none() && iter.next().is_none());
        assert_eq!(undecoded, entries);
        let expected: BTreeMap<String, u64> = model
            .iter()
            .filter(|((n, _), _)| *n == namespace)
            .map(|((_, k), v)| (k.clone(), *v))
            .collect();
        assert_eq!(entries, expected);
        for group in 0..KEY_GROUPS {
            let entries: BTreeMap<String, u64> = state
                .iter_key_group(group)
                .unwrap()
                .map(Result::unwrap)
                .collect();
            let expected = expected
                .clone()
                .into_iter()
                .filter(|(k, _)| group_of(k) == group)
                .collect();
            assert_eq!(entries, expected);
        }
    }
}

fn check_map(state: &MapState<String, String, u32>, model: &MapModel) {
    for n in 0..3 {
        let (namespace, state) = (namespace_of(n), state.in_namespace(namespace_of(n)));
        let mut all = Vec::new();
        for key in (0..6).map(key_of) {
            let map = model
                .get(&(namespace.clone(), key.clone()))
                .cloned()
                .unwrap_or_default();
            assert_eq!(state.is_empty(&key).unwrap(), map.is_empty());
            for user_key in (0..5).map(user_key_of) {
                assert_eq!(
                    state.get(&key, &user_key).unwrap(),
                    map.get(&user_key).copied()
                );
                assert_eq!(
                    state.contains(&key, &user_key).unwrap(),
                    map.contains_key(&user_key)
                );
            }
            let entries: BTreeMap<String, u32> =
                state.entries(&key).unwrap().map(Result::unwrap).collect();
            assert_eq!(entries, map);
            let mut iter = state.entries(&key).unwrap();
            let mut undecoded = BTreeMap::new();
            while let Some(entry) = iter.next_entry() {
                let entry = entry.unwrap();
                assert_eq!(entry.key().unwrap(), key);
                undecoded.insert(entry.user_key().unwrap(), entry.value().unwrap());
            }
            assert_eq!(undecoded, map);
            all.extend(
                map.into_iter()
                    .map(|(user_key, value)| (key.clone(), user_key, value)),
            );
        }
        all.sort();
        let mut iterated: Vec<_> = state.iter().unwrap().map(Result::unwrap).collect();
        iterated.sort();
        assert_eq!(iterated, all);
        let mut grouped: Vec<_> = (0..KEY_GROUPS)
            .flat_map(|group| state.iter_key_group(group).unwrap().map(Result::unwrap))
            .collect();
        grouped.sort();
        assert_eq!(grouped, all);
        let (mut iter, mut undecoded) = (state.iter().unwrap(), Vec::new());
        while let Some(entry) = iter.next_entry() {
            let entry = entry.unwrap();
            let parts = (
                entry.key().unwrap(),
                entry.user_key().unwrap(),
                entry.value().unwrap(),
            );
            assert_eq!(entry.key_group(), group_of(&parts.0));
            assert_eq!(entry.encoded_key(), postcard::to_stdvec(&parts.0).unwrap());
            let user_key = postcard::to_stdvec(&parts.1).unwrap();
            assert_eq!(entry.encoded_user_key(), user_key);
            assert_eq!(
                entry.encoded_value(),
                postcard::to_stdvec(&parts.2).unwrap()
            );
            undecoded.push(parts);
        }
        undecoded.sort();
        assert_eq!(undecoded, all);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn value_states_behave_like_a_map(ops in vec(op(), 1..60), remote_files in 0usize..2) {
        let dir = TempDir::new().unwrap();
        let context = context(dir.path(), remote_files);
        let state = value_state(&context, &COUNTS);
        let mut model = ValueModel::new();
        for op in &ops {
            match op {
                Op::Flush => context.db.flush_all().unwrap(),
                Op::Batch(ops) => {
                    let mut batch = Some(WriteBatch::new(context.db.clone()));
                    ops.iter().for_each(|op| apply_value(&state, &mut model, &mut batch, op));
                    let batch = batch.unwrap();
                    assert_eq!(batch.len(), ops.len());
                    batch.commit().unwrap();
                }
                op => apply_value(&state, &mut model, &mut None, op),
            }
        }
        check_value(&state, &model);
    }

    #[test]
    fn map_states_behave_like_maps(ops in vec(op(), 1..60), remote_files in 0usize..2) {
        let dir = TempDir::new().unwrap();
        let context = context(dir.path(), remote_files);
        let state = map_state(&context, &CLICKS);
        let mut model = MapModel::new();
        for op in &ops {
            match op {
                Op::Flush => context.db.flush_all().unwrap(),
                Op::Batch(ops) => {
                    let mut batch = Some(WriteBatch::new(context.db.clone()));
                    ops.iter().for_each(|op| apply_map(&state, &mut model, &mut batch, op));
                    batch.unwrap().commit().unwrap();
                }
                op => apply_map(&state, &mut model, &mut None, op),
            }
        }
        check_map(&state, &model);
    }
}
