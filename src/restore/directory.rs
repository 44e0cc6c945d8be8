//! The directories that a restore fills: empty ones, or what an interrupted restore left (R17).

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::plan::Plan;
use crate::cluster::durable::{self, Filesystem};
use crate::error::{Error, Kind, Result};
use crate::repository::Manifest;

/// `pg_control` under the name that it has until everything else is durable: as long as it is there and `pg_control`
/// is not, the directory holds an unfinished restore, and nothing else.
const UNFINISHED: &str = "global/pg_control.walproof";
const CONTROL: &str = "global/pg_control";

/// A data directory that is being filled; locked against a second restore.
#[derive(Debug)]
pub(super) struct Target {
    root: PathBuf,
    /// Opened before anything is written, so that no failed write goes unheard.
    filesystems: Vec<Filesystem>,
    _lock: File,
}

impl Plan {
    /// Whether the directories can be used, without touching them.
    pub fn check_directories(&self) -> Result<()> {
        let unfinished = state(&self.to)? == State::Unfinished;
        for (_, location) in &self.tablespaces {
            let version = location.join(version_directory(&self.backup));
            if !unfinished && !is_empty_or_missing(&version)? {
                return Err(not_empty(&version));
            }
            if location.starts_with(&self.to) {
                return Err(Error::usage(format!(
                    "tablespace {} lies in the data directory",
                    location.display()
                )));
            }
        }
        self.check_space(unfinished)
    }

    /// A restore that cannot fit is refused before it fills the disk. One that was interrupted holds space that it
    /// will give back, so there the disk decides.
    fn check_space(&self, unfinished: bool) -> Result<()> {
        let all_here = self.tablespaces.is_empty() && !unfinished;
        let Some(existing) = self.to.ancestors().find(|path| path.exists()).filter(|_| all_here) else {
            return Ok(());
        };
        let stat = rustix::fs::statvfs(existing)
            .map_err(|cause| Error::io("examine the file system of", existing, &cause.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free >= self.backup.size_bytes {
            return Ok(());
        }
        Err(Error::impossible(format!(
            "{} bytes are needed, {free} are free on the file system of {}",
            self.backup.size_bytes,
            self.to.display()
        ))
        .hint("restore to a larger file system, or free space on this one"))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Empty,
    Unfinished,
}

fn state(root: &Path) -> Result<State> {
    if is_empty_or_missing(root)? {
        return Ok(State::Empty);
    }
    if root.join(UNFINISHED).exists() && !root.join(CONTROL).exists() {
        return Ok(State::Unfinished);
    }
    Err(not_empty(root))
}

fn not_empty(path: &Path) -> Error {
    Error::impossible(format!("{} is not empty", path.display())).hint(
        "restore into an empty directory, and move the old one away only when the new one is proven good",
    )
}

fn is_empty_or_missing(path: &Path) -> Result<bool> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(cause) => Err(Error::io("look into", path, &cause)),
    }
}

fn version_directory(backup: &Manifest) -> String {
    format!("PG_{}_{}", backup.pg_version_num / 10_000, backup.catalog_version)
}

impl Target {
    /// Make the directories of the plan, empty, and mark the restore as unfinished.
    pub(super) fn begin(plan: &Plan) -> Result<Self> {
        let unfinished = state(&plan.to)? == State::Unfinished;
        let root_mode = plan.backup.directories.first().map_or(0o700, |directory| directory.mode);
        durable::create_dir_all(&plan.to, root_mode)?;
        set_mode(&plan.to, root_mode)?;
        durable::create_dir_all(&plan.to.join("global"), root_mode)?;
        let lock = lock(&plan.to.join(UNFINISHED))?;
        durable::sync_dir(&plan.to.join("global"))?;
        let mut target = Self { root: plan.to.clone(), filesystems: Vec::new(), _lock: lock };
        if unfinished {
            tracing::info!(path = %plan.to.display(), "an interrupted restore is begun again");
            target.wipe(plan)?;
        }
        target.filesystems = filesystems(plan)?;
        target.make_directories(plan)?;
        Ok(target)
    }

    /// Remove what the interrupted restore wrote, but for the mark.
    fn wipe(&self, plan: &Plan) -> Result<()> {
        for (_, location) in &plan.tablespaces {
            let version = location.join(version_directory(&plan.backup));
            // Only what the interrupted restore had linked is its own.
            let linked = std::fs::read_dir(self.root.join("pg_tblspc")).is_ok_and(|links| {
                links.flatten().any(|link| std::fs::read_link(link.path()).is_ok_and(|to| to == *location))
            });
            if linked && version.exists() {
                durable::remove_contents(&version)?;
            } else if !is_empty_or_missing(&version)? {
                return Err(not_empty(&version));
            }
        }
        let keep = self.root.join("global");
        for entry in
            std::fs::read_dir(&self.root).map_err(|cause| Error::io("look into", &self.root, &cause))?
        {
            let path = entry.map_err(|cause| Error::io("look into", &self.root, &cause))?.path();
            if path != keep {
                remove(&path)?;
            }
        }
        for entry in std::fs::read_dir(&keep).map_err(|cause| Error::io("look into", &keep, &cause))? {
            let path = entry.map_err(|cause| Error::io("look into", &keep, &cause))?.path();
            if path != self.root.join(UNFINISHED) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn make_directories(&self, plan: &Plan) -> Result<()> {
        let mut links_made = false;
        for directory in plan.backup.directories.iter().filter(|directory| !directory.path.is_empty()) {
            if !links_made && directory.path.starts_with("pg_tblspc/") {
                self.make_tablespaces(plan)?;
                links_made = true;
            }
            let path = self.path(&directory.path)?;
            make_directory(&path, directory.mode)?;
        }
        if !links_made {
            self.make_tablespaces(plan)?;
        }
        Ok(())
    }

    fn make_tablespaces(&self, plan: &Plan) -> Result<()> {
        for (oid, location) in &plan.tablespaces {
            let link = self.root.join(format!("pg_tblspc/{oid}"));
            symlink(location, &link).map_err(|cause| Error::io("link", &link, &cause))?;
        }
        // The links are what tells a later run that the content is ours: they are durable before it.
        let links = self.root.join("pg_tblspc");
        if plan.tablespaces.is_empty() { Ok(()) } else { durable::sync_dir(&links) }
    }

    /// A path of the manifest below the data directory; one that would leave it is refused.
    pub(super) fn path(&self, relative: &str) -> Result<PathBuf> {
        let inside = relative.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if inside {
            Ok(self.root.join(relative))
        } else {
            Err(Error::corrupt(format!("\"{relative}\" is no path of a backup")))
        }
    }

    /// Put `bytes` where `pg_control` waits for the rest.
    pub(super) fn write_control(&self, bytes: &[u8], mode: u32) -> Result<()> {
        let path = self.root.join(UNFINISHED);
        std::fs::write(&path, bytes).map_err(|cause| Error::io("write", &path, &cause))?;
        set_mode(&path, mode)
    }

    /// Make durable what is written so far.
    pub(super) fn sync(&self) -> Result<()> {
        self.filesystems.iter().try_for_each(Filesystem::sync)
    }

    /// Make everything durable, then let the cluster exist. The last line is the commit point (R18).
    pub(super) fn commit(&self) -> Result<()> {
        self.sync()?;
        durable::rename(&self.root.join(UNFINISHED), &self.root.join(CONTROL))
    }
}

/// The file systems that the plan's directories are on, each once; the directories are made where they are missing.
fn filesystems(plan: &Plan) -> Result<Vec<Filesystem>> {
    let mut found: Vec<(u64, Filesystem)> = Vec::new();
    for (_, location) in &plan.tablespaces {
        durable::create_dir_all(location, 0o700)?;
    }
    let locations = plan.tablespaces.iter().map(|(_, location)| location.as_path());
    for path in std::iter::once(plan.to.as_path()).chain(locations) {
        let device = std::fs::metadata(path).map_err(|cause| Error::io("examine", path, &cause))?.dev();
        if found.iter().all(|(known, _)| *known != device) {
            found.push((device, Filesystem::open(path)?));
        }
    }
    Ok(found.into_iter().map(|(_, filesystem)| filesystem).collect())
}

fn lock(path: &Path) -> Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|cause| Error::io("create", path, &cause))?;
    if file.try_lock().is_err() {
        return Err(Error::new(Kind::Busy, format!("another restore is filling {}", path.display())));
    }
    Ok(file)
}

fn make_directory(path: &Path, mode: u32) -> Result<()> {
    match std::fs::create_dir(path) {
        Ok(()) => {}
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(cause) => return Err(Error::io("create", path, &cause)),
    }
    set_mode(path, mode)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|cause| Error::io("set permissions of", path, &cause))
}

fn remove(path: &Path) -> Result<()> {
    let metadata = std::fs::symlink_metadata(path).map_err(|cause| Error::io("examine", path, &cause))?;
    let removed = if metadata.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    removed.map_err(|cause| Error::io("remove", path, &cause))
}
