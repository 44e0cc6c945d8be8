//! The archive must work before a backup starts (R10), and hold its WAL before it exists (R14).

use std::time::{Duration, Instant};

use crate::cluster::{ServerInfo, Session};
use crate::error::{Error, Result, ResultExt};
use crate::postgres::{Lsn, SegmentName, TimelineId, WalName};
use crate::repository::{Repository, conflict};

/// How long the last segments of a backup may take.
const WAL_PATIENCE: Duration = Duration::from_mins(15);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// A segment that was finished on purpose: its arrival proves that archiving works.
#[derive(Debug)]
pub(super) struct Proof {
    segment: SegmentName,
}

impl Proof {
    /// Finish a segment. A standby cannot; there the wait for the backup's own WAL is the only proof.
    pub(super) async fn begin(session: &Session, info: &ServerInfo) -> Result<Option<Self>> {
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
    repository: &Repository,
    session: &Session,
    info: &ServerInfo,
    patience: Duration,
) -> Result<Option<SegmentName>> {
    let proof = Proof::begin(session, info).await?;
    prove_archiving(repository, proof.as_ref(), patience).await?;
    Ok(proof.map(|proof| proof.segment))
}

/// Wait until the proof has arrived, no longer than `patience`.
pub(super) async fn prove_archiving(
    repository: &Repository,
    proof: Option<&Proof>,
    patience: Duration,
) -> Result<()> {
    let Some(proof) = proof else { return Ok(()) };
    let missing = wait_for(repository, &[proof.segment], patience).await?;
    missing.map_or(Ok(()), |segment| {
        Err(Error::server(format!(
            "WAL archiving does not work: segment {segment} is not in the repository after {} s",
            patience.as_secs()
        ))
        .hint("what does the server's log say of archive_command? `walproof check` finds common causes"))
    })
}

/// Wait until every segment from `start` to `stop` is in the repository, each with one content (R14).
pub(super) async fn wait_for_wal(
    repository: &Repository,
    timeline: TimelineId,
    start: Lsn,
    stop: Lsn,
) -> Result<()> {
    let size = repository.identity().segment_size()?;
    let last = Lsn::new(stop.get().saturating_sub(1));
    let number = |position| SegmentName::containing(timeline, position, size).number(size);
    let segments: Vec<SegmentName> =
        (number(start)..=number(last)).map(|n| SegmentName::from_number(timeline, n, size)).collect();
    let mut missing = wait_for(repository, &segments, WAL_PATIENCE).await?;
    if missing.is_none() {
        // Once more: another content may have come behind those that arrived first.
        missing = wait_for(repository, &segments, Duration::ZERO).await?;
    }
    missing.map_or(Ok(()), |segment| {
        Err(Error::server(format!(
            "the backup's WAL is incomplete: segment {segment} is not in the repository"
        ))
        .hint(
            "what does the server's log say of archive_command? on a standby: does the primary archive here?",
        ))
    })
}

/// Wait until all `segments` are there; the first one that is still missing when `patience` ends. Kind `Conflict` when
/// one is there with two contents: no restore could choose between them.
async fn wait_for(
    repository: &Repository,
    segments: &[SegmentName],
    patience: Duration,
) -> Result<Option<SegmentName>> {
    let begin = Instant::now();
    let (mut pause, mut reported) = (FIRST_PAUSE, Duration::ZERO);
    let mut waiting = segments;
    while let Some(segment) = waiting.first() {
        let name = WalName::Segment(*segment);
        let there: Vec<WalName> =
            repository.list_wal_beside(&name).await?.into_iter().map(|file| file.name).collect();
        let copies = |name: &WalName| there.iter().filter(|other| *other == name).count();
        let names = waiting.iter().map(|segment| WalName::Segment(*segment));
        if let Some(doubled) = names.into_iter().find(|name| copies(name) > 1) {
            return Err(conflict(&doubled).context("wait for the backup's WAL"));
        }
        let arrived =
            waiting.iter().take_while(|segment| there.contains(&WalName::Segment(**segment))).count();
        waiting = &waiting[arrived..];
        if arrived > 0 {
            pause = FIRST_PAUSE;
            continue;
        }
        if begin.elapsed() > patience {
            return Ok(Some(*segment));
        }
        if begin.elapsed() > reported + REPORT_EVERY {
            reported = begin.elapsed();
            tracing::warn!(%segment, seconds = reported.as_secs(), "still waiting for a segment to be archived");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(None)
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
        wait_for_wal(&repository, timeline, start, stop).await.unwrap();
        // The same name by another writer: a later commit.
        let other = archive_other(&bytes);
        archive_bytes(&repository, &segments[2], &other).await;
        let error = wait_for_wal(&repository, timeline, start, stop).await.unwrap_err();
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
