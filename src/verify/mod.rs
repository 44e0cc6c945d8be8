//! Verification: whether the repository still holds what its backups and its window need.
//!
//! By a listing (`listing`): one pass over the keys, the manifests and their pack lists. By content (`content`, `wal`): every
//! object is opened, pages are compared with their digests, and WAL is read record by record. What is found damaged is
//! made known to the recovery window, which then says what is lost (`restorable`). Nothing here
//! deletes; what is written is what was found (`result`, `harm`) and opened when (`memory`).

#[cfg(test)]
mod borders;
mod chains;
mod content;
mod covered;
mod findings;
mod harm;
mod listing;
mod memory;
#[cfg(test)]
mod remembered;
mod restorable;
mod result;
mod run;
#[cfg(test)]
mod spared;
mod wal;

pub use findings::{Finding, Findings};
pub use restorable::{BackupState, Day, Restorable};
pub use result::LastVerify;
pub use run::{Verified, Wanted, verify};
