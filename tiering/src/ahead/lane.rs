//! [`Lane`]: where the reader of a sequence of files is, and what is asked for before it. No I/O, no locks.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
};

use super::ScanFile;
use crate::cache::{CHUNK_BYTES, ObjectId};

/// A request is not much shorter, but at the end of a file: a round trip for less is not worth it.
const MIN_PIECE_BYTES: u64 = CHUNK_BYTES;

/// A request is not much longer: the reader waits for the whole of it, and several at once fill a link better than one.
const MAX_PIECE_BYTES: u64 = 1 << 20;

/// The window is asked for in so many requests.
const PIECES: u64 = 8;

/// A place in a sequence: the index of a file, and an offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Place {
    index: usize,
    offset: u64,
}

#[derive(Debug)]
pub(super) struct Lane {
    files: Vec<ScanFile>,
    index: HashMap<String, usize>,
    /// What its reader has read.
    read: u64,
    /// Where its reader is; `None`: it was not seen yet.
    at: Option<Place>,
    /// Everything before was asked for, or is behind the reader.
    head: Place,
    /// What is between them, in order.
    pieces: VecDeque<Piece>,
}

/// What was asked for at once, of one file.
#[derive(Debug)]
pub(super) struct Piece {
    pub index: usize,
    /// The first byte after it.
    pub end: u64,
    /// It is the last one of its file.
    pub whole: bool,
    pub bytes: u64,
    /// `None`: a file that is not remote, passed over.
    pub object: Option<ObjectId>,
    /// The requests that bring it.
    pub flights: Vec<u64>,
}

/// What may be asked for next: so many bytes of a file at most.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub index: usize,
    pub start: u64,
    pub room: u64,
}

/// How long the next request should be.
fn piece_bytes(window: u64) -> u64 {
    (window / PIECES).clamp(MIN_PIECE_BYTES, MAX_PIECE_BYTES)
}

impl Lane {
    /// `read`: what its reader has read of it before.
    pub fn new(files: Vec<ScanFile>, read: u64) -> Self {
        let names = files.iter().map(|file| file.name.clone());
        Lane {
            index: names.enumerate().map(|(i, name)| (name, i)).collect(),
            files,
            read,
            at: None,
            head: Place::default(),
            pieces: VecDeque::new(),
        }
    }

    pub fn index(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    pub fn file(&self, index: usize) -> &ScanFile {
        &self.files[index]
    }

    pub fn read_bytes(&self) -> u64 {
        self.read
    }

    /// The reader has read up to a place. Gives what it has passed. One that goes back is not followed.
    pub fn read_to(&mut self, index: usize, offset: u64, bytes: u64) -> Vec<Piece> {
        let at = Place { index, offset };
        if self.at.is_some_and(|before| at <= before) {
            return Vec::new();
        }
        self.at = Some(at);
        self.read += bytes;
        self.head = self.head.max(at);
        let passed = |piece: &Piece| {
            let end = Place {
                index: piece.index,
                offset: piece.end,
            };
            end <= at
        };
        let passed = self.pieces.iter().take_while(|piece| passed(piece)).count();
        self.pieces.drain(..passed).collect()
    }

    /// Nothing is asked for any more. Gives what the reader has not passed.
    pub fn end(&mut self) -> Vec<Piece> {
        self.files.clear();
        self.index.clear();
        self.pieces.drain(..).collect()
    }

    /// Where to go on, if the window has room for a request.
    pub fn next(&self, window: u64) -> Option<Next> {
        self.at?;
        let ahead: u64 = self.pieces.iter().map(|piece| piece.bytes).sum();
        let room = window.saturating_sub(ahead);
        let Place { index, offset } = self.head;
        let more = index < self.files.len() && room >= piece_bytes(window);
        more.then_some(Next {
            index,
            start: offset,
            room,
        })
    }

    /// Goes on behind a file that is not remote, if the window reaches over it.
    pub fn pass_over(&mut self, index: usize, room: u64) -> bool {
        let file = &self.files[index];
        let left = file.len.saturating_sub(self.head.offset);
        if left > room {
            return false;
        }
        let piece = Piece {
            index,
            end: file.len,
            whole: true,
            bytes: left,
            object: None,
            flights: Vec::new(),
        };
        self.push(piece);
        true
    }

    /// Where the reader ends in a file whose data are its first `limit` of `len` bytes.
    pub fn file_end(&self, index: usize, limit: u64, len: u64) -> u64 {
        let Some(until) = self.files[index].until else {
            return limit;
        };
        let data = u128::from(until.bytes) * u128::from(limit) / u128::from(len.max(1));
        limit.min(u64::try_from(data).unwrap_or(limit) + until.slack)
    }

    /// The next range to ask for, which begins at `start`; empty where nothing of the file is left. `None`: there is not
    /// room enough now.
    pub fn cut(
        &self,
        index: usize,
        start: u64,
        limit: u64,
        len: u64,
        window: u64,
        room: u64,
    ) -> Option<Range<u64>> {
        let end = self.file_end(index, limit, len);
        let piece = piece_bytes(window);
        let left = end.saturating_sub(start);
        if left == 0 {
            return Some(start..start);
        }
        // No short request for what would be left of the file.
        let bytes = if left < piece + piece / 2 {
            left
        } else {
            piece
        };
        if bytes > room {
            return None;
        }
        let mut to = start + bytes;
        if to < end {
            // A chunk that comes in parts may be evicted in between, and is taken for a hot one when the rest comes.
            to = to / CHUNK_BYTES * CHUNK_BYTES;
        }
        Some(start..to)
    }

    /// Notes what was asked for.
    pub fn push(&mut self, piece: Piece) {
        self.head = if piece.whole {
            Place {
                index: piece.index + 1,
                offset: 0,
            }
        } else {
            Place {
                index: piece.index,
                offset: piece.end,
            }
        };
        self.pieces.push_back(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::ScanEnd, *};

    const WINDOW: u64 = 4 << 20;

    fn file(name: &str, len: u64) -> ScanFile {
        ScanFile {
            name: name.into(),
            len,
            until: None,
        }
    }

    /// Asks for all that fits, and gives it.
    fn fill(lane: &mut Lane, window: u64) -> Vec<(usize, Range<u64>)> {
        let mut asked = Vec::new();
        while let Some(Next { index, start, room }) = lane.next(window) {
            let len = lane.file(index).len;
            let Some(range) = lane.cut(index, start, len, len, window, room) else {
                break;
            };
            lane.push(Piece {
                index,
                end: range.end,
                whole: range.end >= lane.file_end(index, len, len),
                bytes: range.end - range.start,
                object: None,
                flights: Vec::new(),
            });
            asked.push((index, range));
        }
        asked
    }

    #[test]
    fn nothing_is_asked_for_before_the_reader_is_seen() {
        let mut lane = Lane::new(vec![file("a", 1 << 30)], 1 << 20);
        assert!(fill(&mut lane, WINDOW).is_empty());
        lane.read_to(0, 7777, 7777);
        let asked = fill(&mut lane, WINDOW);
        assert_eq!(asked[0].1.start, 7777);
        let ahead = asked.last().unwrap().1.end - 7777;
        assert!(ahead <= WINDOW && ahead > WINDOW - MAX_PIECE_BYTES);
        assert!(fill(&mut lane, WINDOW).is_empty());
    }

    #[test]
    fn a_window_goes_over_files_and_ends_with_the_last() {
        let files = ["a", "b", "c"].map(|name| file(name, 1 << 20)).to_vec();
        let mut lane = Lane::new(files, 0);
        lane.read_to(0, 1 << 19, 1 << 19);
        let asked = fill(&mut lane, WINDOW);
        let of = |index: usize| {
            let asked = asked.iter().filter(|(i, _)| *i == index);
            asked.map(|(_, r)| r.end - r.start).sum::<u64>()
        };
        assert_eq!([of(0), of(1), of(2)], [1 << 19, 1 << 20, 1 << 20]);
        // The reader passes one file and a half.
        let passed = lane.read_to(1, 1 << 19, 1 << 19);
        assert_eq!(passed.iter().map(|piece| piece.bytes).sum::<u64>(), 1 << 20);
        assert!(fill(&mut lane, WINDOW).is_empty());
        let left: u64 = lane.end().iter().map(|piece| piece.bytes).sum();
        assert_eq!(left, 3 << 19);
    }

    #[test]
    fn it_ends_where_the_range_does_and_does_not_go_back() {
        let mut last = file("a", 1 << 30);
        let (bytes, slack) = (10 << 20, 4096);
        last.until = Some(ScanEnd { bytes, slack });
        let mut lane = Lane::new(vec![last], 0);
        lane.read_to(0, 9 << 20, 9 << 20);
        let asked = fill(&mut lane, WINDOW);
        assert_eq!(asked.last().unwrap().1.end, bytes + slack);
        assert!(lane.read_to(0, 8 << 20, 1 << 20).is_empty());
        assert_eq!(lane.read_bytes(), 9 << 20);
        // Of a file half of which is no data, the estimate counts double.
        assert_eq!(lane.file_end(0, 1 << 29, 1 << 30), bytes / 2 + slack);
    }

    #[test]
    fn a_file_that_is_not_remote_takes_its_place_in_the_window() {
        let mut lane = Lane::new(
            vec![file("a", 1 << 20), file("b", 8 << 20), file("c", 1)],
            0,
        );
        lane.read_to(0, 1 << 19, 1 << 19);
        assert!(lane.pass_over(0, WINDOW));
        assert!(!lane.pass_over(1, WINDOW));
        assert_eq!(lane.next(1 << 18), None);
        // Its own reads are not seen; the next file's are.
        assert_eq!(lane.read_to(2, 1, 1).len(), 1);
        assert_eq!(lane.next(WINDOW).unwrap().index, 2);
    }
}
