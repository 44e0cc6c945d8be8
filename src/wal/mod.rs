//! What WAL says: pages, records and whole segments, read and checked. No I/O.

mod links;
mod page;
mod reader;
mod records;
mod scan;
mod segment;
#[cfg(test)]
pub(crate) mod writer;

pub use links::{Lead, Links};
pub use page::{LongHeader, PageHeader};
pub use reader::{NoVisitor, ReadRecord, WalBreak, WalReader, WalVisitor};
pub use records::{LogicalMessage, TablespaceCreation, WalRecord, WalRecords};
pub use scan::{RestorePoint, TransactionEnd, WalScanner, WalSummary};
pub use segment::{CheckedSegment, SegmentChecker, SegmentContent};
