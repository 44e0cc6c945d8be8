//! The directories of a repository on a local disk: made before the files in them, and durable whoever made them.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::disk::{LONGEST_WRITE, durable};
use crate::error::{Error, Kind, Result};

/// The root directory, and what is known of the directories below it.
#[derive(Debug, Clone)]
pub(super) struct LocalRoot {
    root: Arc<Path>,
    /// Directories that this process has seen made durable, up to the root. One that is merely there may be left by a
    /// call whose sync failed.
    durable: Arc<Mutex<HashSet<PathBuf>>>,
}

impl LocalRoot {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.into(), durable: Arc::default() }
    }

    /// Whether the directory is there.
    pub(super) fn is_there(&self) -> bool {
        self.root.is_dir()
    }

    /// An error while it is not: nothing is found then, which is no answer, and nothing may be put in its place.
    pub(super) fn must_be_there(&self) -> Result<()> {
        if self.is_there() { Ok(()) } else { Err(absent(&self.root)) }
    }

    pub(super) fn path_of(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Make the directory for `key` and all above it, durably.
    pub(super) async fn make_parent(&self, key: &str) -> Result<()> {
        let Some(parent) = self.path_of(key).parent().map(Path::to_owned) else { return Ok(()) };
        self.must_be_there()?;
        if self.is_durable(&parent) {
            return Ok(());
        }
        let this = self.clone();
        blocking(move || this.make_durable(&parent)).await
    }

    /// Make the object `key`, which is there, durable: its bytes and its name (R1).
    pub(super) async fn sync(&self, key: &str) -> Result<()> {
        let (this, path) = (self.clone(), self.path_of(key));
        let work = move || {
            let file = File::open(&path).map_err(|cause| Error::io("open", &path, &cause))?;
            file.sync_all().map_err(|cause| Error::io("sync", &path, &cause))?;
            let Some(parent) = path.parent() else { return Ok(()) };
            durable::sync_dir(parent)?;
            this.make_durable(parent)
        };
        blocking(work).await
    }

    fn is_durable(&self, directory: &Path) -> bool {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(directory)
    }

    fn make_durable(&self, directory: &Path) -> Result<()> {
        durable::create_dir_all(directory, 0o700)?;
        for directory in directory.ancestors() {
            if self.is_durable(directory) {
                break;
            }
            durable::sync_dir(directory)?;
            if directory == &*self.root {
                break;
            }
        }
        let below = directory.ancestors().take_while(|directory| directory.starts_with(&self.root));
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        durable.extend(below.map(Path::to_owned));
        Ok(())
    }
}

/// That a repository's directory is not there.
pub(super) fn absent(root: &Path) -> Error {
    let what = format!("the repository's directory {} is not there", root.display());
    Error::new(Kind::Unreachable, what)
        .hint("is its disk mounted? where there was no repository yet, `walproof init` makes one")
}

/// A part of an object as a local disk should get it.
pub(super) fn in_pieces(part: &Bytes) -> impl Iterator<Item = Bytes> {
    let begins = (0..part.len()).step_by(LONGEST_WRITE);
    begins.map(|begin| part.slice(begin..part.len().min(begin + LONGEST_WRITE)))
}

async fn blocking(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|cause| Error::new(Kind::Other, format!("wait for the disk: {cause}")))?;
    // The disk does not do what a put needs: for the caller that is a store that fails.
    done.map_err(|error| error.as_kind(Kind::Unreachable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_cut_into_all_of_its_bytes() {
        for len in [0, 1, LONGEST_WRITE, 3 * LONGEST_WRITE + 7] {
            let part: Bytes = (0..len).map(|at| at.to_le_bytes()[1]).collect();
            let pieces: Vec<Bytes> = in_pieces(&part).collect();
            assert!(pieces.iter().all(|piece| piece.len() <= LONGEST_WRITE));
            assert!(pieces.concat() == part, "{len}");
        }
    }
}
