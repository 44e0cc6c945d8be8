//! The last canary at or before the target: in the WAL that the drill's own server replayed and kept, and where it has
//! removed it already, in the same WAL of the repository.

use std::path::Path;

use crate::error::{Error, Result};
use crate::format::{CANARY_PREFIX, WalDigest};
use crate::postgres::{Lsn, SegmentName, SegmentSize, TimelineId, WalName};
use crate::repository::{Repository, WalFile};
use crate::wal::{LogicalMessage, WalRecords};

/// WAL that is read once more out of the repository, at most: a canary that lies farther back proves nothing that is fresh.
const FARTHEST: u64 = 1 << 30;

/// What was looked through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Search {
    /// The last canary's text.
    pub(super) found: Option<Vec<u8>>,
    /// How many segments were looked through.
    pub(super) segments: u64,
}

/// WAL to look through.
pub(super) struct Replayed<'a> {
    /// Of the server.
    pub(super) pg_wal: &'a Path,
    pub(super) repository: &'a Repository,
    /// The archived segments that it was given.
    pub(super) archived: &'a [(SegmentName, WalDigest)],
    /// That it followed.
    pub(super) timeline: TimelineId,
    pub(super) size: SegmentSize,
}

impl Replayed<'_> {
    /// Look back from `reached`.
    pub(super) async fn last_canary(&self, reached: Lsn) -> Result<Search> {
        let mut search = Search { found: None, segments: 0 };
        let mut archive = Archive { replayed: self, left: FARTHEST, listed: None };
        // A segment that was switched ends where the next one begins.
        let within = Lsn::new(reached.get().saturating_sub(1));
        let mut number = SegmentName::containing(self.timeline, within, self.size).number(self.size);
        while search.found.is_none() {
            let kept = self.kept(number)?;
            let wal = match kept {
                Some(wal) => Some(wal),
                None => archive.get(number).await?,
            };
            let Some(wal) = wal else { break };
            search.segments += 1;
            let start = SegmentName::from_number(self.timeline, number, self.size).start(self.size);
            search.found = last_in(&wal, start, self.size, reached);
            let Some(previous) = number.checked_sub(1) else { break };
            number = previous;
        }
        Ok(search)
    }

    /// The segment in `pg_wal`, on the newest timeline that has it.
    fn kept(&self, number: u64) -> Result<Option<Vec<u8>>> {
        for older in (1..=self.timeline.get()).rev() {
            let name = SegmentName::from_number(TimelineId::new(older)?, number, self.size);
            let path = self.pg_wal.join(name.to_string());
            match std::fs::read(&path) {
                Ok(wal) => return Ok(Some(wal)),
                Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
                Err(cause) => return Err(Error::io("read", &path, &cause)),
            }
        }
        Ok(None)
    }
}

fn last_in(wal: &[u8], start: Lsn, size: SegmentSize, reached: Lsn) -> Option<Vec<u8>> {
    let records = WalRecords::read(start, size, wal);
    let before = records.found.iter().filter(|record| record.end <= reached);
    let canary = |message: LogicalMessage| {
        (message.prefix == CANARY_PREFIX && message.content.starts_with(b"canary "))
            .then_some(message.content)
    };
    before.filter_map(|record| canary(record.message()?)).next_back()
}

/// The same WAL in the repository, one directory of it listed at a time.
struct Archive<'a> {
    replayed: &'a Replayed<'a>,
    left: u64,
    listed: Option<(String, Vec<WalFile>)>,
}

impl Archive<'_> {
    /// The segment that recovery was given; `None` before the first of them, and after so much.
    async fn get(&mut self, number: u64) -> Result<Option<Vec<u8>>> {
        let (size, repository) = (self.replayed.size, self.replayed.repository);
        let wanted = self.replayed.archived.iter().find(|(segment, _)| segment.number(size) == number);
        let Some((segment, digest)) = wanted else { return Ok(None) };
        let Some(left) = self.left.checked_sub(size.bytes()) else { return Ok(None) };
        self.left = left;
        let name = WalName::Segment(*segment);
        if self.listed.as_ref().is_none_or(|(directory, _)| *directory != segment.directory()) {
            self.listed = Some((segment.directory(), repository.list_wal_beside(&name).await?));
        }
        let mut files = self.listed.iter().flat_map(|(_, files)| files);
        let Some(file) = files.find(|file| file.name == name && file.digest == *digest) else {
            return Err(Error::corrupt(format!("segment {segment} is no longer in the repository")));
        };
        Ok(Some(repository.read_wal(file).await?.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::fixture;
    use crate::wal::writer::{SIZE, Writer, size};

    /// A segment that ends with this message, if there is one, and where the message ends.
    fn segment(number: u64, message: Option<&str>) -> (Vec<u8>, Lsn) {
        let mut writer = Writer::new(number * u64::from(SIZE));
        writer.filler(500);
        let end = message.map(|content| {
            let mut data = vec![0; 24];
            data[8..16].copy_from_slice(&9_u64.to_le_bytes());
            data[16..24].copy_from_slice(&(content.len() as u64).to_le_bytes());
            data.extend(b"walproof\0");
            data.extend(content.as_bytes());
            let mut rest = vec![254];
            rest.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
            rest.extend(data);
            writer.record(21, 0, 0, &rest)
        });
        let end = end.unwrap_or_else(|| Lsn::new(writer.position()));
        writer.pad_segment();
        (writer.bytes, end)
    }

    #[tokio::test]
    async fn it_is_found_in_the_repository_where_the_server_has_removed_it() {
        let (_, repository) = fixture::memory().await;
        let timeline = TimelineId::new(1).unwrap();
        let pg_wal = tempfile::tempdir().unwrap();
        let mut archived = Vec::new();
        for number in 3..9 {
            let name = SegmentName::from_number(timeline, number, size());
            let message = match number {
                3 => Some("canary old"),
                5 => Some("canary new"),
                _ => None,
            };
            let (bytes, _) = segment(number, message);
            fixture::archive_bytes(&repository, &name, &bytes).await;
            let files = repository.list_wal_beside(&WalName::Segment(name)).await.unwrap();
            let file = files.iter().find(|file| file.name == WalName::Segment(name)).unwrap();
            archived.push((name, file.digest));
            if number > 6 {
                std::fs::write(pg_wal.path().join(name.to_string()), bytes).unwrap();
            }
        }
        let search = |archived: &[(SegmentName, WalDigest)], reached: Lsn| {
            let (repository, pg_wal, archived) = (&repository, pg_wal.path(), archived.to_vec());
            async move {
                let replayed = Replayed { pg_wal, repository, archived: &archived, timeline, size: size() };
                replayed.last_canary(reached).await
            }
        };
        let end = Lsn::new(9 * u64::from(SIZE));
        let found = search(&archived, end).await.unwrap();
        assert_eq!(found, Search { found: Some(b"canary new".to_vec()), segments: 4 });
        // What comes after the target was not replayed.
        let before = segment(5, None).1;
        let found = search(&archived, before).await.unwrap();
        assert_eq!(found, Search { found: Some(b"canary old".to_vec()), segments: 3 });
        // Nothing that recovery was not given counts.
        let found = search(&archived[3..], end).await.unwrap();
        assert_eq!(found, Search { found: None, segments: 3 });
        let one = repository.list_wal_beside(&WalName::Segment(archived[2].0)).await.unwrap();
        let one = one.iter().find(|file| file.name == WalName::Segment(archived[2].0)).unwrap();
        let other = (archived[2].0, archived[1].1);
        assert_ne!(one.digest, other.1);
        let error = search(&[archived[0], archived[1], other, archived[3]], end).await.unwrap_err();
        assert!(error.to_string().contains("no longer in the repository"), "{error}");
    }
}
