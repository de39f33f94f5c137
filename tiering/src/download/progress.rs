//! [`DownloadProgress`]: what a download tells of itself.

use std::time::Duration;

use lazurite_env::Error;

/// How far a download is, since the last restore. Files count from when the download first saw them as remote; files
/// that were deleted before they came are not counted.
#[derive(Debug, Clone, Default)]
pub struct DownloadProgress {
    /// Files to bring, those that are there already included.
    pub files_total: u64,
    /// Files promoted.
    pub files_done: u64,
    /// Bytes of all these files.
    pub bytes_total: u64,
    /// Bytes on the local disk: those of files promoted, and of unfinished ones that are under way now.
    pub bytes_done: u64,
    /// Bytes that come in a second: an average over the last seconds in which it was not paused. 0 before any came.
    pub bytes_per_second: u64,
    /// How long the rest takes at this rate. `None` while that cannot be told: paused, or nothing has come of late.
    pub eta: Option<Duration>,
    /// Bytes of the [hot chunks](super::Downloader::set_chunk_heat) that come before all files; what has no room, or is not
    /// wanted any more, is taken off.
    pub hot_bytes_total: u64,
    /// Those of them that are here.
    pub hot_bytes_done: u64,
    /// True between `pause` and `resume`.
    pub paused: bool,
    /// Files that were given up, by name, and why. They are read remotely on.
    pub failed: Vec<(String, Error)>,
    /// Set while the download waits for space on the local disk.
    pub no_space: Option<Error>,
    /// Set while files stay remote because the [disk budget](crate::CacheOptions::disk_budget_bytes) has no room for them.
    pub no_room: Option<Error>,
}
