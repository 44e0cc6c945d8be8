//! Keys as text, for the code that puts and gets objects.

use super::backup_id::BackupId;
use super::identity::WalDigest;
use super::key::ObjectKey;
use super::pack::PackName;
use super::tail_name::TailPieceName;
use crate::postgres::WalName;

pub(crate) use super::key::{
    BACKUPS, IDENTITY, LEASES, PACKS, PROBES, REPORTS, TABLES, TAIL, tail_directory, wal_directory,
};

/// The key of a WAL file with this content.
pub(crate) fn wal_key(name: &WalName, digest: WalDigest) -> String {
    ObjectKey::Wal(*name, digest).to_string()
}

/// A pack.
pub(crate) fn pack_key(name: &PackName) -> String {
    ObjectKey::Pack(name.clone()).to_string()
}

/// The packs that a backup wrote.
pub(crate) fn packs_of(id: &BackupId) -> String {
    format!("{PACKS}/{id}")
}

/// The file table and the pack list of a backup.
pub(crate) fn tables_of(id: &BackupId) -> String {
    format!("{TABLES}/{id}")
}

/// A backup's manifest.
pub(crate) fn manifest_key(id: &BackupId) -> String {
    ObjectKey::Manifest(id.clone()).to_string()
}

/// Part `number` of a manifest's file table.
pub(crate) fn file_table_key(id: &BackupId, number: u32) -> String {
    ObjectKey::FileTable(id.clone(), number).to_string()
}

/// The pack list of a backup.
pub(crate) fn pack_list_key(id: &BackupId) -> String {
    ObjectKey::PackList(id.clone()).to_string()
}

/// A piece of a tail.
pub(crate) fn tail_key(piece: &TailPieceName) -> String {
    ObjectKey::Tail(*piece).to_string()
}

/// A lease.
pub(crate) fn lease_key(name: &str) -> String {
    format!("{LEASES}/{name}")
}

/// The object that a store test writes.
pub(crate) fn probe_key(name: &str) -> String {
    format!("{PROBES}/{name}")
}
