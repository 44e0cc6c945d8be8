//! What the daemon and backups ask the server for, besides the backup itself.

use std::error::Error as StdError;

use tokio_postgres::types::{FromSql, Type};

use super::session::{Session, Value, column, parsed};
use crate::error::{Error, Result};
use crate::postgres::{Lsn, PgTime, TimelineId};

/// What the server says of its WAL at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalStatus {
    /// A standby, or a recovery that has not ended.
    pub in_recovery: bool,
    /// WAL up to here is on the server's disk; on a standby what it received.
    pub flushed: Lsn,
    /// The timeline that WAL is written on; `None` on a standby.
    pub timeline: Option<TimelineId>,
    /// When the server was started.
    pub started: PgTime,
}

impl Session {
    /// How far WAL is flushed, on which timeline, and whether this server writes it: one consistent answer.
    pub async fn wal_status(&self) -> Result<WalStatus> {
        let sql = "SELECT pg_is_in_recovery() AS in_recovery,
                CASE WHEN pg_is_in_recovery()
                    THEN COALESCE(GREATEST(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0')
                    ELSE pg_current_wal_flush_lsn() END::text AS flushed,
                CASE WHEN pg_is_in_recovery() THEN ''
                    ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END AS timeline,
                pg_postmaster_start_time() AS started";
        let row = self.row("ask how far WAL is flushed", sql, &[]).await?;
        let timeline: &str = column(&row, "timeline")?;
        let timeline = match timeline {
            "" => None,
            digits => Some(
                u32::from_str_radix(digits, 16)
                    .map_err(|_| Error::server(format!("the server's timeline is {digits:?}")))
                    .and_then(TimelineId::new)?,
            ),
        };
        Ok(WalStatus {
            in_recovery: column(&row, "in_recovery")?,
            flushed: parsed(&row, "flushed")?,
            timeline,
            started: time(&row, "started")?,
        })
    }

    /// Whether the server is a standby, or recovers.
    pub async fn is_in_recovery(&self) -> Result<bool> {
        let sql = "SELECT pg_is_in_recovery() AS in_recovery";
        column(&self.row("ask whether the server recovers", sql, &[]).await?, "in_recovery")
    }

    /// The time of the server's clock, which backups and commits are stamped with.
    pub async fn current_time(&self) -> Result<PgTime> {
        let row = self.row("ask for the server's time", "SELECT clock_timestamp() AS now", &[]).await?;
        time(&row, "now")
    }

    /// WAL up to here is on the server's disk and never changes again on this timeline. On a standby: WAL
    /// that it received or, before it streamed any, replayed.
    pub async fn flush_lsn(&self) -> Result<Lsn> {
        let sql = "SELECT CASE WHEN pg_is_in_recovery()
            THEN GREATEST(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            ELSE pg_current_wal_flush_lsn() END::text AS flushed";
        parsed(&self.row("ask how far WAL is flushed", sql, &[]).await?, "flushed")
    }

    /// Writes a commit record that has a time and carries no data, so that an idle cluster has something to
    /// recover to. Returns whether it was written: a standby cannot, and at `wal_level` minimal it has no use.
    pub async fn emit_heartbeat(&self, prefix: &str, text: &str) -> Result<bool> {
        let sql = "SELECT CASE
                WHEN pg_is_in_recovery() THEN NULL
                WHEN current_setting('wal_level') = 'minimal' THEN NULL
                ELSE pg_logical_emit_message(true, $1, $2)
            END IS NOT NULL AS written";
        let values: [Value<'_>; 2] = [(&prefix, Type::TEXT), (&text, Type::TEXT)];
        column(&self.row("write a heartbeat", sql, &values).await?, "written")
    }

    /// Of the server's cluster.
    pub async fn system_identifier(&self) -> Result<u64> {
        let sql = "SELECT system_identifier FROM pg_control_system()";
        let identifier: i64 =
            column(&self.row("ask which cluster it is", sql, &[]).await?, "system_identifier")?;
        Ok(identifier.cast_unsigned())
    }

    /// Ends the current segment, so that it gets archived. Returns the end of what was written; nothing
    /// happens when nothing was written since the last switch.
    pub async fn switch_wal(&self) -> Result<Lsn> {
        let sql = "SELECT pg_switch_wal()::text AS switched";
        parsed(&self.row("switch to a new WAL segment", sql, &[]).await?, "switched")
    }

    /// Writes a named target for recovery, of at most 63 bytes. Returns where it ends.
    pub async fn create_restore_point(&self, name: &str) -> Result<Lsn> {
        let sql = "SELECT pg_create_restore_point($1)::text AS point";
        parsed(&self.row("create a restore point", sql, &[(&name, Type::TEXT)]).await?, "point")
    }
}

/// A column of type `timestamptz`.
pub(super) fn time(row: &tokio_postgres::Row, name: &str) -> Result<PgTime> {
    column::<Microseconds>(row, name).map(|since_2000| PgTime::from_postgres_micros(since_2000.0))
}

/// `timestamptz` as PostgreSQL sends it: microseconds since 2000, like in WAL.
struct Microseconds(i64);

impl<'a> FromSql<'a> for Microseconds {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }
}
