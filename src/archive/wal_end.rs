//! Where the WAL on disk ends while no server can say it.

use std::io::Read;

use super::ready::PgWal;
use crate::disk::ReadBuffer;
use crate::error::{Error, Result};
use crate::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};
use crate::wal::WalScanner;

/// Bytes that are read at a time: whole pages.
const PIECE: usize = 1 << 20;

/// The end of the last whole record in `pg_wal` on `timeline`, from the segment of `from` on; what lies there but was
/// never flushed counts too. `from` itself where nothing can be read.
pub fn wal_end_on_disk(pg_wal: &PgWal, size: SegmentSize, timeline: TimelineId, from: Lsn) -> Result<Lsn> {
    let mut segment = SegmentName::containing(timeline, from, size);
    // A record whose checksum is wrong is not replayed, nor what lies behind it.
    let mut scanner = WalScanner::new(segment.start(size), size).checking();
    let (mut end, mut buffer) = (from, ReadBuffer::default());
    loop {
        let path = pg_wal.path().join(segment.to_string());
        let mut file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(end),
            Err(cause) => return Err(Error::io("open", &path, &cause)),
        };
        let buffer = buffer.take(PIECE);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::fixture::{PAGE, SIZE, size, wal};

    #[test]
    fn a_record_whose_checksum_is_wrong_ends_the_wal() {
        let scratch = tempfile::tempdir().unwrap();
        let pg_wal = PgWal::at(scratch.path());
        let segment = SegmentName::from_number(TimelineId::FIRST, 3, size());
        let start = segment.start(size());
        let mut bytes = wal(&segment, 10);
        bytes.resize(SIZE as usize, 0);
        let end = |bytes: &[u8]| {
            std::fs::write(pg_wal.path().join(segment.to_string()), bytes).unwrap();
            wal_end_on_disk(&pg_wal, size(), TimelineId::FIRST, start).unwrap().offset_from(start)
        };
        assert_eq!(end(&bytes), 10 * PAGE as u64);
        // In what fills page 5, behind its commit.
        bytes[6 * PAGE - 100] ^= 1;
        assert_eq!(end(&bytes), 5 * PAGE as u64 + 24 + 40);
    }
}
