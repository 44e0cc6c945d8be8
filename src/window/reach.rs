//! Which backups lead along a branch, and why others do not.

use std::fmt;
use std::sync::Arc;

use super::pieces::Piece;
use super::times::{Need, Stored, Twins, WalTimes};
use crate::catalog::Catalog;
use crate::format::{Manifest, WalRecord};
use crate::postgres::{History, SegmentName, WalName};

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
    /// The file of a newer timeline, which serves in the place of the segment that the backup was made over, is not the same
    /// up to where that timeline begins.
    Parted {
        /// What the backup was made over.
        own: SegmentName,
        /// What is stored.
        newer: SegmentName,
    },
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => write!(f, "WAL that it needs is missing or damaged"),
            Self::Own(segment) => write!(
                f,
                "segment {segment} is stored, but not as it was when the backup was made: it was lost, and another \
                 server archived under its name"
            ),
            Self::Parted { own, newer } => write!(
                f,
                "segment {newer} does not begin like {own}, over which the backup was made: another life of the \
                 cluster was promoted"
            ),
        }
    }
}

/// What is stored in the place of a segment that the backup was made over, if that is something else: another content under
/// its name, or no more than a tail. Where the next timeline begins in it, that one's copy serves, and has to repeat it up to
/// there: it does not where the data directory was put back, and the life after that was the one to be promoted. Whether it
/// does cannot be said once the segment is gone.
pub(super) fn replaced(
    backup: &Manifest,
    (catalog, times): (&Catalog, &WalTimes),
    (history, pieces): (&History, &[Piece]),
    needs: &mut Vec<Need>,
) -> Option<Lack> {
    let size = catalog.segment_size;
    let mut other = |wal: &WalRecord| {
        let number = wal.segment.number(size);
        let at = pieces.partition_point(|piece| piece.number < number);
        let piece = pieces.get(at).filter(|piece| piece.number == number)?;
        if piece.segment == wal.segment {
            let is_same = piece.digest.is_some_and(|stored| stored.content() == wal.digest);
            return (!is_same).then_some(Lack::Own(wal.segment));
        }
        let until = history.stretch(wal.segment.timeline)?.end?;
        let mut versions = catalog.versions(&WalName::Segment(wal.segment));
        let Some(own) = versions.find(|file| file.digest.content() == wal.digest) else {
            return catalog.has(&wal.segment).then_some(Lack::Own(wal.segment));
        };
        let shared = until.offset_from(piece.segment.start(size));
        let (newer_is, shared) = if let Some(digest) = piece.digest {
            (Stored::Whole(digest), shared)
        } else {
            let tail = catalog.tail(&piece.segment)?;
            (Stored::Tail(tail.generation), shared.min(tail.len.into()))
        };
        let twins = Twins { older: (wal.segment, own.digest), newer: piece.segment, newer_is, shared };
        match times.twins.get(&twins) {
            Some(Ok(false)) => Some(Lack::Parted { own: wal.segment, newer: piece.segment }),
            // Which of the two is damaged, and whether it matters, is said elsewhere.
            Some(_) => None,
            None => {
                needs.push(Need::Twins(twins));
                None
            }
        }
    };
    backup.wal.iter().find_map(&mut other)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{catalog, file, history, manifest, summary, window};
    use super::*;
    use crate::format::WalDigest;
    use crate::postgres::{Lsn, TimelineId};

    const MIB: u64 = 1 << 20;

    /// Of a backup over segments 3 and 4, which were stored with digests of these bytes: what it lacks on a timeline, where
    /// these files are stored with a digest of ones. `repeats`: whether a newer timeline's repeats what it takes the place of.
    fn lack_of(digests: [u8; 2], files: &[&str], timeline: u32, repeats: bool) -> Option<Lack> {
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
            |older, newer, until| {
                assert_eq!((older.to_string(), newer.to_string()), (OLD[1].to_owned(), NEW.to_owned()));
                assert_eq!(until, Lsn::new(0x48_0000));
                repeats
            },
        );
        let branch = window.branch(TimelineId::new(timeline).unwrap()).unwrap();
        assert_eq!(branch.reaches.len() + branch.stranded.len(), 1);
        branch.stranded.first().map(|stranded| stranded.lack)
    }

    const OLD: [&str; 2] = ["000000010000000000000003", "000000010000000000000004"];
    const NEW: &str = "000000020000000000000004";

    fn own(segment: &str) -> Lack {
        Lack::Own(segment.parse().unwrap())
    }

    #[test]
    fn r28_a_backup_needs_the_wal_that_was_stored_when_it_was_made() {
        let lack = |digests, files: &[&str], timeline| lack_of(digests, files, timeline, true);
        assert_eq!(lack([1, 1], &OLD, 1), None);
        assert_eq!(lack([2, 1], &OLD, 1), Some(own(OLD[0])));
        assert_eq!(lack([1, 2], &OLD, 1), Some(own(OLD[1])));
        assert_eq!(lack([1, 1], &OLD[1..], 1), Some(Lack::Whole));
        assert_eq!(lack([2, 1], &[OLD[0], OLD[1], NEW], 2), Some(own(OLD[0])));
    }

    #[test]
    fn r28_the_next_timelines_copy_has_to_repeat_what_was_stored_up_to_where_it_begins() {
        let both = [OLD[0], OLD[1], NEW];
        assert_eq!(lack_of([1, 1], &both, 2, true), None);
        let parted = Lack::Parted { own: OLD[1].parse().unwrap(), newer: NEW.parse().unwrap() };
        assert_eq!(lack_of([1, 1], &both, 2, false), Some(parted));
        // Another server archived under the old name: whose copy the new timeline's is, nobody knows.
        assert_eq!(lack_of([1, 2], &both, 2, true), Some(own(OLD[1])));
        // The old one is gone.
        assert_eq!(lack_of([1, 1], &[OLD[0], NEW], 2, false), None);
    }
}
