//! [`ChunkPolicy`]: the cache's choice of what goes, without disk and store, for measurements.

use std::{collections::HashMap, ops::Range};

use super::{
    ObjectId,
    geometry::{disk_bytes, pages_of, slices},
    heat::{ChunkId, Heat},
};

/// The policy of the chunk cache by itself: told what is read of one object, it says what would have been there. What it
/// evicts, and when, is decided by the code that the cache runs; only pages and bytes are imagined. Not durable; used by
/// one thread.
#[derive(Debug)]
pub struct ChunkPolicy {
    heat: Heat,
    budget: u64,
    used: u64,
    /// The resident pages of each chunk.
    resident: HashMap<ChunkId, u64>,
}

impl ChunkPolicy {
    /// An empty one for `budget_bytes` of pages, in blocks of 4 KiB; their checksums are not counted.
    pub fn new(budget_bytes: u64) -> Self {
        let mut heat = Heat::default();
        heat.set_capacity(budget_bytes);
        ChunkPolicy {
            heat,
            budget: budget_bytes,
            used: 0,
            resident: HashMap::new(),
        }
    }

    /// Reads a range of bytes, of which it keeps what was not there; true where all of it was. Never blocks.
    pub fn read(&mut self, range: &Range<u64>) -> bool {
        let mut all = true;
        for (chunk, wanted) in slices(pages_of(range)) {
            let id = ChunkId {
                object: ObjectId(0),
                chunk,
            };
            let here = self.resident.get(&id).copied().unwrap_or(0);
            if here & wanted == wanted {
                self.heat.touch(&id, true);
            } else {
                all = false;
                self.store(id, here, here | wanted);
            }
        }
        all
    }

    /// As claim, reservation and settling in the cache: the chunk that is written is not evicted for itself.
    fn store(&mut self, id: ChunkId, before: u64, after: u64) {
        let more = disk_bytes(after) - disk_bytes(before);
        let mut busy = false;
        while self.used + more > self.budget {
            match self.heat.evict() {
                Some(victim) if victim == id => busy = true,
                Some(victim) => {
                    let pages = self.resident.remove(&victim).unwrap_or(0);
                    self.used -= disk_bytes(pages);
                }
                None => break,
            }
        }
        if busy {
            self.heat.insert(id, disk_bytes(before), true);
        }
        if self.used + more <= self.budget {
            self.used += more;
            self.resident.insert(id, after);
            self.heat.insert(id, disk_bytes(after), false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::geometry::CHUNK_BYTES;

    fn check(policy: &ChunkPolicy) {
        let pages = policy.resident.values();
        let bytes: u64 = pages.map(|pages| disk_bytes(*pages)).sum();
        assert_eq!((policy.used, policy.heat.bytes()), (bytes, bytes));
        assert!(bytes <= policy.budget);
    }

    #[test]
    fn what_is_kept_is_there_and_within_the_budget() {
        let mut policy = ChunkPolicy::new(10 * CHUNK_BYTES);
        assert!(!policy.read(&(0..16_384)) && policy.read(&(0..16_384)));
        assert!(policy.read(&(1000..1001)) && !policy.read(&(16_000..17_000)));
        check(&policy);
        for round in 0..3 {
            for chunk in 0..200 {
                let at = chunk * CHUNK_BYTES + round * 20_000;
                policy.read(&(at..at + 16_384));
                check(&policy);
            }
        }
        assert!(policy.used > 9 * CHUNK_BYTES);
        // More than can be: nothing of it is kept.
        let mut small = ChunkPolicy::new(CHUNK_BYTES / 2);
        assert!(!small.read(&(0..CHUNK_BYTES)) && !small.read(&(0..CHUNK_BYTES)));
        check(&small);
    }
}
