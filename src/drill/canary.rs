//! The last canary at or before the target, in the WAL that the drill's own server replayed.

use std::path::Path;

use crate::error::{Error, Result};
use crate::format::CANARY_PREFIX;
use crate::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};
use crate::wal::{LogicalMessage, WalRecords};

/// What was looked through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Search {
    /// The last canary's text.
    pub(super) found: Option<Vec<u8>>,
    /// How many segments were looked through.
    pub(super) segments: u64,
}

/// Look back from `reached` through the segments of `timeline` and those before it that are still in `pg_wal`.
pub(super) fn last_canary(
    pg_wal: &Path,
    timeline: TimelineId,
    reached: Lsn,
    size: SegmentSize,
) -> Result<Search> {
    let mut search = Search { found: None, segments: 0 };
    // A segment that was switched ends where the next one begins.
    let within = Lsn::new(reached.get().saturating_sub(1));
    let mut number = SegmentName::containing(timeline, within, size).number(size);
    while search.found.is_none() {
        let Some(wal) = read(pg_wal, timeline, number, size)? else { break };
        search.segments += 1;
        let start = SegmentName::from_number(timeline, number, size).start(size);
        let records = WalRecords::read(start, size, &wal);
        let before = records.found.iter().filter(|record| record.end <= reached);
        let canary = |message: LogicalMessage| {
            (message.prefix == CANARY_PREFIX && message.content.starts_with(b"canary "))
                .then_some(message.content)
        };
        search.found = before.filter_map(|record| canary(record.message()?)).next_back();
        let Some(previous) = number.checked_sub(1) else { break };
        number = previous;
    }
    Ok(search)
}

/// The segment on the newest timeline that has it.
fn read(pg_wal: &Path, timeline: TimelineId, number: u64, size: SegmentSize) -> Result<Option<Vec<u8>>> {
    for older in (1..=timeline.get()).rev() {
        let path = pg_wal.join(SegmentName::from_number(TimelineId::new(older)?, number, size).to_string());
        match std::fs::read(&path) {
            Ok(wal) => return Ok(Some(wal)),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return Err(Error::io("read", &path, &cause)),
        }
    }
    Ok(None)
}
