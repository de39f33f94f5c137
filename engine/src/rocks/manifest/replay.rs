//! From records to the state that they lead to. Authority: `db/version_edit_handler.cc`, `db/version_builder.cc` and, for
//! groups, `AtomicGroupReadBuffer` of `db/version_set.cc`.

use std::collections::{BTreeMap, HashMap};

use super::{Manifest, ManifestColumn, ManifestFile, Problem, edit::Edit, sort};
use crate::rocks::DEFAULT_COLUMN;

/// The state after the records so far.
pub(super) struct Replay {
    columns: BTreeMap<u32, Column>,
    /// Records of a group that is not complete.
    group: Vec<(usize, Edit)>,
    log_number_seen: bool,
    last_sequence: Option<u64>,
    next_file_number: Option<u64>,
    max_column_family: u32,
    db_id: Option<String>,
}

struct Column {
    name: String,
    comparator: Option<String>,
    files: HashMap<u64, ManifestFile>,
}

impl Default for Replay {
    fn default() -> Self {
        Replay {
            // No record adds the default column family.
            columns: BTreeMap::from([(0, Column::new(DEFAULT_COLUMN.into()))]),
            group: Vec::new(),
            log_number_seen: false,
            last_sequence: None,
            next_file_number: None,
            max_column_family: 0,
            db_id: None,
        }
    }
}

impl Replay {
    /// Takes the record at `offset`. One of a group counts when the group is complete.
    pub(super) fn record(&mut self, offset: usize, edit: Edit) -> Result<(), Problem> {
        let to_come = match (edit.in_group, self.group.last()) {
            (None, None) => return self.apply(offset, edit),
            (Some(to_come), None) => to_come,
            (Some(to_come), Some((_, before))) if before.in_group == to_come.checked_add(1) => {
                to_come
            }
            _ => return Err(Problem::corrupt(offset, "an atomic group is torn")),
        };
        self.group.push((offset, edit));
        if to_come == 0 {
            for (offset, edit) in std::mem::take(&mut self.group) {
                self.apply(offset, edit)?;
            }
        }
        Ok(())
    }

    fn apply(&mut self, offset: usize, edit: Edit) -> Result<(), Problem> {
        let corrupt = |reason: String| Problem::corrupt(offset, reason);
        if edit.full_history_ts_low.is_some() || edit.persist_timestamps == Some(false) {
            let reason = "keys have user-defined timestamps";
            return Err(Problem::unsupported(offset, reason));
        }
        if let Some(name) = edit.column_added {
            let column = Column::new(name.clone());
            if self.columns.insert(edit.column, column).is_some() {
                return Err(corrupt(format!("column family {name} is added twice")));
            }
            self.max_column_family = self.max_column_family.max(edit.column);
        }
        let Some(column) = self.columns.get_mut(&edit.column) else {
            let id = edit.column;
            return Err(corrupt(format!("there is no column family with id {id}")));
        };
        column.change(edit.deleted, edit.added).map_err(corrupt)?;
        column.comparator = edit.comparator.or(column.comparator.take());
        if edit.column_dropped {
            if edit.column == 0 {
                return Err(corrupt("the default column family is dropped".into()));
            }
            self.columns.remove(&edit.column);
        }

        self.log_number_seen |= edit.log_number.is_some();
        self.last_sequence = edit.last_sequence.or(self.last_sequence);
        self.next_file_number = edit.next_file_number.or(self.next_file_number);
        let max = edit.max_column_family.unwrap_or(0);
        self.max_column_family = self.max_column_family.max(max);
        self.db_id = edit.db_id.or(self.db_id.take());
        Ok(())
    }

    /// The state after all records of a log of `len` bytes.
    pub(super) fn finish(self, len: usize) -> Result<Manifest, Problem> {
        if !self.group.is_empty() {
            return Err(Problem::corrupt(len, "it ends inside an atomic group"));
        }
        let (true, Some(last_sequence), Some(next_file_number)) = (
            self.log_number_seen,
            self.last_sequence,
            self.next_file_number,
        ) else {
            return Err(Problem::corrupt(len, "it lacks a counter"));
        };
        let mut columns = Vec::new();
        for (id, column) in self.columns {
            let Some(comparator) = column.comparator else {
                let reason = format!("column family {} lacks its order", column.name);
                return Err(Problem::corrupt(len, reason));
            };
            let mut files: Vec<ManifestFile> = column.files.into_values().collect();
            sort(&mut files);
            columns.push(ManifestColumn {
                id,
                name: column.name,
                comparator,
                files,
            });
        }
        Ok(Manifest {
            columns,
            last_sequence,
            next_file_number,
            max_column_family: self.max_column_family,
            db_id: self.db_id,
        })
    }
}

impl Column {
    fn new(name: String) -> Self {
        Column {
            name,
            comparator: None,
            files: HashMap::new(),
        }
    }

    /// First what goes, then what comes: a file that changes its level is in both.
    fn change(&mut self, deleted: Vec<(u8, u64)>, added: Vec<ManifestFile>) -> Result<(), String> {
        for (level, number) in deleted {
            let file = self.files.remove(&number);
            if file.is_none_or(|file| file.level != level) {
                return Err(format!(
                    "file {number} is deleted but is not in level {level}"
                ));
            }
        }
        for file in added {
            let number = file.number;
            if self.files.insert(number, file).is_some() {
                return Err(format!("file {number} is added twice"));
            }
        }
        Ok(())
    }
}
