//! One WAL file out: cluster -> store. The durable put is the only acknowledgement (R1).

use std::fs::File;
use std::path::Path;

use super::inspect::Inspection;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{SealedWal, WalDigest, seal_wal};
use crate::postgres::{ControlFile, PgTime, WalName};
use crate::repository::{Namespace, Repository, WalFile, conflict};

/// Threads that seal one segment, when nothing else goes on.
const MOST_THREADS: usize = 4;

/// What became of a pushed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Its name.
    pub name: WalName,
    /// The very same bytes were in the repository already.
    pub already_there: bool,
    /// Bytes of the file.
    pub raw_len: u64,
    /// Bytes of the object.
    pub stored_len: u64,
    /// Which content.
    pub digest: WalDigest,
    /// The latest commit, abort or restore point in it.
    pub last_time: Option<PgTime>,
}

/// Push the WAL file at `path` of the cluster with this control file. When this returns, the bytes are durable in the
/// repository; while they are sealed, the identity and the names stored for the segment are fetched.
pub async fn push(namespace: &Namespace, control: &ControlFile, path: &Path) -> Result<Pushed> {
    let name = name_of(path)?;
    let system_identifier = control.system_identifier;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let (sealed, repository, stored) = tokio::try_join!(
        seal(namespace, control, name, path, threads),
        namespace.open(system_identifier),
        namespace.wal_versions(system_identifier, &name),
    )
    .map_err(Error::absence_proves_nothing)?;
    repository.check_segment_size(control)?;
    put(&repository, name, sealed, &stored).await
}

/// Push into a repository that is open already, on one thread: for callers that push several files at a time. `careful`: ask
/// the store first, for it failed a moment ago, and a segment that is sealed for nothing costs more than a round trip.
pub async fn push_into(
    repository: &Repository,
    control: &ControlFile,
    path: &Path,
    careful: bool,
) -> Result<Pushed> {
    let name = name_of(path)?;
    let namespace = repository.namespace();
    let seal = seal(namespace, control, name, path, 1);
    let ask = async {
        let stored = namespace.wal_versions(control.system_identifier, &name);
        tokio::try_join!(repository.check_still_there(), stored).map(|((), stored)| stored)
    };
    let (sealed, stored) = if careful {
        let stored = ask.await.map_err(Error::absence_proves_nothing)?;
        (seal.await?, stored)
    } else {
        tokio::try_join!(seal, ask).map_err(Error::absence_proves_nothing)?
    };
    put(repository, name, sealed, &stored).await
}

async fn put(
    repository: &Repository,
    name: WalName,
    sealed: SealedWal,
    stored: &[WalFile],
) -> Result<Pushed> {
    let digest = sealed.digest(repository.identity())?;
    let mut pushed = Pushed {
        name,
        already_there: true,
        raw_len: sealed.summary.plain_len,
        stored_len: sealed.stored_len(),
        digest,
        last_time: sealed.summary.times.map(|(_, last)| last),
    };
    refuse_conflict(&name, digest, stored)?;
    if let Some(file) = stored.iter().find(|file| file.digest.content() == digest.content()) {
        // There is not durable: the put that left it may have failed at its last sync (R1).
        repository.make_wal_durable(file).await?;
        return Ok(pushed);
    }
    // The commit point.
    repository.put_wal(&name, digest, sealed).await?;
    // Someone else may have put other bytes since the listing: of two that race, the later one sees it here.
    let system_identifier = repository.identity().system_identifier;
    let stored = repository.namespace().wal_versions(system_identifier, &name).await?;
    refuse_conflict(&name, digest, &stored)?;
    pushed.already_there = false;
    Ok(pushed)
}

fn name_of(path: &Path) -> Result<WalName> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.parse::<WalName>().hint("is archive_command = 'walproof wal-push %p'?")
}

async fn seal(
    namespace: &Namespace,
    control: &ControlFile,
    name: WalName,
    path: &Path,
    threads: usize,
) -> Result<SealedWal> {
    let file = File::open(path).map_err(|cause| {
        let error = Error::io("open", path, &cause);
        match cause.kind() {
            std::io::ErrorKind::NotFound => error
                .as_kind(Kind::Usage)
                .hint("is the path relative to the data directory, and is this run there?"),
            _ => error,
        }
    })?;
    let metadata = file.metadata().map_err(|cause| Error::io("examine", path, &cause))?;
    if !metadata.is_file() {
        return Err(Error::usage(format!("{} is not a file", path.display())));
    }
    let inspection = Inspection::of(name, control, path)?;
    let (keys, identity, level) =
        (namespace.keys().clone(), namespace.identity_name(control.system_identifier), namespace.level());
    let work = move || seal_wal(&keys, &identity, &name, (level, threads), &file, metadata.len(), inspection);
    let sealed = tokio::task::spawn_blocking(work)
        .await
        .map_err(|cause| Error::new(Kind::Other, format!("seal: {cause}")))?;
    sealed.with_context(|| format!("push {}", path.display()))
}

/// Fail when other bytes are stored under `name` (R2). `.partial` files may differ by what lies behind their end.
fn refuse_conflict(name: &WalName, digest: WalDigest, stored: &[WalFile]) -> Result<()> {
    let other = stored.iter().any(|file| file.digest.content() != digest.content());
    if !other || matches!(name, WalName::Partial(_)) {
        return Ok(());
    }
    Err(conflict(name))
}
