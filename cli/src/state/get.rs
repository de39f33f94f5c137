//! `lazurite get`: one entry of a snapshot.

use lazurite::{RawKey, SnapshotReader};

use super::{
    Source,
    print::{Forms, Printer},
};
use crate::{
    error::{Error, Result},
    output::Format,
    values::Form,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// The table.
    #[arg(long)]
    table: String,
    /// The key: a text, a number, or JSON for what is made of several; or `hex:` and its encoded bytes, for any type.
    #[arg(long)]
    key: String,
    /// The user key, in a map table. As the key.
    #[arg(long)]
    user_key: Option<String>,
    /// The namespace: a text, or `hex:` and its bytes. Default: the default one.
    #[arg(long, default_value = "")]
    namespace: String,
}

/// Prints the entry; an error where there is none.
pub fn run(args: &Args, format: Format) -> Result<()> {
    let (store, options) = args.source.open()?;
    let reader = SnapshotReader::open(&store, options)?;
    let table = reader.table(&args.table)?;
    let forms = Forms::new(table.schema());
    let user_key = match (&forms.user_key, &args.user_key) {
        (Some(form), Some(text)) => form.encode("--user-key", text)?,
        (None, None) => Vec::new(),
        (Some(_), None) => {
            return Err(Error::Usage(format!(
                "table {} has a map per key: give --user-key, or scan --key for all of it",
                args.table
            )));
        }
        (None, Some(_)) => {
            return Err(Error::Usage(format!(
                "table {} has one value per key: --user-key is for maps",
                args.table
            )));
        }
    };
    let key = forms.key.encode("--key", &args.key)?;
    let namespace = Form::new("", "raw").encode("--namespace", &args.namespace)?;
    let at = RawKey {
        key: &key,
        namespace: &namespace,
        user_key: &user_key,
    };
    let Some(value) = table.get(at)? else {
        return Err(Error::Wrong(format!(
            "snapshot {} of job {} has no entry of that key in table {}",
            reader.snapshot_id(),
            reader.job(),
            args.table
        )));
    };
    let mut printer = Printer::new(format);
    printer.print(&forms, &at.entry(table.key_group(&key), value))?;
    printer.finish()
}
