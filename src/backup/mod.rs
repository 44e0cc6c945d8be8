//! Base backups: a full copy of the data directory beside the running server.

mod archiving;
mod copy;
mod outside;
mod pages;
mod progress;
mod regions;
mod table;
mod take;
mod throttle;
mod worker;

pub use archiving::try_archiving;
pub use progress::Progress;
pub use take::{BackupRequest, take};
