//! Recovery asks, and asks again, while the tail changes under its hands.

use std::fs;

use super::*;
use crate::archive::Spool;
use crate::postgres::TimelineId;
use crate::repository::fixture::{
    PAGE, SIZE, SYSTEM, archive, archive_history, memory, put_piece, size, wal,
};

/// A recovery in a data directory of its own, with a spool.
struct Recovery {
    scratch: tempfile::TempDir,
    namespace: Namespace,
    repository: Repository,
    segment: SegmentName,
}

impl Recovery {
    async fn new() -> Self {
        let (namespace, repository) = memory().await;
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("data/global")).unwrap();
        fs::create_dir(scratch.path().join("spool")).unwrap();
        let segment = SegmentName::from_number(TimelineId::FIRST, 3, size());
        let recovery = Self { scratch, namespace, repository, segment };
        recovery.restore_again();
        recovery
    }

    /// Another control file under the same name, as a new restore leaves it.
    fn restore_again(&self) {
        let control = self.scratch.path().join("data/global/pg_control");
        let new = control.with_extension("new");
        fs::write(&new, "control").unwrap();
        fs::rename(new, control).unwrap();
    }

    fn spool(&self) -> Spool {
        Spool::at(self.scratch.path().join("spool"))
    }

    async fn fetch(&self, tail: bool, pinning: bool) -> Result<Vec<u8>> {
        self.fetch_following(None, tail, pinning).await
    }

    async fn fetch_following(
        &self,
        follows: Option<TimelineId>,
        tail: bool,
        pinning: bool,
    ) -> Result<Vec<u8>> {
        let to = self.scratch.path().join("out");
        let pins = Pins::open(&self.spool(), &self.scratch.path().join("data"));
        let request = FetchRequest {
            system_identifier: SYSTEM,
            name: WalName::Segment(self.segment),
            to: &to,
            opened: None,
            tail,
            follows,
            pins: pins.as_ref().filter(|_| pinning),
            redirect: None,
        };
        fetch(&self.namespace, &request).await?;
        Ok(fs::read(&to).unwrap())
    }

    /// The served tail's bytes, without the zeros.
    async fn tail(&self) -> Vec<u8> {
        let mut bytes = self.fetch(true, true).await.unwrap();
        assert_eq!(bytes.len(), SIZE as usize);
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1);
        bytes
    }

    fn pins(&self) -> Vec<std::path::PathBuf> {
        let entries = fs::read_dir(self.scratch.path().join("spool")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

#[tokio::test]
async fn r16_a_tail_is_served_only_when_asked_for() {
    let recovery = Recovery::new().await;
    let bytes = wal(&recovery.segment, 5);
    assert_eq!(recovery.fetch(true, true).await.unwrap_err().kind(), Kind::NotFound);
    put_piece(&recovery.repository, &recovery.segment, 0, 0, &bytes).await;
    assert_eq!(recovery.fetch(false, true).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(recovery.tail().await, bytes);
    assert_eq!(recovery.fetch(false, true).await.unwrap_err().kind(), Kind::NotFound);
}

/// Finding (i): what the old timeline wrote behind the switch is on another branch.
#[tokio::test]
async fn r16_a_tail_ends_at_the_switch_of_the_history_that_is_followed() {
    let recovery = Recovery::new().await;
    let (repository, segment) = (&recovery.repository, &recovery.segment);
    let bytes = wal(segment, 5);
    put_piece(repository, segment, 0, 0, &bytes).await;
    let start = segment.start(size()).get();
    for (timeline, offset) in [(2, 2 * PAGE + 100), (3, 0)] {
        let history = format!("1\t{}\tx\n", Lsn::new(start + offset as u64));
        archive_history(repository, timeline, history.as_bytes()).await;
    }
    let fetch = |timeline| recovery.fetch_following(Some(TimelineId::new(timeline).unwrap()), true, false);
    assert_eq!(fetch(1).await.unwrap()[..bytes.len()], bytes);
    let served = fetch(2).await.unwrap();
    assert_eq!(served[..2 * PAGE + 100], bytes[..2 * PAGE + 100]);
    assert!(served[2 * PAGE + 100..].iter().all(|byte| *byte == 0), "bytes of another branch are served");
    // Nothing of it is on the third timeline's history.
    assert_eq!(fetch(3).await.unwrap_err().kind(), Kind::NotFound);
    // A history that is not there proves nothing of the segment.
    assert_ne!(fetch(4).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn r16_so_does_an_archived_segment() {
    let recovery = Recovery::new().await;
    let (repository, segment) = (&recovery.repository, &recovery.segment);
    let bytes = archive(repository, segment, 5).await;
    let start = segment.start(size()).get();
    for (timeline, offset) in [(2, 2 * PAGE + 100), (3, 0), (4, SIZE as usize)] {
        let history = format!("1\t{}\tx\n", Lsn::new(start + offset as u64));
        archive_history(repository, timeline, history.as_bytes()).await;
    }
    let fetch = |timeline| recovery.fetch_following(Some(TimelineId::new(timeline).unwrap()), false, false);
    assert_eq!(fetch(1).await.unwrap(), bytes);
    assert_eq!(recovery.fetch(false, false).await.unwrap(), bytes, "nobody said what is followed");
    let served = fetch(2).await.unwrap();
    assert_eq!(served[..2 * PAGE + 100], bytes[..2 * PAGE + 100]);
    assert!(served[2 * PAGE + 100..].iter().all(|byte| *byte == 0), "bytes of another branch are served");
    assert_eq!(fetch(3).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(fetch(4).await.unwrap(), bytes);
    assert_ne!(fetch(5).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn one_restore_gets_one_answer_whatever_becomes_of_the_tail() {
    let recovery = Recovery::new().await;
    let (repository, segment) = (&recovery.repository, &recovery.segment);
    let bytes = wal(segment, 128);
    let first = put_piece(repository, segment, 0, 0, &bytes[..3 * PAGE]).await;
    assert_eq!(recovery.tail().await, bytes[..3 * PAGE]);
    // It grows, begins anew, is archived, and goes.
    let second = put_piece(repository, segment, 0, 0, &bytes[..5 * PAGE]).await;
    repository.delete_tail_piece(&first).await.unwrap();
    assert_eq!(recovery.tail().await, bytes[..3 * PAGE]);
    let third = put_piece(repository, segment, 1, 0, &bytes[..2 * PAGE]).await;
    assert_eq!(recovery.tail().await, bytes[..3 * PAGE]);
    archive(repository, segment, 128).await;
    for piece in [second, third] {
        repository.delete_tail_piece(&piece).await.unwrap();
    }
    assert_eq!(recovery.tail().await, bytes[..3 * PAGE]);
    assert_eq!(recovery.fetch(false, true).await.unwrap(), bytes);
    // The server overwrites its control file; it stays the same file.
    fs::write(recovery.scratch.path().join("data/global/pg_control"), "other content").unwrap();
    assert_eq!(recovery.tail().await, bytes[..3 * PAGE]);
    recovery.restore_again();
    assert_eq!(recovery.tail().await, bytes);
}

#[tokio::test]
async fn a_new_restore_replaces_the_pins_of_the_one_before() {
    let recovery = Recovery::new().await;
    let bytes = wal(&recovery.segment, 9);
    for (generation, pages) in [(0, 4), (1, 3), (1, 9)] {
        put_piece(&recovery.repository, &recovery.segment, generation, 0, &bytes[..pages * PAGE]).await;
        recovery.restore_again();
        assert_eq!(recovery.tail().await, bytes[..pages * PAGE]);
        assert_eq!(recovery.pins().len(), 1);
    }
}

#[tokio::test]
async fn r25_a_tampered_pin_is_not_used() {
    let recovery = Recovery::new().await;
    let bytes = wal(&recovery.segment, 9);
    put_piece(&recovery.repository, &recovery.segment, 0, 0, &bytes[..3 * PAGE]).await;
    recovery.tail().await;
    put_piece(&recovery.repository, &recovery.segment, 0, 3 * PAGE, &bytes[3 * PAGE..]).await;
    let pin = recovery.pins().remove(0);
    let mut sealed = fs::read(&pin).unwrap();
    assert!(!sealed.windows(100).any(|window| bytes[200..].starts_with(window)), "a pin is sealed");
    *sealed.last_mut().unwrap() ^= 1;
    fs::write(&pin, &sealed).unwrap();
    assert_eq!(recovery.tail().await, bytes);
    // It was replaced.
    assert_ne!(fs::read(&pin).unwrap(), sealed);
    assert_eq!(recovery.tail().await, bytes);
}

#[tokio::test]
async fn without_a_place_for_a_pin_the_tail_is_served_all_the_same() {
    let recovery = Recovery::new().await;
    let bytes = wal(&recovery.segment, 9);
    put_piece(&recovery.repository, &recovery.segment, 0, 0, &bytes[..3 * PAGE]).await;
    recovery.fetch(true, false).await.unwrap();
    fs::remove_dir(recovery.scratch.path().join("spool")).unwrap();
    assert_eq!(recovery.tail().await, bytes[..3 * PAGE]);
    put_piece(&recovery.repository, &recovery.segment, 0, 3 * PAGE, &bytes[3 * PAGE..]).await;
    assert_eq!(recovery.tail().await, bytes);
}
