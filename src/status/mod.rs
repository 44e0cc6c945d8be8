//! What is known, shown: one snapshot of plain values becomes problems, words, a page, metrics, JSON.

mod drills;
mod found;
mod metrics;
mod page;
mod picture;
mod problems;
pub mod restorable;
mod restores;
#[cfg(test)]
pub(crate) mod samples;
pub mod text;
mod verifications;
mod words;

pub use crate::present::Format;
pub use crate::problem::{Code, Problem, Severity, Trouble};
pub use crate::snapshot::{
    BackupLine, Backups, BranchLine, Daemon, DrillLine, Drills, EarlyLine, Estimates, Failing, HoldLine,
    NextLine, Promises, PushLine, RepositoryBytes, Retention, Role, Server, Snapshot, Store, TailLine,
    Teller, Verifications, VerifyLine, Wal, Window,
};
pub use drills::textfile as drill_textfile;
pub use metrics::render as metrics;
pub use page::render as page;
pub use restores::RTO_THREAT;
