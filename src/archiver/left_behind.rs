//! What a server that does not run has left on its disk.

use std::path::Path;

use crate::archive::{PgWal, wal_end_on_disk};
use crate::cluster::DataDir;
use crate::ledger::LeftBehind;
use crate::postgres::{Lsn, TimelineId};

/// DBState (pg_control.h) DB_SHUTDOWNED; DB_SHUTDOWNED_IN_RECOVERY and DB_IN_ARCHIVE_RECOVERY.
const SHUT_DOWN: u32 = 1;
const RECOVERING: [u32; 2] = [2, 5];
/// Bytes of the header of a segment's first page, where its first record begins.
const LONG_HEADER: u64 = 40;

/// Where WAL on disk ends, when the server does not run; `None` when it does, or when that cannot be told.
pub(super) fn left_behind(path: &Path, last: Option<(TimelineId, Lsn)>) -> Option<LeftBehind> {
    let data_dir = DataDir::open(path).ok()?;
    if data_dir.server_is_running().ok()? {
        return None;
    }
    let control = data_dir.control().ok()?;
    let recovering = RECOVERING.contains(&control.state);
    if control.state == SHUT_DOWN {
        // Nothing but the checkpoint of the shutdown follows: no commit is in it.
        let start = control.checkpoint.segment_start(control.segment_size);
        let first = control.checkpoint.offset_from(start) <= LONG_HEADER;
        let end = if first { start } else { control.checkpoint };
        return Some(LeftBehind { timeline: control.timeline, end, recovering });
    }
    let (timeline, from) = last
        .filter(|(timeline, _)| *timeline >= control.timeline)
        .unwrap_or((control.timeline, control.checkpoint));
    wal_end_on_disk(&PgWal::of(&data_dir), control.segment_size, timeline, from)
        .inspect_err(|error| tracing::debug!(%error, "cannot tell where WAL on disk ends"))
        .ok()
        .map(|end| LeftBehind { timeline, end, recovering })
}
