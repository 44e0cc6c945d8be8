//! Which backups lead along a branch, and why others do not.

use std::fmt;
use std::sync::Arc;

use super::pieces::Piece;
use crate::format::{Manifest, WalRecord};
use crate::postgres::{SegmentName, SegmentSize};

/// How far a backup leads on a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The backup.
    pub backup: Arc<Manifest>,
    /// The span that it starts in, by its place on its branch.
    pub span: usize,
}

/// A backup that cannot be made consistent on a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranded {
    /// The backup.
    pub backup: Arc<Manifest>,
    /// Why.
    pub lack: Lack,
}

/// What a backup lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// WAL from its start to its stop is missing or cannot be used.
    Whole,
    /// What is stored under the name of a segment is not what was stored there when the backup was made.
    Own(SegmentName),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => write!(f, "WAL that it needs is missing or damaged"),
            Self::Own(segment) => write!(
                f,
                "segment {segment} is stored, and not as it was when the backup was made: it was lost, and another \
                 server archived under its name"
            ),
        }
    }
}

/// The first segment of which another content is stored than when the backup was made, or no more than a tail.
pub(super) fn replaced(backup: &Manifest, pieces: &[Piece], size: SegmentSize) -> Option<SegmentName> {
    let other = |wal: &&WalRecord| {
        let at = pieces.partition_point(|piece| piece.number < wal.segment.number(size));
        // Of two timelines' copies the newer one serves; up to where it begins they are the same.
        let piece = pieces.get(at).filter(|piece| piece.segment == wal.segment);
        piece.is_some_and(|piece| piece.digest.is_none_or(|stored| stored.content() != wal.digest))
    };
    backup.wal.iter().find(other).map(|wal| wal.segment)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{catalog, file, history, manifest, summary, window};
    use super::*;
    use crate::format::WalDigest;
    use crate::postgres::{Lsn, TimelineId};

    const MIB: u64 = 1 << 20;

    /// Of a backup over segments 3 and 4, which were stored with digests of these bytes: what it lacks on a timeline, where
    /// these files are stored with a digest of ones, and segment 5 has a tail.
    fn lack(digests: [u8; 2], files: &[&str], timeline: u32) -> Option<Lack> {
        let mut catalog = catalog(1 << 20, files);
        if timeline > 1 {
            catalog = catalog.with_history(timeline, Ok(history(timeline, "1\t0/480000\tx")));
            catalog.add(file(&format!("{timeline:08X}.history"), 1));
        }
        let mut backup = manifest(Lsn::new(3 * MIB + 40), Lsn::new(4 * MIB + 400), 1);
        backup.wal = (3..)
            .zip(digests)
            .map(|(number, digest)| WalRecord {
                segment: SegmentName::from_number(TimelineId::FIRST, number, catalog.segment_size),
                digest: WalDigest::from_bytes([digest; 16]).content(),
            })
            .collect();
        catalog.backups.push(Arc::new(backup));
        let (window, _) = window(
            &catalog,
            |_, _| None,
            |segment, _| Ok(summary(segment.end(catalog.segment_size), 1)),
            |_, _| panic!(),
        );
        let branch = window.branch(TimelineId::new(timeline).unwrap()).unwrap();
        assert_eq!(branch.reaches.len() + branch.stranded.len(), 1);
        branch.stranded.first().map(|stranded| stranded.lack)
    }

    #[test]
    fn r28_a_backup_needs_the_wal_that_was_stored_when_it_was_made() {
        const OLD: [&str; 2] = ["000000010000000000000003", "000000010000000000000004"];
        let own = |segment: &str| Some(Lack::Own(segment.parse().unwrap()));
        assert_eq!(lack([1, 1], &OLD, 1), None);
        assert_eq!(lack([2, 1], &OLD, 1), own(OLD[0]));
        assert_eq!(lack([1, 2], &OLD, 1), own(OLD[1]));
        assert_eq!(lack([1, 1], &OLD[1..], 1), Some(Lack::Whole));
        // Where the next timeline begins in the last segment, its copy holds the same up to there.
        let newer = [OLD[0], OLD[1], "000000020000000000000004"];
        assert_eq!(lack([1, 2], &newer, 2), None);
        assert_eq!(lack([2, 1], &newer, 2), own(OLD[0]));
    }
}
