//! [`Position`]: what a snapshot says about how far the count had come, kept in its user metadata as JSON.
//!
//! Invariant: a snapshot's counts are those of exactly the records before its position. Both are of one moment, since
//! the counting thread applies what it has counted and then takes the snapshot, with nothing in between.

use lazurite::snapshot::SnapshotMetadata;
use serde::{Deserialize, Serialize};

use super::source::Inputs;
use crate::error::{Error, Result};

/// The name in the user metadata.
pub const NAME: &str = "wordcount";

/// A place between two records, and what was counted up to there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// [`Inputs::fingerprint`] of the inputs that the place is in.
    pub inputs: String,
    /// The file's place in the list of inputs.
    pub file: usize,
    /// Bytes of it that were counted.
    pub offset: u64,
    /// Records counted, in all runs so far.
    pub records: u64,
    /// Words in them: the sum of all counts.
    pub words: u64,
    /// Different words: the number of keys in the state.
    pub distinct: u64,
    /// A word that was counted, to be read first after a restore. `None` where no word was.
    pub sample: Option<String>,
}

impl Position {
    /// Before the first record of `inputs`.
    pub fn start(inputs: &Inputs) -> Self {
        Position {
            inputs: inputs.fingerprint(),
            file: 0,
            offset: 0,
            records: 0,
            words: 0,
            distinct: 0,
            sample: None,
        }
    }

    /// That of `snapshot`. Refuses one that a run over `inputs` with `key_groups` cannot go on from.
    pub fn of(snapshot: &SnapshotMetadata, inputs: &Inputs, key_groups: u16) -> Result<Self> {
        let id = snapshot.id;
        let value = snapshot.user_metadata.get(NAME);
        let position = Position::decode(value.and_then(|value| value.bytes()).as_deref(), id)?;
        position.check_inputs(inputs, id)?;
        let written = snapshot.subtasks.iter().map(|state| state.key_groups);
        match written.into_iter().find(|written| *written != key_groups) {
            None => Ok(position),
            Some(written) => Err(Error::Usage(format!(
                "snapshot {id} was written with --key-groups {written}, not with {key_groups}; the number never changes in a job's life"
            ))),
        }
    }

    /// The bytes for the user metadata.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::Wrong(format!("write the position: {e}")))
    }

    /// Reads what [`encode`](Self::encode) wrote, from the user metadata of the snapshot numbered `id`.
    pub fn decode(bytes: Option<&[u8]>, id: u64) -> Result<Self> {
        let bytes = bytes.ok_or_else(|| {
            Error::Wrong(format!(
                "snapshot {id} holds no word count position: another program took it; choose another --job"
            ))
        })?;
        serde_json::from_slice(bytes).map_err(|e| {
            Error::Wrong(format!(
                "the word count position in snapshot {id} cannot be read: {e}"
            ))
        })
    }

    /// Refuses to go on in other inputs than those that the position is in.
    fn check_inputs(&self, inputs: &Inputs, id: u64) -> Result<()> {
        if self.inputs == inputs.fingerprint() {
            return Ok(());
        }
        Err(Error::Wrong(format!(
            "the inputs are not those of snapshot {id}: a path, a length or the order of the {} files differs; give the \
             same inputs, or start anew with another --job",
            inputs.files()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position() -> Position {
        let mut position = Position::start(&Inputs::find(&[]).unwrap());
        position.offset = 7;
        position.sample = Some("ß\"".to_owned());
        position
    }

    #[test]
    fn comes_back_as_it_was_written() {
        let bytes = position().encode().unwrap();
        assert_eq!(Position::decode(Some(&bytes), 1).unwrap(), position());
    }

    #[test]
    fn a_foreign_or_damaged_position_is_an_error() {
        assert!(
            Position::decode(None, 3)
                .unwrap_err()
                .to_string()
                .contains("snapshot 3")
        );
        assert!(Position::decode(Some(b"{\"file\":-1}"), 3).is_err());
    }

    #[test]
    fn other_inputs_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "x").unwrap();
        let inputs = Inputs::find(&[dir.path().to_owned()]).unwrap();
        assert!(position().check_inputs(&inputs, 1).is_err());
        assert!(Position::start(&inputs).check_inputs(&inputs, 1).is_ok());
    }
}
