//! What the cache knows in memory: which pages are resident, what they take, and who is changing them. No I/O here.
//!
//! # Invariants
//! * `charged` is at least what the resident pages, the map blocks that hold their checksums and the map headers take on
//!   the disk, with those of chunks that are being punched. `reserved` is what others may write beyond that.
//! * A chunk is written by any number of threads (`writers`) or punched by one (`evicting`), never both. Of a file that
//!   is `sealed` nothing is written or punched.
//! * What a failed or distrusted write left makes its chunk `dirty`: nothing of it becomes resident any more, and whoever
//!   is its last writer punches it.
//! * A chunk is in the heat if it has resident pages, nobody evicts it, and its file is not held by a download.
//! * A file that was retired is not in `files`: whoever still works on it finds its number gone, and leaves no trace.

mod claim;
mod life;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    Object, ObjectId,
    file::CacheFile,
    flight::Flights,
    geometry::{BLOCK_BYTES, disk_bytes, group_of},
    heat::{ChunkId, Heat, Warmth},
};
pub(crate) use claim::{Claim, Source};

/// An object is idle for long after so many reads for each that may be open: one that is read as often as the others is
/// hardly ever.
const IDLE_ROUNDS: u64 = 16;

#[derive(Debug, Default)]
pub(crate) struct State {
    pub budget: u64,
    charged: u64,
    /// Bytes that somebody may write yet: the sum of what every [`Room`](super::room::Room) holds.
    pub reserved: u64,
    /// Bytes that turned from reserved into charged, ever.
    pub written: u64,
    /// Chunks that are being punched.
    pub evicting: usize,
    /// What these take on the disk.
    pub freeing: u64,
    /// Nothing on the disk is punched or deleted any more: it may be another cache's.
    pub closed: bool,
    pub files: HashMap<ObjectId, FileState>,
    pub heat: Heat,
    pub flights: Flights,
    next_number: u64,
    /// Reads that could fill it, ever.
    reads: u64,
}

#[derive(Debug)]
pub(crate) struct FileState {
    /// Tells this life of the object in the cache from earlier ones.
    pub number: u64,
    pub object: Arc<Object>,
    /// When it was read, in reads.
    read: u64,
    /// Open once anything was stored.
    pub file: Option<Arc<CacheFile>>,
    pub chunks: BTreeMap<u32, Chunk>,
    groups: HashMap<u32, Group>,
    /// What it has in the state's `charged`.
    charged: u64,
    /// An earlier process stored some of it, and nobody has looked yet what of that is good.
    pub is_old: bool,
    /// A download has it: its chunks are not evicted.
    pub held: bool,
    /// Nothing of it changes any more.
    pub sealed: bool,
    /// Writes and punches under way.
    pub changing: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// The resident pages.
    pub bits: u64,
    /// Tells this chunk from one that was here before.
    pub born: u64,
    pub writers: u32,
    pub evicting: bool,
    /// Something is on the disk that is not resident and must be punched.
    pub dirty: bool,
    /// While its file is held: how warm it was in the heat.
    warmth: Warmth,
}

/// The chunks whose checksums are in one block of the map.
#[derive(Debug, Default)]
struct Group {
    chunks: u32,
    charged: bool,
}

/// A chunk that is being punched, and what its pages take on the disk.
#[derive(Debug)]
#[must_use]
pub(crate) struct Vacating {
    pub object: ObjectId,
    pub number: u64,
    pub chunk: u32,
    takes: u64,
}

impl State {
    /// What the cache takes of its budget.
    pub fn used(&self) -> u64 {
        self.charged + self.reserved
    }

    /// The object's state; a new one where there is none.
    pub fn file(&mut self, object: &Arc<Object>) -> &mut FileState {
        let next = &mut self.next_number;
        self.files.entry(object.id).or_insert_with(|| {
            *next += 1;
            FileState {
                number: *next,
                object: object.clone(),
                read: 0,
                file: None,
                chunks: BTreeMap::new(),
                groups: HashMap::new(),
                charged: 0,
                is_old: false,
                held: false,
                sealed: false,
                changing: 0,
            }
        })
    }

    /// Notes a read of the object; the number of its life.
    pub fn touch(&mut self, object: &Arc<Object>) -> u64 {
        self.reads += 1;
        let now = self.reads;
        let file = self.file(object);
        file.read = now;
        file.number
    }

    /// How many objects have their files open.
    pub fn open_objects(&self) -> usize {
        let files = self.files.values();
        files.filter(|file| file.file.is_some()).count()
    }

    /// The idle object that was not read for longest, where that is long ago if all of `most` were read in turn.
    pub fn long_idle(&self, most: usize) -> Option<ObjectId> {
        let idle = self.files.values();
        let idle = idle.filter(|file| file.file.is_some() && file.is_idle());
        let oldest = idle.min_by_key(|file| file.read)?;
        let long = IDLE_ROUNDS * most as u64;
        (oldest.read + long < self.reads).then_some(oldest.object.id)
    }

    /// The state of this life of the object, if that goes on.
    pub fn life(&mut self, object: ObjectId, number: u64) -> Option<&mut FileState> {
        self.files
            .get_mut(&object)
            .filter(|file| file.number == number)
    }

    /// Charges the block that the map's header takes, which was reserved; what was charged.
    pub fn charge_header(&mut self, object: ObjectId, number: u64, file: Arc<CacheFile>) -> u64 {
        let Some(state) = self.life(object, number) else {
            return 0;
        };
        state.file = Some(file);
        state.charged += BLOCK_BYTES;
        self.charge(BLOCK_BYTES);
        BLOCK_BYTES
    }

    fn charge(&mut self, bytes: u64) {
        self.charged += bytes;
        self.reserved -= bytes;
        self.written += bytes;
    }

    /// Takes in what a map on the disk holds. Charged, whether or not the budget allows it.
    pub fn load(&mut self, object: &Arc<Object>, file: Arc<CacheFile>, resident: &[(u32, u64)]) {
        self.next_number += 1;
        let born = self.next_number;
        let id = object.id;
        let state = self.file(object);
        state.file = Some(file);
        state.charged = BLOCK_BYTES;
        state.is_old = true;
        for &(at, bits) in resident {
            let chunk = Chunk {
                bits,
                born,
                ..Chunk::default()
            };
            state.charged += disk_bytes(bits);
            let group = state.groups.entry(group_of(at)).or_default();
            group.chunks += 1;
            if !std::mem::replace(&mut group.charged, true) {
                state.charged += BLOCK_BYTES;
            }
            state.chunks.insert(at, chunk);
        }
        self.charged += self.files[&id].charged;
        for &(chunk, bits) in resident {
            self.heat
                .insert(ChunkId { object: id, chunk }, disk_bytes(bits), true);
        }
    }

    /// Marks a chunk as being punched. `None` where somebody writes or punches it, or nobody may any more.
    pub fn begin_vacate(&mut self, object: ObjectId, number: u64, at: u32) -> Option<Vacating> {
        let closed = self.closed;
        let file = self
            .life(object, number)
            .filter(|file| !file.sealed && !closed)?;
        let chunk = file.chunks.get_mut(&at)?;
        if chunk.writers > 0 || chunk.evicting || file.file.is_none() {
            return None;
        }
        chunk.evicting = true;
        let takes = disk_bytes(chunk.bits);
        file.changing += 1;
        self.evicting += 1;
        self.freeing += takes;
        self.heat.remove(&ChunkId { object, chunk: at });
        Some(Vacating {
            object,
            number,
            chunk: at,
            takes,
        })
    }

    /// True where the chunk is the last one of its map block.
    pub fn is_last_of_group(&mut self, object: ObjectId, number: u64, at: u32) -> bool {
        self.life(object, number)
            .and_then(|file| file.groups.get(&group_of(at)))
            .is_some_and(|group| group.chunks == 1)
    }

    /// The chunk is absent from here on. To be called while `map_writing` is held, so that nobody writes into a map block
    /// that goes.
    pub fn forget_chunk(&mut self, object: ObjectId, number: u64, at: u32) {
        let Some(file) = self.life(object, number) else {
            return;
        };
        let Some(chunk) = file.chunks.remove(&at) else {
            return;
        };
        let mut freed = disk_bytes(chunk.bits);
        if let Some(group) = file.groups.get_mut(&group_of(at)) {
            group.chunks -= 1;
            if group.chunks == 0 {
                freed += u64::from(group.charged) * BLOCK_BYTES;
                file.groups.remove(&group_of(at));
            }
        }
        file.charged -= freed;
        self.charged -= freed;
    }

    /// Ends what [`begin_vacate`](Self::begin_vacate) began.
    pub fn end_vacate(&mut self, vacating: &Vacating) {
        self.evicting -= 1;
        self.freeing -= vacating.takes;
        if let Some(file) = self.life(vacating.object, vacating.number) {
            file.changing -= 1;
        }
    }

    /// The coldest chunks that together free `bytes`, marked as being punched.
    pub fn pick(&mut self, bytes: u64) -> Vec<Vacating> {
        let (mut victims, mut busy, mut freed) = (Vec::new(), Vec::new(), 0);
        while freed < bytes {
            let Some(id) = self.heat.evict() else { break };
            let Some(file) = self.files.get(&id.object) else {
                continue;
            };
            let number = file.number;
            let Some(bits) = file.chunks.get(&id.chunk).map(|chunk| chunk.bits) else {
                continue;
            };
            if let Some(victim) = self.begin_vacate(id.object, number, id.chunk) {
                freed += victim.takes;
                victims.push(victim);
            } else {
                busy.push((id, disk_bytes(bits)));
            }
        }
        for (id, weight) in busy {
            self.heat.insert(id, weight, true);
        }
        victims
    }

    /// An object of which only the files are left.
    pub fn empty_file(&self) -> Option<ObjectId> {
        let file = self.files.values().find(|file| file.is_empty())?;
        Some(file.object.id)
    }

    /// True where so much can be punched and deleted, what others are at included. Of chunks that are being written too
    /// much is hoped for.
    pub fn can_free(&self, bytes: u64) -> bool {
        let loose = self.files.values().filter(|file| !file.held);
        self.heat.bytes() >= bytes || loose.map(|file| file.charged).sum::<u64>() >= bytes
    }

    /// True where a download has another object than this.
    pub fn others_held(&self, object: ObjectId) -> bool {
        let mut files = self.files.values();
        files.any(|file| file.held && file.object.id != object)
    }

    /// True where downloads are at work.
    pub fn any_held(&self) -> bool {
        self.files.values().any(|file| file.held)
    }

    /// Forgets an object and what it is charged. The caller deletes its files.
    pub fn retire(&mut self, object: ObjectId) -> Option<FileState> {
        let file = self.files.remove(&object)?;
        self.charged -= file.charged;
        for &chunk in file.chunks.keys() {
            self.heat.remove(&ChunkId { object, chunk });
        }
        self.flights.forget(object);
        Some(file)
    }

    /// Takes a file's chunks out of the heat, or back in as they were.
    pub fn set_held(&mut self, object: ObjectId, number: u64, held: bool) {
        let (heat, files) = (&mut self.heat, &mut self.files);
        let Some(file) = files.get_mut(&object).filter(|file| file.number == number) else {
            return;
        };
        file.held = held;
        if !held {
            file.sealed = false;
        }
        for (&at, chunk) in &mut file.chunks {
            let id = ChunkId { object, chunk: at };
            if held {
                chunk.warmth = heat.remove(&id);
            } else if chunk.bits != 0 && !chunk.evicting {
                heat.give_back(id, disk_bytes(chunk.bits), chunk.warmth);
            }
        }
    }
}
