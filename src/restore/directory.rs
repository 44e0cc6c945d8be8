//! The directories that a restore fills: empty ones, or what an interrupted restore left (R17).

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::attempt::{Attempt, contents, lock, remove_all_but, remove_if_there};
use super::delta::Kept;
use super::destination::set_mode;
use super::owner;
use super::places::{ASIDE, CONTROL, State, TAKEN_OVER, UNFINISHED, version_directory};
use super::plan::Plan;
use crate::cluster::DataDir;
use crate::disk::{durable, durable::Filesystem};
use crate::error::{Error, Kind, Result};
use crate::postgres::Verbatim;

/// What the owner may do in a directory while it is being filled, whatever it may do there in the end.
const WHILE_FILLED: u32 = 0o700;

/// A data directory that is being filled; locked against a second restore.
#[derive(Debug)]
pub(super) struct Target {
    root: PathBuf,
    /// The version directories of the tablespaces.
    tablespaces: Vec<PathBuf>,
    owner: Option<(u32, u32)>,
    /// Permissions that are set last, for nothing could be written with them.
    late_modes: Vec<(PathBuf, u32)>,
    /// Bytes and permissions of `pg_control`, which is written last.
    control: Mutex<Option<(Vec<u8>, u32)>>,
    /// Opened before anything is written, so that no failed write goes unheard.
    filesystems: Vec<Filesystem>,
    _lock: File,
}

impl Target {
    /// Make the directories of the plan, and mark the restore as unfinished. They are empty, but for what is `kept` with
    /// `--delta`. Everything will be `owner`'s.
    pub(super) fn begin(plan: &Plan, owner: Option<(u32, u32)>, kept: Option<&Kept>) -> Result<Self> {
        let mut before = plan.state()?;
        if before == State::Complete {
            complete(plan, owner)?;
            before = State::Cluster;
        }
        let root_mode = plan.backup.directories.first().map_or(0o700, |directory| directory.mode);
        owner::create_dir_all(&plan.to, root_mode, owner)?;
        set_mode(&plan.to, root_mode)?;
        durable::create_dir_all(&plan.to.join("global"), root_mode)?;
        let mark = plan.to.join(UNFINISHED);
        let lock = lock(&mark, &plan.to)?;
        let known = match &before {
            State::Empty => None,
            State::Unfinished(known) => known.clone(),
            // Of a run that was killed before it had taken over.
            State::Complete | State::Cluster => Attempt::read(&mark),
        };
        let attempt = match &known {
            Some(known) => known.clone(),
            None => begin_attempt(&mark)?,
        };
        match (&before, kept) {
            (State::Empty, _) => {}
            (State::Unfinished(_), None) => {
                tracing::info!(path = %plan.to.display(), "starting an interrupted restore again");
                wipe(plan, known.as_ref())?;
            }
            (State::Unfinished(_), Some(kept)) => {
                tracing::info!(path = %plan.to.display(), "continuing an interrupted restore");
                clean(plan, known.as_ref(), kept)?;
            }
            (State::Complete | State::Cluster, None) => {
                return Err(Error::impossible(format!("{} is not empty", plan.to.display())));
            }
            (State::Complete | State::Cluster, Some(kept)) => {
                take_over(plan, &attempt)?;
                clean(plan, Some(&attempt), kept)?;
            }
        }
        for place in plan.places() {
            owner::create_dir_all(place.location, 0o700, owner)?;
        }
        let mut target = Self {
            root: plan.to.clone(),
            tablespaces: plan.places().map(|place| place.version).collect(),
            owner,
            late_modes: Vec::new(),
            control: Mutex::new(None),
            filesystems: filesystems(plan)?,
            _lock: lock,
        };
        target.make_directories(plan, &attempt)?;
        Ok(target)
    }

    fn make_directories(&mut self, plan: &Plan, attempt: &Attempt) -> Result<()> {
        let mut links_made = false;
        for directory in plan.backup.directories.iter().filter(|directory| !directory.path.is_empty()) {
            if !links_made && directory.path.as_bytes().starts_with(b"pg_tblspc/") {
                self.make_tablespaces(plan, attempt)?;
                links_made = true;
            }
            let path = self.path(directory.path.as_path())?;
            make_directory(&path, directory.mode | WHILE_FILLED)?;
            if directory.mode & WHILE_FILLED != WHILE_FILLED {
                self.late_modes.push((path, directory.mode));
            }
        }
        if links_made { Ok(()) } else { self.make_tablespaces(plan, attempt) }
    }

    fn make_tablespaces(&self, plan: &Plan, attempt: &Attempt) -> Result<()> {
        for place in plan.places() {
            make_directory(&place.version, 0o700)?;
            // It tells a later run that the content is ours: it is durable before it.
            if !attempt.claim(&place.version)? {
                return Err(place.not_empty());
            }
            let link = self.root.join(format!("pg_tblspc/{}", place.oid));
            symlink(place.location, &link).map_err(|cause| Error::io("link", &link, &cause))?;
        }
        Ok(())
    }

    /// A path of the manifest below the data directory; one that would leave it is refused.
    pub(super) fn path(&self, relative: impl AsRef<Path>) -> Result<PathBuf> {
        let relative = Verbatim::from(relative.as_ref());
        if relative.is_inside() {
            Ok(self.root.join(relative.as_path()))
        } else {
            Err(Error::corrupt(format!("\"{relative}\" is not a path of a backup")))
        }
    }

    /// Keep `pg_control` until everything else is durable.
    pub(super) fn write_control(&self, bytes: &[u8], mode: u32) -> Result<()> {
        let mut control =
            self.control.lock().map_err(|_| Error::new(Kind::Other, "a restore thread died"))?;
        *control = Some((bytes.to_vec(), mode));
        Ok(())
    }

    /// Make durable what is written so far.
    pub(super) fn sync(&self) -> Result<()> {
        self.filesystems.iter().try_for_each(Filesystem::sync)
    }

    /// Make everything durable, then let the cluster exist. The last line is the commit point (R18).
    pub(super) fn commit(&self) -> Result<()> {
        remove_if_there(&self.root.join(TAKEN_OVER))?;
        let control = self.control.lock().map_err(|_| Error::new(Kind::Other, "a restore thread died"))?;
        let (bytes, mode) = control.as_ref().ok_or_else(|| Error::corrupt("the backup has no pg_control"))?;
        // Deepest first: a directory may keep its owner out, too.
        for (path, mode) in self.late_modes.iter().rev() {
            set_mode(path, *mode)?;
        }
        if let Some(owner) = self.owner {
            owner::give(&self.root, owner)?;
            self.tablespaces.iter().try_for_each(|version| owner::give(version, owner))?;
        }
        self.sync()?;
        // Without their marks nothing would prove that the tablespaces may be filled again; from here on nothing has to be.
        let unfinished = self.root.join(UNFINISHED);
        durable::write_file(&unfinished, bytes, *mode)?;
        let _lock = lock(&unfinished, &self.root)?;
        self.owner.map_or(Ok(()), |owner| owner::give(&unfinished, owner))?;
        self.tablespaces.iter().try_for_each(|version| Attempt::unmark(version))?;
        durable::rename(&unfinished, &self.root.join(CONTROL))
    }
}

/// Do what is left of a restore that was killed when all was there.
pub(super) fn complete(plan: &Plan, owner: Option<(u32, u32)>) -> Result<()> {
    tracing::info!(path = %plan.to.display(), "an interrupted restore lacked only its commit");
    let unfinished = plan.to.join(UNFINISHED);
    let _lock = lock(&unfinished, &plan.to)?;
    owner.map_or(Ok(()), |owner| owner::give(&unfinished, owner))?;
    for link in contents(&plan.to.join("pg_tblspc"))? {
        let version = link.join(version_directory(&plan.backup));
        if version.is_dir() {
            Attempt::unmark(&version)?;
        }
    }
    durable::rename(&unfinished, &plan.to.join(CONTROL))
}

/// Make a cluster's directory this attempt's. From the last line on no server can start there.
fn take_over(plan: &Plan, attempt: &Attempt) -> Result<()> {
    let identifier = plan.backup.system_identifier.to_string();
    durable::write_file(&plan.to.join(TAKEN_OVER), identifier.as_bytes(), 0o600)?;
    for place in plan.places().filter(|place| place.version.is_dir()) {
        attempt.take_over(&place.version)?;
    }
    let (control, aside) = (plan.to.join(CONTROL), plan.to.join(ASIDE));
    let rename =
        |from: &Path, to: &Path| std::fs::rename(from, to).map_err(|cause| Error::io("rename", from, &cause));
    let mut known_dead = None;
    loop {
        rename(&control, &aside)?;
        // A server that was started meanwhile has read it already, and has written its pid before.
        let pid = std::fs::read(plan.to.join("postmaster.pid")).ok();
        if pid == known_dead {
            break;
        }
        // The file itself, with its owner and what the server has written to it.
        rename(&aside, &control)?;
        if DataDir::open(&plan.to)?.server_is_running()? {
            give_back(plan, attempt)?;
            return Err(Error::impossible(format!("a server was started in {}", plan.to.display())));
        }
        known_dead = pid;
    }
    remove_if_there(&aside)?;
    control.parent().map_or(Ok(()), durable::sync_dir)
}

/// Take away what says that the directory is being restored.
fn give_back(plan: &Plan, attempt: &Attempt) -> Result<()> {
    for place in plan.places().filter(|place| attempt.owns(&place.version)) {
        Attempt::unmark(&place.version)?;
    }
    remove_if_there(&plan.to.join(TAKEN_OVER))?;
    remove_if_there(&plan.to.join(UNFINISHED))
}

/// Remove what the backup does not have.
fn clean(plan: &Plan, attempt: Option<&Attempt>, kept: &Kept) -> Result<()> {
    for place in plan.places() {
        if attempt.is_some_and(|attempt| attempt.owns(&place.version)) {
            let version = place.version.file_name().unwrap_or_default();
            let relative = [format!("pg_tblspc/{}/", place.oid).as_bytes(), version.as_bytes()].concat();
            kept.clean(&place.version, &relative)?;
        } else if !contents(&place.version)?.is_empty() {
            return Err(place.not_empty());
        }
    }
    kept.clean(&plan.to, b"")
}

/// Name a new attempt in the data directory.
fn begin_attempt(mark: &Path) -> Result<Attempt> {
    let attempt = Attempt::new()?;
    write_durably(mark, attempt.as_bytes())?;
    mark.parent().map_or(Ok(()), durable::sync_dir)?;
    Ok(attempt)
}

/// Remove what the interrupted restore wrote, but for its marks.
fn wipe(plan: &Plan, attempt: Option<&Attempt>) -> Result<()> {
    for place in plan.places() {
        if attempt.is_some_and(|attempt| attempt.owns(&place.version)) {
            Attempt::empty(&place.version)?;
        } else if !contents(&place.version)?.is_empty() {
            return Err(place.not_empty());
        }
    }
    let (directory, mark) = UNFINISHED.split_once('/').unwrap_or(("", UNFINISHED));
    remove_all_but(&plan.to, &[directory])?;
    remove_all_but(&plan.to.join(directory), &[mark])
}

/// The file systems that the plan's directories are on, each once.
fn filesystems(plan: &Plan) -> Result<Vec<Filesystem>> {
    let mut found: Vec<(u64, Filesystem)> = Vec::new();
    let locations = plan.tablespaces.iter().map(|(_, location)| location.as_path());
    for path in std::iter::once(plan.to.as_path()).chain(locations) {
        let device = std::fs::metadata(path).map_err(|cause| Error::io("examine", path, &cause))?.dev();
        if found.iter().all(|(known, _)| *known != device) {
            found.push((device, Filesystem::open(path)?));
        }
    }
    Ok(found.into_iter().map(|(_, filesystem)| filesystem).collect())
}

/// Write through the file that is there, which may be locked.
fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let file = File::options().write(true).truncate(true).open(path)?;
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0)?;
        file.sync_all()
    };
    write().map_err(|cause: std::io::Error| Error::io("write", path, &cause))
}

fn make_directory(path: &Path, mode: u32) -> Result<()> {
    match std::fs::create_dir(path) {
        Ok(()) => {}
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(cause) => return Err(Error::io("create", path, &cause)),
    }
    set_mode(path, mode)
}
