//! PostgreSQL's low-level backup functions, which were renamed in version 15.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::types::Type;

use super::session::{Session, Value, column, parsed};
use crate::error::{Error, Result};
use crate::postgres::Lsn;

/// Ending a backup flushes WAL and switches segments: on a drowned disk that takes longer than a statement,
/// and hours of copying are at stake.
const STOP_DEADLINE: Duration = Duration::from_mins(10);

/// What PostgreSQL says at the end of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStop {
    /// WAL up to here makes the backup consistent.
    pub stop: Lsn,
    /// To be restored as `backup_label`, byte for byte.
    pub label: String,
}

impl Session {
    /// Starts a backup and returns its start. It lasts until [`Session::backup_stop`] or the end of the
    /// session. `fast` asks for a checkpoint at once; otherwise PostgreSQL spreads it, and this call takes
    /// up to `checkpoint_timeout`: it has no deadline of its own. The label is one line of ASCII.
    pub async fn backup_start(&self, label: &str, fast: bool) -> Result<Lsn> {
        // It comes back in the database's encoding, which can be any; and the end of a backup is not the time
        // to learn that it cannot be read.
        if !label.chars().all(|c| c.is_ascii() && !c.is_ascii_control()) {
            return Err(Error::usage(format!("the backup label {label:?} is not one line of ASCII")));
        }
        let sql = if self.major().get() >= 15 {
            "SELECT pg_backup_start($1, $2)::text AS start"
        } else {
            "SELECT pg_start_backup($1, $2, false)::text AS start"
        };
        let values: [Value<'_>; 2] = [(&label, Type::TEXT), (&fast, Type::BOOL)];
        parsed(&self.row_without_deadline("start a backup", sql, &values).await?, "start")
    }

    /// Ends the backup of this session, without waiting for the archive: the caller waits for the
    /// repository instead. Fails if a standby was promoted since the start.
    pub async fn backup_stop(&self) -> Result<BackupStop> {
        // Not the tablespace map: its paths may be bytes that the database's encoding does not have, which would be
        // an error here. The links say the same.
        let from = if self.major().get() >= 15 {
            "pg_backup_stop(wait_for_archive => false)"
        } else {
            "pg_stop_backup(false, false)"
        };
        let sql = format!(
            "SELECT lsn::text AS stop,
                convert_to(labelfile, getdatabaseencoding()) AS label
            FROM {from}"
        );
        let purpose = "stop the backup";
        let stopping = timeout(STOP_DEADLINE, self.row_without_deadline(purpose, &sql, &[]));
        let row = stopping.await.unwrap_or_else(|_| Err(self.give_up(purpose, STOP_DEADLINE)))?;
        Ok(BackupStop { stop: parsed(&row, "stop")?, label: utf8(column(&row, "label")?)? })
    }
}

fn utf8(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|failed| {
        let text = String::from_utf8_lossy(failed.as_bytes()).escape_debug().to_string();
        Error::server(format!("the backup label is not UTF-8: {text}"))
    })
}
