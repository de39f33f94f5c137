//! What a power cut leaves of a [`MemEnv`](super::MemEnv): the model that the module head of `mem` states.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

use super::{
    file::{Disk, MemFile, PAGE_BYTES, State},
    tree::{Dir, DirId, Name, Node, ROOT, Tree},
};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// The tree after a power cut, with its files on `disk`.
pub(super) fn after_power_cut(old: &Tree, disk: &Arc<Disk>, seed: u64) -> Tree {
    let mut cut = PowerCut {
        old,
        new: Tree::new(),
        disk,
        fate: match seed {
            0 => Fate::LoseAll,
            1 => Fate::KeepAll,
            _ => Fate::Random,
        },
        rng: StdRng::seed_from_u64(seed),
        files: HashMap::new(),
        dirs: vec![ROOT],
    };
    let root = cut.dir(ROOT);
    cut.new.replace_dir(ROOT, root);
    cut.new
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    LoseAll,
    KeepAll,
    Random,
}

struct PowerCut<'a> {
    old: &'a Tree,
    new: Tree,
    disk: &'a Arc<Disk>,
    fate: Fate,
    rng: StdRng,
    /// New files by the numbers of the old ones, so that hard links stay links.
    files: HashMap<u64, Arc<MemFile>>,
    /// Old directories that have a place already.
    dirs: Vec<DirId>,
}

impl PowerCut<'_> {
    fn dir(&mut self, id: DirId) -> Dir {
        let old = self.old;
        let mut dir = Dir::new();
        for (name, states) in old.dir(id).into_iter().flatten() {
            if let Some(node) = self.choose(states).and_then(|node| self.node(node)) {
                dir.insert(name.clone(), Name::durable(node));
            }
        }
        dir
    }

    fn choose<'n>(&mut self, name: &'n Name) -> Option<&'n Node> {
        let states = name.states();
        let last = states.len() - 1;
        let chosen = match self.fate {
            Fate::LoseAll => 0,
            Fate::KeepAll => last,
            Fate::Random => self.rng.random_range(0..=last),
        };
        states[chosen].as_ref()
    }

    fn node(&mut self, node: &Node) -> Option<Node> {
        match node {
            Node::File(file) => Some(Node::File(self.file(file))),
            Node::Dir(id) if self.dirs.contains(id) => None,
            Node::Dir(id) => {
                self.dirs.push(*id);
                let dir = self.dir(*id);
                Some(Node::Dir(self.new.add_dir(dir)))
            }
        }
    }

    fn file(&mut self, file: &MemFile) -> Arc<MemFile> {
        if let Some(linked) = self.files.get(&file.number()) {
            linked.link();
            return linked.clone();
        }
        let state = file.read();
        let bytes = self.bytes(&state);
        let holes = self.holes(&state, &bytes);
        let new = MemFile::with_bytes(self.disk, bytes, holes);
        self.files.insert(file.number(), new.clone());
        new
    }

    fn bytes(&mut self, file: &State) -> Vec<u8> {
        let back_to_sync = match self.fate {
            Fate::LoseAll => true,
            Fate::KeepAll => return file.bytes.clone(),
            Fate::Random => !file.cut_tail.is_empty() && self.rng.random(),
        };
        if back_to_sync {
            return [file.durable(), file.cut_tail.clone()].concat();
        }
        let mut bytes = file.bytes.clone();
        for (page, old) in &file.overwritten {
            self.mix(&mut bytes[page * PAGE_BYTES..][..old.len()], old);
        }
        let durable = file.durable_prefix;
        match self.rng.random_range(0..4) {
            0 => bytes.truncate(durable),
            1 => {}
            2 => bytes.truncate(self.rng.random_range(durable..=bytes.len())),
            _ => self.tear(&mut bytes, durable),
        }
        bytes
    }

    /// Leaves of a page that was written over the new bytes, the old ones, or some sectors of either.
    fn mix(&mut self, page: &mut [u8], old: &[u8]) {
        match self.rng.random_range(0..3) {
            0 => page.copy_from_slice(old),
            1 => {}
            _ => {
                let sectors = page.chunks_mut(SECTOR_BYTES).zip(old.chunks(SECTOR_BYTES));
                for (sector, old) in sectors {
                    if self.rng.random() {
                        sector.copy_from_slice(old);
                    }
                }
            }
        }
    }

    /// Which pages of `bytes` are holes: of those that read as zero any, in a file that has or had holes.
    fn holes(&mut self, file: &State, bytes: &[u8]) -> BTreeSet<usize> {
        if self.fate == Fate::KeepAll {
            return file.holes.clone();
        }
        if file.holes.is_empty() && file.overwritten.is_empty() {
            return BTreeSet::new();
        }
        let mut holes = BTreeSet::new();
        for (page, bytes) in bytes.chunks(PAGE_BYTES).enumerate() {
            let zero = bytes.iter().all(|byte| *byte == 0);
            let certain = self.fate == Fate::LoseAll || file.holes.contains(&page);
            if zero && (certain || self.rng.random()) {
                holes.insert(page);
            }
        }
        holes
    }

    /// Leaves of the bytes from `begin` on any number, and of their sectors any one whole, zero or garbage.
    fn tear(&mut self, bytes: &mut Vec<u8>, begin: usize) {
        bytes.truncate(self.rng.random_range(begin..=bytes.len()));
        let mut at = begin;
        while at < bytes.len() {
            let end = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(bytes.len());
            match self.rng.random_range(0..3) {
                0 => bytes[at..end].fill(0),
                1 => self.rng.fill_bytes(&mut bytes[at..end]),
                _ => {}
            }
            at = end;
        }
    }
}
