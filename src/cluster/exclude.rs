//! What a backup leaves out of a data directory, and why.
//!
//! The list is PostgreSQL's own: `basebackup.c`, and "Backing Up the Data Directory" in the documentation.
//! `pg_control` is not a file of the walk either: it is copied last.

use std::collections::HashSet;

use crate::postgres::{Fork, Major, RelationFile, is_temporary_relation};

/// Where in the data directory a name was found: names mean something only in their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The data directory itself.
    Root,
    /// `base`, or a tablespace's `PG_15_202209061`: a directory for each database.
    Databases,
    /// `global`, or the directory of a database: relation files.
    Relations,
    /// `pg_tblspc`: a link or directory for each tablespace.
    Tablespaces,
    /// Anywhere else.
    Other,
}

impl Place {
    /// The place of the names in the directory `name` that was found here.
    pub(super) fn below(self, name: &str) -> Self {
        match (self, name) {
            (Self::Root, "global") => Self::Relations,
            (Self::Root, "base") => Self::Databases,
            (Self::Root, "pg_tblspc") => Self::Tablespaces,
            (Self::Databases, name) if is_oid(name) => Self::Relations,
            _ => Self::Other,
        }
    }

    /// Whether a cluster without the files that are found here is broken.
    pub(super) fn holds_databases(self) -> bool {
        matches!(self, Self::Databases | Self::Relations)
    }
}

/// Directories of the data directory that are kept without their contents.
const EMPTIED: [&str; 8] = [
    // WAL comes from the repository; what lies here would be replayed in its stead.
    "pg_wal",
    // Slots of the old server: they would hold back WAL on the new one for consumers that do not use it.
    "pg_replslot",
    // The rest is emptied or made anew at every start: shared memory, notifications, serializable
    // transactions, exported snapshots, statistics in flight, subtransactions.
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
];

/// Directories of the data directory without which there is no cluster. Some operators link one of them
/// to another disk; such a link is followed.
pub(super) const FOLLOWED: [&str; 8] =
    ["base", "global", "pg_commit_ts", "pg_logical", "pg_multixact", "pg_tblspc", "pg_twophase", "pg_xact"];

/// Names in the data directory itself.
const NAMES: [&str; 16] = [
    // They tell about a running server; a restored one must not find them.
    "postmaster.pid",
    "postmaster.opts",
    // Of another backup, maybe one that failed. This backup's come from `pg_backup_stop`.
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "backup_manifest",
    "backup_manifest.tmp",
    // Half written.
    "postgresql.auto.conf.tmp",
    // They name the log file of the running server.
    "current_logfiles",
    "current_logfiles.tmp",
    // Whether the restored server recovers, and how, is decided when it is restored.
    "recovery.signal",
    "standby.signal",
    // Written by the Finder of macOS.
    ".DS_Store",
    // The file system's own, where the data directory is a mount point; only root may look into it.
    "lost+found",
    // Refused by every supported version: left there from before 12.
    "recovery.conf",
];

/// The subdirectories to keep of a directory whose other contents are left out; `None` if its contents
/// belong to the backup.
pub(super) fn emptied(place: Place, name: &str, major: Major) -> Option<&'static [&'static str]> {
    if place != Place::Root || !EMPTIED.contains(&name) {
        return None;
    }
    Some(match name {
        // A server creates them where they are missing, but a standby's archiver may be faster.
        "pg_wal" if major.get() >= 17 => &["archive_status", "summaries"],
        "pg_wal" => &["archive_status"],
        _ => &[],
    })
}

/// Whether a symbolic link of that name stands for a directory that a cluster cannot be without.
pub(super) fn is_followed(place: Place, name: &str) -> bool {
    place == Place::Root && FOLLOWED.contains(&name)
}

/// Whether the backup goes without this file or whole directory.
pub(super) fn is_excluded(place: Place, name: &str, unlogged: &Unlogged) -> bool {
    // Temporary files of queries, removed at start. In any place, as PostgreSQL has it.
    if name.starts_with("pgsql_tmp") {
        return true;
    }
    match place {
        Place::Root => NAMES.contains(&name),
        // A cache of the catalogs, rebuilt by the first session; a stale one would be trusted.
        Place::Relations if name.starts_with("pg_internal.init") => true,
        Place::Relations => name == "pg_control" || is_temporary_relation(name) || unlogged.hold(name),
        Place::Databases | Place::Tablespaces | Place::Other => false,
    }
}

/// The unlogged relations of one directory. Recovery empties them: it copies each init fork over the main
/// fork and deletes the others, so only the init fork is worth keeping.
#[derive(Debug, Default)]
pub(super) struct Unlogged(HashSet<u32>);

impl Unlogged {
    /// From all names in the directory: a relation is unlogged if it has an init fork.
    pub(super) fn among(names: impl Iterator<Item = impl AsRef<str>>) -> Self {
        let relations = names.filter_map(|name| RelationFile::parse(name.as_ref()));
        let init_forks = relations.filter(|file| file.fork == Fork::Init);
        Self(init_forks.map(|file| file.filenode).collect())
    }

    /// Whether the file is one that recovery empties or deletes.
    pub(super) fn hold(&self, name: &str) -> bool {
        !self.0.is_empty()
            && RelationFile::parse(name)
                .is_some_and(|file| file.fork != Fork::Init && self.0.contains(&file.filenode))
    }
}

/// Digits only: the directory of a database or a tablespace.
pub(super) fn is_oid(name: &str) -> bool {
    name.parse::<u32>().is_ok_and(|oid| oid.to_string() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_summaries_have_a_directory_since_17() {
        let kept = |number| emptied(Place::Root, "pg_wal", Major::from_number(number).unwrap());
        assert_eq!(kept(16), Some(["archive_status"].as_slice()));
        assert_eq!(kept(17), Some(["archive_status", "summaries"].as_slice()));
        assert_eq!(emptied(Place::Other, "pg_wal", Major::from_number(17).unwrap()), None);
    }

    #[test]
    fn a_name_is_left_out_in_its_place_only() {
        let none = Unlogged::default();
        for (place, name) in [
            (Place::Other, "postmaster.pid"),
            (Place::Other, "pg_internal.init"),
            (Place::Other, "t3_16400"),
            (Place::Root, "pg_control"),
            (Place::Relations, "recovery.signal"),
        ] {
            assert!(!is_excluded(place, name, &none), "{name} in {place:?}");
        }
        assert!(is_excluded(Place::Relations, "pg_control", &none));
        assert!(is_excluded(Place::Other, "pgsql_tmp1234.5", &none));
    }

    #[test]
    fn the_place_below_a_directory_depends_on_where_that_is() {
        assert_eq!(Place::Root.below("global"), Place::Relations);
        assert_eq!(Place::Root.below("base").below("16384"), Place::Relations);
        assert_eq!(Place::Root.below("16384"), Place::Other);
        assert_eq!(Place::Databases.below("016384"), Place::Other);
        assert_eq!(Place::Other.below("global"), Place::Other);
    }
}
