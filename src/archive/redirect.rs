//! Tablespaces that are created in the WAL that a drill replays: each is put below the drill's own directory (R20).
//!
//! Redo of `CREATE TABLESPACE` takes the directory from the record, removes what lies there for this version, and sets its
//! permissions; on a host with the same paths that would be another server's data. So the record is given another
//! location on its way from the repository to the drill's server, with its checksum. Nothing that is stored changes.
//!
//! A record cannot grow, and a location may be as short as `/a`: the new one is a name of two letters, relative to the
//! server's working directory. It is a link in the data directory, and another one in `pg_tblspc`, relative to which the
//! tablespace's own link is read. Both lead to the same directory.

use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::postgres::{SegmentName, SegmentSize};
use crate::wal::WalRecords;

const LETTERS: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";

/// Where new tablespaces go.
#[derive(Debug, Clone)]
pub struct Redirect {
    directory: PathBuf,
}

/// What the next segment begins with, for a record that begins before it.
#[derive(Debug, Serialize, Deserialize)]
struct Carried {
    at: usize,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Redirect {
    /// Below `directory`, which belongs to one recovery alone.
    pub const fn below(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// How many tablespaces were put below the directory.
    pub fn count(&self) -> usize {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"oid-")).count()
    }

    /// Give the tablespaces that `plain` creates other locations. `next` is the segment behind it, should a record go on
    /// there; it is asked for only then. `data_dir` is the server's.
    pub(super) async fn apply(
        &self,
        segment: &SegmentName,
        size: SegmentSize,
        plain: &mut [u8],
        data_dir: &Path,
        next: impl Future<Output = Result<Vec<u8>>>,
    ) -> Result<()> {
        self.take_over(segment, plain)?;
        let start = segment.start(size);
        let records = WalRecords::read(start, size, plain);
        let mut whole = plain.to_vec();
        let records = if records.cut_short {
            match next.await {
                Ok(next) => {
                    whole.extend_from_slice(&next);
                    WalRecords::read(start, size, &whole)
                }
                // It is not there: recovery ends before that record does.
                Err(error) if error.kind() == crate::error::Kind::NotFound => records,
                Err(error) => return Err(error),
            }
        } else {
            records
        };
        let before = whole.clone();
        let within = records.found.iter().filter(|record| record.start < segment.end(size));
        for record in within {
            let Some(created) = record.tablespace().filter(|created| !created.location.is_empty()) else {
                continue;
            };
            let name = self.place(created.oid, data_dir)?;
            record.move_tablespace((start, size), &mut whole, name.as_bytes()).ok_or_else(|| {
                Error::corrupt(format!("tablespace {} has a location that no record can hold", created.oid))
            })?;
        }
        plain.copy_from_slice(&whole[..plain.len()]);
        self.carry(&segment.next(size), &before[plain.len()..], &whole[plain.len()..])
    }

    /// The directory of a tablespace, made when missing, under a name of two letters.
    fn place(&self, oid: u32, data_dir: &Path) -> Result<String> {
        let known = self.directory.join(format!("oid-{oid}"));
        if let Ok(name) = std::fs::read_to_string(&known) {
            return Ok(name);
        }
        let number = self.count();
        let (first, second) = (number / LETTERS.len(), number % LETTERS.len());
        let Some(first) = LETTERS.get(first) else {
            return Err(Error::impossible("more than 676 tablespaces are created in the WAL of one drill"));
        };
        let name = format!("{}{}", char::from(*first), char::from(LETTERS[second]));
        let place = self.directory.join(&name);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&place);
        made.map_err(|cause| Error::io("create", &place, &cause))?;
        for link in [data_dir.join(&name), data_dir.join("pg_tblspc").join(&name)] {
            if !link.exists() {
                symlink(&place, &link).map_err(|cause| Error::io("link", &link, &cause))?;
            }
        }
        std::fs::write(&known, &name).map_err(|cause| Error::io("write", &known, &cause))?;
        Ok(name)
    }

    fn carried(&self, segment: &SegmentName) -> PathBuf {
        // By position: the next one may be on another timeline.
        self.directory.join(format!("carried-{:08X}{:08X}", segment.log, segment.segment))
    }

    /// Remember what of `after` differs from `before`.
    fn carry(&self, segment: &SegmentName, before: &[u8], after: &[u8]) -> Result<()> {
        let differs = |(a, b): (&u8, &u8)| a != b;
        let Some(at) = before.iter().zip(after).position(differs) else { return Ok(()) };
        let end = before.iter().zip(after).rposition(differs).map_or(at, |last| last + 1);
        let carried = Carried { at, before: before[at..end].to_vec(), after: after[at..end].to_vec() };
        let path = self.carried(segment);
        let text = serde_json::to_vec(&carried)
            .map_err(|cause| Error::corrupt(format!("write {}: {cause}", path.display())))?;
        std::fs::write(&path, text).map_err(|cause| Error::io("write", &path, &cause))
    }

    /// Write what the segment before it left to do.
    fn take_over(&self, segment: &SegmentName, plain: &mut [u8]) -> Result<()> {
        let path = self.carried(segment);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(cause) => return Err(Error::io("read", &path, &cause)),
        };
        let carried: Carried = serde_json::from_slice(&text)
            .map_err(|cause| Error::corrupt(format!("read {}: {cause}", path.display())))?;
        // On another timeline other bytes may follow: then that record was lost there.
        if let Some(place) = plain.get_mut(carried.at..carried.at + carried.before.len())
            && *place == *carried.before
        {
            place.copy_from_slice(&carried.after);
        }
        Ok(())
    }
}
