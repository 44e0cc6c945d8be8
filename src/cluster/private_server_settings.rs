//! What a private server is told: nothing of the restored cluster's own settings holds (R20).

use std::path::{Path, PathBuf};

use crate::disk::LONGEST_SOCKET_PATH;
use crate::error::{Error, Result};
use crate::postgres::ControlFile;

/// WAL that it keeps in its data directory, about, at most: max_wal_size and wal_keep_size below.
pub const MOST_WAL: u64 = (4 << 30) + (256 << 20);
/// Part of the socket's name; nothing listens on a network.
pub(super) const PORT: u16 = 5432;

/// Where a private server is, and how it recovers.
#[derive(Debug, Clone)]
pub struct PrivateSettings {
    /// The restored data directory.
    pub data_dir: PathBuf,
    /// A directory of this user alone, for configuration and log.
    pub directory: PathBuf,
    /// A directory of this user alone, for the socket: its path must be short.
    pub socket_dir: PathBuf,
    /// The restored control file, for what may not be less than the primary had.
    pub control: ControlFile,
    /// Lines of the configuration that make it recover.
    pub recovery: String,
}

impl PrivateSettings {
    pub(super) fn config_file(&self) -> PathBuf {
        self.directory.join("postgresql.conf")
    }

    pub(super) fn log_file(&self) -> PathBuf {
        self.directory.join("postgresql.log")
    }

    /// Whether the socket's path fits.
    pub fn fits(socket_dir: &Path) -> bool {
        socket_dir.join(format!(".s.PGSQL.{PORT}")).as_os_str().len() < LONGEST_SOCKET_PATH
    }

    /// Write the server's files, and empty those of the restored cluster that would be read as well.
    pub(super) fn write(&self) -> Result<()> {
        let write = |path: &Path, text: &str| {
            std::fs::write(path, text).map_err(|cause| Error::io("write", path, &cause))
        };
        write(&self.directory.join("pg_hba.conf"), "local all all trust\n")?;
        write(&self.directory.join("pg_ident.conf"), "")?;
        write(&self.log_file(), "")?;
        write(
            &self.data_dir.join("postgresql.auto.conf"),
            "# a drill's server reads no settings of the cluster\n",
        )?;
        write(&self.config_file(), &self.text()?)
    }

    fn text(&self) -> Result<String> {
        let path = |path: &Path| {
            let text = path.to_str().filter(|text| !text.contains(['\n', '\r']));
            let text = text.ok_or_else(|| {
                Error::usage(format!("the path {} cannot be written to a configuration file", path.display()))
            })?;
            Ok::<_, Error>(text.replace('\\', "\\\\").replace('\'', "''"))
        };
        let control = &self.control;
        let major = control.major.get();
        let mut lines: Vec<(&str, String)> = vec![
            ("data_directory", path(&self.data_dir)?),
            ("hba_file", path(&self.directory.join("pg_hba.conf"))?),
            ("ident_file", path(&self.directory.join("pg_ident.conf"))?),
            ("unix_socket_directories", path(&self.socket_dir)?),
            ("unix_socket_permissions", "0700".to_owned()),
            ("port", PORT.to_string()),
            // No less than the primary had; prepared transactions need it even without hot standby.
            ("max_connections", control.max_connections.max(20).to_string()),
            ("max_worker_processes", control.max_worker_processes.max(8).to_string()),
            ("max_wal_senders", control.max_wal_senders.to_string()),
            ("max_prepared_transactions", control.max_prepared_transactions.to_string()),
            ("max_locks_per_transaction", control.max_locks_per_transaction.max(64).to_string()),
            // initdb writes it by the size of segments; a server refuses to start with less than two.
            ("min_wal_size", format!("{}MB", ((2 * control.segment_size.bytes()) >> 20).max(80))),
        ];
        lines.extend(FIXED.iter().map(|(name, value)| (*name, (*value).to_owned())));
        if major >= 14 {
            lines.push(("restart_after_crash", "off".to_owned()));
        }
        if major >= 15 {
            lines.push(("archive_library", String::new()));
        }
        // Younger than 14, but part of its later minor releases: of those that made such a tablespace.
        if major >= 15 || has_tablespace_inside(&self.data_dir) {
            lines.push(("allow_in_place_tablespaces", "on".to_owned()));
        }
        if major >= 17 {
            lines.push(("event_triggers", "off".to_owned()));
            lines.push(("summarize_wal", "off".to_owned()));
        }
        let mut text: Vec<String> = lines.iter().map(|(name, value)| format!("{name} = '{value}'")).collect();
        text.push(self.recovery.clone());
        Ok(text.join("\n"))
    }
}

/// Whether a tablespace is a directory inside the data directory, where others have a link. Recovery refuses those unless
/// it is told to expect them.
fn has_tablespace_inside(data_dir: &Path) -> bool {
    let entries = std::fs::read_dir(data_dir.join("pg_tblspc")).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

/// Nothing listens, archives, replicates, connects, or runs by itself; nothing is loaded that the server does not need.
const FIXED: [(&str, &str); 31] = [
    ("listen_addresses", ""),
    ("ssl", "off"),
    ("external_pid_file", ""),
    ("archive_mode", "off"),
    ("archive_command", ""),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    ("synchronous_standby_names", ""),
    // Restored subscriptions would connect to production's publishers.
    ("max_logical_replication_workers", "0"),
    ("shared_preload_libraries", ""),
    ("session_preload_libraries", ""),
    ("local_preload_libraries", ""),
    ("autovacuum", "off"),
    ("jit", "off"),
    // While it recovers nobody asks it anything, and it needs no parameter of the primary's.
    ("hot_standby", "off"),
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("shared_buffers", "128MB"),
    ("huge_pages", "off"),
    ("dynamic_shared_memory_type", "mmap"),
    ("maintenance_work_mem", "128MB"),
    ("max_wal_size", "4GB"),
    ("checkpoint_timeout", "30min"),
    // What was replayed last is read again, for the canary.
    ("wal_keep_size", "256MB"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_line_prefix", "%m [%p] "),
    ("lc_messages", "C"),
    ("log_timezone", "UTC"),
    ("timezone", "UTC"),
];
