//! What is read: blocks of a state, the same for every policy and on every run of one seed.

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::policies::{BLOCK_BYTES, BLOCKS, Lru, Policy};

/// Values of a block: of 1 KiB, in blocks of 16 KiB.
const VALUES: u64 = BLOCK_BYTES / 1024;
/// Of Zipf's law, as in YCSB.
const EXPONENT: f64 = 0.99;
/// How often the hot set jumps.
const JUMPS: u64 = 8;

/// Which blocks are read, one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// By Zipf; keys that are read often lie anywhere among the others.
    Zipf,
    /// By Zipf; the more often keys are read, the nearer to the first they lie.
    Clustered,
    /// Each as often as every other.
    Uniform,
    /// By Zipf; when half of it is read, all blocks are read once, in order.
    Scan,
    /// By Zipf, of other keys after each eighth of the reads.
    Jumping,
    /// Four of five reads in a tenth of the state that slides over all of it; the others anywhere.
    Sliding,
}

/// A read of blocks of one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    pub chunk: u32,
    /// The blocks: one bit each.
    pub blocks: u8,
    /// Of the scan: hits are not counted.
    pub scan: bool,
}

impl Trace {
    pub const ALL: [Trace; 6] = [
        Trace::Zipf,
        Trace::Clustered,
        Trace::Uniform,
        Trace::Scan,
        Trace::Jumping,
        Trace::Sliding,
    ];

    /// As the report names it.
    pub fn name(self) -> &'static str {
        match self {
            Trace::Zipf => "zipf",
            Trace::Clustered => "zipf, clustered",
            Trace::Uniform => "uniform",
            Trace::Scan => "zipf and a scan",
            Trace::Jumping => "zipf, jumping",
            Trace::Sliding => "sliding",
        }
    }

    /// `reads` of a state of `chunks`, those left out that a block cache of `block_cache_bytes` answers: an LRU, which the
    /// scan goes past.
    pub fn accesses(
        self,
        chunks: u64,
        reads: u64,
        block_cache_bytes: u64,
        seed: u64,
    ) -> Vec<Access> {
        let keys = chunks * u64::from(BLOCKS) * VALUES;
        let zipf = Zipf::new(keys);
        let mut random = StdRng::seed_from_u64(seed);
        // Blocks in the place of chunks.
        let mut block_cache = Lru::new(block_cache_bytes);
        let mut accesses = Vec::new();
        for i in 0..reads {
            if self == Trace::Scan && i == reads / 2 {
                accesses.extend((0..chunks as u32).map(|chunk| Access {
                    chunk,
                    blocks: u8::MAX >> (8 - BLOCKS),
                    scan: true,
                }));
            }
            let key = match self {
                Trace::Zipf | Trace::Scan => scattered(zipf.rank(&mut random), 0) % keys,
                Trace::Clustered => zipf.rank(&mut random),
                Trace::Jumping => scattered(zipf.rank(&mut random), i * JUMPS / reads) % keys,
                Trace::Sliding if random.random_ratio(4, 5) => {
                    let begin = (keys as u128 * u128::from(i) / u128::from(reads)) as u64;
                    (begin + random.random_range(0..keys / 10)) % keys
                }
                Trace::Sliding | Trace::Uniform => random.random_range(0..keys),
            };
            let block = (key / VALUES) as u32;
            if !block_cache.read(block, 1) {
                accesses.push(Access {
                    chunk: block / BLOCKS,
                    blocks: 1 << (block % BLOCKS),
                    scan: false,
                });
            }
        }
        accesses
    }
}

/// Some number that follows from these two. SplitMix64's last steps.
fn scattered(rank: u64, seed: u64) -> u64 {
    let z = (rank + 1)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(seed << 32);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Ranks by Zipf's law, the most frequent one first.
struct Zipf {
    /// How often each rank or one before it.
    sums: Vec<f64>,
}

impl Zipf {
    fn new(ranks: u64) -> Self {
        let sums = (1..=ranks).scan(0.0, |sum, rank| {
            *sum += (rank as f64).powf(-EXPONENT);
            Some(*sum)
        });
        Zipf {
            sums: sums.collect(),
        }
    }

    fn rank(&self, random: &mut StdRng) -> u64 {
        let all = self.sums[self.sums.len() - 1];
        let at = random.random::<f64>() * all;
        let rank = self.sums.partition_point(|sum| *sum <= at);
        rank.min(self.sums.len() - 1) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_as_frequent_as_zipf_says() {
        let zipf = Zipf::new(1000);
        let mut random = StdRng::seed_from_u64(3);
        let mut counts = [0u32; 1000];
        for _ in 0..200_000 {
            counts[zipf.rank(&mut random) as usize] += 1;
        }
        for rank in [0, 1, 9, 99] {
            let expected = 200_000.0 / zipf.sums[999] * (rank as f64 + 1.0).powf(-EXPONENT);
            let off = f64::from(counts[rank]) / expected;
            assert!((0.8..1.2).contains(&off), "rank {rank}: {off}");
        }
    }

    #[test]
    fn traces_follow_from_their_seed_and_stay_inside() {
        for trace in Trace::ALL {
            let accesses = trace.accesses(100, 2000, 0, 1);
            assert_eq!(accesses, trace.accesses(100, 2000, 0, 1));
            assert_ne!(accesses, trace.accesses(100, 2000, 0, 2));
            let scanned = accesses.iter().filter(|access| access.scan).count();
            assert_eq!(scanned, if trace == Trace::Scan { 100 } else { 0 });
            assert_eq!(accesses.len(), 2000 + scanned);
            assert!(accesses.iter().all(|access| access.chunk < 100));
            // The block cache answers some of it.
            let fewer = trace.accesses(100, 2000, 40 * BLOCK_BYTES, 1);
            assert!(fewer.len() < accesses.len());
        }
    }
}
