//! Time: when flows run, when they stop, and what is known meanwhile.
//!
//! One task asks the server (`server`), one watches `archive_status` (`watch`), one pushes (`pusher`), one ships the
//! tail (`tail`), one looks at the repository (`survey`); all say in `shared` what they found out. The socket, the
//! metrics and the status page show it.

mod counters;
mod coverage;
mod exposition;
mod http;
mod metrics;
mod notify;
mod offline;
mod outage;
mod page;
mod problems;
mod pusher;
mod queue;
mod rpo;
mod run;
#[cfg(test)]
mod samples;
mod server;
mod shared;
mod snapshot;
mod socket;
mod state;
mod survey;
mod tail;
pub mod text;
mod usage;
mod watch;
mod watchdog;
mod words;

pub use offline::{Promises, repository_snapshot};
pub use run::run;
pub use shared::Setup;
pub use snapshot::{BackupLine, Problem, PushLine, RepositoryBytes, Role, Severity, Snapshot, TailLine};
pub use words::size;
