//! Writes that survive a power cut: each function here returns once the change it made would still be
//! there after one.
//!
//! A rename is durable only when the directory that holds the new name was synced afterwards. The
//! functions bundle the two, so no call site can forget the second.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::write_in_pieces;
use crate::error::{Error, Result};

/// Put a file of exactly these bytes and permission bits at `path`, in place of what was there. A
/// reader sees the old file or the whole new one, never a part.
///
/// On an error no temporary file is left behind, and `path` is what it was, but for one case: when the
/// very last step, the sync of the directory, fails, the new file is in place and may not survive a
/// power cut.
pub fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut temporary = tempfile::Builder::new()
        .prefix(".walproof-")
        .suffix(".tmp")
        .tempfile_in(parent(path))
        .map_err(|cause| Error::io("create a temporary file for", path, &cause))?;
    write_in_pieces(&mut temporary, bytes).map_err(|cause| Error::io("write", path, &cause))?;
    let file = temporary.as_file();
    // Not when it was created: the process's umask would take bits away.
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(|cause| Error::io("set the permissions of", path, &cause))?;
    file.sync_all().map_err(|cause| Error::io("sync", path, &cause))?;
    // The commit point.
    temporary.persist(path).map_err(|failed| Error::io("rename into place", path, &failed.error))?;
    sync_dir(parent(path))
}

/// Rename a file or directory, over a file that has the new name. What is renamed is synced first: a
/// name that survives with contents that did not is worse than no name.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    let renamed = File::open(from).map_err(|cause| Error::io("open", from, &cause))?;
    sync(&renamed, from)?;
    fs::rename(from, to).map_err(|cause| Error::io(&format!("rename {} to", from.display()), to, &cause))?;
    sync_dir(parent(to))?;
    if parent(from) == parent(to) { Ok(()) } else { sync_dir(parent(from)) }
}

/// Create the directory `path` and what is missing above it, each with exactly these permission bits
/// whatever the umask: PostgreSQL refuses to start in a directory that is not 0700 or 0750. A directory
/// that is there already keeps the bits it has.
pub fn create_dir_all(path: &Path, mode: u32) -> Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(Error::io("create the directory", path, &io::ErrorKind::NotADirectory.into())),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
        Err(cause) => return Err(Error::io("look at", path, &cause)),
    }
    create_dir_all(parent(path), mode)?;
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        // Another was faster: a worker that restores the directory's other files.
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(cause) => return Err(Error::io("create the directory", path, &cause)),
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|cause| Error::io("set the permissions of", path, &cause))?;
    sync_dir(parent(path))
}

/// Make the names in this directory durable.
pub fn sync_dir(path: &Path) -> Result<()> {
    let directory = File::open(path).map_err(|cause| Error::io("open", path, &cause))?;
    sync(&directory, path)
}

/// A file system that will be made durable as a whole: one call instead of one for each of many thousand files.
///
/// Linux (5.8 and later) reports a write that failed in the background to processes that had the file system open
/// before it failed: open this before writing, and the last sync tells of all failures in between.
#[derive(Debug)]
pub struct Filesystem {
    directory: File,
    path: PathBuf,
}

impl Filesystem {
    /// The file system that holds this directory.
    pub fn open(path: &Path) -> Result<Self> {
        let directory = File::open(path).map_err(|cause| Error::io("open", path, &cause))?;
        Ok(Self { directory, path: path.to_owned() })
    }

    /// Make everything on it durable.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.directory)
            .map_err(|cause| Error::io("sync the file system of", &self.path, &cause.into()))
    }
}

/// Delete everything in the directory, and keep the directory. Symbolic links are deleted, not followed.
pub fn remove_contents(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).map_err(|cause| Error::io("list", dir, &cause))?;
    for entry in entries {
        let entry = entry.map_err(|cause| Error::io("list", dir, &cause))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(|cause| Error::io("look at", &path, &cause))?;
        let removed = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|cause| Error::io("delete", &path, &cause))?;
    }
    sync_dir(dir)
}

/// The directory that holds the name; the working directory for a bare name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

fn sync(opened: &File, path: &Path) -> Result<()> {
    match opened.sync_all() {
        // File systems that cannot sync a directory say so in these two ways; PostgreSQL takes them for
        // success too.
        Err(cause) if is_unsupported(&cause) && path.is_dir() => Ok(()),
        result => result.map_err(|cause| Error::io("sync", path, &cause)),
    }
}

fn is_unsupported(cause: &io::Error) -> bool {
    let code = cause.raw_os_error();
    code == Some(rustix::io::Errno::INVAL.raw_os_error())
        || code == Some(rustix::io::Errno::BADF.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn names_in(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_with_the_mode_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backup_label");
        fs::write(&path, "a longer old text").unwrap();
        // 0666 is what every common umask would cut.
        write_file(&path, b"new", 0o666).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(mode_of(&path), 0o666);
        assert_eq!(names_in(dir.path()), ["backup_label"]);
    }

    #[test]
    fn a_failed_write_leaves_no_temporary_file_behind() {
        let dir = tempfile::tempdir().unwrap();
        let occupied = dir.path().join("occupied");
        fs::create_dir(&occupied).unwrap();
        let error = write_file(&occupied, b"x", 0o600).unwrap_err();
        assert!(error.to_string().starts_with("rename into place "), "{error}");
        assert_eq!(names_in(dir.path()), ["occupied"]);
        let error = write_file(&dir.path().join("absent/file"), b"x", 0o600).unwrap_err();
        assert!(error.to_string().contains("absent/file"), "{error}");
        assert_eq!(names_in(dir.path()), ["occupied"]);
    }

    #[test]
    fn a_rename_moves_files_and_directories_between_directories() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("pg_control.new"), "1").unwrap();
        rename(&from.join("pg_control.new"), &to.join("pg_control")).unwrap();
        rename(&to, &from.join("to")).unwrap();
        assert_eq!(fs::read(from.join("to/pg_control")).unwrap(), b"1");
        let error = rename(&to, &from).unwrap_err();
        assert!(error.to_string().starts_with("open "), "{error}");
    }

    #[test]
    fn directories_get_exactly_the_mode_and_existing_ones_keep_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let existing = mode_of(dir.path());
        let deep = dir.path().join("base/16384");
        create_dir_all(&deep, 0o777).unwrap();
        create_dir_all(&deep, 0o700).unwrap();
        assert_eq!((mode_of(&deep), mode_of(deep.parent().unwrap())), (0o777, 0o777));
        assert_eq!(mode_of(dir.path()), existing);
        fs::write(dir.path().join("file"), "").unwrap();
        let error = create_dir_all(&dir.path().join("file"), 0o700).unwrap_err();
        assert!(error.to_string().ends_with("not a directory"), "{error}");
        assert!(create_dir_all(&dir.path().join("file/below"), 0o700).is_err());
    }

    #[test]
    fn contents_are_deleted_and_links_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, outside) = (dir.path().join("target"), dir.path().join("outside"));
        fs::create_dir_all(target.join("base/1")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "").unwrap();
        fs::write(target.join("base/1/1259"), "").unwrap();
        std::os::unix::fs::symlink(&outside, target.join("link")).unwrap();
        remove_contents(&target).unwrap();
        assert!(names_in(&target).is_empty());
        assert_eq!(names_in(&outside), ["precious"]);
        assert!(remove_contents(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn a_whole_file_system_can_be_synced() {
        let dir = tempfile::tempdir().unwrap();
        Filesystem::open(dir.path()).unwrap().sync().unwrap();
        sync_dir(dir.path()).unwrap();
    }

    #[test]
    fn a_bare_name_lies_in_the_working_directory() {
        assert_eq!(parent(Path::new("RECOVERYXLOG")), Path::new("."));
        assert_eq!(parent(Path::new("pg_wal/RECOVERYXLOG")), Path::new("pg_wal"));
        assert_eq!(parent(Path::new("/")), Path::new("/"));
    }
}
