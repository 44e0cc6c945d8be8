//! Format and identity of one cluster's backups in a store: the only room that knows a key name or a header byte.
//!
//! The specification follows; `tests/format.rs` parses its vectors.
#![doc = include_str!("FORMAT.md")]

mod backup_id;
mod backup_store;
mod canary;
mod expiry;
mod file_table;
#[cfg(test)]
pub(crate) mod fixture;
mod hold;
mod identity;
mod key;
mod layout;
mod lease;
mod lease_grip;
mod lease_record;
mod listing;
mod manifest;
mod namespace;
mod pack;
mod pack_list;
mod report_store;
mod rotation;
mod siblings;
mod summary;
mod tail_segment;
mod tail_store;
mod verbatim;
mod verify_store;
mod wal_object;
mod wal_store;

pub use backup_id::BackupId;
pub use backup_store::{Backups, DamagedBackup};
pub use canary::CANARY_PREFIX;
pub use expiry::{ExpiryFailure, ExpiryRecord, Refused};
pub use file_table::{Extent, FileRecord, FileTable, PackRef, first_other_page, page_digest_seed};
pub use hold::Hold;
pub use identity::{ClusterName, Identity, WalDigest};
pub use key::{ObjectKey, ObjectUse};
pub use lease::{HeldLease, Lease};
pub use lease_record::{Protection, Purpose, Verdict, WalFrom};
pub use listing::{Listed, Listing};
pub use manifest::{
    DirectoryRecord, Manifest, OutsideFile, PacksRecord, PageError, PartRecord, TablespaceRecord,
};
pub use namespace::{Namespace, Repository};
pub use pack::{PackName, PackReader, PackWriter, SealedPack};
pub use pack_list::{PackList, PackTally, PackUse};
pub use report_store::{REPORTS_KEPT, StoredReport};
pub use rotation::{OlderKey, Rotation};
pub use summary::Summary;
pub use tail_segment::{Unfinished, UnfinishedScan, fill_segment};
pub use tail_store::{Tail, TailGeneration, TailPiece, TailPieceName};
pub use verbatim::Verbatim;
pub use verify_store::VerifyRecord;
pub use wal_object::{Inspect, SealedWal, WAL_FRAME, open_wal, seal_wal};
pub use wal_store::WalFile;
pub(crate) use wal_store::conflict;
