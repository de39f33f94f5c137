//! What a power cut leaves of a [`MemEnv`](super::MemEnv): the model that the module head of `mem` states.

use std::{collections::HashMap, sync::Arc};

use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

use super::{
    file::{Disk, MemFile, State},
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
        let bytes = self.bytes(&file.read());
        let new = MemFile::with_bytes(self.disk, bytes, 1);
        self.files.insert(file.number(), new.clone());
        new
    }

    fn bytes(&mut self, file: &State) -> Vec<u8> {
        let durable = &file.bytes[..file.durable_prefix];
        let back_to_sync = match self.fate {
            Fate::LoseAll => true,
            Fate::KeepAll => false,
            Fate::Random => !file.cut_tail.is_empty() && self.rng.random(),
        };
        if back_to_sync {
            return [durable, &file.cut_tail].concat();
        }
        if self.fate == Fate::KeepAll {
            return file.bytes.clone();
        }
        let mut bytes = file.bytes.clone();
        match self.rng.random_range(0..4) {
            0 => bytes.truncate(durable.len()),
            1 => {}
            2 => bytes.truncate(self.rng.random_range(durable.len()..=bytes.len())),
            _ => self.tear(&mut bytes, durable.len()),
        }
        bytes
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
