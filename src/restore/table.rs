//! The file table of the backup that is restored, part by part.

use super::fetch::pack_missing;
use super::plan::Plan;
use crate::digest_reader::DigestReader;
use crate::error::{Error, Result};
use crate::format::FileTable;
use crate::repository::Repository;

/// Part `number` of the file table of the plan's backup, without digests.
pub(super) async fn read_part(repository: &Repository, plan: &Plan, number: usize) -> Result<FileTable> {
    let number = u32::try_from(number).map_err(|_| Error::corrupt("the file table has too many parts"))?;
    repository.get_file_table(&plan.backup.id, number).await
}

/// Fill in the digests of a part.
pub(super) async fn fill(
    digests: &mut DigestReader,
    repository: &Repository,
    part: &mut FileTable,
) -> Result<()> {
    digests.fill(repository, part).await.map_err(|no| pack_missing(no.error))
}
