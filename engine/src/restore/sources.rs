//! Which states of a snapshot a backend comes back with.

use super::Wanted;
use crate::{
    Error, Result,
    snapshot::{SnapshotMetadata, SubtaskState},
};

/// The states that hold the key groups `wanted`, in the order of their key groups. Each of them is in one.
///
/// # Errors
/// [`Error::InvalidOption`] where the snapshot has another number of key groups, [`Error::RangeNotCovered`] where it does not hold all
/// that are asked for.
pub(super) fn choose<'a>(
    metadata: &'a SnapshotMetadata,
    wanted: Wanted<'_>,
) -> Result<Vec<&'a SubtaskState>> {
    let mut own: Vec<&SubtaskState> = metadata
        .subtasks
        .iter()
        .filter(|state| state.operator == wanted.operator)
        .collect();
    own.sort_by_key(|state| state.key_group_range.start());
    if let Some(other) = own.iter().find(|s| s.key_groups != wanted.key_groups) {
        return Err(Error::InvalidOption {
            option: "key_groups",
            reason: format!(
                "snapshot {} was written with {} key groups, {} are asked for; the number never changes in a job's life",
                metadata.id, other.key_groups, wanted.key_groups
            ),
        });
    }
    let stored = own.iter().map(|state| state.key_group_range).collect();
    own.retain(|state| state.key_group_range.intersection(wanted.range).is_some());
    let mut next = u32::from(wanted.range.start());
    for state in &own {
        if u32::from(state.key_group_range.start()) > next {
            break;
        }
        next = u32::from(state.key_group_range.end()) + 1;
    }
    if next <= u32::from(wanted.range.end()) {
        return Err(Error::RangeNotCovered {
            id: metadata.id,
            operator: wanted.operator.to_owned(),
            stored,
            requested: wanted.range,
        });
    }
    Ok(own)
}
