//! One WAL file in: store -> `restore_command`'s path. Absent and "could not find out" are different answers (R6).

use std::path::Path;

use super::pin::{Pin, Pins};
use super::redirect::Redirect;
use crate::disk::write_in_pieces;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::postgres::{History, Lsn, SegmentName, SegmentSize, TimelineId, WalName};
use crate::repository::{Namespace, Repository, Tail, Unfinished, WalFile, fill_segment};
use crate::wal::{SegmentChecker, SegmentContent};

/// What recovery asks for.
#[derive(Debug)]
pub struct FetchRequest<'a> {
    /// The cluster's system identifier.
    pub system_identifier: u64,
    /// The file that is wanted.
    pub name: WalName,
    /// Where it is wanted.
    pub to: &'a Path,
    /// The segment as it was opened and checked ahead, if it was.
    pub opened: Option<&'a [u8]>,
    /// Whether the tail may be served of a segment that is not archived (R16).
    pub tail: bool,
    /// The timeline that recovery follows, where it is known: an older one's WAL ends where the next timeline begins.
    pub follows: Option<TimelineId>,
    /// What this recovery was told of tails before, and is told again.
    pub pins: Option<&'a Pins>,
    /// Where tablespaces go that are created in this WAL; for drills only.
    pub redirect: Option<&'a Redirect>,
}

impl FetchRequest<'_> {
    /// The segment whose tail may be served.
    const fn tail_of(&self) -> Option<SegmentName> {
        match self.name {
            WalName::Segment(segment) if self.tail => Some(segment),
            _ => None,
        }
    }
}

/// What was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// The file as it was archived.
    Archived,
    /// The tail of the segment, and zeros.
    Tail {
        /// Up to where it reaches.
        end: Lsn,
    },
}

/// Fetch a WAL file. Kind `NotFound` if and only if the repository answered that it is not there.
pub async fn fetch(namespace: &Namespace, request: &FetchRequest<'_>) -> Result<Fetched> {
    let (mut plain, fetched) = match from_pin(namespace, request)? {
        Some(pinned) => pinned,
        None => match request.opened {
            Some(plain) => (plain.to_vec(), Fetched::Archived),
            None => from_store(namespace, request).await?,
        },
    };
    if let (Some(redirect), WalName::Segment(segment)) = (request.redirect, request.name) {
        let size = segment_size(&plain)?;
        let next = FetchRequest { name: WalName::Segment(segment.next(size)), ..*request };
        let next = async { from_store(namespace, &next).await.map(|(plain, _)| plain) };
        // PostgreSQL runs its commands in the data directory.
        redirect.apply(&segment, size, &mut plain, Path::new("."), next).await?;
    }
    deliver(&plain, request.to)?;
    Ok(fetched)
}

type Answer = (Vec<u8>, Fetched);

/// An archived file. Of a segment in which the history that recovery follows leaves its timeline, what lies behind that is on
/// another branch, and PostgreSQL would replay it: it looks only for where a timeline begins.
fn archived(request: &FetchRequest<'_>, mut plain: Vec<u8>, left_at: Option<Lsn>) -> Result<Answer> {
    check_content(&request.name, request.system_identifier, &plain)?;
    if let (WalName::Segment(segment), Some(left_at)) = (request.name, left_at) {
        let size = segment_size(&plain)?;
        if clear_behind(&mut plain, segment.start(size), left_at) == 0 {
            return Err(absent(&request.name));
        }
        if left_at < segment.end(size) {
            tracing::warn!(%segment, %left_at, "what lies behind it is not on the timeline that is followed");
        }
    }
    Ok((plain, Fetched::Archived))
}

/// The answer that this recovery was given before, whatever is in the repository by now.
fn from_pin(namespace: &Namespace, request: &FetchRequest<'_>) -> Result<Option<Answer>> {
    let (Some(segment), Some(pins)) = (request.tail_of(), request.pins) else { return Ok(None) };
    let Some(pin) = pins.find(namespace, request.system_identifier, &segment) else { return Ok(None) };
    let fetched = Fetched::Tail { end: pin.end(&segment) };
    let plain = fill_segment(&segment, pin.bytes, pin.segment_size, request.system_identifier)?;
    Ok(Some((plain, fetched)))
}

async fn from_store(namespace: &Namespace, request: &FetchRequest<'_>) -> Result<Answer> {
    let (repository, versions) = tokio::try_join!(
        open(namespace, request.system_identifier),
        namespace.wal_versions(request.system_identifier, &request.name),
    )?;
    if let (Some(segment), []) = (request.tail_of(), versions.as_slice()) {
        return unfinished(&repository, request, &segment).await;
    }
    let file = one_of(&repository, &request.name, &versions).await?;
    let read = async { Ok(repository.read_wal(&file).await?.1) };
    let (plain, left_at) = tokio::try_join!(read, left_at(&repository, request))?;
    archived(request, plain, left_at)
}

/// What there is of a segment that is not archived.
async fn unfinished(
    repository: &Repository,
    request: &FetchRequest<'_>,
    segment: &SegmentName,
) -> Result<Answer> {
    let left_at = left_at(repository, request).await?;
    match repository.read_unfinished(segment).await? {
        None => Err(absent(&request.name)),
        Some(Unfinished::Archived(plain)) => archived(request, plain, left_at),
        Some(Unfinished::Tail(mut tail, mut plain)) => {
            let size = repository.identity().segment_size()?;
            if let Some(left_at) = left_at.filter(|left_at| *left_at < tail.end(size)) {
                tail.len = clear_behind(&mut plain, segment.start(size), left_at);
            }
            if tail.len == 0 {
                return Err(absent(&request.name));
            }
            // Before it is delivered: what recovery was told once it is told again.
            if let Some(pins) = request.pins {
                keep(pins, repository, &tail, &plain)?;
            }
            Ok((plain, Fetched::Tail { end: tail.end(size) }))
        }
    }
}

/// Where the history that recovery follows leaves the timeline of the segment, if it does.
async fn left_at(repository: &Repository, request: &FetchRequest<'_>) -> Result<Option<Lsn>> {
    let WalName::Segment(segment) = request.name else { return Ok(None) };
    let Some(follows) = request.follows.filter(|follows| *follows > segment.timeline) else {
        return Ok(None);
    };
    let history = read_history(repository, follows).await.map_err(Error::absence_proves_nothing)?;
    Ok(history.end_of(segment.timeline))
}

/// Zero what lies behind `end` of the segment that begins at `start`, and say how many bytes are left.
fn clear_behind(plain: &mut [u8], start: Lsn, end: Lsn) -> u32 {
    let left = u32::try_from(end.get().saturating_sub(start.get())).unwrap_or(u32::MAX);
    plain.iter_mut().skip(left as usize).for_each(|byte| *byte = 0);
    left
}

/// The history of `timeline`. Kind `NotFound` if and only if the repository answered that it has none.
pub(super) async fn read_history(repository: &Repository, timeline: TimelineId) -> Result<History> {
    let name = WalName::History(timeline);
    let system_identifier = repository.identity().system_identifier;
    let versions = repository.namespace().wal_versions(system_identifier, &name).await?;
    let file = one_of(repository, &name, &versions).await?;
    History::parse(timeline, &repository.read_wal(&file).await?.1)
}

fn keep(pins: &Pins, repository: &Repository, tail: &Tail, plain: &[u8]) -> Result<()> {
    let len = usize::try_from(tail.len).unwrap_or(usize::MAX).min(plain.len());
    let segment_size = repository.identity().segment_size()?;
    let pin = Pin { generation: tail.generation, segment_size, bytes: plain[..len].to_vec() };
    pins.keep(repository, &tail.segment, &pin);
    Ok(())
}

/// A repository that is not there proves nothing about the file.
async fn open(namespace: &Namespace, system_identifier: u64) -> Result<Repository> {
    namespace.open(system_identifier).await.map_err(Error::absence_proves_nothing)
}

/// The one file under this name; of several the one that is what its key promises, as a restore's plan takes it.
async fn one_of(repository: &Repository, name: &WalName, versions: &[WalFile]) -> Result<WalFile> {
    match versions {
        [] => Err(absent(name)),
        [file] => Ok(file.clone()),
        _ => repository.genuine_wal(name, versions).await,
    }
}

fn absent(name: &WalName) -> Error {
    Error::new(Kind::NotFound, format!("{name} is not in the repository"))
}

/// The header is checked like before archiving (R7): what was stored by another hand is not trusted either.
pub(super) fn check_content(name: &WalName, system_identifier: u64, plain: &[u8]) -> Result<()> {
    let (segment, content) = match *name {
        WalName::Segment(segment) => (segment, SegmentContent::Full),
        WalName::Partial(segment) => (segment, SegmentContent::Partial),
        WalName::History(_) | WalName::BackupHistory { .. } => return Ok(()),
    };
    let size = segment_size(plain)?;
    let mut checker = SegmentChecker::new(segment, size, system_identifier, content);
    checker.feed(plain)?;
    checker.finish().map(|_| ())
}

fn segment_size(plain: &[u8]) -> Result<SegmentSize> {
    let bytes = u32::try_from(plain.len()).map_err(|_| Error::corrupt("the segment is too long"))?;
    SegmentSize::new(bytes)
}

/// Where the name `to` is.
pub(super) fn directory_of(to: &Path) -> &Path {
    to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Write under another name, then rename: PostgreSQL never sees half a file. It syncs what it keeps itself.
fn deliver(plain: &[u8], to: &Path) -> Result<()> {
    let directory = directory_of(to);
    let write = || {
        let mut file = tempfile::Builder::new().prefix(".walproof-fetch-").tempfile_in(directory)?;
        write_in_pieces(&mut file, plain)?;
        file.persist(to).map_err(|error| error.error)
    };
    write()
        .map(|_| ())
        .map_err(|cause: std::io::Error| Error::io("write", to, &cause))
        .context("deliver the WAL file")
}

#[cfg(test)]
mod tests;
