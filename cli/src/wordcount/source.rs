//! The records to count: the lines of files, in an order that is the same on every run, from any position on.
//!
//! A record is one line; the last line of a file needs no line end. A position between two records is a file's place in
//! the list and a byte offset in it. [`Inputs::fingerprint`] tells whether a position still means the same bytes: it covers
//! the path and the length of every file. Files are read up to the length that they had when they were listed, so what is
//! appended meanwhile changes nothing.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Take},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::Xxh3;

use super::words::Words;
use crate::error::{Error, Result};

const BUFFER_BYTES: usize = 256 << 10;

/// The files to read, in order.
#[derive(Debug, Clone)]
pub struct Inputs {
    files: Vec<Input>,
}

#[derive(Debug, Clone)]
struct Input {
    path: PathBuf,
    len: u64,
}

impl Inputs {
    /// Lists `paths` in the order given; a directory stands for the regular files below it, in the order of their names.
    /// Symbolic links inside a directory are not followed. A file that is named twice is read twice.
    pub fn find(paths: &[PathBuf]) -> Result<Self> {
        let mut files = Vec::new();
        for path in paths {
            let meta = path.metadata().map_err(Error::file("open", path))?;
            if meta.is_dir() {
                add_tree(path, &mut files)?;
            } else {
                let len = meta.len();
                files.push(Input {
                    path: path.clone(),
                    len,
                });
            }
        }
        Ok(Inputs { files })
    }

    /// 32 hexadecimal digits that change when a path, a length or the order of the files does.
    pub fn fingerprint(&self) -> String {
        let mut hash = Xxh3::new();
        for file in &self.files {
            let path = file.path.as_os_str().as_encoded_bytes();
            hash.update(&(path.len() as u64).to_le_bytes());
            hash.update(path);
            hash.update(&file.len.to_le_bytes());
        }
        format!("{:032x}", hash.digest128())
    }

    /// How many files there are.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Their paths and lengths in bytes, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.files
            .iter()
            .map(|file| (file.path.as_path(), file.len))
    }

    /// The length of all files in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes_before(self.files.len())
    }

    fn bytes_before(&self, file: usize) -> u64 {
        self.files[..file].iter().map(|f| f.len).sum()
    }
}

/// Adds the regular files below `root`, sorted by name, directory by directory.
fn add_tree(root: &Path, files: &mut Vec<Input>) -> Result<()> {
    let mut to_visit = vec![root.to_owned()];
    while let Some(path) = to_visit.pop() {
        let meta = path
            .symlink_metadata()
            .map_err(Error::file("open", &path))?;
        if meta.is_file() {
            let len = meta.len();
            files.push(Input { path, len });
        } else if meta.is_dir() || path == root {
            let entries = path.read_dir().map_err(Error::file("list", &path))?;
            let mut below = Vec::new();
            for entry in entries {
                below.push(entry.map_err(Error::file("list", &path))?.path());
            }
            // Taken from the end.
            below.sort_unstable_by(|a, b| b.cmp(a));
            to_visit.append(&mut below);
        }
    }
    Ok(())
}

/// Reads the records of [`Inputs`] one by one.
#[derive(Debug)]
pub struct Source {
    inputs: Inputs,
    file: usize,
    offset: u64,
    /// Open at `offset` of `file`.
    reader: Option<BufReader<Take<File>>>,
    words: Words,
    buffer_bytes: usize,
}

impl Source {
    /// Starts at byte `offset` of the file numbered `file`, which must be a position between two records.
    pub fn at(inputs: Inputs, file: usize, offset: u64) -> Result<Self> {
        let inside = match inputs.files.get(file) {
            Some(input) => offset <= input.len,
            None => file == inputs.files.len() && offset == 0,
        };
        if !inside {
            return Err(Error::Wrong(format!(
                "byte {offset} of file {file} is outside the {} input files",
                inputs.files.len()
            )));
        }
        Ok(Source {
            inputs,
            file,
            offset,
            reader: None,
            words: Words::default(),
            buffer_bytes: BUFFER_BYTES,
        })
    }

    /// The place of the next record: the file's place in the list, and the byte offset in it.
    pub fn position(&self) -> (usize, u64) {
        (self.file, self.offset)
    }

    /// How many bytes lie before the position, in all files.
    pub fn bytes_done(&self) -> u64 {
        self.inputs.bytes_before(self.file) + self.offset
    }

    /// Reads one record and calls `on_word` for each of its words. False at the end of the last file.
    pub fn next_record(&mut self, mut on_word: impl FnMut(&str)) -> Result<bool> {
        while let Some(input) = self.inputs.files.get(self.file) {
            if self.offset == input.len {
                self.reader = None;
                self.file += 1;
                self.offset = 0;
                continue;
            }
            let reader = match &mut self.reader {
                Some(reader) => reader,
                None => self
                    .reader
                    .insert(open(input, self.offset, self.buffer_bytes)?),
            };
            loop {
                let piece = reader
                    .fill_buf()
                    .map_err(Error::file("read", &input.path))?;
                if piece.is_empty() {
                    return Err(Error::Wrong(format!(
                        "{} is shorter than the {} bytes it had at the start: leave the inputs alone during a run",
                        input.path.display(),
                        input.len
                    )));
                }
                let line_end = piece.iter().position(|&byte| byte == b'\n');
                let taken = line_end.map_or(piece.len(), |at| at + 1);
                self.words.push(&piece[..taken], &mut on_word);
                reader.consume(taken);
                self.offset += taken as u64;
                if line_end.is_some() || self.offset == input.len {
                    self.words.finish(&mut on_word);
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

fn open(input: &Input, offset: u64, buffer_bytes: usize) -> Result<BufReader<Take<File>>> {
    let mut file = File::open(&input.path).map_err(Error::file("open", &input.path))?;
    file.seek(SeekFrom::Start(offset))
        .map_err(Error::file("seek", &input.path))?;
    Ok(BufReader::with_capacity(
        buffer_bytes,
        file.take(input.len - offset),
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    type Records = Vec<Vec<String>>;

    fn text_tree() -> (tempfile::TempDir, Inputs) {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        write("b.txt", "Zwei Wörter\n\nohne Ende ünd".as_bytes());
        write("a/2.txt", b"bad \xFF\xC3\nbytes\xE2\n");
        write("a/10.txt", b"");
        write("a.txt", b"\n");
        write("c/d/e", b"last\n");
        let inputs = Inputs::find(&[dir.path().to_owned()]).unwrap();
        (dir, inputs)
    }

    fn rest(mut source: Source) -> (Records, Vec<(usize, u64)>) {
        let (mut records, mut positions) = (Records::new(), vec![source.position()]);
        loop {
            let mut record = Vec::new();
            if !source.next_record(|w| record.push(w.to_owned())).unwrap() {
                return (records, positions);
            }
            records.push(record);
            positions.push(source.position());
        }
    }

    #[test]
    fn files_come_in_the_order_of_their_names() {
        let (dir, inputs) = text_tree();
        let names: Vec<_> = inputs
            .files
            .iter()
            .map(|f| f.path.strip_prefix(dir.path()).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["a/10.txt", "a/2.txt", "a.txt", "b.txt", "c/d/e"]);
        assert_eq!(inputs.files(), 5);
    }

    #[test]
    fn every_position_gives_the_same_rest_at_any_buffer_size() {
        let (_dir, inputs) = text_tree();
        let (records, positions) = rest(Source::at(inputs.clone(), 0, 0).unwrap());
        assert_eq!(
            records.concat(),
            [
                "bad", "bytes", "zwei", "wörter", "ohne", "ende", "ünd", "last"
            ]
        );
        assert_eq!(records.len(), 7, "a line is a record, an empty one too");
        for (done, &(file, offset)) in positions.iter().enumerate() {
            for buffer_bytes in 1..20 {
                let mut source = Source::at(inputs.clone(), file, offset).unwrap();
                source.buffer_bytes = buffer_bytes;
                let (again, _) = rest(source);
                assert_eq!(
                    again,
                    records[done..],
                    "from {file}:{offset} by {buffer_bytes}"
                );
            }
        }
    }

    #[test]
    fn the_fingerprint_follows_names_and_lengths() {
        let (dir, inputs) = text_tree();
        let find = || {
            Inputs::find(&[dir.path().to_owned()])
                .unwrap()
                .fingerprint()
        };
        assert_eq!(find(), inputs.fingerprint());
        fs::rename(dir.path().join("c/d/e"), dir.path().join("c/d/f")).unwrap();
        let renamed = find();
        assert_ne!(renamed, inputs.fingerprint());
        fs::write(dir.path().join("a.txt"), "\n\n").unwrap();
        assert_ne!(find(), renamed);
    }

    #[test]
    fn a_file_that_shrinks_under_the_run_is_an_error_and_one_that_grows_is_not() {
        let (dir, inputs) = text_tree();
        fs::write(dir.path().join("c/d/e"), "last\nmore\n").unwrap();
        let (records, _) = rest(Source::at(inputs.clone(), 4, 0).unwrap());
        assert_eq!(records, [["last"]]);
        fs::write(dir.path().join("c/d/e"), "la").unwrap();
        let error = Source::at(inputs, 4, 0)
            .unwrap()
            .next_record(|_| ())
            .unwrap_err();
        assert!(error.to_string().contains("shorter"), "{error}");
    }

    #[test]
    fn a_position_outside_the_inputs_is_refused() {
        let (_dir, inputs) = text_tree();
        for (file, offset) in [(0, 1), (5, 1), (6, 0), (4, 6)] {
            assert!(
                Source::at(inputs.clone(), file, offset).is_err(),
                "{file}:{offset}"
            );
        }
        assert!(Source::at(inputs, 5, 0).is_ok());
    }
}
