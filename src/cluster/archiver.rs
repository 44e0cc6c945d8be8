//! What the server says about its archiver.

use super::session::{Session, column};
use crate::error::Result;

impl Session {
    /// What the archiver failed on last, unless it has succeeded since.
    pub async fn archiver_failure(&self) -> Result<Option<String>> {
        let sql = "SELECT CASE WHEN last_failed_time OPERATOR(pg_catalog.>)
                COALESCE(last_archived_time, '-infinity'::pg_catalog.timestamptz)
            THEN pg_catalog.format('%s failed at %s, %s failures in all', last_failed_wal, last_failed_time, failed_count)
            END AS failure FROM pg_catalog.pg_stat_archiver";
        column(&self.row("ask how archiving goes", sql, &[]).await?, "failure")
    }

    /// The last file that the archiver was told is archived, if that was since the settings were read last.
    pub async fn last_archived(&self) -> Result<Option<String>> {
        let sql = "SELECT CASE WHEN last_archived_time OPERATOR(pg_catalog.>) pg_catalog.pg_conf_load_time()
            THEN last_archived_wal END AS name FROM pg_catalog.pg_stat_archiver";
        column(&self.row("ask what was archived last", sql, &[]).await?, "name")
    }

    /// Whether the role may finish a segment.
    pub async fn may_switch_wal(&self) -> Result<bool> {
        let sql = "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_switch_wal()', 'execute') AS may";
        column(&self.row("ask whether the role may switch WAL", sql, &[]).await?, "may")
    }
}
