//! Segments fetched ahead of recovery, and the pins of what it was told of the tail. They lie there sealed, as in the store, and are opened and authenticated
//! only when they are asked for: whatever is in the spool, nothing unverified reaches PostgreSQL (R25).

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::format::WalDigest;
use crate::postgres::WalName;
use crate::repository::{Namespace, Repository, WalFile};

/// A directory of sealed segments that belongs to one recovering data directory.
#[derive(Debug, Clone)]
pub struct Spool {
    directory: PathBuf,
}

const IDENTITY: &str = "identity";

impl Spool {
    /// The spool below `base` for the recovery in `data_dir` of the repository `identity`; made when missing. `None`
    /// when the directory is not ours alone: then recovery goes without.
    pub fn open(base: &Path, data_dir: &Path, identity: &str) -> Option<Self> {
        let user = rustix::process::geteuid().as_raw();
        // Where all may write and nothing keeps them from renaming what is another's, no directory stays ours.
        let shared = std::fs::metadata(base).ok()?.mode();
        if shared & 0o002 != 0 && shared & 0o1000 == 0 {
            tracing::warn!(path = %base.display(), "all users may write there and it is not sticky; no prefetch, and no pin of the tail");
            return None;
        }
        let parent = base.join(format!("walproof-spool-{user}"));
        let text = format!("{identity}\n{}", data_dir.display());
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

    /// The lock that one prefetching process holds; `None` when another one does.
    pub(super) fn lock(&self) -> Result<Option<File>> {
        let path = self.directory.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|cause| Error::io("open", &path, &cause))?;
        Ok(file.try_lock().is_ok().then_some(file))
    }

    /// The content of `name`, if it was fetched ahead.
    pub(super) fn find(
        &self,
        namespace: &Namespace,
        system_identifier: u64,
        name: &WalName,
    ) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.files().into_iter().find(|file| file.name == *name) else { return Ok(None) };
        let repository =
            namespace.open_sealed_identity(system_identifier, &read(&self.directory.join(IDENTITY))?)?;
        let sealed = read(&self.path_of(&file))?;
        let (_, plain) = repository.open_wal_file(&file, &sealed)?;
        Ok(Some(plain))
    }

    /// Keep the identity, still sealed, so that a hit needs no request at all.
    pub(super) fn remember_identity(&self, repository: &Repository) {
        let known = std::fs::read(self.directory.join(IDENTITY));
        if known.is_err() || known.is_ok_and(|known| known != repository.sealed_identity()) {
            // Without it the spool is not used, nothing else happens.
            let _ = self.write(IDENTITY, repository.sealed_identity());
        }
    }

    pub(super) fn has(&self, file: &WalFile) -> bool {
        self.path_of(file).exists()
    }

    pub(super) fn put(&self, file: &WalFile, sealed: &[u8]) -> Result<()> {
        self.write(&format!("{}-{}", file.name, file.digest), sealed)
    }

    /// Remove what recovery has passed: everything but the segments `from` and later of its timeline.
    pub(super) fn forget_before(&self, from: &WalName) {
        for file in self.files() {
            if file.name < *from || file.name.timeline() != from.timeline() {
                let _ = std::fs::remove_file(self.path_of(&file));
            }
        }
    }

    fn path_of(&self, file: &WalFile) -> PathBuf {
        self.directory.join(format!("{}-{}", file.name, file.digest))
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
            std::io::Write::write_all(&mut file, bytes)?;
            file.persist(&path).map_err(|error| error.error)
        };
        write().map(|_| ()).map_err(|cause: std::io::Error| Error::io("write", &path, &cause))
    }

    fn files(&self) -> Vec<WalFile> {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return Vec::new() };
        let parse = |entry: std::fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let (name, digest) = name.rsplit_once('-')?;
            let (name, digest): (WalName, WalDigest) = (name.parse().ok()?, digest.parse().ok()?);
            Some(WalFile { name, digest, stored_len: 0, modified: jiff::Timestamp::UNIX_EPOCH })
        };
        entries.flatten().filter_map(parse).collect()
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|cause| Error::io("read", path, &cause).as_kind(Kind::Other))
}
