//! What a table was declared as.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The shape of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// One value per key.
    Value,
    /// A map per key.
    Map,
}

/// What a table is declared as: recorded in every snapshot, and compared before stored state is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    /// The table's name.
    pub name: String,
    /// Value or map.
    pub kind: TableKind,
    /// The name of the key's type.
    pub key_type: String,
    /// The name of the value's type; of a map, that of its values.
    pub value_type: String,
    /// The name of the type of a map's keys; absent in a value table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_key_type: Option<String>,
    /// The key codec's id.
    pub key_codec: String,
    /// The value codec's id.
    pub value_codec: String,
    /// The id of the codec of a map's keys; absent in a value table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_key_codec: Option<String>,
}

impl TableSchema {
    /// Checks that a table that was written as `stored` may be read as declared here. Type names must be equal: where a
    /// type has only moved or been renamed, declare its old name with `type_names`.
    ///
    /// # Errors
    /// [`Error::TableMismatch`] names the first difference.
    pub fn check_compatible(&self, stored: &TableSchema) -> Result<()> {
        let none = "none";
        let fields = [
            ("name", stored.name.as_str(), self.name.as_str()),
            ("kind", stored.kind.word(), self.kind.word()),
            ("key type", &stored.key_type, &self.key_type),
            (
                "user key type",
                stored.user_key_type.as_deref().unwrap_or(none),
                self.user_key_type.as_deref().unwrap_or(none),
            ),
            ("value type", &stored.value_type, &self.value_type),
            ("key codec", &stored.key_codec, &self.key_codec),
            (
                "user key codec",
                stored.user_key_codec.as_deref().unwrap_or(none),
                self.user_key_codec.as_deref().unwrap_or(none),
            ),
            ("value codec", &stored.value_codec, &self.value_codec),
        ];
        match fields
            .into_iter()
            .find(|(_, stored, declared)| stored != declared)
        {
            None => Ok(()),
            Some((field, stored, declared)) => Err(Error::TableMismatch {
                table: self.name.clone(),
                field,
                stored: stored.to_string(),
                declared: declared.to_string(),
            }),
        }
    }
}

impl TableKind {
    fn word(self) -> &'static str {
        match self {
            TableKind::Value => "value",
            TableKind::Map => "map",
        }
    }
}

/// Checks a table's or a job's name: 1 to 128 of `A-Z a-z 0-9 . _ -`. `option` is what it names.
pub(crate) fn check_name(option: &'static str, name: &str) -> Result<()> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    if (1..=128).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::InvalidOption {
        option,
        reason: format!("{name:?} is not 1 to 128 characters of A-Z a-z 0-9 . _ -"),
    })
}
