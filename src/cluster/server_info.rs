//! What the server says about itself, in one question.

use std::path::PathBuf;

use tokio_postgres::Row;

use super::session::{Session, column};
use super::statements::time;
use crate::error::{Error, Result, ResultExt};
use crate::postgres::{Major, PgTime, SegmentSize, TimelineId};

/// A server's identity and the settings that decide whether it can be backed up. Sizes are in bytes.
// Each is a column of the answer, none a state.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Clone)]
pub struct ServerInfo {
    /// Such as 150020 for 15.20.
    pub version_num: u32,
    /// Of `version_num`.
    pub major: Major,
    /// As the server was told; may contain symbolic links.
    pub data_directory: PathBuf,
    /// The same as in `pg_control` and in WAL.
    pub system_identifier: u64,
    /// The timeline WAL is written on; on a standby the newest one it has replayed or must reach.
    pub timeline: TimelineId,
    /// A standby, or a recovery that has not ended.
    pub in_recovery: bool,
    /// `off`, `on` or `always`.
    pub archive_mode: String,
    /// `(disabled)` while `archive_mode` is off; not run while `archive_library` is set.
    pub archive_command: String,
    /// Empty if not set, and before 15.
    pub archive_library: String,
    /// What archive_command failed on last, unless it has succeeded since.
    pub archiver_failure: Option<String>,
    /// `minimal`, `replica` or `logical`.
    pub wal_level: String,
    /// A standby's backup needs it on the primary.
    pub full_page_writes: bool,
    /// Of WAL files.
    pub wal_segment_size: SegmentSize,
    /// Whether pages have checksums.
    pub data_checksums: bool,
    /// Of relation files.
    pub block_size: u32,
    /// Of WAL.
    pub wal_block_size: u32,
    /// `postgresql.conf`, often outside the data directory.
    pub config_file: PathBuf,
    /// `pg_hba.conf`.
    pub hba_file: PathBuf,
    /// `pg_ident.conf`.
    pub ident_file: PathBuf,
    /// Of the server's clock, when asked.
    pub time: PgTime,
    /// Changes with every restart.
    pub started: PgTime,
    /// The role that initdb made, if its name is UTF-8.
    pub bootstrap_superuser: Option<String>,
    /// Of the role in conninfo.
    pub is_superuser: bool,
    /// Whether that role may execute the backup functions.
    pub may_backup: bool,
}

impl ServerInfo {
    /// Whether archive_command calls this program for every file.
    pub fn archives_through_us(&self) -> bool {
        let command = &self.archive_command;
        self.archive_library.is_empty()
            && ["walproof", "wal-push", "%p"].iter().all(|word| command.contains(word))
    }
}

const SQL: &str = "
    SELECT
        current_setting('server_version_num') AS version_num,
        current_setting('data_directory') AS data_directory,
        system.system_identifier,
        CASE WHEN pg_is_in_recovery()
            THEN GREATEST(point.timeline_id, recovery.min_recovery_end_timeline)::text
            -- pg_control has the new timeline only after the first checkpoint on it.
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int8::text
        END AS timeline,
        pg_is_in_recovery() AS in_recovery,
        current_setting('archive_mode') AS archive_mode,
        current_setting('archive_command') AS archive_command,
        COALESCE(current_setting('archive_library', true), '') AS archive_library,
        (SELECT format('%s failed at %s, %s failures in all', last_failed_wal, last_failed_time, failed_count)
            FROM pg_stat_archiver WHERE last_failed_time > COALESCE(last_archived_time, '-infinity'))
            AS archiver_failure,
        current_setting('wal_level') AS wal_level,
        current_setting('full_page_writes')::bool AS full_page_writes,
        init.bytes_per_wal_segment AS wal_segment_size,
        init.data_page_checksum_version = 1 AS data_checksums,
        init.database_block_size AS block_size,
        init.wal_block_size,
        current_setting('config_file') AS config_file,
        current_setting('hba_file') AS hba_file,
        current_setting('ident_file') AS ident_file,
        clock_timestamp() AS time,
        pg_postmaster_start_time() AS started,
        (SELECT encode(convert_to(rolname::text, getdatabaseencoding()), 'hex') FROM pg_roles WHERE oid = 10)
            AS bootstrap_superuser,
        current_setting('is_superuser')::bool AS is_superuser,
        (SELECT bool_and(has_function_privilege(oid, 'execute'))
            FROM pg_proc
            WHERE pronamespace = 'pg_catalog'::regnamespace
                -- Before 15, pg_stop_backup() without arguments ended another kind of backup.
                AND pronargs > 0
                AND proname IN ('pg_backup_start', 'pg_backup_stop', 'pg_start_backup', 'pg_stop_backup')
        ) AS may_backup
    FROM pg_control_system() AS system,
        pg_control_checkpoint() AS point,
        pg_control_recovery() AS recovery,
        pg_control_init() AS init";

impl Session {
    /// Asks the server about itself. The role must be a superuser or a member of `pg_read_all_settings`.
    pub async fn info(&self) -> Result<ServerInfo> {
        let row = self.row("ask the server about itself", SQL, &[]).await?;
        read(&row, self.major())
    }
}

fn read(row: &Row, major: Major) -> Result<ServerInfo> {
    let timeline = TimelineId::new(number(row, "timeline")?)?;
    let wal_segment_size = SegmentSize::new(positive(row, "wal_segment_size")?)
        .context("read wal_segment_size of the answer")?;
    Ok(ServerInfo {
        version_num: number(row, "version_num")?,
        major,
        data_directory: path(row, "data_directory")?,
        // An unsigned number that SQL has no type for.
        system_identifier: column::<i64>(row, "system_identifier")?.cast_unsigned(),
        timeline,
        in_recovery: column(row, "in_recovery")?,
        archive_mode: column(row, "archive_mode")?,
        archive_command: column(row, "archive_command")?,
        archive_library: column(row, "archive_library")?,
        archiver_failure: column(row, "archiver_failure")?,
        wal_level: column(row, "wal_level")?,
        full_page_writes: column(row, "full_page_writes")?,
        wal_segment_size,
        data_checksums: column(row, "data_checksums")?,
        block_size: positive(row, "block_size")?,
        wal_block_size: positive(row, "wal_block_size")?,
        config_file: path(row, "config_file")?,
        hba_file: path(row, "hba_file")?,
        ident_file: path(row, "ident_file")?,
        time: time(row, "time")?,
        started: time(row, "started")?,
        bootstrap_superuser: column::<Option<&str>>(row, "bootstrap_superuser")?.and_then(name_of_hex),
        is_superuser: column(row, "is_superuser")?,
        may_backup: column(row, "may_backup")?,
    })
}

fn path(row: &Row, name: &str) -> Result<PathBuf> {
    column::<String>(row, name).map(PathBuf::from)
}

/// Names are whatever bytes somebody chose; what is not UTF-8 has none here.
fn name_of_hex(hex: &str) -> Option<String> {
    let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok());
    String::from_utf8(bytes.collect::<Option<_>>()?).ok()
}

/// A number that PostgreSQL gave as text.
fn number(row: &Row, name: &str) -> Result<u32> {
    let text: &str = column(row, name)?;
    text.parse().map_err(|_| Error::server(format!("the server's {name} is {text:?}, not a number")))
}

fn positive(row: &Row, name: &str) -> Result<u32> {
    let value: i32 = column(row, name)?;
    value.try_into().map_err(|_| Error::server(format!("the server's {name} is {value}")))
}
