//! What a backend must hold, said by a map: written to two tables at once, and read back in every way there is.
//!
//! Both tables always get the same entries, in one batch: a state in which they differ is a torn one.

use std::collections::BTreeMap;

use lazurite::{Result, StateBackend, ValueStateDescriptor};

use crate::{COUNTS, value};

/// The second table.
pub static MIRROR: ValueStateDescriptor<u64, Vec<u8>> = ValueStateDescriptor::new("mirror");

/// What both tables hold.
pub type Model = BTreeMap<u64, Vec<u8>>;

/// Writes `keys` at `version` to both tables, and removes `removed`, all in one batch; then, and only then, does the same
/// to `model`.
///
/// # Errors
/// What the backend answered; `model` is then as it was.
pub fn write(
    backend: &StateBackend,
    model: &mut Model,
    keys: impl IntoIterator<Item = u64>,
    removed: impl IntoIterator<Item = u64>,
    version: u64,
    len: usize,
) -> Result<()> {
    let (counts, mirror) = (backend.value_state(&COUNTS)?, backend.value_state(&MIRROR)?);
    let mut next = model.clone();
    let mut batch = backend.write_batch();
    for key in keys {
        let value = value(key, version, len);
        counts.put_to(&mut batch, &key, &value)?;
        mirror.put_to(&mut batch, &key, &value)?;
        next.insert(key, value);
    }
    for key in removed {
        counts.remove_to(&mut batch, &key)?;
        mirror.remove_to(&mut batch, &key)?;
        next.remove(&key);
    }
    backend.write(batch)?;
    *model = next;
    Ok(())
}

/// What both tables hold, by their iterators.
///
/// # Errors
/// What the backend answered.
///
/// # Panics
/// Where the two differ.
pub fn contents(backend: &StateBackend) -> Result<Model> {
    let counts = backend.value_state(&COUNTS)?.iter()?;
    let counts = counts.collect::<Result<Model>>()?;
    let mirror = backend.value_state(&MIRROR)?.iter()?;
    let mirror = mirror.collect::<Result<Model>>()?;
    assert!(counts == mirror, "the two tables differ");
    Ok(counts)
}

/// Reads everything, by get, by multi_get and by iterator.
///
/// # Errors
/// What the backend answered.
///
/// # Panics
/// Where any answer is not the model's.
pub fn check(backend: &StateBackend, model: &Model) -> Result<()> {
    let counts = backend.value_state(&COUNTS)?;
    let mirror = backend.value_state(&MIRROR)?;
    let end = model.last_key_value().map_or(0, |(key, _)| *key) + 5;
    for key in (0..end).step_by(7) {
        assert_eq!(counts.get(&key)?.as_ref(), model.get(&key), "get {key}");
    }
    let keys: Vec<u64> = (0..end).collect();
    let values = mirror.multi_get(&keys)?;
    for (key, value) in keys.iter().zip(values) {
        assert_eq!(value.as_ref(), model.get(key), "multi_get {key}");
    }
    let found = contents(backend)?;
    assert!(
        found == *model,
        "the iterators give {} entries, the model has {}: {}",
        found.len(),
        model.len(),
        difference(&found, model)
    );
    Ok(())
}

fn difference(found: &Model, model: &Model) -> String {
    let wrong = model
        .iter()
        .find(|(key, value)| found.get(key) != Some(value));
    let extra = found.keys().find(|key| !model.contains_key(key));
    match (wrong, extra) {
        (Some((key, _)), _) => format!("key {key} is {:?}", found.get(key).map(Vec::len)),
        (None, Some(key)) => format!("key {key} should not be there"),
        (None, None) => "nothing".into(),
    }
}
