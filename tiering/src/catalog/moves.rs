//! [`Moves`]: where objects lie that were copied to another place since they were catalogued.
//!
//! A state that was restored from another job's snapshot is read where it lies, until the job has copied it to a place of its
//! own. From then on nothing may depend on the original, not even handles that were opened before. So an entry keeps the key that
//! it was catalogued with for its whole life, and what is asked of the store, or written to the catalog's file, is looked up here.
//!
//! Invariant: an object and its copy have the same bytes, and are known by these, so whatever the cache holds of the one is as good for
//! the other.

use std::{collections::HashMap, sync::RwLock};

use lazurite_env::remote::Key;

use crate::sync::{read, write};

/// By the key that an entry was catalogued with, the one where its object is read now.
#[derive(Debug, Default)]
pub(crate) struct Moves(RwLock<HashMap<Key, Key>>);

impl Moves {
    /// Notes that what was catalogued at `from` is at `to`. False where it was known.
    pub fn note(&self, from: &Key, to: &Key) -> bool {
        if self.now(from) == *to {
            return false;
        }
        let mut moves = write(&self.0);
        if from == to {
            moves.remove(from);
        } else {
            moves.insert(from.clone(), to.clone());
        }
        true
    }

    /// Where the object that was catalogued at `key` is read.
    pub fn now(&self, key: &Key) -> Key {
        read(&self.0).get(key).unwrap_or(key).clone()
    }
}
