//! Who owns the files that a restore by root leaves: PostgreSQL neither starts as root nor in a
//! directory of another user (R19).

use std::os::unix::fs::{MetadataExt, chown, lchown};
use std::path::{Path, PathBuf};

use super::attempt::LOST_AND_FOUND;
use crate::disk::durable;
use crate::error::{Error, Result};

/// Who root restores for: the owner of the directory `to`, or of the nearest one above it that is not root's; `None`
/// when all of them are, or when the restore does not run as root.
pub fn owner_for(to: &Path) -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let owners = to.ancestors().filter_map(|path| std::fs::metadata(path).ok());
    owners.map(|found| (found.uid(), found.gid())).find(|(user, _)| *user != 0)
}

/// Make the directory and what is missing above it, for `owner`.
pub(super) fn create_dir_all(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
    let missing: Vec<PathBuf> =
        path.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
    durable::create_dir_all(path, mode)?;
    let Some((user, group)) = owner else { return Ok(()) };
    for made in missing {
        chown(&made, Some(user), Some(group))
            .map_err(|cause| Error::io("change the owner of", &made, &cause))?;
    }
    Ok(())
}

/// Give `path` and everything below it to `owner`; links themselves, not what they lead to.
pub(super) fn give(path: &Path, owner: (u32, u32)) -> Result<()> {
    let (user, group) = owner;
    lchown(path, Some(user), Some(group)).map_err(|cause| Error::io("change the owner of", path, &cause))?;
    let metadata = std::fs::symlink_metadata(path).map_err(|cause| Error::io("examine", path, &cause))?;
    if !metadata.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(|cause| Error::io("list", path, &cause))? {
        let entry = entry.map_err(|cause| Error::io("list", path, &cause))?;
        if entry.file_name() != LOST_AND_FOUND {
            give(&entry.path(), owner)?;
        }
    }
    Ok(())
}
