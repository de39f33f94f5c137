//! Who keeps what: the policy of the chunk cache, and others in its place. A policy chooses among chunks, which weigh what
//! is kept of them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{BuildHasherDefault, DefaultHasher},
};

use lazurite_tiering::ChunkPolicy;
use moka::{policy::EvictionPolicy, sync::Cache};

/// What a read asks for, and what a policy keeps or not.
pub const BLOCK_BYTES: u64 = 16 << 10;
/// Blocks of a chunk of 64 KiB.
pub const BLOCKS: u32 = 4;

/// A cache of so many bytes.
pub trait Policy {
    /// Reads blocks of one chunk, of which what was not there is kept, or not; true where all were there.
    fn read(&mut self, chunk: u32, blocks: u8) -> bool;
}

/// A name and how to make one of so many bytes.
pub type Maker = (&'static str, fn(u64) -> Box<dyn Policy>);

/// All that are compared; the first one is what the chunk cache runs.
pub const MAKERS: [Maker; 4] = [
    ("chunk cache", |bytes| {
        Box::new(Own(ChunkPolicy::new(bytes)))
    }),
    ("S3-FIFO", |bytes| Box::new(S3Fifo::new(bytes))),
    ("TinyLFU", |bytes| Box::new(TinyLfu::new(bytes))),
    ("LRU", |bytes| Box::new(Lru::new(bytes))),
];

fn weight(blocks: u8) -> u64 {
    u64::from(blocks.count_ones()) * BLOCK_BYTES
}

/// The code of the chunk cache.
struct Own(ChunkPolicy);

impl Policy for Own {
    fn read(&mut self, chunk: u32, blocks: u8) -> bool {
        // Of a chunk, it is one block or all of them.
        let first = u64::from(chunk * BLOCKS + blocks.trailing_zeros()) * BLOCK_BYTES;
        self.0.read(&(first..first + weight(blocks)))
    }
}

/// moka's, with all that it does later done at once.
struct TinyLfu(Cache<u32, u8, BuildHasherDefault<DefaultHasher>>);

impl TinyLfu {
    fn new(bytes: u64) -> Self {
        let builder = Cache::builder()
            .max_capacity(bytes)
            .weigher(|_, blocks: &u8| weight(*blocks) as u32)
            .eviction_policy(EvictionPolicy::tiny_lfu());
        // A hasher that is seeded by chance would make each run another one.
        TinyLfu(builder.build_with_hasher(BuildHasherDefault::default()))
    }
}

impl Policy for TinyLfu {
    fn read(&mut self, chunk: u32, blocks: u8) -> bool {
        let here = self.0.get(&chunk).unwrap_or(0);
        let all = here & blocks == blocks;
        if !all {
            self.0.insert(chunk, here | blocks);
        }
        self.0.run_pending_tasks();
        all
    }
}

/// The one that was not read for longest goes.
pub struct Lru {
    budget: u64,
    used: u64,
    /// What is kept of a chunk, and when it was read.
    chunks: HashMap<u32, (u8, u64)>,
    by_time: BTreeMap<u64, u32>,
    now: u64,
}

impl Lru {
    pub fn new(bytes: u64) -> Self {
        Lru {
            budget: bytes,
            used: 0,
            chunks: HashMap::new(),
            by_time: BTreeMap::new(),
            now: 0,
        }
    }
}

impl Policy for Lru {
    fn read(&mut self, chunk: u32, blocks: u8) -> bool {
        self.now += 1;
        let (here, read) = self.chunks.get(&chunk).copied().unwrap_or_default();
        self.by_time.remove(&read);
        self.by_time.insert(self.now, chunk);
        self.chunks.insert(chunk, (here | blocks, self.now));
        self.used += weight(here | blocks) - weight(here);
        while self.used > self.budget
            && let Some((_, oldest)) = self.by_time.pop_first()
        {
            let (gone, _) = self.chunks.remove(&oldest).unwrap_or_default();
            self.used -= weight(gone);
        }
        here & blocks == blocks
    }
}

/// As Yang et al. describe it in "FIFO queues are all you need for cache eviction" (2023), by bytes: what is read twice
/// while it is in the small queue moves to the main one.
struct S3Fifo {
    budget: u64,
    chunks: HashMap<u32, Chunk>,
    /// Small and main.
    queues: [VecDeque<u32>; 2],
    bytes: [u64; 2],
    ghosts: VecDeque<u32>,
}

#[derive(Default)]
struct Chunk {
    blocks: u8,
    points: u8,
    queue: usize,
}

const SMALL: usize = 0;
const MAIN: usize = 1;

impl S3Fifo {
    fn new(bytes: u64) -> Self {
        S3Fifo {
            budget: bytes,
            chunks: HashMap::new(),
            queues: Default::default(),
            bytes: [0; 2],
            ghosts: VecDeque::new(),
        }
    }

    /// One step: a chunk goes, or moves.
    fn step(&mut self) {
        let small_first = self.bytes[SMALL] > self.budget / 10;
        let from = match small_first || self.queues[MAIN].is_empty() {
            true => SMALL,
            false => MAIN,
        };
        let Some(id) = self.queues[from].pop_front() else {
            return;
        };
        let Some(chunk) = self.chunks.get_mut(&id) else {
            return;
        };
        let moved = weight(chunk.blocks);
        self.bytes[from] -= moved;
        let stays = if from == SMALL {
            chunk.points > 1
        } else {
            chunk.points > 0
        };
        if stays {
            chunk.points = match from {
                SMALL => 0,
                _ => chunk.points - 1,
            };
            chunk.queue = MAIN;
            self.bytes[MAIN] += moved;
            self.queues[MAIN].push_back(id);
            return;
        }
        self.chunks.remove(&id);
        if from == SMALL {
            self.ghosts.push_back(id);
            while self.ghosts.len() > self.queues[MAIN].len().max(16) {
                self.ghosts.pop_front();
            }
        }
    }
}

impl Policy for S3Fifo {
    fn read(&mut self, chunk: u32, blocks: u8) -> bool {
        let here = self.chunks.get(&chunk).map_or(0, |chunk| chunk.blocks);
        let all = here & blocks == blocks;
        if all {
            if let Some(chunk) = self.chunks.get_mut(&chunk) {
                chunk.points = (chunk.points + 1).min(3);
            }
            return true;
        }
        let more = weight(here | blocks) - weight(here);
        while self.bytes[SMALL] + self.bytes[MAIN] + more > self.budget && !self.chunks.is_empty() {
            self.step();
        }
        // It may have gone for itself.
        if let Some(found) = self.chunks.get_mut(&chunk) {
            found.blocks |= blocks;
            self.bytes[found.queue] += more;
            return false;
        }
        let ghost = self.ghosts.iter().position(|ghost| *ghost == chunk);
        let queue = match ghost.and_then(|at| self.ghosts.remove(at)) {
            Some(_) => MAIN,
            None => SMALL,
        };
        self.bytes[queue] += weight(blocks);
        self.queues[queue].push_back(chunk);
        let new = Chunk {
            blocks,
            points: 0,
            queue,
        };
        self.chunks.insert(chunk, new);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_keeps_what_is_read_again_and_no_more_than_its_bytes() {
        for (name, make) in MAKERS {
            let mut policy = make(8 * BLOCK_BYTES);
            for _ in 0..10 {
                policy.read(7, 1);
                policy.read(8, 0b10);
            }
            assert!(policy.read(7, 1) && policy.read(8, 0b10), "{name}");
            assert!(!policy.read(7, 0b100), "{name}");
            // Of 100 blocks in turn, eight at most are there.
            let hits = (0..1000).filter(|i| policy.read(100 + i % 100, 1)).count();
            assert!(hits <= 100, "{name}: {hits}");
        }
    }

    #[test]
    fn the_least_recently_used_one_goes() {
        let mut lru = Lru::new(3 * BLOCK_BYTES);
        assert!([1, 2, 3].iter().all(|chunk| !lru.read(*chunk, 1)));
        assert!(lru.read(1, 1) && !lru.read(4, 1));
        assert!(lru.read(1, 1) && lru.read(3, 1) && !lru.read(2, 1));
        assert!(!lru.read(9, 0b1111) && lru.used == 0, "it never fits");
    }
}
