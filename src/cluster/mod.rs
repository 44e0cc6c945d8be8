//! A live PostgreSQL and its disk: everything that asks the server or touches a data directory, so that
//! `postgres/` can stay free of I/O.

mod archiver;
mod conninfo;
pub mod data_dir;
mod exclude;
#[cfg(test)]
mod fixture;
mod online_backup;
mod private_server;
mod private_server_log;
mod private_server_programs;
mod private_server_session;
mod private_server_settings;
mod same_server;
mod server_error;
mod server_info;
pub mod session;
mod statements;
mod tablespaces;
mod tree;
mod version;
pub mod walk;
mod walker;

pub use data_dir::{DataDir, user_name};
pub use online_backup::BackupStop;
pub use private_server::{PrivateServer, ServerState};
pub use private_server_log::ServerLog;
pub use private_server_programs::ServerPrograms;
pub use private_server_session::{PrivateSession, SessionRole};
pub use private_server_settings::{MOST_WAL, PrivateSettings};
pub use same_server::must_run_in;
pub use server_info::ServerInfo;
pub use session::Session;
pub use statements::WalStatus;
pub use tablespaces::Tablespaces;
pub use tree::{DirEntry, FileEntry, FileStat, Tablespace, Walk};
pub use walk::{unlogged_since, walk};
