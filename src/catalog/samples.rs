//! For tests: catalogs made from names.

use jiff::Timestamp;

use super::Catalog;
use crate::error::Result;
use crate::format::WalDigest;
use crate::postgres::{History, SegmentSize, TimelineId};
use crate::repository::WalFile;

/// A WAL file whose digest is all `digest`.
pub(crate) fn file(name: &str, digest: u8) -> WalFile {
    let digest = WalDigest::from_bytes([digest; 16]);
    WalFile { name: name.parse().unwrap(), digest, stored_len: 1, modified: Timestamp::UNIX_EPOCH }
}

/// A catalog of WAL files.
pub(crate) fn catalog(segment_size: u32, names: &[&str]) -> Catalog {
    let mut catalog = Catalog::empty(SegmentSize::new(segment_size).unwrap());
    for name in names {
        catalog.add(file(name, 1));
    }
    catalog
}

impl Catalog {
    /// The same catalog with a history.
    pub(crate) fn with_history(mut self, timeline: u32, history: Result<History>) -> Self {
        self.add_history(TimelineId::new(timeline).unwrap(), history);
        self
    }
}
