//! The command line: arguments become calls, results become words and exit codes.

mod args;
mod backup;
mod check;
mod check_repository;
mod check_server;
mod context;
mod daemon;
mod drill;
mod drill_evidence;
mod entry;
mod explain;
mod findings;
mod generate;
mod init;
mod key_rotate;
mod keygen;
mod output;
mod restore;
mod restore_words;
mod retention;
mod server_view;
mod start;
mod status;
mod verify;
mod wal;

pub use entry::main;
