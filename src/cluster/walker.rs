//! How the list is made. Files come and go meanwhile: what vanishes was dropped, and what appears is in
//! the WAL that the backup needs anyway (R12).

use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::exclude::{self, Place, Unlogged};
use super::tablespaces::version_dir;
use super::tree::{DirEntry, FileEntry, FileStat, Tablespace, Walk};
use crate::error::{Error, Kind, Result};
use crate::postgres::{ControlFile, Major, RelationFile};

pub(super) struct Walker {
    root: PathBuf,
    mode: u32,
    version_dir: String,
    major: Major,
    tablespaces_inside: Vec<PathBuf>,
    found: Walk,
}

impl Walker {
    pub(super) fn new(data_dir: &Path, control: &ControlFile) -> Result<Self> {
        let root = fs::canonicalize(data_dir).map_err(|cause| Error::io("find", data_dir, &cause))?;
        let metadata = fs::metadata(&root).map_err(|cause| Error::io("look at", &root, &cause))?;
        let mode = permissions(&metadata);
        Ok(Self {
            mode,
            version_dir: version_dir(control),
            major: control.major,
            tablespaces_inside: tablespaces_inside(&root)?,
            found: Walk { mode, ..Walk::default() },
            root,
        })
    }

    pub(super) fn run(&mut self) -> Result<()> {
        self.directory(PathBuf::new(), self.mode, Place::Root)
    }

    /// Everything in the directory `path`, which itself is listed too.
    fn directory(&mut self, path: PathBuf, mode: u32, place: Place) -> Result<()> {
        let Some(entries) = list(&self.root.join(&path))? else { return Ok(()) };
        // What PostgreSQL gives a meaning to is ASCII: to judge a name by, the rest may be anything.
        let name = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let unlogged = match place {
            Place::Relations => Unlogged::among(entries.iter().map(name)),
            _ => Unlogged::default(),
        };
        // There may be a million: none is held longer than it takes.
        for entry in entries {
            let name = name(&entry);
            if !exclude::is_excluded(place, &name, &unlogged) {
                self.entry(&entry, &name, &path, place)?;
            }
        }
        if path.as_os_str() != "" {
            self.found.directories.push(DirEntry { path, mode });
        }
        Ok(())
    }

    fn entry(&mut self, entry: &fs::DirEntry, name: &str, parent: &Path, place: Place) -> Result<()> {
        let path = parent.join(entry.file_name());
        // Costs nothing: the directory itself tells. The stat comes after, and only for what is copied.
        let Some(kind) = unless_vanished(entry.file_type(), &path)? else { return Ok(()) };
        if place == Place::Tablespaces && exclude::is_oid(name) && (kind.is_dir() || kind.is_symlink()) {
            return self.tablespace(entry, name, &path, kind);
        }
        if kind.is_symlink() {
            return self.link(name, path, place);
        }
        if !kind.is_dir() && !kind.is_file() {
            self.found.skipped.push((path, format!("{}, not a file", special(kind))));
            return Ok(());
        }
        let Some(metadata) = unless_vanished(entry.metadata(), &path)? else { return Ok(()) };
        if kind.is_dir() {
            return self.subdirectory(name, path, permissions(&metadata), place);
        }
        let relation = if place == Place::Relations { RelationFile::parse(name) } else { None };
        let (size, mode, stat) = (metadata.len(), permissions(&metadata), FileStat::of(&metadata));
        self.found.files.push(FileEntry { path, size, mode, stat, relation });
        Ok(())
    }

    fn subdirectory(&mut self, name: &str, path: PathBuf, mode: u32, place: Place) -> Result<()> {
        if let Some(kept) = exclude::emptied(place, name, self.major) {
            self.found.directories.extend(kept.iter().map(|kept| DirEntry { path: path.join(kept), mode }));
            self.found.directories.push(DirEntry { path, mode });
            return Ok(());
        }
        if self.tablespaces_inside.contains(&self.root.join(&path)) {
            return Ok(());
        }
        self.directory(path, mode, place.below(name))
    }

    /// PostgreSQL makes links for tablespaces only; all others are the work of an operator.
    fn link(&mut self, name: &str, path: PathBuf, place: Place) -> Result<()> {
        if exclude::emptied(place, name, self.major).is_some() || exclude::is_followed(place, name) {
            return self.subdirectory(name, path, self.mode, place);
        }
        if place.holds_databases() {
            let message = format!("{} is a symbolic link, which PostgreSQL does not support", path.display());
            return Err(Error::new(Kind::Impossible, message)
                .hint("should what it points to be in a tablespace instead (create tablespace)?"));
        }
        let is_directory = fs::metadata(self.root.join(&path)).is_ok_and(|found| found.is_dir());
        if place == Place::Root && is_directory {
            self.found.directories.push(DirEntry { path: path.clone(), mode: self.mode });
            let reason = "symbolic link to a directory, kept as an empty directory";
            self.found.skipped.push((path, reason.to_owned()));
        } else {
            self.found.skipped.push((path, "symbolic link, not followed".to_owned()));
        }
        Ok(())
    }

    fn tablespace(&mut self, entry: &fs::DirEntry, name: &str, path: &Path, kind: FileType) -> Result<()> {
        let Ok(oid) = name.parse() else { return Ok(()) };
        let in_place = kind.is_dir();
        let location = if in_place {
            let Some(metadata) = unless_vanished(entry.metadata(), path)? else { return Ok(()) };
            self.found.directories.push(DirEntry { path: path.to_owned(), mode: permissions(&metadata) });
            path.to_owned()
        } else {
            let Some(location) = unless_vanished(fs::read_link(entry.path()), path)? else { return Ok(()) };
            location
        };
        self.found.tablespaces.push(Tablespace { oid, location, in_place });
        let version_dir = path.join(&self.version_dir);
        let Some(metadata) =
            unless_vanished(fs::symlink_metadata(self.root.join(&version_dir)), &version_dir)?
        else {
            return Ok(());
        };
        self.directory(version_dir, permissions(&metadata), Place::Databases)
    }

    /// Sorts, and refuses a list without the files that no cluster can lack.
    pub(super) fn finish(self) -> Result<Walk> {
        let mut found = self.found;
        found.directories.sort_by(|a, b| by_bytes(&a.path, &b.path));
        // Without the memory that a stable sort takes.
        found.files.sort_unstable_by(|a, b| by_bytes(&a.path, &b.path));
        found.tablespaces.sort_by_key(|tablespace| tablespace.oid);
        found.skipped.sort_by(|a, b| by_bytes(&a.0, &b.0));
        for required in ["PG_VERSION", "global/pg_filenode.map"] {
            let path = Path::new(required);
            if found.files.binary_search_by(|file| by_bytes(&file.path, path)).is_err() {
                let message = format!("{required} is missing in {}", self.root.display());
                return Err(Error::server(message).hint("is data_dir the directory of a running server?"));
            }
        }
        Ok(found)
    }
}

/// The entries of a directory, or nothing if it vanished.
pub(super) fn list(path: &Path) -> Result<Option<Vec<fs::DirEntry>>> {
    let Some(entries) = unless_vanished(fs::read_dir(path), path)? else { return Ok(None) };
    entries.collect::<io::Result<_>>().map(Some).map_err(|cause| Error::io("list", path, &cause))
}

fn unless_vanished<T>(result: io::Result<T>, path: &Path) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Error::io("read", path, &cause)),
    }
}

fn permissions(metadata: &Metadata) -> u32 {
    metadata.mode() & 0o7777
}

fn special(kind: FileType) -> &'static str {
    if kind.is_socket() {
        "socket"
    } else if kind.is_fifo() {
        "named pipe"
    } else {
        "device"
    }
}

fn by_bytes(a: &Path, b: &Path) -> std::cmp::Ordering {
    a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes())
}

/// Real paths of tablespaces that somebody put into the data directory itself (PostgreSQL only warns). They
/// are backed up as tablespaces, not twice.
fn tablespaces_inside(root: &Path) -> Result<Vec<PathBuf>> {
    let links = root.join("pg_tblspc");
    let mut inside = Vec::new();
    for entry in list(&links)?.unwrap_or_default() {
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if let (true, Ok(location)) = (is_link, fs::canonicalize(entry.path()))
            && location.starts_with(root)
        {
            inside.push(location);
        }
    }
    Ok(inside)
}
