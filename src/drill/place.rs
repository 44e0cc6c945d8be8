//! The drill's own directory: marked before anything is put into it, and wiped by the next drill if this one is killed.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::cluster::{MOST_WAL, PrivateServer, PrivateSettings};
use crate::disk::{Space, durable};
use crate::error::{Error, Kind, Result};
use crate::present::size;
use crate::seal::fill_random;

const MARK: &str = "walproof-drill";
const PREFIX: &str = "drill-";

/// A directory for one drill. Locked against others in the same parent.
#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    socket_dir: PathBuf,
    _lock: File,
}

impl Place {
    /// Clear away what killed drills left in `parent`, and make a new directory in it.
    pub(super) fn make(parent: &Path) -> Result<Self> {
        durable::create_dir_all(parent, 0o700)?;
        let lock = lock(parent)?;
        clear_left_overs(parent)?;
        let mut random = [0; 4];
        fill_random(&mut random)?;
        let name = format!("{PREFIX}{:08x}", u32::from_le_bytes(random));
        let root = parent.join(&name);
        let inside = root.join("s");
        let socket_dir = if PrivateSettings::fits(&inside) {
            inside
        } else {
            std::env::temp_dir().join(format!("walproof-{name}"))
        };
        if !PrivateSettings::fits(&socket_dir) {
            return Err(Error::usage(format!("{} is too long for a socket", socket_dir.display()))
                .hint("use a shorter drill.directory, or a shorter TMPDIR"));
        }
        make_private(&root)?;
        // Before anything else: it tells the next drill what is ours, the socket's directory included.
        durable::write_file(&root.join(MARK), socket_dir.as_os_str().as_encoded_bytes(), 0o600)?;
        durable::sync_dir(&root)?;
        durable::sync_dir(parent)?;
        make_private(&socket_dir)?;
        for part in ["tablespaces", "created"] {
            make_private(&root.join(part))?;
        }
        Ok(Self { root, socket_dir, _lock: lock })
    }

    /// The restored data directory.
    pub(super) fn data_dir(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Where the tablespace of this number goes.
    pub(super) fn tablespace(&self, oid: u32) -> PathBuf {
        self.root.join("tablespaces").join(oid.to_string())
    }

    /// Where tablespaces go that are created in the replayed WAL.
    pub(super) fn created(&self) -> PathBuf {
        self.root.join("created")
    }

    /// Where the server's socket is.
    pub(super) fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// All of it.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Refuse a rehearsal that would fill the disk: of so many bytes of data, and of WAL that is replayed.
    pub(super) fn check_room(&self, data: u64, wal: u64) -> Result<()> {
        // Replayed WAL becomes data, and so do the sessions that check it.
        let needed = data.saturating_add(data / 10).saturating_add(wal.min(MOST_WAL));
        let free = Space::at(&self.root)?.free;
        if free >= needed {
            return Ok(());
        }
        Err(Error::impossible(format!(
            "a drill needs about {} below {} ({} of data, {} of WAL), and {} are free",
            size(needed),
            self.root.parent().unwrap_or(&self.root).display(),
            size(data),
            size(wal),
            size(free)
        ))
        .hint("put drill.directory on a larger file system, or aim at an earlier moment"))
    }

    /// Remove all of it.
    pub(super) fn wipe(self) -> Result<()> {
        wipe(&self.root)
    }
}

fn make_private(path: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(path).map_err(|cause| Error::io("create", path, &cause))
}

fn lock(parent: &Path) -> Result<File> {
    let path = parent.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|cause| Error::io("open", &path, &cause))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::new(Kind::Busy, format!("another drill runs in {}", parent.display()))),
    }
}

/// Remove what drills left here that were killed: directories with our name, of this user, that bear the mark or hold
/// nothing at all.
fn clear_left_overs(parent: &Path) -> Result<()> {
    let entries = std::fs::read_dir(parent).map_err(|cause| Error::io("list", parent, &cause))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let named = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        let ours = std::fs::symlink_metadata(&path)
            .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw());
        let marked = || {
            path.join(MARK).is_file() || std::fs::read_dir(&path).is_ok_and(|mut all| all.next().is_none())
        };
        if named && ours && marked() {
            tracing::info!(path = %path.display(), "an earlier drill was killed: removing what it left");
            PrivateServer::stop_left_over(&path.join("data"))?;
            wipe(&path)?;
        }
    }
    Ok(())
}

/// The mark goes last, so that a drill that is killed here leaves something that the next one
/// recognises.
fn wipe(root: &Path) -> Result<()> {
    use std::os::unix::ffi::OsStringExt;
    let mark = root.join(MARK);
    if let Ok(bytes) = std::fs::read(&mark) {
        let socket_dir = PathBuf::from(std::ffi::OsString::from_vec(bytes));
        let ours = socket_dir
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"walproof-drill-"));
        if ours && !socket_dir.starts_with(root) {
            remove(&socket_dir)?;
        }
    }
    let entries = std::fs::read_dir(root).map_err(|cause| Error::io("list", root, &cause))?;
    for entry in entries.flatten().filter(|entry| entry.path() != mark) {
        remove(&entry.path())?;
    }
    remove(root)
}

fn remove(path: &Path) -> Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    let mut last = Ok(());
    // Processes of a server that was just killed may still write.
    for _ in 0..20 {
        last = if metadata.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        match &last {
            Ok(()) => return Ok(()),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(100)),
        }
    }
    last.map_err(|cause| Error::io("remove", path, &cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_drill_left_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let killed = Place::make(parent.path()).unwrap();
        let root = killed.root().to_owned();
        std::fs::create_dir(killed.data_dir()).unwrap();
        drop(killed);
        let stranger = parent.path().join("drill-notes");
        std::fs::create_dir(&stranger).unwrap();
        std::fs::write(stranger.join("precious"), "x").unwrap();
        let next = Place::make(parent.path()).unwrap();
        assert!(!root.exists() && stranger.join("precious").exists());
        assert_eq!(Place::make(parent.path()).unwrap_err().kind(), Kind::Busy);
        let mine = next.root().to_owned();
        next.wipe().unwrap();
        assert!(!mine.exists());
    }
}
