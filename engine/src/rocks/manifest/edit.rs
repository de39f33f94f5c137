//! One record of a MANIFEST: a change of the set of files. Authority: `db/version_edit.h` and `db/version_edit.cc`.
//!
//! What concerns the WAL is read and left out: no WAL belongs to a copied MANIFEST, and a number of one kept by mistake
//! would have RocksDB pass over the logs of the database that is made of it. Compaction cursors are left out too; they are
//! only a hint.

use super::{
    ManifestFile, Problem,
    wire::{Wire, put, put_bytes},
};

/// The largest number of a file (`kFileNumberMask`); the bits above it say in which of several paths it is.
pub(super) const MAX_FILE_NUMBER: u64 = 0x3FFF_FFFF_FFFF_FFFF;
/// `kMaxSequenceNumber` of `db/dbformat.h`: a byte beside it holds the type.
pub(super) const MAX_SEQUENCE: u64 = (1 << 56) - 1;

/// `Tag`.
mod tag {
    pub(super) const COMPARATOR: u32 = 1;
    pub(super) const LOG_NUMBER: u32 = 2;
    pub(super) const NEXT_FILE_NUMBER: u32 = 3;
    pub(super) const LAST_SEQUENCE: u32 = 4;
    pub(super) const COMPACT_CURSOR: u32 = 5;
    pub(super) const DELETED_FILE: u32 = 6;
    pub(super) const NEW_FILE: u32 = 7;
    pub(super) const PREV_LOG_NUMBER: u32 = 9;
    pub(super) const MIN_LOG_NUMBER_TO_KEEP: u32 = 10;
    pub(super) const NEW_FILE_2: u32 = 100;
    pub(super) const NEW_FILE_3: u32 = 102;
    pub(super) const NEW_FILE_4: u32 = 103;
    pub(super) const COLUMN_FAMILY: u32 = 200;
    pub(super) const COLUMN_FAMILY_ADD: u32 = 201;
    pub(super) const COLUMN_FAMILY_DROP: u32 = 202;
    pub(super) const MAX_COLUMN_FAMILY: u32 = 203;
    pub(super) const IN_ATOMIC_GROUP: u32 = 300;
    pub(super) const BLOB_FILE_ADDITION: u32 = 400;
    pub(super) const BLOB_FILE_GARBAGE: u32 = 401;
    /// A reader that does not know a tag with this bit passes over it: a byte string follows.
    pub(super) const SAFE_TO_IGNORE: u32 = 1 << 13;
    pub(super) const DB_ID: u32 = SAFE_TO_IGNORE + 1;
    pub(super) const OLD_BLOB_FILE_ADDITION: u32 = SAFE_TO_IGNORE + 2;
    pub(super) const OLD_BLOB_FILE_GARBAGE: u32 = SAFE_TO_IGNORE + 3;
    /// These two have no length before them, unlike all others with the bit.
    pub(super) const OLD_WAL_ADDITION: u32 = SAFE_TO_IGNORE + 4;
    pub(super) const OLD_WAL_DELETION: u32 = SAFE_TO_IGNORE + 5;
    pub(super) const FULL_HISTORY_TS_LOW: u32 = SAFE_TO_IGNORE + 6;
    pub(super) const PERSIST_USER_TIMESTAMPS: u32 = SAFE_TO_IGNORE + 9;
    pub(super) const LAST_COMPACTED_SIZE: u32 = SAFE_TO_IGNORE + 11;
}

/// `NewFileCustomTag`: fields of a file, each a byte string.
mod field {
    pub(super) const END: u32 = 1;
    pub(super) const MIN_LOG_NUMBER_TO_KEEP: u32 = 3;
    pub(super) const OLDEST_BLOB_FILE: u32 = 4;
    pub(super) const EPOCH_NUMBER: u32 = 13;
    /// The largest that RocksDB 11.8.1 knows of those that may be ignored.
    pub(super) const LAST_KNOWN: u32 = 17;
    /// A field with this bit must be understood.
    pub(super) const NOT_SAFE_TO_IGNORE: u32 = 1 << 6;
    pub(super) const PATH_ID: u32 = NOT_SAFE_TO_IGNORE + 1;
}

/// What one record says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) db_id: Option<String>,
    pub(super) comparator: Option<String>,
    /// `false` with keys that carry timestamps of the user's which the files do not hold.
    pub(super) persist_timestamps: Option<bool>,
    /// WALs below it hold nothing of the column family.
    pub(super) log_number: Option<u64>,
    pub(super) next_file_number: Option<u64>,
    pub(super) max_column_family: Option<u32>,
    pub(super) last_sequence: Option<u64>,
    /// Level and number. RocksDB applies all of these before it adds.
    pub(super) deleted: Vec<(u8, u64)>,
    pub(super) added: Vec<ManifestFile>,
    /// What the record is about; 0 is the default column family.
    pub(super) column: u32,
    pub(super) column_added: Option<String>,
    pub(super) column_dropped: bool,
    /// How many more records belong to the group.
    pub(super) in_group: Option<u32>,
    pub(super) full_history_ts_low: Option<Vec<u8>>,
    /// About how long the MANIFEST was when it was last written afresh.
    pub(super) compacted_size: Option<u64>,
}

impl Edit {
    /// Reads a record that begins at `offset` of the log.
    pub(super) fn decode(offset: usize, record: &[u8]) -> Result<Edit, Problem> {
        let mut edit = Edit::default();
        let mut wire = Wire(record);
        while !wire.is_empty() {
            let damaged = || Problem::corrupt(offset, "a record ends inside a tag");
            let tag = wire.u32().ok_or_else(damaged)?;
            edit.field(tag, &mut wire, offset)?;
        }
        Ok(edit)
    }

    fn field(&mut self, tag: u32, wire: &mut Wire, offset: usize) -> Result<(), Problem> {
        let known = match tag {
            tag::NEW_FILE | tag::NEW_FILE_2 | tag::NEW_FILE_3 | tag::NEW_FILE_4 => {
                self.added.push(file(tag, wire, offset)?);
                Some(())
            }
            tag::BLOB_FILE_ADDITION
            | tag::BLOB_FILE_GARBAGE
            | tag::OLD_BLOB_FILE_ADDITION
            | tag::OLD_BLOB_FILE_GARBAGE => {
                return Err(Problem::unsupported(offset, "it names blob files"));
            }
            tag::OLD_WAL_ADDITION | tag::OLD_WAL_DELETION => skip_old_wal(tag, wire),
            tag::COLUMN_FAMILY
            | tag::COLUMN_FAMILY_ADD
            | tag::COLUMN_FAMILY_DROP
            | tag::MAX_COLUMN_FAMILY
            | tag::COMPARATOR
            | tag::PERSIST_USER_TIMESTAMPS => self.column_field(tag, wire),
            _ if tag & tag::SAFE_TO_IGNORE != 0 || tag <= tag::IN_ATOMIC_GROUP => {
                self.plain_field(tag, wire, offset)?
            }
            _ => return Err(unknown(tag, offset)),
        };
        known.ok_or_else(|| Problem::corrupt(offset, format!("the field {tag} of a record is cut")))
    }

    /// `None` where the bytes do not make the field.
    fn column_field(&mut self, tag: u32, wire: &mut Wire) -> Option<()> {
        match tag {
            tag::COLUMN_FAMILY => self.column = wire.u32()?,
            tag::COLUMN_FAMILY_ADD => self.column_added = Some(wire.text()?),
            tag::COLUMN_FAMILY_DROP => self.column_dropped = true,
            tag::MAX_COLUMN_FAMILY => self.max_column_family = Some(wire.u32()?),
            tag::COMPARATOR => self.comparator = Some(wire.text()?),
            _ => match wire.bytes()? {
                [persist] => self.persist_timestamps = Some(*persist == 1),
                _ => return None,
            },
        }
        Some(())
    }

    fn plain_field(
        &mut self,
        tag: u32,
        wire: &mut Wire,
        offset: usize,
    ) -> Result<Option<()>, Problem> {
        let mut read = || -> Option<bool> {
            match tag {
                tag::DB_ID => self.db_id = Some(wire.text()?),
                tag::LOG_NUMBER => self.log_number = Some(wire.u64()?),
                tag::PREV_LOG_NUMBER | tag::MIN_LOG_NUMBER_TO_KEEP => drop(wire.u64()?),
                tag::NEXT_FILE_NUMBER => self.next_file_number = Some(wire.u64()?),
                tag::LAST_SEQUENCE => self.last_sequence = Some(wire.u64()?),
                tag::COMPACT_CURSOR => drop((level(wire)?, wire.bytes()?)),
                tag::DELETED_FILE => self.deleted.push((level(wire)?, wire.u64()?)),
                tag::IN_ATOMIC_GROUP => self.in_group = Some(wire.u32()?),
                tag::FULL_HISTORY_TS_LOW => self.full_history_ts_low = Some(wire.bytes()?.to_vec()),
                tag::LAST_COMPACTED_SIZE => {
                    self.compacted_size = Some(Wire(wire.bytes()?).u64()?);
                }
                // WALs that are tracked, the progress of compactions, and what later versions add.
                _ if tag & tag::SAFE_TO_IGNORE != 0 => drop(wire.bytes()?),
                _ => return Some(false),
            }
            Some(true)
        };
        match read() {
            Some(false) => Err(unknown(tag, offset)),
            read => Ok(read.map(drop)),
        }
    }

    /// The record. Fields that are not set are not written.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut number = |tag: u32, value: Option<u64>| {
            if let Some(value) = value {
                put(&mut out, tag.into());
                put(&mut out, value);
            }
        };
        number(tag::LOG_NUMBER, self.log_number);
        number(tag::NEXT_FILE_NUMBER, self.next_file_number);
        number(
            tag::MAX_COLUMN_FAMILY,
            self.max_column_family.map(u64::from),
        );
        number(tag::LAST_SEQUENCE, self.last_sequence);
        number(
            tag::COLUMN_FAMILY,
            (self.column != 0).then_some(self.column.into()),
        );
        number(tag::IN_ATOMIC_GROUP, self.in_group.map(u64::from));

        for (level, number) in &self.deleted {
            put(&mut out, tag::DELETED_FILE.into());
            put(&mut out, u64::from(*level));
            put(&mut out, *number);
        }
        for file in &self.added {
            put_file(&mut out, file);
        }
        if self.column_dropped {
            put(&mut out, tag::COLUMN_FAMILY_DROP.into());
        }

        let mut bytes = |tag: u32, value: Option<&[u8]>| {
            if let Some(value) = value {
                put(&mut out, tag.into());
                put_bytes(&mut out, value);
            }
        };
        bytes(tag::DB_ID, self.db_id.as_deref().map(str::as_bytes));
        bytes(
            tag::COMPARATOR,
            self.comparator.as_deref().map(str::as_bytes),
        );
        bytes(
            tag::COLUMN_FAMILY_ADD,
            self.column_added.as_deref().map(str::as_bytes),
        );
        bytes(
            tag::FULL_HISTORY_TS_LOW,
            self.full_history_ts_low.as_deref(),
        );
        let persist = self.persist_timestamps.map(|persist| [u8::from(persist)]);
        bytes(
            tag::PERSIST_USER_TIMESTAMPS,
            persist.as_ref().map(|p| &p[..]),
        );
        let size = self.compacted_size.map(|size| {
            let mut bytes = Vec::new();
            put(&mut bytes, size);
            bytes
        });
        bytes(tag::LAST_COMPACTED_SIZE, size.as_deref());
        out
    }
}

fn unknown(tag: u32, offset: usize) -> Problem {
    Problem::unsupported(offset, format!("the tag {tag} of a record is not known"))
}

fn level(wire: &mut Wire) -> Option<u8> {
    u8::try_from(wire.u32()?).ok()
}

/// `db/wal_edit.cc`, as it was before these had a length.
fn skip_old_wal(tag: u32, wire: &mut Wire) -> Option<()> {
    wire.u64()?; // which WAL
    if tag == tag::OLD_WAL_DELETION {
        return Some(());
    }
    loop {
        match wire.u32()? {
            1 => return Some(()),
            2 => drop(wire.u64()?), // its length
            _ => return None,
        }
    }
}

/// A file that is added, in any of the four formats.
fn file(tag: u32, wire: &mut Wire, offset: usize) -> Result<ManifestFile, Problem> {
    let cut = || Problem::corrupt(offset, "a file of a record is cut or its keys are");
    let (mut file, path) = file_head(tag, wire).ok_or_else(cut)?;
    if path != 0 {
        return Err(Problem::unsupported(offset, "files lie in several paths"));
    }
    if tag != tag::NEW_FILE_4 {
        return Ok(file);
    }
    loop {
        let field = wire.u32().ok_or_else(cut)?;
        if field == field::END {
            return Ok(file);
        }
        let value = wire.bytes().ok_or_else(cut)?;
        match field {
            field::EPOCH_NUMBER => file.epoch = Wire(value).u64().ok_or_else(cut)?,
            field::MIN_LOG_NUMBER_TO_KEEP => {} // of the database, not of the file: see the module
            field::OLDEST_BLOB_FILE => {
                return Err(Problem::unsupported(offset, "a file needs blob files"));
            }
            field::PATH_ID if value == [0] => {}
            field::PATH_ID => {
                return Err(Problem::unsupported(offset, "files lie in several paths"));
            }
            _ if field & field::NOT_SAFE_TO_IGNORE != 0 => {
                let reason = format!("the field {field} of a file is not known");
                return Err(Problem::unsupported(offset, reason));
            }
            // RocksDB itself drops those that it does not know when it writes a MANIFEST afresh.
            _ if field > field::LAST_KNOWN => {}
            _ => file.custom.push((field, value.to_vec())),
        }
    }
}

/// What all formats have, and the path.
fn file_head(tag: u32, wire: &mut Wire) -> Option<(ManifestFile, u32)> {
    let level = level(wire)?;
    let number = wire.u64()?;
    let path = if tag == tag::NEW_FILE_3 {
        wire.u32()?
    } else {
        0
    };
    let len = wire.u64()?;
    let smallest = wire.bytes()?.to_vec();
    let largest = wire.bytes()?.to_vec();
    let (smallest_seqno, largest_seqno) = if tag == tag::NEW_FILE {
        (MAX_SEQUENCE, 0) // unknown, as `FileDescriptor` has it
    } else {
        (wire.u64()?, wire.u64()?)
    };
    let file = ManifestFile {
        number,
        level,
        len,
        smallest,
        largest,
        smallest_seqno,
        largest_seqno,
        epoch: 0,
        custom: Vec::new(),
    };
    Some((file, path))
}

fn put_file(out: &mut Vec<u8>, file: &ManifestFile) {
    put(out, tag::NEW_FILE_4.into());
    put(out, u64::from(file.level));
    put(out, file.number);
    put(out, file.len);
    put_bytes(out, &file.smallest);
    put_bytes(out, &file.largest);
    put(out, file.smallest_seqno);
    put(out, file.largest_seqno);
    if file.epoch != 0 {
        let mut epoch = Vec::new();
        put(&mut epoch, file.epoch);
        put(out, field::EPOCH_NUMBER.into());
        put_bytes(out, &epoch);
    }
    for (field, value) in &file.custom {
        put(out, u64::from(*field));
        put_bytes(out, value);
    }
    put(out, field::END.into());
}
