//! Files that a backup must not have after all, once its file table is stored.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::copy::Copied;
use crate::error::Result;
use crate::format::BackupId;
use crate::repository::Repository;

/// Leave the files `paths` out of the backup `id`: their records are taken out of the parts that have them. What they are
/// made of stays in its packs, as bytes that nothing uses.
pub(super) async fn leave_out(
    repository: &Repository,
    id: &BackupId,
    copied: &mut Copied,
    paths: &[PathBuf],
) -> Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    let paths: HashSet<&[u8]> = paths.iter().map(|path| path.as_os_str().as_bytes()).collect();
    for (number, part) in (0..).zip(&mut copied.parts) {
        let mut table = repository.get_file_table(id, number).await?;
        table.files.retain(|file| !paths.contains(file.path.as_bytes()));
        if table.files.len() as u64 != part.files {
            let before = std::mem::replace(part, repository.put_file_table(id, number, &table).await?);
            copied.new_bytes = (copied.new_bytes + part.table_bytes).saturating_sub(before.table_bytes);
        }
    }
    copied.files = copied.parts.iter().map(|part| part.files).sum();
    copied.size_bytes = copied.parts.iter().map(|part| part.bytes).sum();
    copied.page_errors.retain(|error| !paths.contains(error.path.as_bytes()));
    Ok(())
}
