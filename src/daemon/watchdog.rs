//! Telling systemd that we are ready, and that we are alive.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use super::snapshot::Desk;

/// Without a watchdog, the status line is renewed this often.
const STATUS: Duration = Duration::from_secs(30);

/// Say that we are ready, then that we are alive, for ever.
pub(super) async fn run(desk: Arc<Desk>) {
    tell(&[NotifyState::Ready]);
    // A third of what systemd allows.
    let pause = sd_notify::watchdog_enabled().map_or(STATUS, |allowed| allowed / 3);
    loop {
        // Whoever holds the ledger and does not let go would stop this, and systemd would start the daemon anew.
        let snapshot = desk.snapshot();
        let rpo = snapshot.estimates.rpo_seconds;
        let rpo = rpo.map_or_else(|| "unknown".to_owned(), |rpo| format!("{rpo:.1} s"));
        let status = format!(
            "{}, RPO {rpo}, {} files ready, {} problems",
            snapshot.server.role.as_str(),
            snapshot.wal.ready,
            snapshot.problems.len()
        );
        tell(&[NotifyState::Watchdog, NotifyState::Status(&status)]);
        tokio::time::sleep(pause).await;
    }
}

/// Say that we end on purpose.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot tell systemd");
    }
}
