//! What a backup copies from a data directory: directories, files, tablespaces.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::disk::FileId;
use crate::postgres::RelationFile;

/// What to copy. Paths are any bytes, relative to the data directory, and as PostgreSQL sees them:
/// a tablespace's files are under `pg_tblspc/<oid>/PG_<major>_<catalog version>/`. Each list is sorted by
/// the bytes of the path, so a directory comes before what it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walk {
    /// Permission bits of the data directory itself, 0700 or 0750.
    pub mode: u32,
    /// All directories below it but the links to tablespaces; also those whose contents are left out.
    pub directories: Vec<DirEntry>,
    /// All files but `global/pg_control`, which is copied last.
    pub files: Vec<FileEntry>,
    /// What `pg_tblspc` holds, by oid.
    pub tablespaces: Vec<Tablespace>,
    /// What PostgreSQL does not put there and a restore will not bring back, with the reason: worth a
    /// warning. What is left out by rule is not listed.
    pub skipped: Vec<(PathBuf, String)>,
}

/// A directory to create before files are restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Such as `base/1` or `pg_tblspc/16400/PG_15_202209061`.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
}

/// A regular file to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Such as `base/1/1259` or `pg_tblspc/16400/PG_15_202209061/5/16401`.
    pub path: PathBuf,
    /// Bytes, when it was listed.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Which file it is, and when it changed.
    pub stat: FileStat,
    /// Set for files of pages, which have a checksum where the cluster has them enabled.
    pub relation: Option<RelationFile>,
}

/// What `stat` says of a file besides its size. The times are those of its file system, nanoseconds since 1970; what is
/// too far away is as far as can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// Which file it is.
    pub id: FileId,
    /// When it was last written, or what somebody set this to.
    pub modified: i64,
    /// When it was last written, renamed, linked, or had a time or its permissions set. Nobody can set this.
    pub changed: i64,
}

impl FileStat {
    /// Of the file with this metadata.
    pub fn of(metadata: &Metadata) -> Self {
        let time = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self {
            id: FileId::of(metadata),
            modified: time(metadata.mtime(), metadata.mtime_nsec()),
            changed: time(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// An entry of `pg_tblspc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its name in `pg_tblspc`.
    pub oid: u32,
    /// Where the link points. For a tablespace in place: `pg_tblspc/<oid>`, as
    /// `pg_tablespace_location()` has it.
    pub location: PathBuf,
    /// A directory in `pg_tblspc` instead of a link (`allow_in_place_tablespaces`).
    pub in_place: bool,
}
