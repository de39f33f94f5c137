//! Progress bars: on standard error, and only where that is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Format;

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
