//! One WAL file in: store -> `restore_command`'s path. Absent and "could not find out" are different answers (R6).

use std::io::Write;
use std::path::Path;

use super::spool::Spool;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::postgres::{SegmentChecker, SegmentContent, WalName};
use crate::repository::{Namespace, Repository, WalFile, conflict};

/// What recovery asks for.
#[derive(Debug)]
pub struct FetchRequest<'a> {
    /// The cluster's system identifier.
    pub system_identifier: u64,
    /// The file that is wanted.
    pub name: WalName,
    /// Where it is wanted.
    pub to: &'a Path,
    /// Segments that were fetched ahead.
    pub spool: Option<&'a Spool>,
}

/// Fetch a WAL file. Kind `NotFound` if and only if the repository answered that it is not there.
pub async fn fetch(namespace: &Namespace, request: &FetchRequest<'_>) -> Result<()> {
    let plain = match from_spool(namespace, request) {
        Some(plain) => plain,
        None => from_store(namespace, request).await?,
    };
    check_header(request, &plain)?;
    deliver(&plain, request.to)
}

/// The file from the spool, if it is there and proves authentic; anything odd there is as good as nothing.
fn from_spool(namespace: &Namespace, request: &FetchRequest<'_>) -> Option<Vec<u8>> {
    let found = request.spool?.find(namespace, request.system_identifier, &request.name);
    found.inspect_err(|error| tracing::debug!(%error, "cannot use the spool")).ok()?
}

async fn from_store(namespace: &Namespace, request: &FetchRequest<'_>) -> Result<Vec<u8>> {
    let (repository, versions) = tokio::try_join!(
        open(namespace, request.system_identifier),
        namespace.wal_versions(request.system_identifier, &request.name),
    )?;
    let file = one_of(&request.name, &versions)?;
    let sealed = repository.get_wal_sealed(file).await?;
    if let Some(spool) = request.spool {
        spool.remember_identity(&repository);
    }
    repository.open_wal_file(file, &sealed).map(|(_, plain)| plain)
}

/// A repository that is not there proves nothing about the file.
async fn open(namespace: &Namespace, system_identifier: u64) -> Result<Repository> {
    namespace.open(system_identifier).await.map_err(Error::absence_proves_nothing)
}

fn one_of<'a>(name: &WalName, versions: &'a [WalFile]) -> Result<&'a WalFile> {
    match versions {
        [] => Err(Error::new(Kind::NotFound, format!("{name} is not in the repository"))),
        [file] => Ok(file),
        _ => Err(conflict(name)),
    }
}

/// The header is checked like before archiving (R7): what was stored by another hand is not trusted either.
fn check_header(request: &FetchRequest<'_>, plain: &[u8]) -> Result<()> {
    let (segment, content) = match request.name {
        WalName::Segment(segment) => (segment, SegmentContent::Full),
        WalName::Partial(segment) => (segment, SegmentContent::Partial),
        WalName::History(_) | WalName::BackupHistory { .. } => return Ok(()),
    };
    let bytes = u32::try_from(plain.len()).map_err(|_| Error::corrupt("the segment is too long"))?;
    let size = crate::postgres::SegmentSize::new(bytes)?;
    let mut checker = SegmentChecker::new(segment, size, request.system_identifier, content);
    checker.feed(plain)?;
    checker.finish().map(|_| ())
}

/// Write under another name, then rename: PostgreSQL never sees half a file. It syncs what it keeps itself.
fn deliver(plain: &[u8], to: &Path) -> Result<()> {
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        let mut file = tempfile::Builder::new().prefix(".walproof-fetch-").tempfile_in(directory)?;
        file.write_all(plain)?;
        file.persist(to).map_err(|error| error.error)
    };
    write()
        .map(|_| ())
        .map_err(|cause: std::io::Error| Error::io("write", to, &cause))
        .context("deliver the WAL file")
}
