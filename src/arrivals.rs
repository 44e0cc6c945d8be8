//! The archive must work before a backup starts (R10), and hold its WAL before it exists (R14).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cluster::{ServerInfo, Session};
use crate::disk::digest_of;
use crate::error::{Error, Result, ResultExt};
use crate::format::WalRecord;
use crate::postgres::{Lsn, SegmentName, TimelineId, WalName};
use crate::repository::{Repository, WalFile, conflict};

/// How long the last segments of a backup may take.
const WAL_PATIENCE: Duration = Duration::from_mins(15);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// Where the server's WAL is seen to arrive.
#[derive(Debug, Clone)]
pub struct Arrivals<'a> {
    repository: &'a Repository,
    /// The server's `pg_wal`. A segment that is there is finished, and what is stored under its name must be the same. A
    /// standby may have received less of a segment than its primary has archived.
    pg_wal: Option<PathBuf>,
}

impl<'a> Arrivals<'a> {
    /// Of the server in `data_dir`, in `repository`.
    pub fn new(repository: &'a Repository, info: &ServerInfo, data_dir: &Path) -> Self {
        Self { repository, pg_wal: (!info.in_recovery).then(|| data_dir.join("pg_wal")) }
    }

    /// Kind `Conflict` when a file in the server's `pg_wal` is another one than what is stored.
    async fn compare(&self, stored: &WalFile) -> Result<()> {
        let Some(pg_wal) = &self.pg_wal else { return Ok(()) };
        let hash = digest_of(pg_wal.join(stored.name.to_string())).await?;
        let own = hash.map(|hash| self.repository.identity().wal_digest(hash.as_bytes())).transpose()?;
        if own.is_none_or(|own| own == stored.digest.content()) {
            return Ok(());
        }
        // One that was made anew has other digests of the same bytes.
        self.repository.check_still_there().await?;
        Err(conflict(&stored.name)).context("compare what is stored with the server's own WAL")
    }
}

/// A segment that was finished on purpose: its arrival proves that archiving works.
#[derive(Debug)]
pub(crate) struct Proof {
    segment: SegmentName,
}

impl Proof {
    /// Finish a segment. A standby cannot; there the wait for the backup's own WAL is the only proof.
    pub(crate) async fn begin(session: &Session, info: &ServerInfo) -> Result<Option<Self>> {
        if info.in_recovery {
            return Ok(None);
        }
        needs_archiving(info)?;
        // A switch does nothing when nothing was written since the last one.
        session.emit_heartbeat("walproof", "backup").await?;
        let end = session.switch_wal().await?;
        let last = Lsn::new(end.get().saturating_sub(1));
        Ok(Some(Self { segment: SegmentName::containing(info.timeline, last, info.wal_segment_size) }))
    }
}

/// R10: it is set up to archive.
fn needs_archiving(info: &ServerInfo) -> Result<()> {
    let by_command = !info.archive_command.is_empty() && info.archive_command != "(disabled)";
    let configured = by_command || !info.archive_library.is_empty();
    if info.archive_mode == "off" || !configured {
        return Err(Error::server(
            "the server does not archive WAL, and a backup is worth nothing without it",
        )
        .hint(
            "set archive_mode = on and archive_command = 'walproof wal-push %p' (the first needs a restart)",
        ));
    }
    if info.wal_level == "minimal" {
        return Err(Error::server("wal_level is minimal: the WAL does not hold enough to restore"))
            .hint("set wal_level = replica and restart the server");
    }
    Ok(())
}

/// Finish a segment and see it arrive in the repository, no later than after `patience`: its name. `None` on a standby,
/// which cannot finish one.
pub async fn try_archiving(
    arrivals: &Arrivals<'_>,
    session: &Session,
    info: &ServerInfo,
    patience: Duration,
) -> Result<Option<SegmentName>> {
    let proof = Proof::begin(session, info).await?;
    prove_archiving(arrivals, proof.as_ref(), patience).await?;
    Ok(proof.map(|proof| proof.segment))
}

/// Wait until the proof has arrived, no longer than `patience`.
pub(crate) async fn prove_archiving(
    arrivals: &Arrivals<'_>,
    proof: Option<&Proof>,
    patience: Duration,
) -> Result<()> {
    let Some(proof) = proof else { return Ok(()) };
    let found = wait_for(arrivals, &[proof.segment], patience).await?;
    found.missing.map_or(Ok(()), |segment| {
        Err(Error::server(format!(
            "WAL archiving does not work: segment {segment} is not in the repository after {} s",
            patience.as_secs()
        ))
        .hint("what does the server's log say about archive_command? `walproof check` finds common causes"))
    })
}

/// Wait until every segment from `start` to `stop` is in the repository, each with one content, the server's (R14). The first
/// and the last of them, as they are stored.
pub(crate) async fn wait_for_wal(
    arrivals: &Arrivals<'_>,
    timeline: TimelineId,
    start: Lsn,
    stop: Lsn,
) -> Result<Vec<WalRecord>> {
    let size = arrivals.repository.identity().segment_size()?;
    let last = Lsn::new(stop.get().saturating_sub(1));
    let number = |position| SegmentName::containing(timeline, position, size).number(size);
    let segments: Vec<SegmentName> =
        (number(start)..=number(last)).map(|n| SegmentName::from_number(timeline, n, size)).collect();
    let mut found = wait_for(arrivals, &segments, WAL_PATIENCE).await?;
    if found.missing.is_none() {
        // Once more: another content may have come behind those that arrived first.
        found = wait_for(arrivals, &segments, Duration::ZERO).await?;
    }
    if let Some(segment) = found.missing {
        return Err(Error::server(format!(
            "the backup's WAL is incomplete: segment {segment} is not in the repository"
        ))
        .hint(
            "what does the server's log say about archive_command? on a standby: does the primary archive \
             here?",
        ));
    }
    let ends = [found.arrived.first(), found.arrived.last()];
    let mut ends: Vec<WalRecord> = ends.into_iter().flatten().cloned().collect();
    ends.dedup();
    Ok(ends)
}

/// What has arrived, in order.
struct Found {
    arrived: Vec<WalRecord>,
    /// The first segment that has not.
    missing: Option<SegmentName>,
}

/// Wait until all `segments` are there, until `patience` ends. Kind `Conflict` when one is there with two contents, between
/// which no restore could choose, or with another server's.
async fn wait_for(arrivals: &Arrivals<'_>, segments: &[SegmentName], patience: Duration) -> Result<Found> {
    let begin = Instant::now();
    let mut arrived = Vec::new();
    let (mut pause, mut reported) = (FIRST_PAUSE, Duration::ZERO);
    let mut waiting = segments;
    while let Some(segment) = waiting.first() {
        let name = WalName::Segment(*segment);
        let there = arrivals.repository.list_wal_beside(&name).await?;
        let copies = |name: &WalName| there.iter().filter(|other| other.name == *name).count();
        let names = waiting.iter().map(|segment| WalName::Segment(*segment));
        if let Some(doubled) = names.into_iter().find(|name| copies(name) > 1) {
            return Err(conflict(&doubled).context("wait for the backup's WAL"));
        }
        let before = waiting.len();
        while let Some((segment, rest)) = waiting.split_first() {
            let Some(stored) = there.iter().find(|file| file.name == WalName::Segment(*segment)) else {
                break;
            };
            arrivals.compare(stored).await?;
            arrived.push(WalRecord { segment: *segment, digest: stored.digest.content() });
            waiting = rest;
        }
        if waiting.len() < before {
            pause = FIRST_PAUSE;
            continue;
        }
        if begin.elapsed() > patience {
            return Ok(Found { arrived, missing: Some(*segment) });
        }
        if begin.elapsed() > reported + REPORT_EVERY {
            reported = begin.elapsed();
            tracing::warn!(%segment, seconds = reported.as_secs(), "still waiting for a segment to be archived");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(Found { arrived, missing: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::repository::fixture::{archive, archive_bytes, memory, size};

    #[tokio::test]
    async fn r14_a_segment_with_two_contents_makes_no_backup() {
        let (_, repository) = memory().await;
        let timeline = TimelineId::new(1).unwrap();
        let segments: Vec<SegmentName> =
            (3..=5).map(|number| SegmentName::from_number(timeline, number, size())).collect();
        let mut bytes = Vec::new();
        for segment in &segments {
            bytes = archive(&repository, segment, 128).await;
        }
        let (start, stop) = (segments[0].start(size()), segments[2].position(8192, size()));
        let arrivals = Arrivals { repository: &repository, pg_wal: None };
        let ends = wait_for_wal(&arrivals, timeline, start, stop).await.unwrap();
        assert_eq!(ends.iter().map(|wal| wal.segment).collect::<Vec<_>>(), [segments[0], segments[2]]);
        let one = wait_for_wal(&arrivals, timeline, start, segments[0].position(8192, size())).await.unwrap();
        assert_eq!(one, ends[..1]);
        // The same name by another writer: a later commit.
        let other = archive_other(&bytes);
        archive_bytes(&repository, &segments[2], &other).await;
        let error = wait_for_wal(&arrivals, timeline, start, stop).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        assert!(error.to_string().contains(&segments[2].to_string()), "{error}");
    }

    fn archive_other(bytes: &[u8]) -> Vec<u8> {
        let mut other = bytes.to_vec();
        let last = other.len() - 1;
        other[last] ^= 1;
        other
    }
}
