//! The format of what is stored: the only room that knows a key name or a byte of an object. No I/O.
//!
//! The specification follows; `tests/format.rs` parses its vectors.
#![doc = include_str!("FORMAT.md")]

mod backup_id;
mod canary;
mod file_table;
mod harm;
mod identity;
mod key;
pub(crate) mod layout;
pub(crate) mod lease_record;
mod manifest;
mod pack;
mod pack_list;
mod page_digests;
mod summary;
mod tail_name;
mod verify_record;
mod wal_object;

pub use backup_id::BackupId;
pub use canary::CANARY_PREFIX;
pub use file_table::{Extent, FileRecord, FileTable, PackRef};
pub use harm::Harm;
pub use identity::{ClusterName, ContentDigest, Identity, WalDigest};
pub(crate) use key::{HOLDS, IDENTITY};
pub use key::{ObjectKey, ObjectUse};
pub use lease_record::{Protection, Purpose, Verdict, WalFrom};
pub use manifest::{
    DirectoryRecord, Manifest, OutsideFile, PacksRecord, PageError, PartRecord, TablespaceRecord, WalRecord,
};
pub use pack::{FramePlace, PackName, PackReader, PackWriter, SealedPack};
pub use pack_list::{PackList, PackSizes, PackUse};
pub use page_digests::{PAGES_PER_SUM, PackDigests, digest_sum, first_other_page, page_digest_seed};
pub use summary::Summary;
pub use tail_name::{TailGeneration, TailPieceName};
pub use verify_record::VerifyRecord;
pub use wal_object::{Inspect, SealedWal, WAL_FRAME, open_wal, seal_wal};
pub(crate) use wal_object::{LONGEST_SUMMARY_RANGE, SUMMARY_RANGE, open_summary};
