//! [`Layout`]: where things are below the root directory, and which paths name a table file.
//!
//! ```text
//! <root>/CATALOG          which table file is which remote object
//! <root>/db/              RocksDB's directory; its *.sst may be remote
//! <root>/tails/           the tail bundle that the catalog names
//! <root>/cache/           parts of remote files, and files on their way
//! <root>/download/        files on their way where the Env has no sparse files; emptied at open
//! ```

use std::path::{Path, PathBuf};

/// The paths below one root.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub root: PathBuf,
    pub db: PathBuf,
    pub catalog: PathBuf,
    /// Where a write of the catalog is while it is under way: see [`EnvExt::write_atomic`](lazurite_env::EnvExt::write_atomic).
    pub catalog_temp: PathBuf,
    pub tails: PathBuf,
    pub cache: PathBuf,
    pub download: PathBuf,
}

impl Layout {
    pub fn new(root: &Path) -> Self {
        Layout {
            root: root.to_owned(),
            db: root.join("db"),
            catalog: root.join("CATALOG"),
            catalog_temp: root.join("CATALOG.tmp"),
            tails: root.join("tails"),
            cache: root.join("cache"),
            download: root.join("download"),
        }
    }

    /// The name of the table file at `path`; `None` where `path` is not one directly in the db directory.
    pub fn table<'a>(&self, path: &'a Path) -> Option<&'a str> {
        let name = path.file_name()?.to_str()?;
        (is_table_name(name) && path.parent()? == self.db).then_some(name)
    }
}

/// True for a name that RocksDB gives a table file: a number of at least six digits, in its one spelling, and `.sst`.
/// Names come from remote metadata, so this is also what keeps them inside the db directory.
pub fn is_table_name(name: &str) -> bool {
    let Some(digits) = name.strip_suffix(".sst") else {
        return false;
    };
    let spelled_once = digits.len() == 6 || (digits.len() > 6 && !digits.starts_with('0'));
    spelled_once && digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u64>().is_ok()
}

/// True for a name that is one plain part of a path and no temporary file's.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty()
        && name.len() <= 255 - ".tmp".len()
        && !name.starts_with('.')
        && !name.ends_with(".tmp")
        && name.bytes().all(sound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_table_files_directly_in_the_db_directory() {
        let layout = Layout::new(Path::new("/r"));
        assert_eq!(
            layout.table(Path::new("/r/db/000012.sst")),
            Some("000012.sst")
        );
        assert_eq!(
            layout.table(Path::new("/r/db//1234567.sst")),
            Some("1234567.sst")
        );
        for other in [
            "/r/000012.sst",
            "/r/db/x/000012.sst",
            "/r/db/MANIFEST-000004",
            "/r/db/000012.log",
            "/r/db/../db/000012.sst",
        ] {
            assert_eq!(layout.table(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn hostile_names() {
        for bad in [
            "",
            ".sst",
            "12.sst",
            "0000012.sst",
            "../000012.sst",
            "/000012.sst",
            "000012.sst/",
            "00001a.sst",
            "000012.sst\0",
            "000012.SST",
            "+00012.sst",
            "99999999999999999999999.sst",
            "٠٠٠٠١٢.sst",
        ] {
            assert!(!is_table_name(bad), "{bad:?}");
        }
        assert!(is_plain_name("bundle-1f_2.bin"));
        for bad in [
            "", ".", "..", "a/b", "/a", "a\\b", "a\0", "a.tmp", ".hidden", "é",
        ] {
            assert!(!is_plain_name(bad), "{bad:?}");
        }
    }
}
