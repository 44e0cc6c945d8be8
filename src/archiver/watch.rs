//! Watching `archive_status`: what PostgreSQL marks as ready is pushed at once. A look at the whole directory now and
//! then catches what the watch missed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{CreateKind, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::handle::LedgerHandle;
use super::pusher::Pusher;
use crate::archive::parse_ready;
use crate::error::{Error, Kind, Result};
use crate::ledger::{Event, Now};
use crate::postgres::WalName;

/// Between two looks at the whole directory.
pub(crate) const RESCAN: Duration = Duration::from_secs(5);

/// Watch for ever.
pub(super) async fn run(ledger: LedgerHandle, pusher: Arc<Pusher>) {
    let (sender, mut marks) = mpsc::unbounded_channel();
    let mut watcher = None;
    let mut scanned_at: Option<Instant> = None;
    loop {
        if watcher.is_none() {
            watcher =
                watch(&pusher, sender.clone()).inspect_err(|error| tracing::debug!(%error, "no watch")).ok();
        }
        if scanned_at.is_none_or(|at| at.elapsed() >= RESCAN) {
            if rescan(&ledger, &pusher).is_err() {
                // The directory is gone; should it come back, it is another one.
                watcher = None;
            }
            scanned_at = Some(Instant::now());
        }
        let Ok(Some(mark)) = tokio::time::timeout(RESCAN, marks.recv()).await else { continue };
        let mut names = BTreeSet::from([mark]);
        while let Ok(mark) = marks.try_recv() {
            names.insert(mark);
        }
        pusher.add(names);
    }
}

fn watch(pusher: &Pusher, sender: mpsc::UnboundedSender<WalName>) -> Result<RecommendedWatcher> {
    let failed = |cause: notify::Error| Error::new(Kind::Other, format!("watch archive_status: {cause}"));
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let appears = matches!(
            event.kind,
            EventKind::Create(CreateKind::File | CreateKind::Any) | EventKind::Modify(ModifyKind::Name(_))
        );
        for path in event.paths.iter().filter(|_| appears) {
            if let Some(name) = path.file_name().and_then(|name| parse_ready(&name.to_string_lossy())) {
                let _ = sender.send(name);
            }
        }
    })
    .map_err(failed)?;
    watcher.watch(&pusher.pg_wal.status_dir(), RecursiveMode::NonRecursive).map_err(failed)?;
    Ok(watcher)
}

fn rescan(ledger: &LedgerHandle, pusher: &Pusher) -> Result<()> {
    let ready = pusher.pg_wal.ready()?;
    let oldest = ready.iter().filter_map(|name| pusher.pg_wal.ready_since(name)).min();
    ledger.apply(Event::ReadyListed { count: ready.len() as u64, oldest }, Now::read());
    pusher.keep_stored(&ready);
    pusher.give_up_refused();
    pusher.add(ready);
    Ok(())
}
