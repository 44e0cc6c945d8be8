//! The key of every object of a repository, below `<prefix>/<cluster>/<system identifier>/`: the only place with slashes.
//!
//! The order of keys matters (FORMAT.md "Keys of objects"): what is large and rarely looked at sorts first, then
//! segments in the order in which they are written, then all that is small and watched. One listing from the newest
//! known segment on so shows everything that is new.

use std::fmt;
use std::str::FromStr;

use super::backup_id::BackupId;
use super::identity::WalDigest;
use super::pack::PackName;
use super::tail_name::{TailPieceName, hex};
use super::verify_record::VerifyRecord;
use crate::error::{Error, Result};
use crate::postgres::{SegmentName, TimelineId, WalName};

/// The identity's key.
pub(crate) const IDENTITY: &str = "identity";
/// Directories, for listings.
pub(crate) const WAL: &str = "wal";
pub(crate) const HISTORY: &str = "watch/history";
pub(crate) const BACKUPS: &str = "watch/backups";
pub(crate) const LEASES: &str = "watch/leases";
pub(crate) const REPORTS: &str = "watch/reports";
const REPORT_HEAD: &str = "head";
const VERIFY: &str = "watch/verify";
pub(crate) const TAIL: &str = "watch/tail";
pub(crate) const PROBES: &str = "probes";
pub(crate) const PACKS: &str = "packs";
pub(crate) const TABLES: &str = "tables";
pub(crate) const HOLDS: &str = "watch/holds";
const ATTEMPT: &str = "watch/attempt";
const EXPIRY: &str = "watch/expiry";

/// What an object is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectUse {
    /// Data of backups.
    Pack,
    /// Segments, histories and the like.
    Wal,
    /// The unfinished segment.
    Tail,
    /// Identity, manifests, leases and the rest.
    Other,
}

/// The key of an object, below the repository's root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// Whose repository it is.
    Identity,
    /// Data of backups.
    Pack(PackName),
    /// A part of a backup's file table.
    FileTable(BackupId, u32),
    /// Which packs a backup needs.
    PackList(BackupId),
    /// A WAL file with this content.
    Wal(WalName, WalDigest),
    /// A backup's manifest: the backup exists if and only if this does.
    Manifest(BackupId),
    /// A piece of a tail.
    Tail(TailPieceName),
    /// A lease, `<purpose>-<16 hex digits>`.
    Lease(String),
    /// That a backup is kept.
    Hold(BackupId),
    /// The last try to take a backup.
    Attempt,
    /// What retention did last.
    Expiry,
    /// A drill's report or a note on one: its number, and the first 8 bytes of its digest.
    Report(u32, u64),
    /// Which report is the newest.
    ReportHead,
    /// What verifications found and opened.
    Verify(VerifyRecord),
    /// What a store test writes.
    Probe(String),
}

impl ObjectKey {
    /// The timeline of a segment, or of a file that belongs to one; their keys sort together.
    pub fn wal_timeline(&self) -> Option<TimelineId> {
        match self {
            Self::Wal(name, _) => name.segment().map(|segment| segment.timeline),
            _ => None,
        }
    }

    /// What the object is for.
    pub const fn purpose(&self) -> ObjectUse {
        match self {
            Self::Pack(_) => ObjectUse::Pack,
            Self::Wal(..) => ObjectUse::Wal,
            Self::Tail(_) => ObjectUse::Tail,
            _ => ObjectUse::Other,
        }
    }

    /// The beginning of the key of the report with this number.
    pub fn report_named(number: u32) -> String {
        format!("{REPORTS}/{number:08x}")
    }

    /// The directory of the tails of a segment.
    pub fn tail_of(segment: &SegmentName) -> String {
        tail_directory(segment)
    }

    fn read(key: &str) -> Option<Self> {
        let (directory, rest) = match key.split_once('/') {
            None => return (key == IDENTITY).then_some(Self::Identity),
            Some(_) if key == ATTEMPT => return Some(Self::Attempt),
            Some(_) if key == EXPIRY => return Some(Self::Expiry),
            Some(("watch", rest)) => rest.split_once('/')?,
            Some(halves) => halves,
        };
        Some(match directory {
            PACKS => {
                let (backup, number) = rest.split_once('/')?;
                Self::Pack(PackName { backup: backup.parse().ok()?, number: hex(number)? })
            }
            TABLES => {
                let (backup, part) = rest.split_once('/')?;
                let backup = backup.parse().ok()?;
                match part.split_once('-') {
                    Some(("files", number)) => Self::FileTable(backup, hex(number)?),
                    None if part == "packs" => Self::PackList(backup),
                    _ => return None,
                }
            }
            WAL | "history" => {
                let (name, digest) = rest.rsplit_once('/').map_or(rest, |(_, file)| file).rsplit_once('-')?;
                Self::Wal(name.parse().ok()?, digest.parse().ok()?)
            }
            "backups" => Self::Manifest(rest.parse().ok()?),
            "tail" => {
                let (segment, piece) = rest.split_once('/')?;
                let mut fields = piece.split('-');
                let generation = fields.next()?.parse().ok()?;
                let (start, end) = (hex(fields.next()?)?, hex(fields.next()?)?);
                if start >= end {
                    return None;
                }
                Self::Tail(TailPieceName { segment: segment.parse().ok()?, generation, start, end })
            }
            "leases" => {
                let (purpose, random) = rest.rsplit_once('-')?;
                let is_name = !purpose.is_empty() && purpose.bytes().all(|byte| byte.is_ascii_lowercase());
                if !is_name || !is_hex(random, 16) {
                    return None;
                }
                Self::Lease(rest.to_owned())
            }
            "holds" => Self::Hold(rest.parse().ok()?),
            "reports" if rest == REPORT_HEAD => Self::ReportHead,
            "reports" => {
                let (number, digest) = rest.split_once('-').filter(|(_, digest)| is_hex(digest, 16))?;
                Self::Report(hex(number)?, u64::from_str_radix(digest, 16).ok()?)
            }
            "verify" => Self::Verify(match rest {
                "listing" => VerifyRecord::Listing,
                "content" => VerifyRecord::Content,
                "harm" => VerifyRecord::Harm,
                _ => {
                    let number = rest.strip_prefix("seen-").filter(|number| is_hex(number, 16))?;
                    VerifyRecord::Seen(u64::from_str_radix(number, 16).ok()?)
                }
            }),
            PROBES if is_hex(rest, 16) => Self::Probe(rest.to_owned()),
            _ => return None,
        })
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str(IDENTITY),
            Self::Pack(name) => write!(f, "{PACKS}/{}/{:08x}", name.backup, name.number),
            Self::FileTable(backup, number) => write!(f, "{TABLES}/{backup}/files-{number:08x}"),
            Self::PackList(backup) => write!(f, "{TABLES}/{backup}/packs"),
            Self::Wal(name, digest) => write!(f, "{}/{name}-{digest}", wal_directory(name)),
            Self::Manifest(backup) => write!(f, "{BACKUPS}/{backup}"),
            Self::Tail(TailPieceName { segment, generation, start, end }) => {
                write!(f, "{TAIL}/{segment}/{generation}-{start:08x}-{end:08x}")
            }
            Self::Lease(name) => write!(f, "{LEASES}/{name}"),
            Self::Hold(backup) => write!(f, "{HOLDS}/{backup}"),
            Self::Attempt => f.write_str(ATTEMPT),
            Self::Expiry => f.write_str(EXPIRY),
            Self::Report(number, digest) => write!(f, "{}-{digest:016x}", Self::report_named(*number)),
            Self::ReportHead => write!(f, "{REPORTS}/{REPORT_HEAD}"),
            Self::Verify(VerifyRecord::Listing) => write!(f, "{VERIFY}/listing"),
            Self::Verify(VerifyRecord::Content) => write!(f, "{VERIFY}/content"),
            Self::Verify(VerifyRecord::Harm) => write!(f, "{VERIFY}/harm"),
            Self::Verify(VerifyRecord::Seen(number)) => write!(f, "{VERIFY}/seen-{number:016x}"),
            Self::Probe(name) => write!(f, "{PROBES}/{name}"),
        }
    }
}

impl FromStr for ObjectKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let key = Self::read(text).filter(|key| key.to_string() == text);
        key.ok_or_else(|| Error::corrupt(format!("\"{text}\" is not the key of an object of a repository")))
    }
}

/// The directory that holds every key of this WAL file: at most 256 segments of 16 MiB, or all histories.
pub(crate) fn wal_directory(name: &WalName) -> String {
    match name.segment() {
        Some(segment) => format!("{WAL}/{}", segment.directory()),
        None => HISTORY.to_owned(),
    }
}

/// The directory of all pieces of one segment's tails.
pub(crate) fn tail_directory(segment: &SegmentName) -> String {
    format!("{TAIL}/{segment}")
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::TailGeneration;

    fn every_kind() -> Vec<ObjectKey> {
        let digest = WalDigest::from_bytes([7; 16]);
        let backup: BackupId = "20261122T130000Z-1a2b3c4d".parse().unwrap();
        let wal = [
            "000000010000000A000000FF",
            "000000010000000A000000FF.partial",
            "000000010000000A000000FF.00000028.backup",
            "00000002.history",
        ];
        let mut keys: Vec<ObjectKey> =
            wal.iter().map(|name| ObjectKey::Wal(name.parse().unwrap(), digest)).collect();
        let generation = TailGeneration { count: 3, writer: 9 };
        let segment = "000000010000000A000000FF".parse().unwrap();
        keys.extend([
            ObjectKey::Identity,
            ObjectKey::Pack(PackName { backup: backup.clone(), number: 17 }),
            ObjectKey::FileTable(backup.clone(), 1),
            ObjectKey::PackList(backup.clone()),
            ObjectKey::Manifest(backup.clone()),
            ObjectKey::Tail(TailPieceName { segment, generation, start: 8192, end: 9000 }),
            ObjectKey::Lease("backup-0123456789abcdef".to_owned()),
            ObjectKey::Hold(backup),
            ObjectKey::Attempt,
            ObjectKey::Expiry,
            ObjectKey::Report(7, 0x0123_4567_89AB_CDEF),
            ObjectKey::ReportHead,
            ObjectKey::Verify(VerifyRecord::Listing),
            ObjectKey::Verify(VerifyRecord::Content),
            ObjectKey::Verify(VerifyRecord::Harm),
            ObjectKey::Verify(VerifyRecord::Seen(7)),
            ObjectKey::Probe("0123456789abcdef".to_owned()),
        ]);
        keys
    }

    #[test]
    fn every_key_round_trips() {
        for key in every_kind() {
            let text = key.to_string();
            assert_eq!(text.parse::<ObjectKey>().unwrap(), key, "{text}");
            for other in [format!("{text}x"), format!("x{text}"), format!("{text}/"), text.to_uppercase()] {
                other.parse::<ObjectKey>().unwrap_err();
            }
        }
        let segment = "000000010000000A000000FF".parse().unwrap();
        let key = ObjectKey::Wal(WalName::Segment(segment), WalDigest::from_bytes([7; 16]));
        assert_eq!(
            key.to_string(),
            "wal/000000010000000A/000000010000000A000000FF-07070707070707070707070707070707"
        );
        let elsewhere = "wal/0000000100000000/000000010000000A000000FF-07070707070707070707070707070707";
        elsewhere.parse::<ObjectKey>().unwrap_err();
    }

    #[test]
    fn what_is_watched_sorts_behind_the_segments_and_the_bulk_before_them() {
        let newest = "wal/FFFFFFFFFFFFFFFF/FFFFFFFFFFFFFFFFFFFFFFFF-ffffffffffffffffffffffffffffffff";
        for key in every_kind() {
            let text = key.to_string();
            match key {
                ObjectKey::Wal(WalName::History(_), _)
                | ObjectKey::Manifest(_)
                | ObjectKey::Tail(_)
                | ObjectKey::Lease(_)
                | ObjectKey::Hold(_)
                | ObjectKey::Attempt
                | ObjectKey::Expiry
                | ObjectKey::Report(..)
                | ObjectKey::Verify(_)
                | ObjectKey::ReportHead => assert!(text.as_str() > newest, "{text}"),
                ObjectKey::Wal(..) => {}
                _ => assert!(text.as_str() < "wal/", "{text}"),
            }
        }
    }
}
