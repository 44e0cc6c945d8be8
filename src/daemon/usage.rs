//! What is stored, added up.

use super::snapshot::RepositoryBytes;
use crate::window::{Catalog, Usage};

/// Bytes by what they are for.
pub(super) const fn of(catalog: &Catalog) -> RepositoryBytes {
    let Usage { pack, wal, tail, other } = catalog.usage;
    RepositoryBytes { pack, wal, tail, other }
}
