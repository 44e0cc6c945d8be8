//! What proves that a directory was filled by one attempt at a restore, so that the attempt, begun again, may empty it
//! (R17): a random id in the data directory, and the same in every tablespace's directory, durable before any content.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::disk::durable;
use crate::error::{Error, Kind, Result};
use crate::seal::fill_random;

/// The mark in a tablespace's version directory while it is being filled: a symbolic link to the attempt's id, so that it is
/// there whole or not at all. It goes where the directory goes: a server that makes the directory anew has none.
pub(super) const MARK: &str = "walproof.restore";

/// One attempt at a restore, however often it is begun again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempt(String);

impl Attempt {
    pub(super) fn new() -> Result<Self> {
        let mut random = [0; 16];
        fill_random(&mut random)?;
        Ok(Self(format!("{:032x}", u128::from_be_bytes(random))))
    }

    /// The attempt that `path` names; `None` where none is named, which proves nothing.
    pub(super) fn read(path: &Path) -> Option<Self> {
        Self::parse(std::fs::read_to_string(path).ok()?)
    }

    fn parse(text: String) -> Option<Self> {
        (text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(Self(text))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Whether this attempt filled the directory.
    pub(super) fn owns(&self, directory: &Path) -> bool {
        let marked = std::fs::read_link(directory.join(MARK)).ok();
        marked.and_then(|id| Self::parse(id.into_os_string().into_string().ok()?)).as_ref() == Some(self)
    }

    /// Make an empty directory its own, durably. `false`, and untouched: something is in it, or another attempt's mark.
    pub(super) fn claim(&self, directory: &Path) -> Result<bool> {
        let path = directory.join(MARK);
        if !self.owns(directory) {
            match symlink(&self.0, &path) {
                Ok(()) => {}
                Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => return Ok(false),
                Err(cause) => return Err(Error::io("link", &path, &cause)),
            }
            if contents(directory)?.iter().any(|entry| *entry != path) {
                remove_if_there(&path)?;
                return Ok(false);
            }
        }
        durable::sync_dir(directory)?;
        // The directory's own name, too.
        directory.parent().map_or(Ok(()), durable::sync_dir)?;
        Ok(true)
    }

    /// Make a directory of the cluster that is taken over its own, durably, whatever is in it.
    pub(super) fn take_over(&self, directory: &Path) -> Result<()> {
        let path = directory.join(MARK);
        if !self.owns(directory) {
            remove_if_there(&path)?;
            symlink(&self.0, &path).map_err(|cause| Error::io("link", &path, &cause))?;
        }
        durable::sync_dir(directory)
    }

    /// Remove what it wrote there, but for the mark.
    pub(super) fn empty(directory: &Path) -> Result<()> {
        remove_all_but(directory, &[MARK])
    }

    /// The directory is as good as any other from now on.
    pub(super) fn unmark(directory: &Path) -> Result<()> {
        remove_if_there(&directory.join(MARK))?;
        durable::sync_dir(directory)
    }
}

/// Remove a file or a link, if there is one.
pub(super) fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, &cause)),
        _ => Ok(()),
    }
}

/// What the file system itself keeps at the top of a mount point.
pub(super) const LOST_AND_FOUND: &str = "lost+found";

/// What is in a directory, but for `lost+found`; nothing when it is missing.
pub(super) fn contents(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(Error::io("list", path, &cause)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|cause| Error::io("list", path, &cause))?;
        if entry.file_name() != LOST_AND_FOUND {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Remove everything in a directory but what has one of these names.
pub(super) fn remove_all_but(directory: &Path, kept: &[&str]) -> Result<()> {
    for path in contents(directory)? {
        let is_kept = path.file_name().is_some_and(|name| kept.iter().any(|kept| name == *kept));
        if is_kept {
            continue;
        }
        let metadata =
            std::fs::symlink_metadata(&path).map_err(|cause| Error::io("examine", &path, &cause))?;
        let removed =
            if metadata.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(|cause| Error::io("remove", &path, &cause))?;
    }
    Ok(())
}

/// The lock that keeps a second restore out of a directory: held while the file is open.
pub(super) fn lock(path: &Path, root: &Path) -> Result<std::fs::File> {
    let file = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|cause| Error::io("create", path, &cause))?;
    if file.try_lock().is_err() {
        return Err(Error::new(Kind::Busy, format!("another restore is filling {}", root.display())));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r17_only_the_attempt_that_marked_a_directory_owns_it() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (Attempt::new().unwrap(), Attempt::new().unwrap());
        assert!(!one.owns(dir.path()));
        assert!(other.claim(dir.path()).unwrap());
        // Two that begin at the same time both found the directory empty: one of them has it.
        assert!(!one.claim(dir.path()).unwrap());
        assert!(other.owns(dir.path()) && !one.owns(dir.path()));
        one.take_over(dir.path()).unwrap();
        std::fs::write(dir.path().join("1234"), "").unwrap();
        assert!(one.owns(dir.path()) && !other.owns(dir.path()));
        assert!(one.claim(dir.path()).unwrap() && !other.claim(dir.path()).unwrap());
        Attempt::empty(dir.path()).unwrap();
        assert!(one.owns(dir.path()) && contents(dir.path()).unwrap().len() == 1);
        Attempt::unmark(dir.path()).unwrap();
        Attempt::unmark(dir.path()).unwrap();
        assert!(!one.owns(dir.path()) && contents(dir.path()).unwrap().is_empty());
        std::fs::write(dir.path().join("5678"), "").unwrap();
        assert!(!one.claim(dir.path()).unwrap(), "it is not empty");
        assert_eq!(contents(dir.path()).unwrap(), [dir.path().join("5678")]);
        std::fs::write(dir.path().join("named"), one.as_bytes()).unwrap();
        assert_eq!(Attempt::read(&dir.path().join("named")), Some(one));
        std::fs::write(dir.path().join("named"), "").unwrap();
        assert_eq!(Attempt::read(&dir.path().join("named")), None, "an empty file names no attempt");
    }

    #[test]
    fn a_mount_point_with_lost_and_found_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(LOST_AND_FOUND)).unwrap();
        std::fs::write(dir.path().join("x"), "").unwrap();
        remove_all_but(dir.path(), &[]).unwrap();
        assert!(contents(dir.path()).unwrap().is_empty());
        assert!(dir.path().join(LOST_AND_FOUND).is_dir());
        assert!(contents(&dir.path().join("missing")).unwrap().is_empty());
    }
}
