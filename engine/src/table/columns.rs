//! Which column families hold a table.

use serde::{Deserialize, Serialize};

use super::schema::TableSchema;
use crate::key_groups::KeyGroupRange;

/// A column family, and which key groups of which table it holds. What it holds beyond them is no part of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableColumn {
    /// RocksDB's name for it: the table's, or that, `~` and the first key group.
    pub column: String,
    /// The table.
    pub table: String,
    /// The key groups.
    pub key_group_range: KeyGroupRange,
}

impl TableColumn {
    /// The only column of `table`.
    pub(crate) fn whole(table: &str, range: KeyGroupRange) -> Self {
        TableColumn {
            column: table.to_owned(),
            table: table.to_owned(),
            key_group_range: range,
        }
    }

    /// One of several of `table`.
    pub(crate) fn part(table: &str, range: KeyGroupRange) -> Self {
        TableColumn {
            column: format!("{table}~{}", range.start()),
            ..Self::whole(table, range)
        }
    }

    fn is_named_soundly(&self) -> bool {
        let part = Self::part(&self.table, self.key_group_range);
        self.column == self.table || self.column == part.column
    }
}

/// The tables of a backend and the column families that hold them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tables {
    pub(crate) schemas: Vec<TableSchema>,
    pub(crate) columns: Vec<TableColumn>,
}

impl Tables {
    /// The declaration of a table, where there is one.
    pub(crate) fn schema(&self, table: &str) -> Option<&TableSchema> {
        self.schemas.iter().find(|schema| schema.name == table)
    }

    /// The columns of a table.
    pub(crate) fn columns_of(&self, table: &str) -> impl Iterator<Item = &TableColumn> {
        self.columns
            .iter()
            .filter(move |column| column.table == table)
    }

    /// Adds a table that holds nothing yet.
    pub(crate) fn add(&mut self, schema: TableSchema, range: KeyGroupRange) {
        self.columns.push(TableColumn::whole(&schema.name, range));
        self.schemas.push(schema);
    }
}

/// What is wrong with the columns of `tables`, if anything: each table must have all of `range`, and nothing twice.
pub(crate) fn check_columns(
    tables: &[TableSchema],
    columns: &[TableColumn],
    range: KeyGroupRange,
) -> Result<(), String> {
    for (i, column) in columns.iter().enumerate() {
        let name = &column.column;
        if columns[..i].iter().any(|other| other.column == *name) {
            return Err(format!("the column {name} stands in it twice"));
        }
        if !column.is_named_soundly() {
            return Err(format!("{name:?} is no column of table {:?}", column.table));
        }
        if !tables.iter().any(|table| table.name == column.table) {
            return Err(format!("the column {name} is of a table that is not in it"));
        }
    }
    for table in tables {
        let mut own: Vec<_> = columns
            .iter()
            .filter(|column| column.table == table.name)
            .map(|column| column.key_group_range)
            .collect();
        own.sort_unstable_by_key(KeyGroupRange::start);
        let whole = own.first().map(KeyGroupRange::start) == Some(range.start())
            && own.last().map(KeyGroupRange::end) == Some(range.end())
            && own.windows(2).all(|two| two[0].end() + 1 == two[1].start());
        if !whole {
            return Err(format!(
                "the columns of table {} do not hold each of the key groups {range} once",
                table.name
            ));
        }
    }
    Ok(())
}
