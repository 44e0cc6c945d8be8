//! Telling systemd that we are ready, and that we are alive: the protocol of sd_notify(3), a datagram to a socket.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;

/// Without a watchdog, the status line is renewed this often.
const STATUS: Duration = Duration::from_secs(30);

/// Say that we are ready, then that we are alive, for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    tell("READY=1");
    loop {
        // Whoever holds the state and does not let go would stop this, and systemd would start the daemon anew.
        let snapshot = shared.snapshot();
        let rpo = snapshot.rpo_seconds.map_or_else(|| "unknown".to_owned(), |rpo| format!("{rpo:.1} s"));
        tell(&format!(
            "WATCHDOG=1\nSTATUS={}, RPO {rpo}, {} files ready, {} problems",
            snapshot.role.as_str(),
            snapshot.ready,
            snapshot.problems.len()
        ));
        tokio::time::sleep(pause()).await;
    }
}

/// Say that we end on purpose.
pub(super) fn stopping() {
    tell("STOPPING=1");
}

/// A third of what systemd allows.
fn pause() -> Duration {
    let allowed = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
    allowed.map_or(STATUS, |micros| Duration::from_micros(micros) / 3)
}

fn tell(text: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address).map(|_| ()));
    if let Err(error) = sent {
        tracing::debug!(%error, "cannot tell systemd");
    }
}
