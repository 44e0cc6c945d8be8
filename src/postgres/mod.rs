//! PostgreSQL's own vocabulary: names, numbers and byte layouts. No I/O.

mod backup_label;
mod control;
mod lsn;
#[cfg(test)]
pub(crate) mod noise;
mod page;
mod recovery_settings;
mod segment_size;
mod time;
mod timeline;
mod version;
mod wal_name;
mod wal_page;
mod wal_reader;
mod wal_records;
mod wal_scan;
mod wal_segment;
#[cfg(test)]
pub(crate) mod wal_writer;

pub use backup_label::BackupLabel;
pub use control::ControlFile;
pub use lsn::Lsn;
pub use page::{
    BLOCKS_PER_RELATION_FILE, Fork, PAGE_SIZE, PageVerdict, RelationFile, check_page, is_temporary_relation,
    page_checksum, page_lsn,
};
pub use recovery_settings::{
    Recovery, RecoverySettings, RecoveryTarget, TargetAction, restore_command_argument, strip_leftovers,
};
pub use segment_size::SegmentSize;
pub use time::PgTime;
pub use timeline::{History, HistoryEntry, Stretch, TimelineId};
pub use version::{Major, version_text};
pub use wal_name::{SegmentName, WalName};
pub use wal_page::{LongHeader, PageHeader, WAL_PAGE_SIZE};
pub use wal_reader::{NoVisitor, ReadRecord, WalBreak, WalReader, WalVisitor};
pub use wal_records::{LogicalMessage, TablespaceCreation, WalRecord, WalRecords};
pub use wal_scan::{RestorePoint, TransactionEnd, WalScanner, WalSummary};
pub use wal_segment::{CheckedSegment, SegmentChecker, SegmentContent};
