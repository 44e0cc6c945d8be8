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
}
