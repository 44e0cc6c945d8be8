//! A delta restore: what is not in the backup goes.

use std::collections::HashSet;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::attempt::{LOST_AND_FOUND, MARK};
use super::destination::set_mode;
use super::places::{TAKEN_OVER, UNFINISHED};
use super::plan::Plan;
use super::table::read_part;
use crate::error::{Error, Result};
use crate::format::FileTable;
use crate::repository::Repository;

/// What the backup has, by paths relative to the data directory.
#[derive(Debug)]
pub(super) struct Kept {
    files: HashSet<Vec<u8>>,
    directories: HashSet<Vec<u8>>,
}

impl Kept {
    /// Everything that the plan's backup has. `first` is the first part of its file table.
    pub(super) async fn read(repository: &Repository, plan: &Plan, first: &FileTable) -> Result<Self> {
        let directories = plan.backup.directories.iter();
        let directories = directories.map(|directory| directory.path.as_bytes().to_vec()).collect();
        let mut files: HashSet<Vec<u8>> =
            [UNFINISHED, TAKEN_OVER].iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut add = |part: &FileTable| {
            files.extend(part.files.iter().map(|file| file.path.as_bytes().to_vec()));
        };
        add(first);
        for number in 1..plan.backup.parts.len() {
            add(&read_part(repository, plan, number).await?);
        }
        Ok(Self { files, directories })
    }

    /// Remove from `directory`, which is `relative` to the data directory, everything else; links are removed, not
    /// followed.
    pub(super) fn clean(&self, directory: &Path, relative: &[u8]) -> Result<()> {
        set_mode_if_less(directory, 0o700)?;
        let entries = std::fs::read_dir(directory).map_err(|cause| Error::io("list", directory, &cause))?;
        for entry in entries {
            let entry = entry.map_err(|cause| Error::io("list", directory, &cause))?;
            let (path, name) = (entry.path(), entry.file_name());
            let below = match relative {
                b"" => name.as_bytes().to_vec(),
                relative => [relative, b"/", name.as_bytes()].concat(),
            };
            let metadata = entry.metadata().map_err(|cause| Error::io("examine", &path, &cause))?;
            if metadata.is_dir() && self.directories.contains(&below) {
                self.clean(&path, &below)?;
            } else if !self.stays(&metadata, &below, &name) {
                remove(&path, &metadata)?;
            }
        }
        Ok(())
    }

    fn stays(&self, metadata: &Metadata, below: &[u8], name: &std::ffi::OsStr) -> bool {
        if metadata.is_dir() {
            return name == LOST_AND_FOUND;
        }
        // A second name would be written through, too.
        metadata.is_symlink() && name == MARK
            || metadata.is_file() && metadata.nlink() == 1 && self.files.contains(below)
    }
}

fn remove(path: &Path, metadata: &Metadata) -> Result<()> {
    let removed = if metadata.is_dir() {
        make_removable(path)?;
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    removed.map_err(|cause| Error::io("remove", path, &cause))
}

/// Directories may keep out even their owner.
fn make_removable(directory: &Path) -> Result<()> {
    set_mode_if_less(directory, 0o700)?;
    for entry in std::fs::read_dir(directory).map_err(|cause| Error::io("list", directory, &cause))? {
        let entry = entry.map_err(|cause| Error::io("list", directory, &cause))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_removable(&entry.path())?;
        }
    }
    Ok(())
}

/// Give `path` the permissions `least`, if it lacks one of them.
pub(super) fn set_mode_if_less(path: &Path, least: u32) -> Result<()> {
    let metadata = std::fs::metadata(path).map_err(|cause| Error::io("examine", path, &cause))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & least == least { Ok(()) } else { set_mode(path, mode | least) }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn what_the_backup_does_not_have_goes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for path in ["base/1/2", "gone/deep", "link", "pg_tblspc", "locked/inside"] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in ["base/1/10", "base/1/11", "base/1/2/x", "gone/deep/x", "PG_VERSION", "locked/inside/x"] {
            std::fs::write(root.join(path), "x").unwrap();
        }
        std::os::unix::fs::symlink(root.join("gone"), root.join("pg_tblspc/1")).unwrap();
        let elsewhere = tempfile::NamedTempFile::new_in(dir.path().parent().unwrap()).unwrap();
        std::fs::hard_link(elsewhere.path(), root.join("base/1/12")).unwrap();
        set_mode(&root.join("locked/inside"), 0o500).unwrap();
        let set = |paths: &[&str]| paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        let kept = Kept {
            files: set(&["base/1/11", "base/1/12", "PG_VERSION", "link", "base/1/2"]),
            directories: set(&["base", "base/1", "pg_tblspc"]),
        };
        kept.clean(root, b"").unwrap();
        let mut left: Vec<String> =
            walk(root).iter().map(|path| path.strip_prefix(root).unwrap().display().to_string()).collect();
        left.sort();
        assert_eq!(left, ["PG_VERSION", "base", "base/1", "base/1/11", "pg_tblspc"]);
    }

    fn walk(dir: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries
            .flat_map(
                |path| if path.is_dir() { [vec![path.clone()], walk(&path)].concat() } else { vec![path] },
            )
            .collect()
    }
}
