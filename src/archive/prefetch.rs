//! Fetching the segments that recovery will ask for next, while it replays this one.

use futures_util::{StreamExt, stream};

use super::spool::Spool;
use crate::error::Result;
use crate::postgres::{SegmentName, WalName};
use crate::repository::{Namespace, Repository, WalFile};

/// Segments that are held ready.
const AHEAD: u64 = 8;
/// Fetched at a time.
const CONCURRENT: usize = 4;

/// Bring the segments after `name` into the spool. One process at a time does that for a spool; others leave at once.
pub async fn prefetch(
    namespace: &Namespace,
    system_identifier: u64,
    name: SegmentName,
    spool: &Spool,
) -> Result<()> {
    let Some(_lock) = spool.lock()? else { return Ok(()) };
    let repository = namespace.open(system_identifier).await?;
    spool.remember_identity(&repository);
    let next = next_files(&repository, name).await?;
    spool.forget_before(&WalName::Segment(name));
    let fetches = next.iter().filter(|file| !spool.has(file)).map(|file| async {
        let sealed = repository.get_wal_sealed(file).await?;
        spool.put(file, &sealed)
    });
    let results: Vec<Result<()>> = stream::iter(fetches).buffered(CONCURRENT).collect().await;
    results.into_iter().collect()
}

/// The archived segments that follow `name` without a gap or a conflict.
async fn next_files(repository: &Repository, name: SegmentName) -> Result<Vec<WalFile>> {
    let size = repository.identity().segment_size()?;
    let mut next = Vec::new();
    let mut listed: Option<(String, Vec<WalFile>)> = None;
    let mut segment = name;
    for _ in 0..AHEAD {
        segment = segment.next(size);
        let wanted = WalName::Segment(segment);
        if listed.as_ref().is_none_or(|(directory, _)| *directory != segment.directory()) {
            listed = Some((segment.directory(), repository.list_wal_beside(&wanted).await?));
        }
        let files = listed.iter().flat_map(|(_, files)| files);
        let versions: Vec<&WalFile> = files.filter(|file| file.name == wanted).collect();
        let [file] = versions.as_slice() else { break };
        next.push((*file).clone());
    }
    Ok(next)
}
