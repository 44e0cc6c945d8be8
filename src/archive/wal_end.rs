//! Where the WAL on disk ends while no server can say it.

use std::io::Read;

use super::ready::PgWal;
use crate::error::{Error, Result};
use crate::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};
use crate::wal::WalScanner;

/// Bytes that are read at a time: whole pages.
const PIECE: usize = 1 << 20;

/// The end of the last whole record in `pg_wal` on `timeline`, from the segment of `from` on; what lies there but was
/// never flushed counts too. `from` itself where nothing can be read.
pub fn wal_end_on_disk(pg_wal: &PgWal, size: SegmentSize, timeline: TimelineId, from: Lsn) -> Result<Lsn> {
    let mut segment = SegmentName::containing(timeline, from, size);
    let mut scanner = WalScanner::new(segment.start(size), size);
    let mut end = from;
    loop {
        let path = pg_wal.path().join(segment.to_string());
        let mut file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(end),
            Err(cause) => return Err(Error::io("open", &path, &cause)),
        };
        let mut buffer = vec![0; PIECE];
        let mut left = size.bytes();
        while left > 0 {
            let wanted = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            file.read_exact(&mut buffer[..wanted]).map_err(|cause| Error::io("read", &path, &cause))?;
            scanner.feed(&buffer[..wanted]);
            left -= wanted as u64;
        }
        let found = scanner.clone().finish().end;
        end = end.max(found);
        if found < segment.end(size) {
            return Ok(end);
        }
        segment = segment.next(size);
    }
}
