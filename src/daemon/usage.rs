//! What is stored, added up.

use super::snapshot::RepositoryBytes;
use crate::error::Result;
use crate::repository::{ObjectUse, Repository};

/// Bytes by what they are for; lists the whole repository.
pub(super) async fn of(repository: &Repository) -> Result<RepositoryBytes> {
    let mut bytes = RepositoryBytes::default();
    for (what, size) in repository.list_sizes().await? {
        *match what {
            ObjectUse::Pack => &mut bytes.pack,
            ObjectUse::Wal => &mut bytes.wal,
            ObjectUse::Tail => &mut bytes.tail,
            ObjectUse::Other => &mut bytes.other,
        } += size;
    }
    Ok(bytes)
}
