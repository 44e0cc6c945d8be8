//! The commands, one file each: arguments become calls, results become words and exit codes.

mod backup;
mod check;
mod check_repository;
mod check_server;
mod daemon;
mod drill;
mod drill_evidence;
mod entry;
mod explain;
mod generate;
mod init;
mod key_rotate;
mod keygen;
mod restore;
mod retention;
mod status;
mod verify;
mod wal;
mod wal_fetch;

pub use entry::main;
