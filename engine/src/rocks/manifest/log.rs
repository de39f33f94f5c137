//! RocksDB's record log, as a MANIFEST uses it. Authority: `db/log_format.h`, `db/log_reader.cc`, `db/log_writer.cc`.
//!
//! The file is cut into blocks of 32 KiB. A record is one fragment or several; no fragment crosses the end of a block, and
//! fewer than seven bytes that are left there are zero. A fragment is
//! `[masked crc32c u32 LE][length u16 LE][type u8][bytes]`, the checksum over type and bytes.
//!
//! RocksDB forgives a torn end, which a crash leaves. Here every byte counts: what is read is a copy that was written
//! whole, so whatever does not fit is damage.

use std::borrow::Cow;

use super::Problem;

const BLOCK: usize = 32 << 10;
const HEADER: usize = 7;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// The records of a log, one after the other.
pub(super) struct Records<'a> {
    log: &'a [u8],
    at: usize,
}

/// A record, and the place of its first fragment.
pub(super) struct Record<'a> {
    pub(super) offset: usize,
    pub(super) bytes: Cow<'a, [u8]>,
}

struct Fragment<'a> {
    kind: u8,
    bytes: &'a [u8],
}

impl<'a> Records<'a> {
    pub(super) fn new(log: &'a [u8]) -> Self {
        Records { log, at: 0 }
    }

    /// The next record, verified; `None` at the end of the log. After an error there is no next.
    pub(super) fn next(&mut self) -> Result<Option<Record<'a>>, Problem> {
        self.skip_trailer()?;
        let offset = self.at;
        let Some(first) = self.fragment()? else {
            return Ok(None);
        };
        let mut bytes = Cow::Borrowed(first.bytes);
        let mut kind = first.kind;
        if kind != FULL && kind != FIRST {
            return Err(Problem::corrupt(offset, "a record begins in its middle"));
        }
        while kind != FULL && kind != LAST {
            self.skip_trailer()?;
            let at = self.at;
            let Some(next) = self.fragment()? else {
                return Err(Problem::corrupt(at, "the last record has no end"));
            };
            if next.kind != MIDDLE && next.kind != LAST {
                return Err(Problem::corrupt(at, "a record begins inside another"));
            }
            bytes.to_mut().extend_from_slice(next.bytes);
            kind = next.kind;
        }
        Ok(Some(Record { offset, bytes }))
    }

    /// Goes to the next block where too little is left of this one for a fragment.
    fn skip_trailer(&mut self) -> Result<(), Problem> {
        let left = BLOCK - self.at % BLOCK;
        let rest = &self.log[self.at..];
        if left >= HEADER || rest.is_empty() {
            return Ok(());
        }
        match rest.get(..left) {
            Some(trailer) if trailer.iter().all(|byte| *byte == 0) => {
                self.at += left;
                Ok(())
            }
            _ => Err(Problem::corrupt(
                self.at,
                "the end of a block is not filled with zeros",
            )),
        }
    }

    fn fragment(&mut self) -> Result<Option<Fragment<'a>>, Problem> {
        let at = self.at;
        let rest = &self.log[at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let Some((header, body)) = rest.split_first_chunk::<HEADER>() else {
            return Err(Problem::corrupt(at, "it ends in the head of a record"));
        };
        let [c0, c1, c2, c3, l0, l1, kind] = *header;
        let len = usize::from(u16::from_le_bytes([l0, l1]));
        if len > BLOCK - at % BLOCK - HEADER {
            return Err(Problem::corrupt(at, "a record is longer than its block"));
        }
        let Some(bytes) = body.get(..len) else {
            return Err(Problem::corrupt(at, "it ends inside a record"));
        };
        // Type and bytes lie side by side.
        if u32::from_le_bytes([c0, c1, c2, c3]) != masked_crc(&rest[HEADER - 1..HEADER + len]) {
            return Err(Problem::corrupt(at, "the checksum of a record is wrong"));
        }
        if !(FULL..=LAST).contains(&kind) {
            // Recycled, compressed and WAL records, which RocksDB writes into no MANIFEST.
            let reason = format!("records of type {kind} do not belong into a MANIFEST");
            return Err(Problem::unsupported(at, reason));
        }
        self.at += HEADER + len;
        Ok(Some(Fragment { kind, bytes }))
    }
}

/// Appends a record. `log` is empty or was made by this function.
pub(super) fn append(log: &mut Vec<u8>, record: &[u8]) {
    let mut rest = record;
    let mut first = true;
    loop {
        let mut left = BLOCK - log.len() % BLOCK;
        if left < HEADER {
            log.resize(log.len() + left, 0);
            left = BLOCK;
        }
        // May be none at all: RocksDB then begins the record with an empty fragment.
        let (bytes, after) = rest.split_at(rest.len().min(left - HEADER));
        rest = after;
        let kind = match (first, rest.is_empty()) {
            (true, true) => FULL,
            (true, false) => FIRST,
            (false, false) => MIDDLE,
            (false, true) => LAST,
        };
        first = false;
        let at = log.len();
        log.extend_from_slice(&[0; 4]);
        log.extend_from_slice(&(bytes.len() as u16).to_le_bytes()); // below BLOCK
        log.push(kind);
        log.extend_from_slice(bytes);
        let crc = masked_crc(&log[at + HEADER - 1..]);
        log[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        if rest.is_empty() {
            return;
        }
    }
}

/// `util/crc32c.h`: the checksum of bytes that hold checksums would be weak, so it is stored rotated and shifted.
fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32; // has 32 bits
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}
