//! Whether the directories of a plan can be used, found out without touching them (R16, R17).

use std::path::{Component, Path, PathBuf};

use super::attempt::{Attempt, contents};
use super::plan::Plan;
use crate::cluster::DataDir;
use crate::disk::Space;
use crate::error::{Error, Kind, Result};
use crate::format::Manifest;
use crate::postgres::ControlFile;

/// `pg_control` under the name that it has until everything else is durable: as long as it is there and `pg_control`
/// is not, the directory holds an unfinished restore, and nothing else. It names the attempt, until it is replaced by the bytes
/// of `pg_control` when all is there.
pub(super) const UNFINISHED: &str = "global/pg_control.walproof";
/// Beside it, while a restore with `--delta` goes on: the system identifier of the cluster whose directory it was.
pub(super) const TAKEN_OVER: &str = "walproof.delta";
pub(super) const CONTROL: &str = "global/pg_control";
/// The same file while a restore with `--delta` takes the directory over.
pub(super) const ASIDE: &str = "global/pg_control.aside";

/// A tablespace of a plan.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) oid: u32,
    /// Where it was.
    from: &'a Path,
    /// Where it goes.
    pub(super) location: &'a Path,
    /// The directory there that is its own.
    pub(super) version: PathBuf,
}

impl Plan {
    /// Whether the directories can be used, without touching them.
    pub fn check_directories(&self) -> Result<()> {
        let state = self.state()?;
        self.check_apart()?;
        for place in self.places() {
            let empty = contents(&place.version)?.is_empty();
            let own = match &state {
                State::Empty => false,
                State::Unfinished(attempt) => {
                    attempt.as_ref().is_some_and(|attempt| attempt.owns(&place.version))
                }
                State::Complete | State::Cluster => is_linked(&self.to, place.oid, place.location),
            };
            if !empty && !own {
                return Err(place.not_empty());
            }
        }
        self.check_space(state != State::Empty)
    }

    /// The tablespaces.
    pub(super) fn places(&self) -> impl Iterator<Item = Place<'_>> {
        self.tablespaces.iter().map(|(oid, location)| Place {
            oid: *oid,
            from: self
                .backup
                .tablespaces
                .iter()
                .find(|was| was.oid == *oid)
                .map_or(Path::new(""), |was| was.location.as_path()),
            location,
            version: location.join(version_directory(&self.backup)),
        })
    }

    /// Whether recovery here would take tablespaces from the cluster that lives in `data_dir`: replaying CREATE TABLESPACE
    /// empties its directory, wherever --tablespace puts those that the backup has.
    pub fn check_bystander(&self, data_dir: &Path) -> Result<()> {
        let Ok(bystander) = DataDir::open(data_dir) else { return Ok(()) };
        let same_cluster = bystander
            .control()
            .is_ok_and(|control| control.system_identifier == self.backup.system_identifier);
        if !same_cluster || bystander.path() == resolved(&self.to) {
            return Ok(());
        }
        for link in contents(&bystander.path().join("pg_tblspc"))? {
            let oid = link.file_name().and_then(|name| name.to_str()?.parse().ok());
            let known = self.backup.tablespaces.iter().any(|tablespace| Some(tablespace.oid) == oid);
            let Ok(location) = std::fs::read_link(&link) else { continue };
            if known || contents(&location.join(version_directory(&self.backup)))?.is_empty() {
                continue;
            }
            return Err(Error::impossible(format!(
                "the cluster in {} made the tablespace at {} after backup {}: recovery here could empty it",
                bystander.path().display(),
                location.display(),
                self.backup.id
            ))
            .hint("take a new backup first, which knows the tablespace, or restore on another host"));
        }
        Ok(())
    }

    /// Every tablespace has a place of its own. One that is where it was may lie in another one, as it did there.
    fn check_apart(&self) -> Result<()> {
        let data = resolved(&self.to);
        let mut seen: Vec<(PathBuf, Place<'_>)> = Vec::new();
        for place in self.places() {
            let here = resolved(place.location);
            let version = here.join(version_directory(&self.backup));
            if here.starts_with(&data) || data.starts_with(&version) {
                return Err(collide(&place, "the data directory"));
            }
            for (other, known) in &seen {
                let nested = here.starts_with(other) || other.starts_with(&here);
                if here == *other || nested && (place.is_moved() || known.is_moved()) {
                    return Err(collide(
                        &place,
                        &format!("the tablespace that was at {}", known.from.display()),
                    ));
                }
            }
            seen.push((here, place));
        }
        Ok(())
    }

    /// A restore that cannot fit is refused before it fills the disk. One that was interrupted holds space that it
    /// will give back, so there the disk decides.
    fn check_space(&self, unfinished: bool) -> Result<()> {
        let all_here = self.tablespaces.is_empty() && !unfinished;
        let Some(existing) = self.to.ancestors().find(|path| path.exists()).filter(|_| all_here) else {
            return Ok(());
        };
        let free = Space::at(existing)?.free;
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

impl Place<'_> {
    fn is_moved(&self) -> bool {
        self.location != self.from
    }

    pub(super) fn not_empty(&self) -> Error {
        Error::impossible(format!("{} is not empty", self.version.display())).hint(format!(
            "put the tablespace elsewhere with --tablespace {}=TO; only if nothing uses that directory any more, \
             empty it",
            self.from.to_string_lossy().replace('=', "\\=")
        ))
    }
}

fn collide(place: &Place<'_>, other: &str) -> Error {
    Error::usage(format!(
        "the tablespace that was at {} would go to {}, which collides with {other}",
        place.from.display(),
        place.location.display()
    ))
    .hint("give every tablespace a directory of its own, outside the data directory")
}

/// Symbolic links followed as far as the path exists, `.` and `..` taken out of the rest.
fn resolved(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|above| Some((above, std::fs::canonicalize(above).ok()?)));
    let Some((above, mut resolved)) = existing else { return path.to_owned() };
    for part in path.strip_prefix(above).unwrap_or(Path::new("")).components() {
        match part {
            Component::ParentDir => drop(resolved.pop()),
            Component::Normal(name) => resolved.push(name),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    resolved
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    Empty,
    /// Begun by this attempt, if it is known.
    Unfinished(Option<Attempt>),
    /// A restore of this cluster that lacks nothing but the name of `pg_control`.
    Complete,
    /// This very cluster, at rest; with `--delta` only.
    Cluster,
}

impl Plan {
    /// What is in the data directory. An error where the plan may not touch it (R17).
    pub(super) fn state(&self) -> Result<State> {
        let root = &self.to;
        let mark = root.join(UNFINISHED);
        // A restore that was killed before its mark has made the directory for it.
        let of_mark = mark.parent().filter(|path| path.is_dir());
        let found = contents(root)?;
        if found.iter().all(|path| of_mark == Some(path)) && of_mark.map_or(Ok(true), is_empty)? {
            return Ok(State::Empty);
        }
        if mark.exists() && !root.join(CONTROL).exists() {
            self.check_taken_over()?;
            if self.is_control(&mark) {
                return Ok(State::Complete);
            }
            return Ok(State::Unfinished(Attempt::read(&mark)));
        }
        if self.delta {
            self.check_cluster()?;
            return Ok(State::Cluster);
        }
        Err(Error::impossible(format!("{} is not empty", root.display())).hint(
            "restore into an empty directory, and move the old one away only when the new one is proven good; or use \
             --delta to keep what this cluster's own directory has in common with the backup",
        ))
    }

    fn is_control(&self, path: &Path) -> bool {
        let control = std::fs::read(path).ok().and_then(|bytes| ControlFile::parse(&bytes).ok());
        control.is_some_and(|control| control.system_identifier == self.backup.system_identifier)
    }

    /// Whether an interrupted attempt that took over a cluster's directory may go on with this plan.
    fn check_taken_over(&self) -> Result<()> {
        let path = self.to.join(TAKEN_OVER);
        let of = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(cause) => return Err(Error::io("read", &path, &cause)),
        };
        if of.trim() != self.backup.system_identifier.to_string() {
            return Err(Error::impossible(format!(
                "{} was being restored with --delta from a backup of the cluster with system identifier {}",
                self.to.display(),
                of.trim()
            )));
        }
        if self.delta {
            return Ok(());
        }
        Err(Error::impossible(format!(
            "a restore with --delta was interrupted in {}, which still holds what was there before",
            self.to.display()
        ))
        .hint("the same command with --delta completes it"))
    }

    /// Whether the directory is provably the backup's cluster, and no server runs in it.
    fn check_cluster(&self) -> Result<()> {
        let refuse = |error: Error| {
            error.as_kind(Kind::Impossible).context("--delta is for this cluster's own directory only")
        };
        let data_dir = DataDir::open(&self.to).map_err(refuse)?;
        let found = data_dir.control().map_err(refuse)?.system_identifier;
        if found != self.backup.system_identifier {
            return Err(refuse(Error::impossible(format!(
                "{} is the cluster with system identifier {found}, but the backup is of {}",
                self.to.display(),
                self.backup.system_identifier
            ))));
        }
        if data_dir.server_is_running()? {
            return Err(Error::impossible(format!("a server runs in {}", self.to.display()))
                .hint("stop it first: what --delta removes cannot be brought back"));
        }
        match data_dir.linked_directories().first() {
            None => Ok(()),
            Some(link) => Err(refuse(Error::impossible(format!("{} is a link", link.display()))).hint(
                "put the directory that it leads to in its place, or restore into an empty directory: --delta would take \
                 the link away and leave what is behind it",
            )),
        }
    }
}

fn is_empty(directory: &Path) -> Result<bool> {
    Ok(contents(directory)?.is_empty())
}

/// Whether the data directory's link to the tablespace `oid` leads to `location`.
fn is_linked(data_dir: &Path, oid: u32, location: &Path) -> bool {
    let resolved = |path: PathBuf| std::fs::canonicalize(path).ok();
    let linked = resolved(data_dir.join(format!("pg_tblspc/{oid}")));
    linked.is_some() && linked == resolved(location.to_owned())
}

pub(super) fn version_directory(backup: &Manifest) -> String {
    format!("PG_{}_{}", backup.pg_version_num / 10_000, backup.catalog_version)
}
