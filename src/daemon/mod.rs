//! Time: when flows run, when they stop, and what is known meanwhile.

mod counters;
mod exposition;
pub mod http;
pub mod metrics;
pub mod notify;
mod outage;
mod snapshot;

pub use counters::{Counters, Histogram, Requests, StoreWatch, VERBS};
pub use exposition::Format;
pub use outage::Outage;
pub use snapshot::{BackupLine, Problem, PushLine, RepositoryBytes, Role, Severity, Snapshot, TailLine};
