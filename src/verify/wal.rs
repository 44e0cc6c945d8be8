//! WAL by content: every file is what its key promises, and records run on from segment to segment.

use futures_util::{StreamExt, stream};

use super::content::{Content, Counted, Tally};
use super::findings::Findings;
use super::listing::is_damage;
use super::memory::{Memory, Unit};
use crate::error::{Error, Kind, Result};
use crate::format::ObjectKey;
use crate::postgres::{SegmentName, WalName};
use crate::repository::WalFile;
use crate::wal::{NoVisitor, SegmentChecker, SegmentContent, WalReader};
use crate::window::WalTimes;

/// Segments that are in memory at a time.
const AHEAD: usize = 3;
const LOSES: &str = "the instants behind it, until the next backup that begins behind it ends";

impl Content<'_> {
    /// Open the WAL files that `memory` does not know, and their neighbours: records run on from one to the next.
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
        let mut run: Option<(SegmentName, WalReader)> = None;
        while let Some((file, unit, opened)) = read.next().await {
            tally.opened += 1;
            let key = ObjectKey::Wal(file.name, file.digest).to_string();
            let checked = match opened {
                Ok(plain) => self.check(file, &plain).map(|()| plain),
                // It expired meanwhile.
                Err(error) if error.kind() == Kind::NotFound => continue,
                Err(error) => Err(error),
            };
            let segment = match file.name {
                WalName::Segment(segment) => Some(segment),
                _ => None,
            };
            let error = match (checked, segment) {
                (Ok(plain), Some(segment)) => match self.run_on(&mut run, segment, &plain) {
                    Ok(()) => {
                        memory.note(self.repository, unit).await?;
                        continue;
                    }
                    Err(error) => error,
                },
                (Ok(_), None) => {
                    memory.note(self.repository, unit).await?;
                    continue;
                }
                (Err(error), _) if is_damage(&error) => {
                    run = None;
                    error
                }
                (Err(error), _) => return Err(error),
            };
            let loses = match file.name {
                WalName::Segment(_) => LOSES,
                WalName::History(_) => "everything on that timeline",
                WalName::Partial(_) | WalName::BackupHistory { .. } => {
                    "nothing: recovery does not ask for it"
                }
            };
            findings.damaged(key, &error, loses);
            if let Some(segment) = segment {
                times.note_damage(segment, file.digest, error);
            }
        }
        Ok(())
    }

    /// The files to open, within the budget.
    fn due(&self, tally: &mut Tally, memory: &Memory) -> Vec<(WalFile, Unit)> {
        let all: Vec<(WalFile, Unit)> = (self.listing.objects.iter())
            .filter_map(|listed| Some((listed.wal_file()?, Unit::of(listed))))
            .collect();
        let is_new =
            |at: Option<usize>| at.and_then(|at| all.get(at)).is_some_and(|(_, unit)| !memory.knows(*unit));
        let mut due = Vec::new();
        for (at, (file, unit)) in all.iter().enumerate() {
            let wanted = [at.checked_sub(1), Some(at), at.checked_add(1)].into_iter().any(is_new);
            if !wanted {
                tally.remembered += 1;
            } else if self.throttle.grants(file.stored_len) {
                due.push((file.clone(), *unit));
            } else if is_new(Some(at)) {
                tally.left += 1;
            } else {
                tally.remembered += 1;
            }
        }
        due
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

    /// Read a segment's records behind those of the one before it, if that was read.
    fn run_on(
        &self,
        run: &mut Option<(SegmentName, WalReader)>,
        segment: SegmentName,
        plain: &[u8],
    ) -> Result<()> {
        let size = self.catalog.segment_size;
        // Of two contents of one segment only the first is followed.
        if run.as_ref().is_some_and(|(last, _)| *last == segment) {
            return Ok(());
        }
        let follows = run.take().filter(|(last, _)| last.next(size) == segment);
        let mut reader = follows
            .map_or_else(|| WalReader::new(segment.start(size), size).checking(), |(_, reader)| reader);
        reader.feed(plain, &mut NoVisitor);
        if let Some(found) = reader.broken() {
            return Err(Error::corrupt(found.to_string()).hint(
                "take a new backup; was WAL of another server archived, or was memory or the disk bad when it was written?",
            ));
        }
        *run = Some((segment, reader));
        Ok(())
    }
}
