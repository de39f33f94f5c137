//! The text of the demo: copied from what is at hand into one directory, so that nothing changes it meanwhile, and counted
//! in plain memory as the truth to compare with.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    output::Format,
    progress,
    wordcount::source::{Inputs, Source},
};

const ENDINGS: [&str; 6] = ["rs", "md", "txt", "c", "cc", "h"];
/// Many small files become few of about this size.
const PART_BYTES: usize = 8 << 20;

/// The text and what is in it.
pub struct Text {
    pub bytes: u64,
    pub records: u64,
    pub words: u64,
    pub counts: HashMap<String, u64>,
}

impl Text {
    /// Copies up to `max_bytes` of the text in `paths` (none: cargo's sources) into `dir`, and counts it.
    pub fn gather(paths: &[PathBuf], max_bytes: u64, dir: &Path, format: Format) -> Result<Self> {
        let found = match paths {
            [] => Inputs::find(&[cargo_sources()?])?,
            paths => Inputs::find(paths)?,
        };
        let chosen: Vec<&Path> = found
            .iter()
            .filter(|(path, _)| !paths.is_empty() || is_text(path))
            .scan(0, |sum, (path, len)| {
                *sum += len;
                Some((path, *sum))
            })
            .take_while(|(_, sum)| *sum <= max_bytes)
            .map(|(path, _)| path)
            .collect();
        if chosen.is_empty() {
            return Err(Error::Usage(
                "there is no text to count: give a PATH with some, or a larger --text-mib".into(),
            ));
        }
        copy(&chosen, dir)?;
        count(dir, format)
    }

    /// Fails unless the lines of `output` are exactly these counts.
    pub fn compare(&self, output: &Path) -> Result<()> {
        let file = File::open(output).map_err(Error::file("open", output))?;
        let mut lines = 0;
        let mut last = String::new();
        for line in BufReader::new(file).lines() {
            let line = line.map_err(Error::file("read", output))?;
            let (word, count) = line.split_once('\t').unwrap_or((&line, ""));
            let expected = self.counts.get(word).copied().unwrap_or(0);
            if count.parse() != Ok(expected) {
                return Err(Error::Wrong(format!(
                    "{word:?} was counted {count} times instead of {expected}"
                )));
            }
            if *word <= *last {
                return Err(Error::Wrong(format!("{word:?} stands behind {last:?}")));
            }
            last = word.to_owned();
            lines += 1;
        }
        if lines == self.counts.len() {
            return Ok(());
        }
        Err(Error::Wrong(format!(
            "{lines} words were found instead of {}",
            self.counts.len()
        )))
    }
}

fn is_text(path: &Path) -> bool {
    path.extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| ENDINGS.contains(&e))
}

fn cargo_sources() -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    home.map(|home| home.join("registry/src"))
        .filter(|sources| sources.is_dir())
        .ok_or_else(|| {
            Error::Usage("cargo has fetched no sources here: give a PATH with text".into())
        })
}

/// Puts the files one after another into parts in `dir`.
fn copy(files: &[&Path], dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
    let (mut part, mut parts) = (Vec::with_capacity(2 * PART_BYTES), 0);
    for (i, path) in files.iter().enumerate() {
        part.extend(fs::read(path).map_err(Error::file("read", path))?);
        if !part.ends_with(b"\n") {
            part.push(b'\n');
        }
        if part.len() >= PART_BYTES || i + 1 == files.len() {
            let path = dir.join(format!("{parts:05}.txt"));
            File::create(&path)
                .and_then(|mut file| file.write_all(&part))
                .map_err(Error::file("write", &path))?;
            part.clear();
            parts += 1;
        }
    }
    Ok(())
}

fn count(dir: &Path, format: Format) -> Result<Text> {
    let inputs = Inputs::find(&[dir.to_owned()])?;
    let mut text = Text {
        bytes: inputs.bytes(),
        records: 0,
        words: 0,
        counts: HashMap::new(),
    };
    let bar = progress::bytes(text.bytes, "counting in memory", format);
    let mut source = Source::at(inputs, 0, 0)?;
    let (words, counts) = (&mut text.words, &mut text.counts);
    let mut on_word = |word: &str| {
        *words += 1;
        match counts.get_mut(word) {
            Some(count) => *count += 1,
            None => {
                counts.insert(word.to_owned(), 1);
            }
        }
    };
    while source.next_record(&mut on_word)? {
        text.records += 1;
        if text.records.is_multiple_of(65_536) {
            bar.set_position(source.bytes_done());
        }
    }
    bar.finish_and_clear();
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathered_text_is_counted_and_compared() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir(&from).unwrap();
        fs::write(from.join("a"), "one two").unwrap();
        fs::write(from.join("b"), "two\n").unwrap();
        fs::write(from.join("c"), "this is beyond the limit\n").unwrap();
        let text = Text::gather(&[from], 12, &dir.path().join("to"), Format::Json).unwrap();
        assert_eq!((text.records, text.words, text.counts.len()), (2, 3, 2));

        let output = dir.path().join("counts");
        for (lines, right) in [
            ("one\t1\ntwo\t2\n", true),
            ("one\t1\ntwo\t1\n", false),
            ("one\t1\n", false),
            ("one\t1\ntwo\t2\nx\t1\n", false),
            ("one\t1\none\t1\n", false),
        ] {
            fs::write(&output, lines).unwrap();
            assert_eq!(text.compare(&output).is_ok(), right, "{lines:?}");
        }
    }
}
