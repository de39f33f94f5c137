//! Progress bars: on standard error, and only where that is a terminal.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use lazurite::DownloadProgress;

use crate::{error::Result, output::Format};

/// How often a bar of something that goes on by itself is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// A bar over `total` bytes. It draws nothing where standard error is no terminal, or where the result is JSON.
pub fn bytes(total: u64, what: &'static str, format: Format) -> ProgressBar {
    bar(
        total,
        what,
        format,
        "{msg} {wide_bar} {bytes}/{total_bytes} {eta}",
    )
}

/// A bar over `total` things; see [`bytes`].
pub fn items(total: u64, what: &'static str, format: Format) -> ProgressBar {
    bar(total, what, format, "{msg} {wide_bar} {pos}/{len} {eta}")
}

/// Waits by `wait` until every file is local, behind a bar over the bytes with files and the time that is left; see [`bytes`].
pub fn until_local<T>(
    progress: impl Fn() -> DownloadProgress + Sync,
    wait: impl FnOnce() -> Result<T>,
    format: Format,
) -> Result<T> {
    let bar = bar(
        0,
        "downloading",
        format,
        "{msg} {wide_bar} {bytes}/{total_bytes}",
    );
    let done = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                let progress = progress();
                bar.set_length(progress.bytes_total);
                bar.set_position(progress.bytes_done);
                bar.set_message(told(&progress));
                std::thread::sleep(DRAW_EVERY);
            }
        });
        let result = wait();
        done.store(true, Relaxed);
        result
    });
    bar.finish_and_clear();
    result
}

fn told(progress: &DownloadProgress) -> String {
    let left = match progress.eta {
        _ if progress.paused => "paused".to_owned(),
        Some(eta) => format!("{} left", HumanDuration(eta)),
        None => "waiting for the store".to_owned(),
    };
    format!(
        "downloading: {} of {} files, {left}",
        progress.files_done, progress.files_total
    )
}

fn bar(total: u64, what: &'static str, format: Format, template: &str) -> ProgressBar {
    let target = match format {
        Format::Text => ProgressDrawTarget::stderr(),
        Format::Json => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(Some(total), target).with_message(what);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_tells_files_and_the_time_left() {
        let mut progress = DownloadProgress {
            files_total: 17,
            files_done: 3,
            eta: Some(Duration::from_secs(30)),
            ..DownloadProgress::default()
        };
        assert_eq!(
            told(&progress),
            "downloading: 3 of 17 files, 30 seconds left"
        );
        progress.paused = true;
        assert_eq!(told(&progress), "downloading: 3 of 17 files, paused");
    }
}
