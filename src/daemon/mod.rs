//! Time: when flows run, when they stop, and what is known meanwhile.

mod counters;
pub mod page;
#[cfg(test)]
mod samples;
mod snapshot;
pub mod text;
mod words;

pub use counters::{Counters, Histogram, Requests, VERBS};
pub use snapshot::{BackupLine, Problem, PushLine, RepositoryBytes, Role, Severity, Snapshot, TailLine};
pub use words::size;
