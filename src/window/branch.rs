//! A branch: the lineage of one timeline, the WAL that is stored along it, and the backups from which that WAL leads on.

use std::ops::Range;
use std::sync::Arc;

use super::pieces::{Piece, parted, pieces, usable};
use super::reach::{Lack, Reach, Stranded, replaced};
use super::times::{Need, WalTimes};
use crate::catalog::Catalog;
use crate::error::Error;
use crate::format::{BackupId, Manifest, Summary, WalDigest};
use crate::postgres::{History, Lsn, PgTime, SegmentName, SegmentSize, TimelineId, WalName};
use crate::wal::Lead;

/// Segments whose summaries are asked for at once while the last commit is looked for, at least.
const LOOK_BACK: usize = 4;

/// Why stored WAL ends where it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// Nothing more was written, as far as the repository knows.
    End,
    /// This segment is missing, and later ones are there.
    Missing(SegmentName),
    /// This segment is there and cannot be used: damaged, or stored with two contents.
    Unusable(SegmentName, Error),
}

/// WAL without a hole along a lineage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Its first position.
    pub begin: Lsn,
    /// The first position that is missing.
    pub end: Lsn,
    /// The end of its last whole record; `end` where nobody asked.
    pub record_end: Lsn,
    /// Its latest commit, abort or restore point: time targets must lie before it. `None`: there is none, or nobody asked.
    pub end_time: Option<PgTime>,
    /// Whether it ends in a tail.
    pub tail: bool,
    /// Why it ends.
    pub cut: Cut,
    /// Its files, by their places in [`Branch::pieces`].
    pub(super) pieces: Range<usize>,
}

/// The segments that recovery reads, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalPath {
    /// The archived segments, each with the version that counts.
    pub segments: Vec<(SegmentName, WalDigest)>,
    /// Segments of which there is a tail only: mostly none, or one behind the others.
    pub tails: Vec<SegmentName>,
    /// The first position that is missing.
    pub end: Lsn,
}

/// The lineage of one timeline, and what can be reached along it.
#[derive(Debug, Clone)]
pub struct Branch {
    /// Whose it is.
    pub history: History,
    /// The timeline that continues it, if that leaves nothing of it behind.
    pub continued_by: Option<TimelineId>,
    /// Its backups behind where a timeline would continue it, if nothing but them is left behind.
    pub only_backups: Vec<Arc<Manifest>>,
    /// When something of its own was last stored, by the store's clock.
    pub last_written: Option<jiff::Timestamp>,
    /// The server that filled it last, as `host:data directory`, where that was read.
    pub writer: Option<String>,
    /// When its history was stored, by the store's clock: it is put before anything else of a timeline.
    pub history_stored: Option<jiff::Timestamp>,
    /// The WAL along it.
    pub spans: Vec<Span>,
    /// The files that recovery reads along it, those that cannot be used left out.
    pub(super) pieces: Arc<[Piece]>,
    /// Segments on it that are there and cannot be used, met so far, with why.
    pub unusable: Vec<(SegmentName, Error)>,
    /// Backups that can be restored along it, oldest first.
    pub reaches: Vec<Reach>,
    /// Backups on it that cannot be made consistent.
    pub stranded: Vec<Stranded>,
}

impl Branch {
    /// The timeline.
    pub const fn timeline(&self) -> TimelineId {
        self.history.timeline
    }

    /// Where it left the timeline before it.
    pub fn fork(&self) -> Option<(TimelineId, Lsn)> {
        self.history.entries.last().map(|entry| (entry.parent, entry.switch))
    }

    /// The span that a backup leads along.
    pub fn span_of(&self, reach: &Reach) -> &Span {
        &self.spans[reach.span]
    }

    /// The same branch, from the backups alone that `counts` accepts.
    #[must_use]
    pub fn from_those(&self, counts: impl Fn(&Manifest) -> bool) -> Self {
        let reaches = self.reaches.iter().filter(|reach| counts(&reach.backup)).cloned().collect();
        Self { reaches, ..self.clone() }
    }

    /// The span whose end can be reached that lies farthest.
    pub fn farthest(&self) -> Option<&Span> {
        self.reaches.iter().map(|reach| self.span_of(reach)).max_by_key(|span| span.end)
    }

    /// The latest commit that can be reached; where none came after it, the end of the newest backup.
    pub fn last_commit(&self) -> Option<PgTime> {
        let farthest = self.farthest()?.end;
        let there = self.reaches.iter().filter(|reach| self.span_of(reach).end == farthest);
        there.map(|reach| self.span_of(reach).end_time.max(Some(reach.backup.finished_at))).max().flatten()
    }

    /// Its newest backup, restorable or not.
    pub fn newest_backup(&self) -> Option<&Arc<Manifest>> {
        let all = self
            .reaches
            .iter()
            .map(|reach| &reach.backup)
            .chain(self.stranded.iter().map(|stranded| &stranded.backup));
        all.max_by_key(|backup| (backup.finished_at, &backup.id))
    }

    /// What a backup lacks that cannot be made consistent on it.
    pub fn lack_of(&self, backup: &BackupId) -> Option<Lack> {
        let stranded = self.stranded.iter().find(|stranded| stranded.backup.id == *backup);
        stranded.map(|stranded| stranded.lack)
    }

    /// Whether a segment that is listed as unusable may be sound, and only does not follow the WAL before it: what leads on from
    /// it begins with it.
    pub fn parts_at(&self, segment: &SegmentName, size: SegmentSize) -> bool {
        self.spans.iter().any(|span| span.begin == segment.start(size))
    }

    /// Whether a backup leads to this branch's end: it was finished before its timeline was left.
    pub fn leads_here(history: &History, backup: &Manifest) -> bool {
        let stretch = history.stretch(backup.timeline);
        stretch.is_some_and(|stretch| stretch.end.is_none_or(|end| backup.stop_lsn <= end))
    }

    /// Build the branch of `history`. What has to be read first is added to `needs`.
    pub(super) fn build(
        catalog: &Catalog,
        times: &WalTimes,
        history: History,
        needs: &mut Vec<Need>,
    ) -> Self {
        let mut line = Line::default();
        for piece in pieces(catalog, &history, 0) {
            let usable = usable(catalog, times, &piece, needs);
            line.add(catalog.segment_size, piece, usable, &mut |pair, why| parted(times, pair, &why, needs));
        }
        let Line { mut spans, pieces, unusable, .. } = line;
        let (reaches, stranded) = reaches((catalog, times), &history, (&spans, &pieces), needs);
        for (index, span) in spans.iter_mut().enumerate() {
            if reaches.iter().any(|reach| reach.span == index) {
                span.learn_end(times, &pieces[span.pieces.clone()], needs);
            }
        }
        let stored = catalog.versions(&WalName::History(history.timeline)).map(|file| file.modified).min();
        let mut branch = Self {
            history,
            continued_by: None,
            only_backups: Vec::new(),
            last_written: stored,
            writer: None,
            history_stored: stored,
            spans,
            pieces: pieces.into(),
            unusable,
            reaches,
            stranded,
        };
        branch.last_written = branch.last_written.max(branch.own_last_written(catalog));
        branch.writer = branch.last_known_writer(times);
        branch
    }

    /// When something of its own timeline was last stored, behind where it began.
    fn own_last_written(&self, catalog: &Catalog) -> Option<jiff::Timestamp> {
        let timeline = self.timeline();
        let begin = self.fork().map_or(Lsn::INVALID, |(_, at)| at).get() / catalog.segment_size.bytes();
        let segments = catalog.segments(timeline, begin..=u64::MAX).map(|(_, file)| file.modified);
        let tails = catalog.tails(timeline, begin..=u64::MAX);
        let pieces = tails.flat_map(|(_, tail)| tail.pieces.iter().map(|piece| piece.modified));
        segments.chain(pieces).max()
    }

    /// Who archived the last segment of its own timeline of which the summary was read.
    fn last_known_writer(&self, times: &WalTimes) -> Option<String> {
        let own = self.pieces.iter().rev().take_while(|piece| piece.segment.timeline == self.timeline());
        // Those behind are asked for first: where none of them was read, none is.
        let keys = own.take(LOOK_BACK).filter_map(|piece| Some((piece.segment, piece.digest?)));
        let mut known = keys.filter_map(|key| times.summaries.get(&key)?.as_ref().ok());
        known.next().map(|summary| summary.writer.clone()).filter(|writer| !writer.is_empty())
    }

    /// The path from `start` on, to the end of its span; `None` if nothing is there.
    pub fn path(&self, size: SegmentSize, start: Lsn) -> Option<WalPath> {
        let span = self.spans.iter().find(|span| span.holds(start, size))?;
        let mut path = WalPath { segments: Vec::new(), tails: Vec::new(), end: span.end };
        let pieces = &self.pieces[span.pieces.clone()];
        let before = pieces.partition_point(|piece| piece.segment.end(size) <= start.segment_start(size));
        for piece in &pieces[before..] {
            match piece.digest {
                Some(digest) => path.segments.push((piece.segment, digest)),
                None => path.tails.push(piece.segment),
            }
        }
        Some(path)
    }

    /// The latest commit before `position`, going back from it.
    pub(super) fn time_before(
        &self,
        size: SegmentSize,
        times: &WalTimes,
        position: Lsn,
        needs: &mut Vec<Need>,
    ) -> Option<PgTime> {
        let before = self.pieces.partition_point(|piece| piece.segment.end(size) <= position);
        let holds = |piece: &&Piece| piece.segment.start(size) < position;
        if let Some(piece) = self.pieces.get(before).filter(holds)
            && let Some(digest) = piece.digest
        {
            match times.before.get(&(piece.segment, digest, position)) {
                Some(Ok(Some(time))) => return Some(*time),
                Some(_) => {}
                None => {
                    needs.push(Need::Before(piece.segment, digest, position));
                    return None;
                }
            }
        }
        // Nothing else leads here.
        let span = self.spans.iter().find(|span| span.pieces.contains(&before.wrapping_sub(1)));
        let first = span.map_or(before, |span| span.pieces.start);
        last_time(times, &self.pieces[first..before], needs)
    }
}

/// The files of a lineage, while they are joined.
#[derive(Default)]
struct Line {
    spans: Vec<Span>,
    pieces: Vec<Piece>,
    unusable: Vec<(SegmentName, Error)>,
    /// What the last file leads to.
    lead: Lead,
}

impl Line {
    /// The next file, and as it counts. `parted` says what it means that its records do not follow those before it.
    fn add(
        &mut self,
        size: SegmentSize,
        piece: Piece,
        usable: Result<Piece, Error>,
        parted: &mut dyn FnMut([&Piece; 2], String) -> Error,
    ) {
        let start = piece.segment.start(size);
        let last = self.spans.last_mut().filter(|span| span.cut == Cut::End);
        let joined = last.and_then(|span| {
            if span.end != start {
                let missing = SegmentName::containing(piece.segment.timeline, span.end, size);
                span.cut = Cut::Missing(missing);
                return None;
            }
            Some(span)
        });
        match (usable, joined) {
            (Ok(piece), joined) => {
                let lead = if joined.is_some() { self.lead } else { Lead::default() };
                self.lead = lead.through(piece.links);
                match (joined, lead.breaks_at(piece.links, start), self.pieces.last()) {
                    (Some(span), None, _) => span.extend(&piece),
                    (Some(span), Some(why), Some(last)) => {
                        // It is whole for a backup that begins in it: it may begin a span.
                        let error = parted([last, &piece], why);
                        self.unusable.push((piece.segment, error.clone()));
                        span.cut = Cut::Unusable(piece.segment, error);
                        self.lead = Lead::default().through(piece.links);
                        self.spans.push(Span::of(&piece, start, self.pieces.len()));
                    }
                    (joined, ..) => {
                        debug_assert!(joined.is_none(), "a span has pieces");
                        self.spans.push(Span::of(&piece, start, self.pieces.len()));
                    }
                }
                self.pieces.push(piece);
            }
            (Err(error), joined) => {
                if let Some(span) = joined {
                    span.cut = Cut::Unusable(piece.segment, error.clone());
                }
                self.unusable.push((piece.segment, error));
            }
        }
    }
}

impl WalPath {
    /// All segments with the version that counts, `None` for tails; the last one first.
    pub(super) fn backwards(&self) -> Vec<(SegmentName, Option<WalDigest>)> {
        let archived = self.segments.iter().map(|(segment, digest)| (*segment, Some(*digest)));
        let mut all: Vec<_> = archived.chain(self.tails.iter().map(|segment| (*segment, None))).collect();
        // On a path every position is there once, whatever its timeline.
        all.sort_unstable_by_key(|(segment, _)| std::cmp::Reverse((segment.log, segment.segment)));
        all
    }

    /// Up to where the tail reaches, if the path ends in one.
    pub fn tail_end(&self) -> Option<Lsn> {
        let (_, digest) = *self.backwards().first()?;
        digest.is_none().then_some(self.end)
    }
}

impl Span {
    /// Of one file, at the place `at`.
    fn of(piece: &Piece, begin: Lsn, at: usize) -> Self {
        let (end, tail) = (piece.end, piece.digest.is_none());
        let pieces = at..at + 1;
        Self { begin, end, record_end: end, end_time: None, tail, cut: Cut::End, pieces }
    }

    fn extend(&mut self, piece: &Piece) {
        (self.end, self.record_end, self.tail) = (piece.end, piece.end, piece.digest.is_none());
        self.pieces.end += 1;
    }

    /// Whether `position` lies in one of its segments.
    pub(super) fn holds(&self, position: Lsn, size: SegmentSize) -> bool {
        self.begin <= position.segment_start(size) && position.segment_start(size) < self.end
    }

    fn learn_end(&mut self, times: &WalTimes, pieces: &[Piece], needs: &mut Vec<Need>) {
        self.end_time = last_time(times, pieces, needs);
        // Only the last segment's records tell where the WAL ends; it is the first one that is asked for its times.
        if let Some(last) = pieces.last()
            && let Some((_, record_end)) = facts(times, last)
        {
            self.record_end = self.end.min(record_end);
        }
    }
}

/// The latest time in `pieces`, the last ones first; what has to be read for it goes into `needs`, more at a time the
/// farther back.
fn last_time(times: &WalTimes, pieces: &[Piece], needs: &mut Vec<Need>) -> Option<PgTime> {
    let mut looked_at = 0;
    for (back, piece) in pieces.iter().rev().enumerate() {
        match facts(times, piece) {
            Some((time, _)) => {
                looked_at = back + 1;
                if let Some(time) = time.filter(|_| piece.whole) {
                    return Some(time);
                }
            }
            None => break,
        }
    }
    let unknown = pieces.iter().rev().skip(looked_at).take((looked_at * 2).max(LOOK_BACK));
    needs.extend(unknown.filter(|piece| facts(times, piece).is_none()).filter_map(need));
    None
}

fn need(piece: &Piece) -> Option<Need> {
    // A tail's was asked for when it was found usable.
    piece.digest.map(|digest| Need::Summary(piece.segment, digest))
}

/// The last time in a piece and the end of its last whole record, if they were read.
fn facts(times: &WalTimes, piece: &Piece) -> Option<(Option<PgTime>, Lsn)> {
    let of_summary = |summary: &Summary| (summary.times.map(|(_, last)| last), summary.end);
    if let Some(digest) = piece.digest {
        times.summaries.get(&(piece.segment, digest))?.as_ref().ok().map(of_summary)
    } else {
        let mut tails = times.tails.iter().filter(|((segment, ..), _)| *segment == piece.segment);
        let scan = tails.find_map(|(_, scan)| scan.as_ref().ok())?;
        Some((scan.summary.last_time, scan.summary.end))
    }
}

/// The backups that lead along `history`: those that its WAL makes consistent, and those that it does not.
fn reaches(
    (catalog, times): (&Catalog, &WalTimes),
    history: &History,
    (spans, pieces): (&[Span], &[Piece]),
    needs: &mut Vec<Need>,
) -> (Vec<Reach>, Vec<Stranded>) {
    let (mut reaches, mut stranded) = (Vec::new(), Vec::new());
    for backup in catalog.backups.iter().filter(|backup| Branch::leads_here(history, backup)) {
        let holds = |span: &Span| span.holds(backup.start_lsn, catalog.segment_size);
        let span = spans.iter().position(holds).filter(|span| spans[*span].end >= backup.stop_lsn);
        let reach = span.ok_or(Lack::Whole).and_then(|span| {
            let lack = replaced(backup, (catalog, times), (history, pieces), needs);
            lack.map_or(Ok(span), Err)
        });
        let backup = Arc::clone(backup);
        match reach {
            Ok(span) => reaches.push(Reach { backup, span }),
            Err(lack) => stranded.push(Stranded { backup, lack }),
        }
    }
    (reaches, stranded)
}
