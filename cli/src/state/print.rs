//! Entries on standard output, one a line.

use std::io::{self, BufWriter, StdoutLock, Write};

use lazurite::{RawEntry, TableKind, TableSchema};
use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    output::Format,
    values::{Form, namespace_text, one_cell},
};

/// How the parts of a table's entries are shown and made.
pub struct Forms {
    pub key: Form,
    /// In map tables only.
    pub user_key: Option<Form>,
    value: Form,
}

impl Forms {
    pub fn new(schema: &TableSchema) -> Self {
        let user_key = schema.user_key_type.as_deref();
        let codec = schema.user_key_codec.as_deref().unwrap_or_default();
        Forms {
            key: Form::new(&schema.key_type, &schema.key_codec),
            user_key: user_key
                .filter(|_| schema.kind == TableKind::Map)
                .map(|name| Form::new(name, codec)),
            value: Form::new(&schema.value_type, &schema.value_codec),
        }
    }

    /// `key<TAB>value`, in a map table `key<TAB>user key<TAB>value`; then the namespace, where it is not the default one.
    fn text(&self, entry: &RawEntry) -> String {
        let mut cells = vec![one_cell(&self.key.text(&entry.key))];
        if let Some(form) = &self.user_key {
            cells.push(one_cell(&form.text(&entry.user_key)));
        }
        cells.push(one_cell(&self.value.text(&entry.value)));
        if !entry.namespace.is_empty() {
            let namespace = namespace_text(&entry.namespace);
            cells.push(format!("namespace={}", one_cell(&namespace)));
        }
        cells.join("\t")
    }

    fn json(&self, entry: &RawEntry) -> Value {
        let mut fields = Map::new();
        fields.insert("key_group".into(), entry.key_group.into());
        fields.insert("key".into(), self.key.json(&entry.key));
        if !entry.namespace.is_empty() {
            let namespace = namespace_text(&entry.namespace);
            fields.insert("namespace".into(), namespace.into());
        }
        if let Some(form) = &self.user_key {
            fields.insert("user_key".into(), form.json(&entry.user_key));
        }
        fields.insert("value".into(), self.value.json(&entry.value));
        fields.into()
    }
}

/// Writes entries as they come.
pub struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    format: Format,
}

impl Printer {
    pub fn new(format: Format) -> Self {
        Printer {
            out: BufWriter::new(io::stdout().lock()),
            format,
        }
    }

    pub fn print(&mut self, forms: &Forms, entry: &RawEntry) -> Result<()> {
        match self.format {
            Format::Text => writeln!(self.out, "{}", forms.text(entry)),
            Format::Json => writeln!(self.out, "{}", forms.json(entry)),
        }
        .map_err(Error::Output)
    }

    /// Writes what is left.
    pub fn finish(mut self) -> Result<()> {
        self.out.flush().map_err(Error::Output)
    }
}
