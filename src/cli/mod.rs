//! The command line: arguments become calls, results become words and exit codes.

mod args;
mod backup;
mod check;
mod daemon;
mod entry;
mod init;
mod output;
mod quick;
mod restore;
mod start;
mod status;
mod wal;

pub use entry::main;
