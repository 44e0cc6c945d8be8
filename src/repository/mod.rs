//! One cluster's backups and WAL in a store: what is put, listed, read and deleted, and who may (leases).

mod attempt;
mod backup_store;
mod base;
mod expiry;
mod expiry_record;
#[cfg(test)]
pub(crate) mod fixture;
mod hold;
mod lease;
mod lease_grip;
mod listing;
mod namespace;
mod report_store;
mod siblings;
mod tail_segment;
mod tail_store;
mod verify_store;
mod wal_store;

pub use attempt::{AttemptEnd, BackupAttempt};
pub use backup_store::{Backups, DamagedBackup};
pub use base::{Base, Found};
pub use expiry_record::{ExpiryFailure, ExpiryRecord, Refused};
pub use hold::Hold;
pub use lease::{HeldLease, Lease};
pub use listing::{Listed, Listing, WalFile};
pub use namespace::{Namespace, Repository, identity_name, open_identity};
pub use report_store::{REPORTS_KEPT, StoredReport};
pub use tail_segment::{Unfinished, UnfinishedScan, fill_segment};
pub use tail_store::{Tail, TailPiece};
pub(crate) use wal_store::conflict;
