//! Time and process: what runs, when it stops, and who may ask what is known: `wal-push` over the socket, Prometheus and
//! people over HTTP, systemd.

mod drills;
mod early_backup;
mod http;
mod journal;
mod offline;
mod ping;
#[cfg(test)]
mod quiet_day;
mod run;
mod snapshot;
mod socket;
mod verifications;
mod watchdog;

pub use drills::{KnownDrills, read as read_drills};
pub use early_backup::BackupCommand;
pub use offline::{Host, repository_snapshot};
pub use run::{Setup, run};
