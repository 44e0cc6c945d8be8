//! What is ready: the files that PostgreSQL has marked for archiving in `archive_status`.

use std::path::{Path, PathBuf};

use crate::cluster::DataDir;
use crate::error::{Error, Result};
use crate::postgres::{PgTime, WalName};

/// The directory of the marks, below `pg_wal`.
const STATUS: &str = "archive_status";

/// A data directory's `pg_wal`, which may be a symbolic link.
#[derive(Debug, Clone)]
pub struct PgWal {
    path: PathBuf,
}

impl PgWal {
    /// Of this data directory.
    pub fn of(data_dir: &DataDir) -> Self {
        Self { path: data_dir.path().join("pg_wal") }
    }

    #[cfg(test)]
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the file `name` is, or would be.
    pub fn file(&self, name: &WalName) -> PathBuf {
        self.path.join(name.to_string())
    }

    /// Where the marks are.
    pub fn status_dir(&self) -> PathBuf {
        self.path.join(STATUS)
    }

    /// All files that wait to be archived, in the order of their names.
    pub fn ready(&self) -> Result<Vec<WalName>> {
        let directory = self.status_dir();
        let mut names: Vec<WalName> =
            entries(&directory)?.iter().filter_map(|name| parse_ready(name)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Since when `name` waits: when its mark was made.
    pub fn ready_since(&self, name: &WalName) -> Option<PgTime> {
        let mark = self.status_dir().join(format!("{name}{READY}"));
        let modified = std::fs::metadata(mark).ok()?.modified().ok()?;
        jiff::Timestamp::try_from(modified).ok().map(PgTime::from)
    }

    /// All WAL files that are there, marks aside, in the order of their names. Those after the newest one may be old
    /// files under a future name.
    pub fn files(&self) -> Result<Vec<WalName>> {
        let mut names: Vec<WalName> =
            entries(&self.path)?.iter().filter_map(|name| name.parse().ok()).collect();
        names.sort_unstable();
        Ok(names)
    }
}

const READY: &str = ".ready";

/// The file that a mark named `mark` is for.
pub fn parse_ready(mark: &str) -> Option<WalName> {
    mark.strip_suffix(READY)?.parse().ok()
}

fn entries(directory: &Path) -> Result<Vec<String>> {
    let failed = |cause: std::io::Error| Error::io("list", directory, &cause);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marks_of_wal_files_are_ready() {
        let directory = tempfile::tempdir().unwrap();
        let pg_wal = PgWal { path: directory.path().to_owned() };
        std::fs::create_dir(pg_wal.status_dir()).unwrap();
        for name in [
            "000000010000000000000003.ready",
            "000000010000000000000002.done",
            "00000002.history.ready",
            "000000010000000000000001.00000028.backup.ready",
            "x.ready",
            ".ready",
        ] {
            std::fs::write(pg_wal.status_dir().join(name), "").unwrap();
        }
        let names: Vec<String> = pg_wal.ready().unwrap().iter().map(ToString::to_string).collect();
        let expected =
            ["00000002.history", "000000010000000000000003", "000000010000000000000001.00000028.backup"];
        assert_eq!(names, expected);
        assert!(pg_wal.ready_since(&"000000010000000000000003".parse().unwrap()).is_some());
        std::fs::write(directory.path().join("000000010000000000000004"), "").unwrap();
        assert_eq!(pg_wal.files().unwrap().len(), 1);
    }
}
