mod model;

use std::{path::Path, sync::Arc};

use tempfile::TempDir;

use super::{schema::check_name, *};
use crate::{
    Codec, CodecError, Postcard, RawBytes,
    key_groups::assign_to_key_group,
    rocks::{DbConfig, tests::config},
};

const KEY_GROUPS: u16 = 8;

fn context(path: &Path, remote_files: usize) -> Arc<TableContext> {
    let db = Db::open(DbConfig {
        remote_files: Arc::new(move || remote_files),
        lock: None,
        ..config(path, false, &[])
    })
    .unwrap();
    Arc::new(TableContext {
        db,
        key_groups: KEY_GROUPS,
        range: KeyGroupRange::all(KEY_GROUPS).unwrap(),
    })
}

/// The same database, as a backend that owns fewer key groups.
fn narrowed(context: &Arc<TableContext>, start: u16, end: u16) -> Arc<TableContext> {
    Arc::new(TableContext {
        db: context.db.clone(),
        key_groups: context.key_groups,
        range: KeyGroupRange::new(start, end).unwrap(),
    })
}

/// In three parts: nothing that a table does may show it.
fn columns(context: &TableContext, table: &str) -> Columns {
    let parts = [0, 3, 6].map(|start| {
        let range = KeyGroupRange::new(start, start).unwrap();
        let name = match start {
            0 => TableColumn::whole(table, range).column,
            _ => TableColumn::part(table, range).column,
        };
        (start, context.db.create_column(&name).unwrap())
    });
    Columns::new(parts.into()).unwrap()
}

fn value_state<K, V>(
    context: &Arc<TableContext>,
    descriptor: &ValueStateDescriptor<K, V>,
) -> ValueState<K, V> {
    ValueState::new(
        context.clone(),
        columns(context, descriptor.name()),
        descriptor,
    )
}

fn map_state<K, UK, UV>(
    context: &Arc<TableContext>,
    descriptor: &MapStateDescriptor<K, UK, UV>,
) -> MapState<K, UK, UV> {
    MapState::new(
        context.clone(),
        columns(context, descriptor.name()),
        descriptor,
    )
}

static COUNTS: ValueStateDescriptor<String, u64> = ValueStateDescriptor::new("counts");
static CLICKS: MapStateDescriptor<String, String, u32> = MapStateDescriptor::new("clicks");

fn group_of(key: &str) -> u16 {
    let mut bytes = Vec::new();
    Codec::<String>::encode(&Postcard, &key.to_string(), &mut bytes).unwrap();
    assign_to_key_group(&bytes, KEY_GROUPS)
}

#[test]
fn a_batch_is_atomic_over_tables_and_belongs_to_its_backend() {
    let (dir, other_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (context, other) = (context(dir.path(), 0), context(other_dir.path(), 0));
    let (counts, clicks) = (value_state(&context, &COUNTS), map_state(&context, &CLICKS));
    let mut batch = WriteBatch::new(context.db.clone());
    counts.put_to(&mut batch, &"a".into(), &1).unwrap();
    clicks
        .put_to(&mut batch, &"a".into(), &"u".into(), &2)
        .unwrap();
    assert_eq!(counts.get(&"a".into()).unwrap(), None);
    let foreign = value_state(&other, &COUNTS);
    assert!(matches!(
        foreign.put_to(&mut batch, &"b".into(), &1),
        Err(Error::ForeignBatch)
    ));
    assert_eq!(batch.len(), 2);
    batch.commit().unwrap();
    assert_eq!(counts.get(&"a".into()).unwrap(), Some(1));
    assert_eq!(clicks.get(&"a".into(), &"u".into()).unwrap(), Some(2));
}

#[test]
fn keys_of_other_backends_are_refused_and_not_iterated() {
    let dir = TempDir::new().unwrap();
    let whole = context(dir.path(), 0);
    let all = value_state(&whole, &COUNTS);
    let keys: Vec<String> = (0..64).map(|i| format!("key{i}")).collect();
    for key in &keys {
        all.put(key, &u64::from(group_of(key))).unwrap();
    }
    let half = narrowed(&whole, 2, 5);
    let (state, map) = (value_state(&half, &COUNTS), map_state(&half, &CLICKS));
    let (mine, foreign): (Vec<_>, Vec<_>) = keys
        .iter()
        .cloned()
        .partition(|k| half.range.contains(group_of(k)));
    assert!(!mine.is_empty() && !foreign.is_empty());
    let refused = |result: Result<()>| match result {
        Err(Error::KeyGroupOutOfRange { key_group, range }) => {
            assert_eq!(range, half.range);
            assert!(!range.contains(key_group));
        }
        other => panic!("{other:?}"),
    };
    let mut batch = WriteBatch::new(half.db.clone());
    for key in &foreign {
        refused(state.get(key).map(|_| ()));
        refused(state.put(key, &1));
        refused(state.remove(key));
        refused(state.contains(key).map(|_| ()));
        refused(state.multi_get([&mine[0], key]).map(|_| ()));
        refused(state.put_to(&mut batch, key, &1));
        refused(map.put(key, &"u".into(), &1));
        refused(map.entries(key).map(|_| ()));
        refused(map.clear(key));
        refused(map.clear_to(&mut batch, key));
    }
    assert!(batch.is_empty());
    refused(state.iter_key_group(1).map(|_| ()));
    let mut seen: Vec<String> = state
        .iter()
        .unwrap()
        .map(|entry| entry.unwrap().0)
        .collect();
    seen.sort();
    let mut mine = mine;
    mine.sort();
    assert_eq!(seen, mine);
}

#[test]
fn an_iterator_sees_its_moment_and_outlives_its_table() {
    let dir = TempDir::new().unwrap();
    let context = context(dir.path(), 0);
    let state = value_state(&context, &COUNTS);
    state.put(&"a".into(), &1).unwrap();
    let iter = state.iter().unwrap();
    state.put(&"a".into(), &2).unwrap();
    state.put(&"b".into(), &2).unwrap();
    drop((state, context));
    assert_eq!(
        iter.map(Result::unwrap).collect::<Vec<_>>(),
        [("a".to_string(), 1)]
    );
}

#[test]
fn map_entries_come_in_the_order_of_their_bytes() {
    let dir = TempDir::new().unwrap();
    let context = context(dir.path(), 0);
    let descriptor: MapStateDescriptor<u64, Vec<u8>, Vec<u8>> =
        MapStateDescriptor::with_codecs("times", Postcard, RawBytes, RawBytes);
    let state = map_state(&context, &descriptor);
    for time in [3u64, 300, 2, 70_000] {
        state
            .put(&7, &time.to_be_bytes().to_vec(), &b"x".to_vec())
            .unwrap();
    }
    let times: Vec<u64> = state
        .entries(&7)
        .unwrap()
        .map(|entry| u64::from_be_bytes(entry.unwrap().0.try_into().unwrap()))
        .collect();
    assert_eq!(times, [2, 3, 300, 70_000]);
}

#[test]
fn codec_errors_name_the_table_and_the_part() {
    struct Picky;
    impl Codec<u32> for Picky {
        fn id(&self) -> &str {
            "picky"
        }
        fn encode(&self, value: &u32, out: &mut Vec<u8>) -> Result<(), CodecError> {
            out.extend_from_slice(&value.to_be_bytes());
            if *value == 13 {
                Err(CodecError::new("unlucky"))
            } else {
                Ok(())
            }
        }
        fn decode(&self, bytes: &[u8]) -> Result<u32, CodecError> {
            bytes
                .try_into()
                .map(u32::from_be_bytes)
                .map_err(CodecError::new)
        }
    }
    let part = |error: Error| match error {
        Error::Codec { table, what, .. } => {
            assert_eq!(table, "picky");
            what
        }
        other => panic!("{other:?}"),
    };
    let dir = TempDir::new().unwrap();
    let context = context(dir.path(), 0);
    let state = value_state(
        &context,
        &ValueStateDescriptor::<u32, u32>::with_codecs("picky", Picky, Picky),
    );
    assert_eq!(part(state.get(&13).unwrap_err()), "key");
    assert_eq!(part(state.put(&1, &13).unwrap_err()), "value");
    assert_eq!(state.get(&1).unwrap(), None);

    // The same column, written by something else.
    let raw = value_state(
        &context,
        &ValueStateDescriptor::<Vec<u8>, Vec<u8>>::with_codecs("picky", RawBytes, RawBytes),
    );
    raw.put(&1u32.to_be_bytes().to_vec(), &b"short".to_vec())
        .unwrap();
    assert_eq!(part(state.get(&1).unwrap_err()), "value");
    assert_eq!(part(state.multi_get([&1]).unwrap_err()), "value");
    let mut iter = state.iter().unwrap();
    assert_eq!(part(iter.next().unwrap().unwrap_err()), "value");
    assert!(iter.next().is_none(), "an iterator ends after an error");
    let mut broken = Vec::new();
    raw.put(&b"five!".to_vec(), &vec![0; 4]).unwrap();
    let mut walk = state.iter().unwrap();
    while let Some(entry) = walk.next_entry() {
        let entry = entry.unwrap();
        broken.extend(entry.key().map_err(part).err());
        broken.extend(entry.value().map_err(part).err());
    }
    broken.sort();
    assert_eq!(
        broken,
        ["key", "value"],
        "what is not decodable does not end a walk"
    );
    state.put(&1, &1).unwrap();
    assert_eq!(
        part(state.iter().unwrap().find_map(Result::err).unwrap()),
        "key"
    );
    context
        .db
        .column("picky")
        .unwrap()
        .put(&[0, 0], b"")
        .unwrap();
    assert_eq!(
        part(state.iter().unwrap().find_map(Result::err).unwrap()),
        "stored key"
    );
    let mut walk = state.iter().unwrap(); // the broken one is the first
    assert_eq!(
        part(walk.next_entry().unwrap().err().unwrap()),
        "stored key"
    );
    assert!(walk.next_entry().is_none(), "a walk ends after an error");
}

#[test]
fn schemas_that_differ_are_refused_and_say_where() {
    let stored = CLICKS.schema().unwrap();
    stored.check_compatible(&stored).unwrap();
    let json = serde_json::to_string(&stored).unwrap();
    assert_eq!(serde_json::from_str::<TableSchema>(&json).unwrap(), stored);
    assert_eq!(
        stored.user_key_type.as_deref(),
        Some("alloc::string::String")
    );

    let differs = |declared: TableSchema| match declared.check_compatible(&stored).unwrap_err() {
        Error::TableMismatch { table, field, .. } => {
            assert_eq!(table, "clicks");
            field
        }
        other => panic!("{other:?}"),
    };
    let value: ValueStateDescriptor<String, u32> = ValueStateDescriptor::new("clicks");
    assert_eq!(differs(value.schema().unwrap()), "kind");
    let types: MapStateDescriptor<u32, String, u32> = MapStateDescriptor::new("clicks");
    assert_eq!(differs(types.schema().unwrap()), "key type");
    let user_types: MapStateDescriptor<String, u8, u32> = MapStateDescriptor::new("clicks");
    assert_eq!(differs(user_types.schema().unwrap()), "user key type");
    let values: MapStateDescriptor<String, String, u64> = MapStateDescriptor::new("clicks");
    assert_eq!(differs(values.schema().unwrap()), "value type");

    const RENAMED: MapStateDescriptor<u8, u8, u8> = MapStateDescriptor::new("clicks").type_names(
        "alloc::string::String",
        "alloc::string::String",
        "u32",
    );
    RENAMED.schema().unwrap().check_compatible(&stored).unwrap();

    let raw: ValueStateDescriptor<Vec<u8>, Vec<u8>> =
        ValueStateDescriptor::with_codecs("t", RawBytes, RawBytes);
    let packed: ValueStateDescriptor<Vec<u8>, Vec<u8>> = ValueStateDescriptor::new("t");
    assert!(matches!(
        packed
            .schema()
            .unwrap()
            .check_compatible(&raw.schema().unwrap()),
        Err(Error::TableMismatch {
            field: "key codec",
            ..
        })
    ));
}

#[test]
fn names_are_checked() {
    for name in ["a", "A-z_0.9", &"x".repeat(128)] {
        check_name("table name", name).unwrap();
    }
    for name in ["", "a b", "a/b", "ü", &"x".repeat(129)] {
        assert!(
            matches!(
                check_name("table name", name),
                Err(Error::InvalidOption { .. })
            ),
            "{name}"
        );
    }
    let reserved: ValueStateDescriptor<u8, u8> = ValueStateDescriptor::new("default");
    assert!(matches!(
        reserved.schema(),
        Err(Error::InvalidOption { .. })
    ));
}

#[test]
fn states_can_be_shared_among_threads_whatever_their_types() {
    fn shared<T: Send + Sync + Clone + 'static>() {}
    fn moved<T: Send + 'static>() {}
    shared::<ValueState<String, *const u8>>();
    shared::<MapState<String, String, *const u8>>();
    moved::<ValueIter<String, u64>>();
    moved::<MapEntries<String, String, u64>>();
    moved::<WriteBatch>();
    let dir = TempDir::new().unwrap();
    let context = context(dir.path(), 0);
    let state = value_state(&context, &COUNTS);
    std::thread::scope(|scope| {
        for t in 0..4u64 {
            let state = &state;
            scope.spawn(move || {
                (0..500u64).for_each(|i| state.put(&format!("{t}-{i}"), &i).unwrap())
            });
        }
    });
    assert_eq!(state.iter().unwrap().count(), 2_000);
}
