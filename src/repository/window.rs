//! The recovery window: how far each backup reaches with the WAL that is there.

use super::catalog::Catalog;
use super::manifest::Manifest;
use super::namespace::Repository;
use super::summary::Summary;
use super::wal_store::{WalFile, conflict};
use crate::error::{Kind, Result};
use crate::postgres::{
    History, Lsn, PgTime, RestorePoint, SegmentName, SegmentSize, Stretch, WalName, WalScanner,
};

/// The segments that recovery reads, in order, and where that WAL ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalPath {
    /// The archived segments.
    pub segments: Vec<SegmentName>,
    /// Segments of which there is a tail only: mostly none, or one behind the others.
    pub tails: Vec<SegmentName>,
    /// The first position that is missing.
    pub end: Lsn,
}

impl WalPath {
    /// The last segment, archived or not.
    fn last(&self) -> Option<SegmentName> {
        self.segments.last().into_iter().chain(self.tails.last()).copied().max_by_key(position)
    }

    /// All segments with whether they are archived, the last one first.
    fn backwards(&self) -> Vec<(SegmentName, bool)> {
        let archived = self.segments.iter().map(|segment| (*segment, true));
        let mut all: Vec<_> = archived.chain(self.tails.iter().map(|segment| (*segment, false))).collect();
        all.sort_unstable_by_key(|(segment, _)| std::cmp::Reverse(position(segment)));
        all
    }

    /// Up to where the tail reaches, if the path ends in one.
    pub fn tail_end(&self) -> Option<Lsn> {
        self.last().filter(|last| self.tails.contains(last)).map(|_| self.end)
    }
}

/// What orders the segments of a path, on which every position is there once.
const fn position(segment: &SegmentName) -> (u32, u32) {
    (segment.log, segment.segment)
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
    /// End before this segment of the path.
    fn cut(&mut self, segment: &SegmentName, size: SegmentSize) {
        self.end = segment.start(size);
        self.path.end = self.end;
        let before = |other: &SegmentName| position(other) < position(segment);
        self.path.segments.retain(before);
        self.path.tails.retain(before);
    }

    /// Whether the backup can be made consistent.
    pub fn covers(&self, backup: &Manifest) -> bool {
        self.path.end >= backup.stop_lsn
    }
}

impl Catalog {
    /// Follow the lineage of `history` from `start` as recovery does (XLogFileReadAnyTLI: the newest timeline that
    /// has begun by then) until a segment is missing, or ends as a tail does.
    pub fn wal_path(&self, history: &History, start: Lsn) -> WalPath {
        let size = self.segment_size;
        let lineage = history.lineage();
        let mut path = WalPath { segments: Vec::new(), tails: Vec::new(), end: Lsn::new(u64::MAX) };
        for number in start.get() / size.bytes().. {
            let begun = lineage.iter().rev().filter(|stretch| stretch.begin.get() / size.bytes() <= number);
            let name = |stretch: &Stretch| SegmentName::from_number(stretch.timeline, number, size);
            let mut newer_missing = false;
            let mut usable = begun.take_while(|stretch| {
                // An older timeline's copy serves only where the newer one begins within this segment.
                let usable =
                    !newer_missing || stretch.end.is_some_and(|end| end.get() / size.bytes() == number);
                newer_missing = true;
                usable
            });
            let there = |segment: &SegmentName| self.has(segment) || self.tail(segment).is_some();
            let Some(stretch) = usable.find(|stretch| there(&name(stretch))) else {
                path.end = Lsn::new(number * size.bytes());
                break;
            };
            let segment = name(stretch);
            let tail = self.tail(&segment);
            if tail.is_some() { &mut path.tails } else { &mut path.segments }.push(segment);
            let unfinished = tail.filter(|tail| !self.is_whole(tail)).map(|tail| tail.end(size));
            let switch = stretch.end.filter(|end| end.get() / size.bytes() == number);
            if let Some(end) = unfinished.into_iter().chain(switch).min() {
                path.end = end;
                break;
            }
        }
        path
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
        for (segment, archived) in reach.path.backwards() {
            let switch = history.stretch(segment.timeline).and_then(|stretch| stretch.end);
            match self.summary(repository, &segment, archived).await {
                Ok((summary, there)) => {
                    // Only the newest segment's records tell where the WAL ends.
                    if reach.path.last() == Some(segment) {
                        // A tail may have changed since it was listed.
                        reach.path.end = switch.map_or(there, |switch| there.min(switch));
                        reach.end = reach.path.end.min(summary.end);
                    }
                    // Past a switch of timelines, the older one's segment tells of commits that are not on the path.
                    let whole = switch.is_none_or(|switch| segment.end(self.segment_size) <= switch);
                    reach.end_time = summary.times.filter(|_| whole).map(|(_, last)| last);
                }
                // What lies before it can still be reached. Kind Server: a tail of another cluster.
                Err(error)
                    if matches!(
                        error.kind(),
                        Kind::Corrupt | Kind::Conflict | Kind::NotFound | Kind::Server
                    ) =>
                {
                    reach.cut(&segment, self.segment_size);
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

    /// The summary of a segment or of its tail, and up to where that reaches.
    async fn summary(
        &self,
        repository: &Repository,
        segment: &SegmentName,
        archived: bool,
    ) -> Result<(Summary, Lsn)> {
        if archived {
            let summary = repository.wal_summary(self.version(segment)?).await?;
            return Ok((summary, segment.end(self.segment_size)));
        }
        let scan = self.scan_tail(repository, segment).await?;
        Ok((Summary::of_segment(self.segment_size.bytes(), scan.summary.clone()), scan.end))
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
        for segment in &path.tails {
            let scan = self.scan_tail(repository, segment).await?;
            let mut ends = scan.summary.transactions.iter();
            if let Some(end) = ends.find(|end| end.xid == xid && end.end <= path.end) {
                return Ok(Some((end.end, end.time)));
            }
        }
        Ok(None)
    }

    /// Where the last whole record of `path` begins: PostgreSQL stops at the first record that begins at an LSN target
    /// or behind it, so there must be one. `None` if no segment of the path has the beginning of a record.
    pub async fn last_record(&self, repository: &Repository, path: &WalPath) -> Result<Option<Lsn>> {
        for (segment, archived) in path.backwards() {
            let last = if archived {
                let file = self.version(&segment)?;
                let sealed = repository.get_wal_sealed(file).await?;
                let (_, plain) = repository.open_wal_file(file, &sealed)?;
                let start = segment.start(self.segment_size);
                let mut scanner = WalScanner::new(start, self.segment_size).until(path.end);
                scanner.feed(&plain);
                scanner.finish().last_start
            } else {
                let scan = self.scan_tail(repository, &segment).await?;
                scan.summary.last_start
            };
            if last.is_some() {
                return Ok(last);
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
        let mut points: Vec<RestorePoint> =
            summaries.into_iter().flat_map(|summary| summary.restore_points).collect();
        for segment in &path.tails {
            points.extend(self.scan_tail(repository, segment).await?.summary.restore_points.iter().cloned());
        }
        let named = |point: &RestorePoint| point.name == name && (from..=path.end).contains(&point.lsn);
        let found = points.into_iter().filter(named).min_by_key(|point| point.lsn);
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
