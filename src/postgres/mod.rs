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
mod verbatim;
mod version;
mod wal_name;

pub use backup_label::BackupLabel;
pub use control::ControlFile;
pub use lsn::Lsn;
pub use page::{
    BLOCKS_PER_RELATION_FILE, Fork, PAGE_SIZE, PageVerdict, RelationFile, WAL_PAGE_SIZE, check_page,
    is_temporary_relation, page_checksum, page_lsn,
};
pub use recovery_settings::{
    Recovery, RecoverySettings, RecoveryTarget, TargetAction, restore_command_argument, strip_leftovers,
};
pub use segment_size::SegmentSize;
pub use time::PgTime;
pub use timeline::{History, HistoryEntry, Stretch, TimelineId};
pub use verbatim::Verbatim;
pub use version::{Major, version_text};
pub use wal_name::{SegmentName, WalName};
