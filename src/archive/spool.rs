//! Segments that were opened ahead of recovery, and the pins of what it was told of the tail, in a directory of this user
//! alone, outside the data directory. Before it is delivered, what lies there is known to be what was checked when it was laid
//! ready, or else checked again (R7, R25).

use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::{NamedTempFile, TempPath};

use super::protocol::Destination;
use crate::disk::{FileId, FileStamp, LONGEST_SOCKET_PATH, Space, write_in_pieces};
use crate::error::{Error, Kind, Result};

/// A directory that belongs to one recovering data directory, one repository and one place of that.
#[derive(Debug, Clone)]
pub struct Spool {
    directory: PathBuf,
}

const IDENTITY: &str = "identity";
const LOCK: &str = "lock";
const SOCKET: &str = "socket";
/// Names of files that hold, or held, a segment begin with one of these: laid ready, taken by a call, being written.
const READY: &str = "ready-";
const TAKEN: &str = "taken-";
const WRITING: &str = "writing-";
/// What is left free for others on the spool's file system, bytes.
const LEFT_FREE: u64 = 256 << 20;
/// A spool whose directory did not change for so long serves nobody, nor do the pins in it.
const UNUSED: Duration = Duration::from_hours(24 * 31);

impl Spool {
    /// The spool below `base` for the recovery in `data_dir` of the repository `identity` at `destination`; made when
    /// missing. `None` when the directory is not ours alone: then recovery goes without.
    pub fn open(base: &Path, data_dir: &Path, identity: &str, destination: &Destination) -> Option<Self> {
        let user = rustix::process::geteuid().as_raw();
        // Where all may write and nothing keeps them from renaming what is another's, no directory stays ours.
        let shared = std::fs::metadata(base).ok()?.mode();
        if shared & 0o002 != 0 && shared & 0o1000 == 0 {
            tracing::warn!(path = %base.display(), "all users may write there and it is not sticky; no prefetch, and no pin of the tail");
            return None;
        }
        let parent = base.join(format!("walproof-spool-{user}"));
        let text = format!("{identity}\n{destination}\n{}", data_dir.display());
        let directory = parent.join(&blake3::hash(text.as_bytes()).to_hex()[..16]);
        for directory in [&parent, &directory] {
            let made = DirBuilder::new().mode(0o700).create(directory);
            let metadata = std::fs::symlink_metadata(directory).ok()?;
            let others = metadata.mode() & 0o077;
            let private = metadata.is_dir() && metadata.uid() == user && others == 0;
            if !private {
                tracing::warn!(path = %directory.display(), ?made, "is not a directory of this user alone; no prefetch, and no pin of the tail");
                return None;
            }
        }
        Some(Self { directory })
    }

    /// The spool in an existing directory.
    pub const fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// The lock that one prefetcher holds; `None` when another one does.
    pub(super) fn lock(&self) -> Result<Option<File>> {
        let path = self.directory.join(LOCK);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|cause| Error::io("open", &path, &cause))?;
        Ok(file.try_lock().is_ok().then_some(file))
    }

    /// Where the prefetcher listens: a path short enough for a socket, and what keeps it valid.
    pub(super) fn socket(&self) -> Result<(PathBuf, File)> {
        let directory =
            File::open(&self.directory).map_err(|cause| Error::io("open", &self.directory, &cause))?;
        let path = self.directory.join(SOCKET);
        if path.as_os_str().len() <= LONGEST_SOCKET_PATH {
            return Ok((path, directory));
        }
        Ok((PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd())), directory))
    }

    /// Remove the segments, and the socket of a prefetcher that is gone.
    pub(super) fn clear(&self) {
        for name in self.names() {
            if name == SOCKET || [READY, TAKEN, WRITING].iter().any(|prefix| name.starts_with(prefix)) {
                let _ = std::fs::remove_file(self.directory.join(name));
            }
        }
    }

    /// Remove the spools beside it that nobody used for a month: data directories come and go, above all those of drills.
    pub(super) fn sweep(&self) {
        let beside = self.directory.parent().map(std::fs::read_dir);
        for entry in beside.into_iter().flatten().flatten().flatten() {
            let unused = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            let unused = unused.and_then(|modified| modified.elapsed().ok()).is_some_and(|age| age > UNUSED);
            let spool = Self::at(entry.path());
            if unused && spool.directory != self.directory {
                // Not while a prefetcher that has had nothing to do for so long holds it.
                let Ok(Some(_lock)) = spool.lock() else { continue };
                let _ = std::fs::remove_dir_all(&spool.directory);
            }
        }
    }

    /// Keep the identity, still sealed: what lies here is checked with it, without a request.
    pub(super) fn keep_identity(&self, sealed: &[u8]) -> Result<()> {
        self.write(IDENTITY, sealed)
    }

    /// The identity as it was kept.
    pub(super) fn sealed_identity(&self) -> Result<Vec<u8>> {
        let path = self.directory.join(IDENTITY);
        std::fs::read(&path).map_err(|cause| Error::io("read", &path, &cause).as_kind(Kind::Other))
    }

    /// Lay a segment ready under `name`. It goes to the disk now, so that the server, which syncs what it keeps, need not
    /// wait for that. What is returned shows later whether anybody wrote to it since.
    pub(super) fn lay_ready(&self, name: &str, plain: &[u8]) -> Result<FileStamp> {
        let path = self.directory.join(format!("{READY}{name}"));
        let free = Space::at(&self.directory)?.free;
        if free < LEFT_FREE + plain.len() as u64 {
            return Err(Error::new(
                Kind::Other,
                format!("{free} bytes are free at {}: too few", self.directory.display()),
            ));
        }
        let write = || {
            let mut file = tempfile::Builder::new().prefix(WRITING).tempfile_in(&self.directory)?;
            write_in_pieces(&mut file, plain)?;
            file.as_file().sync_data()?;
            // In the past: whatever is written from now on leaves another time, also within one tick of the clock.
            file.as_file().set_modified(SystemTime::now() - Duration::from_secs(1))?;
            let file = file.persist(&path).map_err(|error| error.error)?;
            file.metadata().map(|metadata| FileStamp::of(&metadata))
        };
        write().map_err(|cause: std::io::Error| Error::io("write", &path, &cause))
    }

    /// Take what was laid ready under `name`: from now on it is this call's alone. Its stamp is of just before that.
    pub(super) fn take(&self, name: &str) -> Result<(TempPath, File, FileStamp)> {
        let from = self.directory.join(format!("{READY}{name}"));
        let to = self.directory.join(format!("{TAKEN}{}-{name}", std::process::id()));
        let take = || {
            let file = File::open(&from)?;
            let stamp = FileStamp::of(&file.metadata()?);
            std::fs::rename(&from, &to)?;
            let path = TempPath::try_from_path(&to)?;
            let same = FileId::at(&to)? == stamp.file;
            if same {
                Ok((path, file, stamp))
            } else {
                Err(std::io::Error::other("it was replaced in the meantime"))
            }
        };
        take().map_err(|cause| Error::io("take", &from, &cause))
    }

    /// Remove what was laid ready under `name`.
    pub(super) fn forget(&self, name: &str) {
        let _ = std::fs::remove_file(self.directory.join(format!("{READY}{name}")));
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        let write = || {
            let mut file = NamedTempFile::with_prefix_in(WRITING, &self.directory)?;
            file.write_all(bytes)?;
            file.persist(&path).map_err(|error| error.error)
        };
        write().map(|_| ()).map_err(|cause: std::io::Error| Error::io("write", &path, &cause))
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spools_that_nobody_used_for_a_month_go() {
        let base = tempfile::tempdir().unwrap();
        let destination = Destination::of("there");
        let spool = |name: &str| {
            Spool::open(base.path(), Path::new(name), "main/7", &destination).expect("a private directory")
        };
        let [own, old, young] = ["/own", "/old", "/young"].map(spool);
        let month = SystemTime::now() - UNUSED - Duration::from_mins(1);
        for old in [&own, &old] {
            old.keep_identity(b"x").unwrap();
            File::open(old.path()).unwrap().set_modified(month).unwrap();
        }
        own.sweep();
        assert!(own.path().exists() && young.path().exists() && !old.path().exists());
    }
}
