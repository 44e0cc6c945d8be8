//! The recovery window: how far each backup reaches with the WAL that is there.

use super::catalog::Catalog;
use super::manifest::Manifest;
use super::namespace::Repository;
use super::summary::Summary;
use super::wal_store::{WalFile, conflict};
use crate::error::{Kind, Result};
use crate::postgres::{History, Lsn, PgTime, SegmentName, SegmentSize, WalName, WalScanner};

/// The segments that recovery reads, in order, and where that WAL ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalPath {
    /// The segments.
    pub segments: Vec<SegmentName>,
    /// The first position that is missing.
    pub end: Lsn,
}

/// How far a backup reaches along one timeline's lineage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The WAL that is there.
    pub path: WalPath,
    /// End of the last complete record.
    pub end: Lsn,
    /// The latest commit, abort or restore point on the path: time targets must lie before it. `None`: nothing
    /// happened since the backup.
    pub end_time: Option<PgTime>,
    /// Why the path ends where it does, when the next segment is there but damaged.
    pub damage: Option<String>,
}

impl Reach {
    /// End before segment `index` of the path.
    fn cut(&mut self, index: usize, size: SegmentSize) {
        self.end = self.path.segments[index].start(size);
        self.path.end = self.end;
        self.path.segments.truncate(index);
    }

    /// Whether the backup can be made consistent.
    pub fn covers(&self, backup: &Manifest) -> bool {
        self.path.end >= backup.stop_lsn
    }
}

impl Catalog {
    /// Follow the lineage of `history` from `start` as recovery does (XLogFileReadAnyTLI: the newest timeline that
    /// has begun by then) until a segment is missing.
    pub fn wal_path(&self, history: &History, start: Lsn) -> WalPath {
        let size = self.segment_size;
        let lineage = history.lineage();
        let mut segments = Vec::new();
        for number in start.get() / size.bytes().. {
            let begun = lineage.iter().rev().filter(|stretch| stretch.begin.get() / size.bytes() <= number);
            let name =
                |stretch: &crate::postgres::Stretch| SegmentName::from_number(stretch.timeline, number, size);
            let mut newer_missing = false;
            let found = begun.take_while(|stretch| {
                // An older timeline's copy serves only where the newer one begins within this segment.
                let usable =
                    !newer_missing || stretch.end.is_some_and(|end| end.get() / size.bytes() == number);
                newer_missing = true;
                usable
            });
            let Some(stretch) = found.into_iter().find(|stretch| self.has(&name(stretch))) else {
                return WalPath { segments, end: Lsn::new(number * size.bytes()) };
            };
            segments.push(name(stretch));
            if let Some(end) = stretch.end.filter(|end| end.get() / size.bytes() == number) {
                return WalPath { segments, end };
            }
        }
        WalPath { segments, end: Lsn::new(u64::MAX) }
    }

    /// How far `backup` reaches along `history`; `None` when its timeline does not lead there.
    pub async fn reach(
        &self,
        repository: &Repository,
        backup: &Manifest,
        history: &History,
    ) -> Result<Option<Reach>> {
        let leads_there = history
            .stretch(backup.timeline)
            .is_some_and(|stretch| stretch.end.is_none_or(|end| backup.stop_lsn <= end));
        if !leads_there {
            return Ok(None);
        }
        let path = self.wal_path(history, backup.start_lsn);
        let mut reach = Reach { end: path.end, path, end_time: None, damage: None };
        for index in (0..reach.path.segments.len()).rev() {
            match self.summary(repository, &reach.path.segments[index]).await {
                Ok(summary) => {
                    // Only the newest segment's records tell where the WAL ends.
                    if index + 1 == reach.path.segments.len() {
                        reach.end = reach.end.min(summary.end);
                    }
                    // Past a switch of timelines, the older one's segment tells of commits that are not on the path.
                    let whole = reach.path.segments[index].end(self.segment_size) <= reach.path.end;
                    reach.end_time = summary.times.filter(|_| whole).map(|(_, last)| last);
                }
                // What lies before it can still be reached.
                Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Conflict | Kind::NotFound) => {
                    reach.cut(index, self.segment_size);
                    reach.damage = Some(error.to_string());
                }
                Err(error) => return Err(error),
            }
            if reach.end_time.is_some() {
                break;
            }
        }
        Ok(Some(reach))
    }

    async fn summary(&self, repository: &Repository, segment: &SegmentName) -> Result<Summary> {
        repository.wal_summary(self.version(segment)?).await
    }

    /// The one archived version of a segment; two are a conflict that only the operator can resolve.
    pub fn version(&self, segment: &SegmentName) -> Result<&WalFile> {
        let name = WalName::Segment(*segment);
        let mut versions = self.wal.iter().filter(|file| file.name == name);
        match (versions.next(), versions.next()) {
            (Some(file), None) => Ok(file),
            _ => Err(conflict(&name)),
        }
    }

    /// Where on `path` transaction `xid` ends; the summaries tell which segments are worth reading.
    pub async fn locate_xid(
        &self,
        repository: &Repository,
        path: &WalPath,
        xid: u32,
    ) -> Result<Option<(Lsn, PgTime)>> {
        let files = self.versions(path)?;
        let summaries = repository.wal_summaries(&files).await?;
        for ((file, summary), segment) in files.iter().zip(summaries).zip(&path.segments) {
            let may_be = summary.xids.is_some_and(|(min, max)| (min..=max).contains(&xid));
            if !may_be && summary.complete {
                continue;
            }
            let sealed = repository.get_wal_sealed(file).await?;
            let (_, plain) = repository.open_wal_file(file, &sealed)?;
            let mut scanner =
                WalScanner::new(segment.start(self.segment_size), self.segment_size).collecting();
            scanner.feed(&plain);
            if let Some(end) = scanner.finish().transactions.into_iter().find(|end| end.xid == xid) {
                return Ok(Some((end.end, end.time)));
            }
        }
        Ok(None)
    }

    /// Where on `path` the restore point `name` is, the first one at or after `from`.
    pub async fn locate_restore_point(
        &self,
        repository: &Repository,
        path: &WalPath,
        name: &str,
        from: Lsn,
    ) -> Result<Option<(Lsn, PgTime)>> {
        let summaries = repository.wal_summaries(&self.versions(path)?).await?;
        let points = summaries.into_iter().flat_map(|summary| summary.restore_points);
        let found = points.into_iter().find(|point| point.name == name && point.lsn >= from);
        Ok(found.map(|point| (point.lsn, point.time)))
    }

    fn versions(&self, path: &WalPath) -> Result<Vec<WalFile>> {
        path.segments.iter().map(|segment| self.version(segment).cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::postgres::TimelineId;
    use crate::repository::WalDigest;

    const SIZE: u64 = 1 << 24;

    fn catalog(names: &[&str]) -> Catalog {
        let digest = WalDigest::from_bytes([1; 16]);
        let file = |name: &&str| WalFile {
            name: format!("{}{:016X}", &name[..8], u64::from_str_radix(&name[9..], 16).unwrap())
                .parse()
                .unwrap(),
            digest,
            stored_len: 1,
            modified: Timestamp::UNIX_EPOCH,
        };
        Catalog::new(Vec::new(), names.iter().map(file).collect(), SegmentSize::new(1 << 24).unwrap())
    }

    fn path(catalog: &Catalog, timeline: u32, history: &str) -> (Vec<String>, u64) {
        let timeline = TimelineId::new(timeline).unwrap();
        let history = History::parse(timeline, history).unwrap();
        let path = catalog.wal_path(&history, Lsn::new(SIZE + 40));
        let short = path.segments.iter().map(|s| format!("{}-{:X}", s.timeline, s.segment)).collect();
        (short, path.end.get())
    }

    #[test]
    fn a_path_ends_at_the_first_gap() {
        let catalog = catalog(&["00000001-1", "00000001-2", "00000001-4"]);
        assert_eq!(path(&catalog, 1, ""), (vec!["1-1".into(), "1-2".into()], 3 * SIZE));
    }

    #[test]
    fn a_path_crosses_to_the_newer_timeline_in_the_segment_of_the_switch() {
        let switch = "1\t0/2800000\tx";
        let both = catalog(&["00000001-1", "00000001-2", "00000001-3", "00000002-2", "00000002-3"]);
        assert_eq!(path(&both, 2, switch), (vec!["1-1".into(), "2-2".into(), "2-3".into()], 4 * SIZE));
        let older_only = catalog(&["00000001-1", "00000001-2", "00000001-3"]);
        assert_eq!(path(&older_only, 2, switch), (vec!["1-1".into(), "1-2".into()], 0x0280_0000));
        assert_eq!(path(&older_only, 1, ""), (vec!["1-1".into(), "1-2".into(), "1-3".into()], 4 * SIZE));
    }
}
