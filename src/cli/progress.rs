//! The progress of what moves much, on a terminal.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::Global;
use crate::backup::Progress;

/// Draw a progress bar, on a terminal only.
pub(crate) fn draw(global: &Global, progress: Arc<Progress>) -> tokio::task::JoinHandle<()> {
    let wanted = !global.quiet && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let target = if wanted { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}")
    {
        bar.set_style(style);
    }
    tokio::spawn(async move {
        if !wanted {
            return;
        }
        loop {
            let (done, total) = progress.get();
            bar.set_length(total);
            bar.set_position(done);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
}
