//! (to be written)
use super::{Restored, Wanted, fetch::Fetched};
use crate::{Result, snapshot::SubtaskState};
pub(super) fn compose(
    _sources: &[&SubtaskState],
    _fetched: Vec<Fetched>,
    _wanted: Wanted<'_>,
) -> Result<Restored> {
    todo!()
}
