//! [`Heat`]: which chunk goes first when room is needed. S3-FIFO, weighed by bytes.
//!
//! New chunks enter a *small* queue of a tenth of the budget, or of what there is where that is less: free space or
//! downloads may bind before the budget does, and by default there is none. Those that are read again before they reach
//! its end move to the *main* queue; the others leave, and are remembered for a while in a *ghost* queue: one of these
//! that comes back goes into the main queue at once. The main queue is a clock: a chunk that was read since it last
//! came by loses one of at most three points and goes round again. So one pass of a scan flows through the small queue
//! and harms nobody, what was hot once cools down, and a hit costs one counter. No I/O, no clock, no chance.
//!
//! Queue entries are not removed from the middle: each carries the stamp of its chunk's last move, and one with an
//! older stamp is skipped.

use std::collections::{HashMap, VecDeque};

use super::ObjectId;

/// A chunk of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ChunkId {
    pub object: ObjectId,
    pub chunk: u32,
}

/// The share of the budget, or of what there is, that new chunks have.
const SMALL_SHARE: u64 = 10;

/// A chunk's points are at most so many.
pub(crate) const POINTS_MAX: u8 = 3;

/// After so many chunks that have points the next one goes, whatever its points: the caller holds a lock.
const EVICT_STEPS_MAX: usize = 1000;

/// Entries of departed chunks that a queue may hold beside its live ones, before it is cleaned.
const STALE_SLACK: usize = 1024;

/// How a chunk was read, of late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Warmth {
    /// Any read that found it here, or what it was told to be: keeps it.
    points: u8,
    /// Gets, as far as they are counted: a scan tells nobody that a chunk is hot.
    gets: u8,
}

#[derive(Debug)]
struct Node {
    weight: u64,
    warmth: Warmth,
    in_main: bool,
    stamp: u64,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<(ChunkId, u64)>,
    bytes: u64,
    live: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Heat {
    capacity: u64,
    nodes: HashMap<ChunkId, Node>,
    small: Queue,
    main: Queue,
    ghosts: VecDeque<(ChunkId, u64)>,
    ghost_stamps: HashMap<ChunkId, u64>,
    stamp: u64,
}

impl Heat {
    pub fn set_capacity(&mut self, bytes: u64) {
        self.capacity = bytes;
    }

    /// Takes a chunk in, or gives one that is in another weight. `warm`: straight into the main queue.
    pub fn insert(&mut self, id: ChunkId, weight: u64, warm: bool) {
        self.take_in(id, weight, Warmth::default(), warm);
    }

    /// Takes a chunk in that a get brought.
    pub fn insert_got(&mut self, id: ChunkId, weight: u64) {
        let (points, gets) = (0, 1);
        self.take_in(id, weight, Warmth { points, gets }, false);
    }

    /// Takes a chunk in that somebody says is hot, with so many points. One that is in keeps its place.
    pub fn insert_hot(&mut self, id: ChunkId, weight: u64, points: u8) {
        let points = points.min(POINTS_MAX);
        let gets = points;
        self.take_in(id, weight, Warmth { points, gets }, true);
    }

    /// Takes a chunk in that was [removed](Self::remove), as it was.
    pub fn give_back(&mut self, id: ChunkId, weight: u64, warmth: Warmth) {
        self.take_in(id, weight, warmth, true);
    }

    fn take_in(&mut self, id: ChunkId, weight: u64, warmth: Warmth, to_main: bool) {
        if let Some(node) = self.nodes.get_mut(&id) {
            let queue = if node.in_main {
                &mut self.main
            } else {
                &mut self.small
            };
            queue.bytes = queue.bytes - node.weight + weight;
            node.weight = weight;
            return;
        }
        let in_main = self.ghost_stamps.remove(&id).is_some() || to_main;
        self.push(id, weight, warmth, in_main);
    }

    /// A user read the chunk.
    pub fn touch(&mut self, id: &ChunkId, is_get: bool) {
        if let Some(node) = self.nodes.get_mut(id) {
            let Warmth { points, gets } = &mut node.warmth;
            *points = (*points + 1).min(POINTS_MAX);
            *gets = (*gets + u8::from(is_get)).min(POINTS_MAX);
        }
    }

    /// How hot a chunk is, from 0 to [`POINTS_MAX`]: its points, as far as gets gave them, and 1 at least where it was read
    /// so often that it came into the main queue. Then both are halved `halvings` times.
    pub fn take_level(&mut self, id: &ChunkId, halvings: u32) -> u8 {
        let Some(node) = self.nodes.get_mut(id) else {
            return 0;
        };
        let Warmth { points, gets } = &mut node.warmth;
        let level = (*points).max(u8::from(node.in_main)).min(*gets);
        let halvings = halvings.min(u8::BITS - 1);
        *points >>= halvings;
        *gets >>= halvings;
        level
    }

    /// Forgets a chunk without a ghost, and tells how warm it was; nothing where it is not in.
    pub fn remove(&mut self, id: &ChunkId) -> Warmth {
        let Some(node) = self.nodes.remove(id) else {
            return Warmth::default();
        };
        let queue = if node.in_main {
            &mut self.main
        } else {
            &mut self.small
        };
        queue.bytes -= node.weight;
        queue.live -= 1;
        if queue.entries.len() > 2 * queue.live + STALE_SLACK {
            let nodes = &self.nodes;
            queue
                .entries
                .retain(|(id, stamp)| nodes.get(id).is_some_and(|node| node.stamp == *stamp));
        }
        node.warmth
    }

    /// What the chunks take.
    pub fn bytes(&self) -> u64 {
        self.small.bytes + self.main.bytes
    }

    /// Takes the coldest chunk out.
    pub fn evict(&mut self) -> Option<ChunkId> {
        let share = self.capacity.min(self.bytes()) / SMALL_SHARE;
        let mut steps = 0;
        loop {
            let small_first = self.small.bytes > share;
            let from_small = self.small.live > 0 && (small_first || self.main.live == 0);
            let queue = if from_small {
                &mut self.small
            } else {
                &mut self.main
            };
            let (id, stamp) = queue.entries.pop_front()?;
            let Some(node) = self.nodes.get(&id).filter(|node| node.stamp == stamp) else {
                continue;
            };
            queue.bytes -= node.weight;
            queue.live -= 1;
            steps += 1;
            let tired = steps > EVICT_STEPS_MAX;
            let (weight, warmth) = (node.weight, node.warmth);
            let points = if tired { 0 } else { warmth.points };
            self.nodes.remove(&id);
            match (from_small, points) {
                (true, 0) => {
                    self.remember(id);
                    return Some(id);
                }
                (false, 0) => return Some(id),
                (true, _) => self.push(
                    id,
                    weight,
                    Warmth {
                        points: 0,
                        ..warmth
                    },
                    true,
                ),
                (false, _) => {
                    let points = points - 1;
                    self.push(id, weight, Warmth { points, ..warmth }, true);
                }
            }
        }
    }

    fn push(&mut self, id: ChunkId, weight: u64, warmth: Warmth, in_main: bool) {
        self.stamp += 1;
        let node = Node {
            weight,
            warmth,
            in_main,
            stamp: self.stamp,
        };
        let queue = if in_main {
            &mut self.main
        } else {
            &mut self.small
        };
        queue.entries.push_back((id, self.stamp));
        queue.bytes += weight;
        queue.live += 1;
        self.nodes.insert(id, node);
    }

    /// Keeps as many ghosts as there are chunks.
    fn remember(&mut self, id: ChunkId) {
        self.stamp += 1;
        self.ghosts.push_back((id, self.stamp));
        self.ghost_stamps.insert(id, self.stamp);
        while self.ghosts.len() > self.nodes.len().max(16) {
            if let Some((id, stamp)) = self.ghosts.pop_front()
                && self.ghost_stamps.get(&id) == Some(&stamp)
            {
                self.ghost_stamps.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn id(chunk: u32) -> ChunkId {
        ChunkId {
            object: ObjectId(7),
            chunk,
        }
    }

    /// A cache of `capacity` chunks of weight 1; true where the read hit.
    fn read(heat: &mut Heat, resident: &mut HashSet<u32>, capacity: usize, chunk: u32) -> bool {
        if resident.contains(&chunk) {
            heat.touch(&id(chunk), true);
            return true;
        }
        if resident.len() == capacity {
            let gone = heat.evict().unwrap();
            assert!(resident.remove(&gone.chunk));
        }
        heat.insert(id(chunk), 1, false);
        resident.insert(chunk);
        false
    }

    fn cache(capacity: u64) -> (Heat, HashSet<u32>) {
        let mut heat = Heat::default();
        heat.set_capacity(capacity);
        (heat, HashSet::new())
    }

    #[test]
    fn a_scan_does_not_push_out_what_is_read_again() {
        // Of the budget, and where something else binds before it does.
        for budget in [100, 1000, u64::MAX] {
            scan(budget);
        }
    }

    fn scan(budget: u64) {
        let (mut heat, mut resident) = cache(budget);
        for _ in 0..3 {
            for chunk in 0..50 {
                read(&mut heat, &mut resident, 100, chunk);
            }
        }
        for chunk in 1000..5000 {
            read(&mut heat, &mut resident, 100, chunk);
        }
        let kept = (0..50).filter(|chunk| resident.contains(chunk)).count();
        assert_eq!(kept, 50, "budget {budget}");
    }

    #[test]
    fn one_that_goes_is_found_in_few_steps() {
        let (mut heat, _) = cache(10 * EVICT_STEPS_MAX as u64);
        let all = 0..10 * EVICT_STEPS_MAX as u32;
        for chunk in all.clone() {
            heat.insert(id(chunk), 1, true);
            heat.touch(&id(chunk), true);
        }
        heat.evict();
        let untouched = all.filter(|chunk| {
            heat.nodes
                .get(&id(*chunk))
                .is_some_and(|n| n.warmth.points == 1)
        });
        assert!(untouched.count() >= 8 * EVICT_STEPS_MAX);
    }

    #[test]
    fn what_was_hot_cools_down() {
        let (mut heat, mut resident) = cache(100);
        let mut hits = 0;
        for generation in 0..5 {
            for round in 0..20 {
                for chunk in 0..80 {
                    let hit = read(&mut heat, &mut resident, 100, generation * 1000 + chunk);
                    hits += usize::from(hit && round >= 10);
                }
            }
        }
        assert!(hits > 5 * 10 * 80 * 9 / 10, "{hits}");
    }

    #[test]
    fn a_ghost_comes_back_into_the_main_queue() {
        let (mut heat, mut resident) = cache(20);
        for chunk in 0..30 {
            read(&mut heat, &mut resident, 20, chunk);
        }
        let gone = (0..30)
            .rev()
            .find(|chunk| !resident.contains(chunk))
            .unwrap();
        read(&mut heat, &mut resident, 20, gone);
        assert!(heat.nodes[&id(gone)].in_main);
    }

    #[test]
    fn levels_tell_what_is_read_again_and_cool_down() {
        let (mut heat, _) = cache(1000);
        for chunk in 0..6 {
            match chunk {
                5 => heat.insert(id(chunk), 1, true),
                _ => heat.insert_got(id(chunk), 1),
            }
        }
        for (chunk, reads) in [(1, 1), (2, 2), (3, 7)] {
            (0..reads).for_each(|_| heat.touch(&id(chunk), true));
        }
        heat.insert_hot(id(6), 1, 2);
        // One that is in already is no hotter for being told.
        heat.insert_hot(id(4), 1, 3);
        let mut levels =
            |halvings| [0, 1, 2, 3, 4, 5, 6, 9].map(|chunk| heat.take_level(&id(chunk), halvings));
        assert_eq!(levels(0), [0, 1, 2, 3, 0, 0, 2, 0]);
        assert_eq!(levels(1), [0, 1, 2, 3, 0, 0, 2, 0]);
        assert_eq!(levels(40), [0, 0, 1, 1, 0, 0, 1, 0]);
        assert_eq!(levels(0), [0; 8]);
        // What came into the main queue by its reads is hot there, until it was not read for long.
        heat.touch(&id(0), true);
        let (read, told) = (id(0), id(5));
        heat.set_capacity(1);
        heat.evict();
        assert!(heat.nodes[&read].in_main);
        let mut level = |id| heat.take_level(id, 1);
        assert_eq!((level(&read), level(&read), level(&told)), (1, 0, 0));
    }

    #[test]
    fn scans_keep_and_do_not_heat_and_what_is_given_back_is_as_it_was() {
        let (mut heat, _) = cache(1000);
        heat.insert(id(0), 1, false);
        heat.insert_got(id(1), 1);
        for chunk in [0, 1] {
            (0..5).for_each(|_| heat.touch(&id(chunk), false));
        }
        heat.touch(&id(1), true);
        let levels = |heat: &mut Heat| [0, 1].map(|chunk| heat.take_level(&id(chunk), 0));
        assert_eq!(levels(&mut heat), [0, 2]);
        for chunk in [0, 1] {
            let warmth = heat.remove(&id(chunk));
            assert_eq!(warmth.points, 3);
            heat.give_back(id(chunk), 7, warmth);
        }
        assert_eq!((levels(&mut heat), heat.bytes()), ([0, 2], 14));
    }

    #[test]
    fn weights_and_removals_are_counted_and_queues_stay_short() {
        let (mut heat, _) = cache(1000);
        for chunk in 0..20_000 {
            heat.insert(id(chunk), 5, chunk % 2 == 0);
            heat.insert(id(chunk), 7, false);
            if chunk >= 10 {
                heat.remove(&id(chunk - 10));
            }
        }
        heat.remove(&id(77));
        assert_eq!(heat.small.bytes + heat.main.bytes, 70);
        assert!(heat.small.entries.len() + heat.main.entries.len() < 5000);
        let mut left = 0;
        while heat.evict().is_some() {
            left += 1;
        }
        assert_eq!((left, heat.small.bytes, heat.main.bytes), (10, 0, 0));
        assert!(heat.ghosts.len() <= 16);
    }
}
