//! A recovered server, opened for checks: what it reached, its databases, and made safe to ask (R20). Every name in these
//! statements is PostgreSQL's own; nothing of the cluster's code runs.

use std::time::Duration;

use crate::cluster::{PrivateServer, PrivateSession, SessionRole};
use crate::error::{Error, Result, ResultExt};
use crate::postgres::{Lsn, PgTime};

/// Of a statement that normally takes milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// Libraries that reach out of the database, and languages that run programs: their functions cannot be called.
const REACHING_OUT: &str = "probin ~ '(dblink|_fdw|plproxy|pg_net|http|plpython|plsh|plr|pljava|pg_cron|file_fdw|adminpack|pg_background)' \
     OR proname ~ '^(plperlu|pltclu)_'";

/// A server that can be asked.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) superuser: String,
    pub(super) version: String,
    pub(super) reached_lsn: Option<Lsn>,
    pub(super) reached_time: Option<PgTime>,
    /// That accept connections.
    pub(super) databases: Vec<String>,
    /// Why one of them could not be opened.
    pub(super) closed: Vec<String>,
}

/// Ask what was reached, and make every database safe.
pub(super) async fn open(server: &PrivateServer, candidates: &[String]) -> Result<Opened> {
    let (superuser, session) = find_superuser(server, candidates).await?;
    let facts = session
        .rows(
            "ask what was reached",
            "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_replay_lsn(), \
             (extract(epoch FROM pg_catalog.pg_last_xact_replay_timestamp()) * 1000000)::bigint, \
             pg_catalog.current_setting('server_version')",
            PATIENCE,
        )
        .await?;
    let column = |at: usize| facts.first().and_then(|row| row.get(at)).cloned().flatten();
    if column(0).as_deref() != Some("f") {
        return Err(Error::server("the server accepts connections, but is still recovering"));
    }
    // The settings of roles and databases that load code into every session.
    session
        .rows(
            "take back settings that load code",
            "UPDATE pg_catalog.pg_db_role_setting SET setconfig = ARRAY(SELECT one FROM pg_catalog.unnest(setconfig) AS one \
             WHERE one !~* '^(session_preload_libraries|local_preload_libraries|event_triggers|role|dynamic_library_path)=')",
            PATIENCE,
        )
        .await?;
    let rows = session
        .rows(
            "list the databases",
            "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY datname",
            PATIENCE,
        )
        .await?;
    let databases: Vec<String> = rows.into_iter().filter_map(|row| row.into_iter().next()?).collect();
    let mut closed = Vec::new();
    for database in &databases {
        if let Err(error) = make_safe(server, &superuser, database).await {
            closed.push(error.to_string());
        }
    }
    Ok(Opened {
        superuser,
        version: column(3).unwrap_or_default(),
        reached_lsn: column(1).and_then(|text| text.parse().ok()),
        reached_time: column(2).and_then(|text| text.parse().ok()).map(PgTime::from_unix_micros),
        databases,
        closed,
    })
}

async fn find_superuser(server: &PrivateServer, candidates: &[String]) -> Result<(String, PrivateSession)> {
    let mut last = Error::server("no superuser is known");
    for user in candidates {
        match server.connect(SessionRole::Superuser, user, "template1").await {
            Ok(session) => return Ok((user.clone(), session)),
            Err(error) => last = error,
        }
    }
    Err(last.context("open the restored server").hint(
        "is another role the cluster's superuser? name it as user in cluster.conninfo, which a drill does not connect to",
    ))
}

/// No event trigger fires, and nothing that reaches out can be called.
async fn make_safe(server: &PrivateServer, superuser: &str, database: &str) -> Result<()> {
    let session = server.connect(SessionRole::Superuser, superuser, database).await?;
    let sql = format!(
        "UPDATE pg_catalog.pg_event_trigger SET evtenabled = 'D'; \
         UPDATE pg_catalog.pg_proc SET probin = '$libdir/not_in_a_drill' \
           WHERE prolang = (SELECT oid FROM pg_catalog.pg_language WHERE lanname = 'c') AND ({REACHING_OUT})"
    );
    session
        .rows("make the database safe to ask", &sql, PATIENCE)
        .await
        .map(|_| ())
        .with_context(|| format!("database \"{database}\""))
}
