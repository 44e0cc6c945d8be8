//! Time: when flows run, when they stop, and what is known meanwhile.

mod counters;
mod snapshot;

pub use counters::{Counters, Histogram, Requests, VERBS};
pub use snapshot::{BackupLine, Problem, PushLine, RepositoryBytes, Role, Severity, Snapshot, TailLine};
