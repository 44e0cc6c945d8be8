//! The manifest: the record that makes a backup exist; written last.

use serde::{Deserialize, Serialize};

use super::backup_id::BackupId;
use super::identity::{ClusterName, ContentDigest};
use crate::encoding::as_text;
use crate::error::{Error, Result};
use crate::postgres::{Lsn, PgTime, SegmentName, TimelineId, Verbatim, version_text};
use crate::seal::{KeyId, VERSION};

/// A finished base backup. JSON, sealed; unknown fields are ignored so that later versions may add some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version.
    pub format: u16,
    /// The backup's id.
    pub id: BackupId,
    /// The cluster's name.
    pub cluster: ClusterName,
    /// The cluster's system identifier.
    #[serde(with = "as_text")]
    pub system_identifier: u64,
    /// PostgreSQL's version, as `server_version_num`.
    pub pg_version_num: u32,
    /// Catalog version, part of tablespaces' directory names.
    pub catalog_version: u32,
    /// Server's clock before `pg_backup_start`.
    pub started_at: PgTime,
    /// Server's clock after `pg_backup_stop`: every later instant can be a target.
    pub finished_at: PgTime,
    /// First LSN that recovery needs.
    pub start_lsn: Lsn,
    /// LSN from which the restored cluster is consistent.
    pub stop_lsn: Lsn,
    /// Timeline of both.
    pub timeline: TimelineId,
    /// The first and the last of the segments that recovery needs, as they were stored then. Under their names another server
    /// may archive later, if they are lost.
    pub wal: Vec<WalRecord>,
    /// The role that initdb made: a drill opens the restored cluster as it. `None` where its name is not UTF-8.
    #[serde(default)]
    pub superuser: Option<String>,
    /// Whether the cluster has page checksums.
    pub page_checksums: bool,
    /// Taken on a standby.
    pub from_standby: bool,
    /// `backup_label`, byte for byte.
    pub backup_label: String,
    /// Directories, parents first.
    pub directories: Vec<DirectoryRecord>,
    /// Tablespaces.
    pub tablespaces: Vec<TablespaceRecord>,
    /// Parts of the file table, in order.
    pub parts: Vec<PartRecord>,
    /// The packs, summed up by the backup that wrote them; sorted.
    pub packs: Vec<PacksRecord>,
    /// Bytes of the pack list as stored.
    pub pack_list_bytes: u64,
    /// Number of files.
    pub files: u64,
    /// Bytes of all files.
    pub size_bytes: u64,
    /// Bytes of all frames that the file table points into, as stored.
    pub stored_bytes: u64,
    /// Bytes of objects that this backup added.
    pub new_bytes: u64,
    /// The backup whose extents it reused, if there was one.
    pub base: Option<BackupId>,
    /// Bytes of files that are as they were, and stay where earlier backups put them.
    pub reused_bytes: u64,
    /// Bytes of files that are as they were, and were stored again: what lies in too many places, or beside too much
    /// that nobody needs. The rest of `size_bytes` is new or changed.
    pub rewritten_bytes: u64,
    /// Of the reused bytes, those of files that were not read: by all that the disk says they are as they were.
    pub unread_bytes: u64,
    /// Pages whose checksum failed.
    pub page_errors: Vec<PageError>,
    /// Configuration files that lie outside the data directory: not restored, kept for the operator.
    pub outside_files: Vec<OutsideFile>,
}

/// A segment that was stored when the backup was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalRecord {
    /// Its name.
    #[serde(with = "as_text")]
    pub segment: SegmentName,
    /// The digest of its content.
    #[serde(with = "as_text")]
    pub digest: ContentDigest,
}

/// A directory to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryRecord {
    /// Relative to the data directory.
    pub path: Verbatim,
    /// Permission bits.
    pub mode: u32,
}

/// A tablespace outside the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablespaceRecord {
    /// Its oid, the name of the link in `pg_tblspc`.
    pub oid: u32,
    /// Where it was.
    pub location: Verbatim,
}

/// A part of the file table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Files in it.
    pub files: u64,
    /// Bytes of those files.
    pub bytes: u64,
    /// Bytes of the part as stored.
    pub table_bytes: u64,
}

/// What a backup uses of the packs that one backup wrote; the pack list has each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacksRecord {
    /// The backup that wrote them.
    pub backup: BackupId,
    /// The keys that they are sealed with; none without encryption.
    pub key_ids: Vec<KeyId>,
    /// How many packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of the frames in them that are used.
    pub live_bytes: u64,
}

/// A page that is stored with a checksum that does not hold, and that replay does not repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageError {
    /// The file.
    pub path: Verbatim,
    /// The block's number within the relation.
    pub block: u32,
}

/// A file kept beside the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideFile {
    /// Where it was.
    pub path: Verbatim,
    /// Its content.
    pub text: Verbatim,
}

impl Manifest {
    /// PostgreSQL's version as people write it: 15.20.
    pub fn pg_version(&self) -> String {
        version_text(self.pg_version_num)
    }

    /// The plaintext.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|cause| Error::corrupt(format!("write manifest: {cause}")))
    }

    /// Parse the plaintext.
    pub fn parse(plain: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Format {
            format: u16,
        }
        let wrong = |cause: serde_json::Error| Error::corrupt(format!("read manifest: {cause}"));
        let Format { format } = serde_json::from_slice(plain).map_err(wrong)?;
        if format > VERSION {
            return Err(Error::corrupt(format!(
                "the backup has format version {format}, this program reads up to {VERSION}"
            ))
            .hint("was it taken by a newer walproof? upgrade this one"));
        }
        serde_json::from_slice(plain).map_err(wrong)
    }
}
