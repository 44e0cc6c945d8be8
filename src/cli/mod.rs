//! The command line: arguments become calls, results become words and exit codes.

mod args;
mod backup;
mod check;
mod check_repository;
mod check_server;
mod daemon;
mod entry;
mod findings;
mod generate;
mod init;
mod output;
mod quick;
mod restore;
mod start;
mod status;
mod wal;

pub use entry::main;
