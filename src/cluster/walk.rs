//! The list of what a backup copies from a data directory, made while the server runs.

use std::path::{Path, PathBuf};

use super::exclude::Unlogged;
use super::tree::Walk;
use super::walker::{Walker, list};
use crate::error::Result;
use crate::postgres::ControlFile;

/// List what a backup copies from `data_dir`. Of tablespaces only the part of this cluster, named by the
/// major version and catalog version in `control`: clusters share locations during `pg_upgrade`.
///
/// Costs one stat for each file. A database behind a symbolic link is an error: a backup without it would not restore.
pub fn walk(data_dir: &Path, control: &ControlFile) -> Result<Walk> {
    let mut walker = Walker::new(data_dir, control)?;
    walker.run()?;
    walker.finish()
}

/// The files of `walk` that belong to unlogged relations, as is seen only now: their init fork was not there yet.
///
/// It comes after the main fork, that of an index when that is built. Recovery takes a main fork for that of an ordinary
/// relation if the init fork is not there, and comes to grief when WAL brings it.
pub fn unlogged_since(data_dir: &Path, walk: &Walk) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let relations = walk.files.iter().filter(|file| file.relation.is_some());
    let files: Vec<&Path> = relations.map(|file| file.path.as_path()).collect();
    for files in files.chunk_by(|a, b| a.parent() == b.parent()) {
        let Some(directory) = files[0].parent() else { continue };
        let entries = list(&data_dir.join(directory))?.unwrap_or_default();
        let names = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let unlogged = Unlogged::among(names);
        let holds =
            |path: &&&Path| path.file_name().is_some_and(|name| unlogged.hold(&name.to_string_lossy()));
        found.extend(files.iter().filter(holds).map(|path| path.to_path_buf()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::tree::Tablespace;
    use super::*;
    use crate::cluster::fixture;
    use crate::error::Kind;
    use crate::postgres::RelationFile;

    /// A data directory of version 15 with these empty files besides what every cluster has.
    fn cluster(files: &[&str]) -> tempfile::TempDir {
        let dir = fixture::data_dir();
        for file in files {
            fixture::touch(&dir.path().join(file));
        }
        dir
    }

    fn walk_in(dir: &Path) -> Result<Walk> {
        walk(dir, &ControlFile::parse(&fixture::control_bytes())?)
    }

    /// The files listed, without those that every cluster has.
    fn files(dir: &tempfile::TempDir) -> Vec<String> {
        let files = walk_in(dir.path()).unwrap().files;
        let paths = files.iter().map(|file| file.path.to_str().unwrap().to_owned());
        paths.filter(|path| !fixture::FILES.contains(&path.as_str())).collect()
    }

    fn directories(dir: &Path) -> Vec<String> {
        let directories = walk_in(dir).unwrap().directories;
        directories.iter().map(|entry| entry.path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_cluster_has_these_and_pg_control_comes_later() {
        let dir = cluster(&[]);
        let found = walk_in(dir.path()).unwrap();
        let paths: Vec<_> = found.files.iter().map(|file| file.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["PG_VERSION", "base/1/1259", "base/1/PG_VERSION", "global/pg_filenode.map"]);
        assert_eq!(found.mode, 0o700);
        assert_eq!((found.tablespaces, found.skipped), (vec![], vec![]));
    }

    #[test]
    fn a_file_is_listed_with_what_its_stat_says() {
        let dir = cluster(&["base/1/2619_fsm.1", "pg_xact/0000"]);
        fs::write(dir.path().join("pg_xact/0000"), [0; 100]).unwrap();
        fs::set_permissions(dir.path().join("pg_xact/0000"), fs::Permissions::from_mode(0o640)).unwrap();
        let found = walk_in(dir.path()).unwrap();
        let file = |path: &str| found.files.iter().find(|file| file.path == Path::new(path)).unwrap();
        assert_eq!((file("pg_xact/0000").size, file("pg_xact/0000").mode), (100, 0o640));
        let stat = file("pg_xact/0000").stat;
        assert!(stat.modified > 1_700_000_000_000_000_000 && stat.changed >= stat.modified);
        assert_eq!(stat.id, crate::disk::FileId::at(&dir.path().join("pg_xact/0000")).unwrap());
        assert_eq!(file("pg_xact/0000").relation, None, "digits, but not in a database");
        assert_eq!(file("base/1/PG_VERSION").relation, None);
        assert_eq!(file("base/1/2619_fsm.1").relation, RelationFile::parse("2619_fsm.1"));
    }

    #[test]
    fn what_postgresql_makes_anew_is_left_out_and_its_directories_are_kept() {
        let dir = cluster(&[
            "postmaster.pid",
            "postmaster.opts",
            "backup_label",
            "backup_label.old",
            "tablespace_map",
            "tablespace_map.old",
            "backup_manifest",
            "postgresql.auto.conf",
            "postgresql.auto.conf.tmp",
            "current_logfiles",
            "recovery.signal",
            "standby.signal",
            "global/pg_internal.init",
            "base/1/pg_internal.init.4711",
            "base/pgsql_tmp/pgsql_tmp123.0",
            "base/1/t3_16400",
            "base/1/t3_16400_fsm",
            "base/1/t3_16400.1",
            "pg_wal/000000010000000000000001",
            "pg_wal/archive_status/000000010000000000000001.done",
            "pg_replslot/standby/state",
            "pg_dynshmem/mmap.1",
            "pg_notify/0000",
            "pg_serial/0000",
            "pg_snapshots/1",
            "pg_stat_tmp/global.stat",
            "pg_subtrans/0000",
            "pg_stat/pgstat.stat",
            "log/postgresql.log",
        ]);
        assert_eq!(files(&dir), ["log/postgresql.log", "pg_stat/pgstat.stat", "postgresql.auto.conf"]);
        assert_eq!(
            directories(dir.path()),
            [
                "base",
                "base/1",
                "global",
                "log",
                "pg_dynshmem",
                "pg_notify",
                "pg_replslot",
                "pg_serial",
                "pg_snapshots",
                "pg_stat",
                "pg_stat_tmp",
                "pg_subtrans",
                "pg_wal",
                "pg_wal/archive_status",
            ]
        );
    }

    #[test]
    fn of_unlogged_relations_only_the_init_fork_is_kept() {
        let dir = cluster(&[
            "base/1/16400",
            "base/1/16400.1",
            "base/1/16400_fsm",
            "base/1/16400_vm",
            "base/1/16400_init",
            "base/1/16401",
            "base/1/164001",
            "base/2/16400",
        ]);
        assert_eq!(files(&dir), ["base/1/164001", "base/1/16400_init", "base/1/16401", "base/2/16400"]);
    }

    #[test]
    fn relations_whose_init_fork_comes_later_are_found() {
        let dir =
            cluster(&["base/1/16400", "base/1/16400.1", "base/1/16401", "base/2/16400", "base/3/16400"]);
        let found = walk_in(dir.path()).unwrap();
        fixture::touch(&dir.path().join("base/1/16400_init"));
        fixture::touch(&dir.path().join("base/2/16401_init"));
        fs::remove_dir_all(dir.path().join("base/3")).unwrap();
        let since = unlogged_since(dir.path(), &found).unwrap();
        assert_eq!(since, [Path::new("base/1/16400"), Path::new("base/1/16400.1")]);
        assert_eq!(
            unlogged_since(dir.path(), &walk_in(dir.path()).unwrap()).unwrap(),
            [""; 0].map(PathBuf::from)
        );
    }

    #[test]
    fn of_a_tablespace_only_the_directory_of_this_cluster_is_listed() {
        let dir = cluster(&["pg_tblspc/16500/PG_15_202209061/1/16501"]);
        let location = tempfile::tempdir().unwrap();
        fixture::touch(&location.path().join("PG_15_202209061/1/16401"));
        fixture::touch(&location.path().join("PG_14_202107181/1/16401"));
        fixture::touch(&location.path().join("PG_15_202209061/pgsql_tmp/pgsql_tmp1.0"));
        symlink(location.path(), dir.path().join("pg_tblspc/16400")).unwrap();
        symlink("/nonexistent", dir.path().join("pg_tblspc/16600")).unwrap();
        let found = walk_in(dir.path()).unwrap();
        let place = |oid, location: &Path, in_place| Tablespace { oid, location: location.into(), in_place };
        assert_eq!(
            found.tablespaces,
            [
                place(16400, location.path(), false),
                place(16500, Path::new("pg_tblspc/16500"), true),
                place(16600, Path::new("/nonexistent"), false)
            ]
        );
        assert_eq!(
            files(&dir),
            ["pg_tblspc/16400/PG_15_202209061/1/16401", "pg_tblspc/16500/PG_15_202209061/1/16501"]
        );
        assert!(
            found
                .files
                .iter()
                .filter(|file| file.path.starts_with("pg_tblspc"))
                .all(|file| { file.relation.is_some() })
        );
        let in_tablespaces: Vec<_> =
            directories(dir.path()).into_iter().filter(|path| path.starts_with("pg_tblspc/")).collect();
        assert_eq!(
            in_tablespaces,
            [
                "pg_tblspc/16400/PG_15_202209061",
                "pg_tblspc/16400/PG_15_202209061/1",
                "pg_tblspc/16500",
                "pg_tblspc/16500/PG_15_202209061",
                "pg_tblspc/16500/PG_15_202209061/1",
            ]
        );
    }

    #[test]
    fn a_tablespace_inside_the_data_directory_is_listed_once() {
        let dir = cluster(&["mine/PG_15_202209061/1/16401", "pg_tblspc/file"]);
        symlink(dir.path().join("mine"), dir.path().join("pg_tblspc/16400")).unwrap();
        assert_eq!(files(&dir), ["pg_tblspc/16400/PG_15_202209061/1/16401", "pg_tblspc/file"]);
    }

    #[test]
    fn links_of_the_operator_become_directories_or_are_reported() {
        let elsewhere = tempfile::tempdir().unwrap();
        fixture::touch(&elsewhere.path().join("0000"));
        let dir = cluster(&[]);
        for name in ["pg_wal", "log", "pg_xact"] {
            symlink(elsewhere.path(), dir.path().join(name)).unwrap();
        }
        symlink("/etc/hostname", dir.path().join("postgresql.conf")).unwrap();
        let found = walk_in(dir.path()).unwrap();
        assert_eq!(files(&dir), ["pg_xact/0000"], "a cluster is broken without pg_xact");
        assert_eq!(
            directories(dir.path()),
            ["base", "base/1", "global", "log", "pg_wal", "pg_wal/archive_status", "pg_xact"]
        );
        let skipped = |path: &str, reason: &str| (PathBuf::from(path), reason.to_owned());
        assert_eq!(
            found.skipped,
            [
                skipped("log", "symbolic link to a directory, kept as an empty directory"),
                skipped("postgresql.conf", "symbolic link, not followed"),
            ]
        );
    }

    #[test]
    fn a_socket_is_reported() {
        let dir = cluster(&[]);
        let _listener = std::os::unix::net::UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let found = walk_in(dir.path()).unwrap();
        assert_eq!(found.skipped, [(PathBuf::from(".s.PGSQL.5432"), "socket, not a file".to_owned())]);
    }

    #[test]
    fn a_database_behind_a_link_is_refused() {
        let dir = cluster(&[]);
        symlink("/nonexistent", dir.path().join("base/5")).unwrap();
        let error = walk_in(dir.path()).unwrap_err();
        assert_eq!(error.to_string(), "base/5 is a symbolic link, which PostgreSQL does not support");
        assert_eq!(error.kind(), Kind::Impossible);
    }

    #[test]
    fn r33_names_are_bytes() {
        let dir = cluster(&["log/a"]);
        let location = tempfile::tempdir().unwrap();
        let location = location.path().join(OsStr::from_bytes(b"\xe9"));
        for name in [&b"log/\xff.log"[..], b"d\xe9/\xe9", b"base/1/1\xff", b"base/pgsql_tmp\xff"] {
            fixture::touch(&dir.path().join(OsStr::from_bytes(name)));
        }
        fs::create_dir(dir.path().join("pg_tblspc")).unwrap();
        symlink(&location, dir.path().join("pg_tblspc/16400")).unwrap();
        let found = walk_in(dir.path()).unwrap();
        let odd: Vec<_> = found.files.iter().filter(|file| file.path.to_str().is_none()).collect();
        let paths: Vec<_> = odd.iter().map(|file| file.path.as_os_str().as_bytes()).collect();
        assert_eq!(paths, [&b"base/1/1\xff"[..], b"d\xe9/\xe9", b"log/\xff.log"]);
        assert!(odd.iter().all(|file| file.relation.is_none()));
        assert!(found.directories.iter().any(|entry| entry.path.as_os_str().as_bytes() == b"d\xe9"));
        assert_eq!(found.tablespaces[0].location, location);
    }

    #[test]
    fn a_directory_that_is_no_cluster_is_refused() {
        for required in ["PG_VERSION", "global/pg_filenode.map"] {
            let dir = cluster(&[]);
            fs::remove_file(dir.path().join(required)).unwrap();
            let message = walk_in(dir.path()).unwrap_err().to_string();
            assert!(message.starts_with(&format!("{required} is missing in ")), "{message}");
        }
    }
}
