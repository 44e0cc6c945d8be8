//! Page digests out of the packs that a file table names.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, Result, ResultExt};
use crate::format::{
    FileRecord, FileTable, PAGES_PER_SUM, PackDigests, PackName, PackReader, PackRef, digest_sum,
};
use crate::repository::Repository;
use crate::seal::Decompressor;

/// Packs whose digests are fetched at a time.
const CONCURRENT_FETCHES: usize = 8;

/// Why a part has no digests.
#[derive(Debug)]
pub struct NoDigests {
    /// The pack that cannot be read. If there is none, the part does not say what its packs do.
    pub pack: Option<PackName>,
    /// What is wrong.
    pub error: Error,
}

impl From<Error> for NoDigests {
    fn from(error: Error) -> Self {
        Self { pack: None, error }
    }
}

/// Fills in the digests of one part of a file table after another. Remembers those of the packs that the last part used:
/// what one backup changed lies in few packs, and most parts use these.
#[derive(Debug, Default)]
pub struct DigestReader {
    packs: HashMap<PackName, Arc<PackDigests>>,
}

impl DigestReader {
    /// Fill in the digests of `table`. What its packs say must be what the table sums up: the pages of each file as they
    /// were read.
    pub async fn fill(&mut self, repository: &Repository, table: &mut FileTable) -> Result<(), NoDigests> {
        let all = vec![true; table.files.len()];
        self.fill_some(repository, table, &all).await
    }

    /// The same for those files only that are `wanted`.
    pub async fn fill_some(
        &mut self,
        repository: &Repository,
        table: &mut FileTable,
        wanted: &[bool],
    ) -> Result<(), NoDigests> {
        let mut needed = vec![false; table.packs.len()];
        for (file, _) in table.files.iter().zip(wanted).filter(|(_, wanted)| **wanted) {
            for extent in &file.extents {
                needed[extent.pack as usize] = true;
            }
        }
        let mut known = std::mem::take(&mut self.packs);
        let requests = table.packs.iter().zip(needed).map(|(pack, needed)| {
            let known = known.remove(&pack.name);
            async move {
                match known {
                    Some(digests) => Ok(Some(digests)),
                    None if needed => fetch(repository, pack).await.map(|digests| Some(Arc::new(digests))),
                    None => Ok(None),
                }
            }
        });
        let requests: Vec<_> = requests.collect();
        let packs: Vec<Option<Arc<PackDigests>>> =
            stream::iter(requests).buffered(CONCURRENT_FETCHES).try_collect().await?;
        let seed = repository.identity().page_seed()?;
        for (file, _) in table.files.iter_mut().zip(wanted).filter(|(_, wanted)| **wanted) {
            let filled = fill_file(file, &packs, seed);
            filled.with_context(|| format!("read the page digests of {}", file.path))?;
        }
        let names = table.packs.iter().map(|pack| pack.name.clone());
        self.packs = names.zip(packs).filter_map(|(name, pack)| Some((name, pack?))).collect();
        Ok(())
    }
}

async fn fetch(repository: &Repository, pack: &PackRef) -> Result<PackDigests, NoDigests> {
    let stored = repository.get_pack_range(&pack.name, pack.digests.range()).await;
    let opened = stored.and_then(|stored| {
        let reader = PackReader::new(repository.keys(), repository.name(), pack.name.clone(), &pack.header)?;
        reader.digests(&mut Decompressor::new()?, pack.digests.frame, &stored)
    });
    let opened = opened.with_context(|| format!("read the page digests of {}", pack.name));
    opened.map_err(|error| NoDigests { pack: Some(pack.name.clone()), error })
}

fn fill_file(file: &mut FileRecord, packs: &[Option<Arc<PackDigests>>], seed: u64) -> Result<()> {
    let mut digests = Vec::with_capacity(file.digest_count());
    for extent in &file.extents {
        let pack = packs.get(extent.pack as usize).and_then(Option::as_ref);
        let of_frame = pack.and_then(|pack| pack.of_frame(extent.frame));
        let own = of_frame.and_then(|digests| digests.get(extent.pages()));
        digests.extend_from_slice(own.ok_or_else(|| Error::corrupt("page digests are missing"))?);
    }
    let sums = digests.chunks(PAGES_PER_SUM).map(|digests| digest_sum(seed, digests));
    if !sums.eq(file.sums.iter().copied()) {
        return Err(Error::corrupt(
            "the pages that it is made of are not those that were backed up (digests)",
        ));
    }
    file.digests = digests;
    Ok(())
}
