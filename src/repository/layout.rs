//! The only place with slashes: the keys of a repository, below `<prefix>/<cluster>/<system identifier>/`.

use super::backup_id::BackupId;
use super::identity::WalDigest;
use super::pack::PackName;
use super::tail_store::{TailPieceName, hex};
use crate::postgres::{SegmentName, TimelineId, WalName};

/// The repository's identity.
pub(super) const IDENTITY: &str = "identity";
/// Directories, for listings.
pub(super) const WAL: &str = "wal";
pub(super) const HISTORY: &str = "history";
pub(super) const BACKUPS: &str = "backups";
pub(super) const LEASES: &str = "leases";
pub(super) const TAIL: &str = "tail";

/// What an object is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

impl ObjectUse {
    /// Of the object with this key.
    pub(super) fn of(key: &str) -> Self {
        match key.split('/').next() {
            Some("packs") => Self::Pack,
            Some(WAL | HISTORY) => Self::Wal,
            Some(TAIL) => Self::Tail,
            _ => Self::Other,
        }
    }
}

/// The directory that holds every key of this WAL file: at most 256 segments of 16 MiB, or all histories.
pub(super) fn wal_directory(name: &WalName) -> String {
    match name.segment() {
        Some(segment) => format!("{WAL}/{}", segment.directory()),
        None => HISTORY.to_owned(),
    }
}

/// The key of a WAL file with this content.
pub(super) fn wal_key(name: &WalName, digest: WalDigest) -> String {
    format!("{}/{name}-{digest}", wal_directory(name))
}

/// Parse what [`wal_key`] makes; `None` for anything else.
pub(super) fn parse_wal_key(key: &str) -> Option<(WalName, WalDigest)> {
    let (_, file) = key.rsplit_once('/')?;
    let (name, digest) = file.rsplit_once('-')?;
    let parsed = (name.parse().ok()?, digest.parse().ok()?);
    (wal_key(&parsed.0, parsed.1) == key).then_some(parsed)
}

/// A pack.
pub(super) fn pack_key(name: &PackName) -> String {
    format!("packs/{}/{:08x}", name.backup, name.number)
}

/// A backup's manifest: the backup exists if and only if this does.
pub(super) fn manifest_key(id: &BackupId) -> String {
    format!("{BACKUPS}/{id}/manifest")
}

/// The id in a manifest's key.
pub(super) fn parse_manifest_key(key: &str) -> Option<BackupId> {
    let id = key.strip_prefix(BACKUPS)?.strip_prefix('/')?.strip_suffix("/manifest")?;
    id.parse().ok()
}

/// Part `number` of a manifest's file table.
pub(super) fn file_table_key(id: &BackupId, number: u32) -> String {
    format!("{BACKUPS}/{id}/files-{number:08x}")
}

/// The page digests of part `number`.
pub(super) fn page_digests_key(id: &BackupId, number: u32) -> String {
    format!("{BACKUPS}/{id}/digests-{number:08x}")
}

/// The directory of all pieces of one segment's tails.
pub(super) fn tail_directory(segment: &SegmentName) -> String {
    format!("{TAIL}/{segment}")
}

/// A piece of a tail.
pub(super) fn tail_key(piece: &TailPieceName) -> String {
    let TailPieceName { segment, generation, start, end } = piece;
    format!("{TAIL}/{segment}/{generation}-{start:08x}-{end:08x}")
}

/// Parse what [`tail_key`] makes; `None` for anything else.
pub(super) fn parse_tail_key(key: &str) -> Option<TailPieceName> {
    let (segment, piece) = key.strip_prefix(TAIL)?.strip_prefix('/')?.split_once('/')?;
    let mut fields = piece.split('-');
    let (generation, start, end) = (fields.next()?, hex(fields.next()?)?, hex(fields.next()?)?);
    let name =
        TailPieceName { segment: segment.parse().ok()?, generation: generation.parse().ok()?, start, end };
    (start < end && tail_key(&name) == key).then_some(name)
}

/// A lease.
pub(super) fn lease_key(name: &str) -> String {
    format!("{LEASES}/{name}")
}

/// The object that a store test writes.
pub(super) fn probe_key(name: &str) -> String {
    format!("probes/{name}")
}

/// Where a timeline's history is among the WAL names.
pub(super) const fn history_name(timeline: TimelineId) -> WalName {
    WalName::History(timeline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_keys_round_trip() {
        let digest = WalDigest::from_bytes([7; 16]);
        for text in [
            "000000010000000A000000FF",
            "000000010000000A000000FF.partial",
            "000000010000000A000000FF.00000028.backup",
            "00000002.history",
        ] {
            let name: WalName = text.parse().unwrap();
            let key = wal_key(&name, digest);
            assert_eq!(parse_wal_key(&key), Some((name, digest)), "{key}");
        }
        let key = wal_key(&"000000010000000A000000FF".parse().unwrap(), digest);
        assert_eq!(key, "wal/000000010000000A/000000010000000A000000FF-07070707070707070707070707070707");
        assert_eq!(
            parse_wal_key("wal/0000000100000000/000000010000000A000000FF-07070707070707070707070707070707"),
            None
        );
    }
}
