//! WAL by content: every file is what its key promises, and records run on from segment to segment.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt, stream};

use super::content::{Content, Counted, Tally};
use super::findings::Findings;
use super::memory::{Memory, Unit};
use crate::error::{Error, Kind, Result};
use crate::format::ObjectKey;
use crate::postgres::{SegmentName, WalName};
use crate::records::is_damage;
use crate::repository::WalFile;
use crate::wal::{Lead, Links, NoVisitor, SegmentChecker, SegmentContent, WalReader};
use crate::window::{Catalog, WalTimes};

/// Segments that are in memory at a time.
const AHEAD: usize = 3;
const LOSES: &str = "the instants after it, until the end of the next backup that begins after it";

impl Content<'_> {
    /// Open the WAL files that are due, and their neighbours: records run on from one to the next.
    pub(super) async fn wal(
        &self,
        findings: &mut Findings,
        times: &mut WalTimes,
        (tally, memory): Counted<'_>,
    ) -> Result<()> {
        let files = self.due(tally, memory);
        let read = files.iter().map(|(file, unit)| async move {
            self.throttle.pay(file.stored_len).await;
            (file, *unit, self.open(file).await)
        });
        let mut read = stream::iter(read).buffered(AHEAD);
        let mut records = Records::of(self.catalog);
        while let Some((file, unit, opened)) = read.next().await {
            tally.opened += 1;
            let checked = match opened {
                // It expired meanwhile.
                Err(error) if error.kind() == Kind::NotFound => continue,
                opened => opened.and_then(|plain| self.check(file, &plain).map(|()| plain)),
            };
            let checked = match file.name {
                WalName::Segment(segment) => records.read(segment, file.digest.links(), checked),
                _ => checked.map(drop),
            };
            match checked {
                Ok(()) => memory.note(self.repository, unit).await?,
                Err(error) if is_damage(&error) => {
                    memory.note_damage(unit);
                    let key = ObjectKey::Wal(file.name, file.digest).to_string();
                    findings.damaged(key, &error, loses(&file.name));
                    if let WalName::Segment(segment) = file.name {
                        times.note_damage(segment, file.digest, error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The files to open.
    fn due(&self, tally: &mut Tally, memory: &mut Memory) -> Vec<(WalFile, Unit)> {
        let mut all: Vec<(WalFile, Unit)> = Vec::new();
        let mut places: HashMap<SegmentName, usize> = HashMap::new();
        for listed in &self.listing.objects {
            let Some(file) = listed.wal_file() else { continue };
            let unit = Unit::of(listed);
            memory.meet(unit, listed);
            if let WalName::Segment(segment) = file.name {
                // Of two contents of one segment only the first is followed.
                places.entry(segment).or_insert(all.len());
            }
            all.push((file, unit));
        }
        let mut wanted: Vec<bool> = all.iter().map(|(_, unit)| tally.opens(*unit, memory)).collect();
        let due = wanted.clone();
        for (segment, at) in &places {
            let before = before(self.catalog, *segment).and_then(|before| places.get(&before));
            if let Some(before) = before.copied().filter(|before| due[*at] || due[*before]) {
                for neighbour in [*at, before] {
                    let known = !std::mem::replace(&mut wanted[neighbour], true);
                    if known && memory.knows(all[neighbour].1) {
                        tally.remembered -= 1;
                    } else if known {
                        tally.left -= 1;
                    }
                }
            }
        }
        all.into_iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(file, _)| file).collect()
    }

    async fn open(&self, file: &WalFile) -> Result<Vec<u8>> {
        let key = ObjectKey::Wal(file.name, file.digest);
        let sealed = match self.repository.get_wal_sealed(file).await {
            Err(error) if error.kind() == Kind::Corrupt && !self.repository.is_there(&key).await? => {
                return Err(error.as_kind(Kind::NotFound));
            }
            result => result?,
        };
        let (repository, file) = (self.repository.clone(), file.clone());
        let open = move || repository.open_wal_file(&file, &sealed).map(|(_, plain)| plain);
        tokio::task::spawn_blocking(open)
            .await
            .map_err(|_| Error::new(Kind::Other, "a thread that opens WAL died"))?
    }

    /// A segment is what its name claims, page by page (R3).
    fn check(&self, file: &WalFile, plain: &[u8]) -> Result<()> {
        let (segment, content) = match file.name {
            WalName::Segment(segment) => (segment, SegmentContent::Full),
            WalName::Partial(segment) => (segment, SegmentContent::Partial),
            _ => return Ok(()),
        };
        let identity = self.repository.identity();
        let size = self.catalog.segment_size;
        let mut checker = SegmentChecker::new(segment, size, identity.system_identifier, content);
        checker.feed(plain)?;
        checker.finish().map(|_| ())
    }
}

const fn loses(name: &WalName) -> &'static str {
    match name {
        WalName::Segment(_) => LOSES,
        WalName::History(_) => "everything on that timeline",
        WalName::Partial(_) | WalName::BackupHistory { .. } => "nothing: recovery does not ask for it",
    }
}

/// The segment whose records run on in this one: of the same timeline, or, where that has just begun, of the one that it
/// continues. The first file of a timeline begins with a copy of the older one's.
fn before(catalog: &Catalog, segment: SegmentName) -> Option<SegmentName> {
    let size = catalog.segment_size;
    let number = segment.number(size).checked_sub(1)?;
    let same = SegmentName::from_number(segment.timeline, number, size);
    if catalog.has(&same) {
        return Some(same);
    }
    let start = segment.start(size);
    let lineage = catalog.history(segment.timeline).ok()?.lineage();
    let older = lineage.iter().rev().skip(1);
    let leads = older.filter(|stretch| stretch.begin < start && stretch.end.is_none_or(|end| end >= start));
    leads
        .map(|stretch| SegmentName::from_number(stretch.timeline, number, size))
        .find(|older| catalog.has(older))
}

/// WAL that was read, and what it leads to.
type Run = (WalReader, Lead);

/// Reads records from segment to segment, along every timeline.
struct Records<'a> {
    catalog: &'a Catalog,
    /// The last segment that was read.
    run: Option<(SegmentName, Run)>,
    /// Ends of segments behind which another timeline begins, too.
    forks: HashMap<SegmentName, Option<Run>>,
    read: HashSet<SegmentName>,
}

impl<'a> Records<'a> {
    fn of(catalog: &'a Catalog) -> Self {
        let mut forks = HashMap::new();
        for timeline in catalog.timelines() {
            let fork = catalog
                .history(timeline)
                .ok()
                .and_then(|history| history.entries.last().map(|last| last.switch));
            let Some(switch) = fork else { continue };
            let first = SegmentName::containing(timeline, switch, catalog.segment_size);
            if let Some(before) = before(catalog, first).filter(|before| before.timeline != timeline) {
                forks.insert(before, None);
            }
        }
        Self { catalog, run: None, forks, read: HashSet::new() }
    }

    /// The next segment, in the order of names: a timeline comes behind those that it continues.
    fn read(&mut self, segment: SegmentName, links: Links, plain: Result<Vec<u8>>) -> Result<()> {
        if !self.read.insert(segment) {
            return plain.map(drop);
        }
        let size = self.catalog.segment_size;
        let run = self.run.take();
        let plain = plain?;
        let before = before(self.catalog, segment);
        let follows = run.filter(|(last, _)| Some(*last) == before).map(|(_, run)| run);
        let behind = || before.and_then(|before| self.forks.get(&before)?.clone());
        let start = segment.start(size);
        // Where the two do not agree, the window says so, and each is read for itself.
        let agrees = |(_, lead): &Run| lead.breaks_at(links, start).is_none();
        let (mut reader, lead) = follows
            .or_else(behind)
            .filter(agrees)
            .unwrap_or_else(|| (WalReader::new(start, size).checking(), Lead::default()));
        let lead = lead.through(links);
        reader.feed(&plain, &mut NoVisitor);
        if let Some(found) = reader.broken() {
            return Err(Error::corrupt(found.to_string()).hint(
                "take a new backup; was WAL of another server archived, or was memory or the disk bad when it was written?",
            ));
        }
        if let Some(end) = self.forks.get_mut(&segment) {
            *end = Some((reader.clone(), lead));
        }
        self.run = Some((segment, (reader, lead)));
        Ok(())
    }
}
