//! Base backups: a full copy of the data directory beside the running server.

mod base_files;
mod copy;
mod leave_out;
mod outside;
mod pace;
mod packer;
mod pages;
mod part;
mod placement;
mod progress;
mod regions;
mod shared;
mod table;
mod take;
mod tally;
mod throttle;
mod unread;
mod worker;

pub use progress::Progress;
pub use take::{BackupRequest, take};
