//! What a restored server has to prove, check by check. Each has a verdict of its own.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::opened::{Opened, PATIENCE};
use super::report::{Check, CheckVerdict};
use crate::cluster::{PrivateServer, PrivateSession, ServerPrograms, SessionRole};
use crate::error::{Error, Kind, Result, ResultExt};

/// A statement that reads all of a database.
const LONG: Duration = Duration::from_hours(4);
/// Lines of what pg_amcheck says that go into a report.
const LINES: usize = 5;

/// An operator's question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Names it in reports.
    pub name: String,
    /// Where it is asked.
    pub database: String,
    /// What is asked.
    pub sql: String,
    /// By whom; by default a role that may read and no more.
    pub role: Option<String>,
}

/// What was found, before it has a name and a time.
pub(super) type Finding = (CheckVerdict, String);

/// Run one check. An error means that it could not be made, unless it says that something is damaged.
pub(super) async fn check(checks: &mut Vec<Check>, name: &str, work: impl Future<Output = Result<Finding>>) {
    let begin = Instant::now();
    let (verdict, detail) = work.await.unwrap_or_else(|error| of_error(&error));
    let seconds = begin.elapsed().as_secs_f64();
    tracing::info!(check = name, ?verdict, seconds, "{detail}");
    checks.push(Check { name: name.to_owned(), verdict, detail, seconds });
}

/// What an error means for a drill.
pub(super) fn of_error(error: &Error) -> Finding {
    let verdict = match error.kind() {
        Kind::Corrupt | Kind::NotFound | Kind::Conflict | Kind::Impossible => CheckVerdict::Fail,
        _ => CheckVerdict::CouldNotVerify,
    };
    let hint = error.hint_text().map(|hint| format!(" ({hint})")).unwrap_or_default();
    (verdict, format!("{error}{hint}"))
}

/// Every database answers, and its catalogs hold together.
pub(super) async fn catalogs(server: &PrivateServer, opened: &Opened) -> Result<Finding> {
    if let Some(why) = opened.closed.first() {
        return Ok((CheckVerdict::Fail, why.clone()));
    }
    let mut relations = 0_u64;
    for database in &opened.databases {
        let session = server.connect(SessionRole::Superuser, &opened.superuser, database).await?;
        let sql = "SELECT pg_catalog.count(*), \
              pg_catalog.count(*) FILTER (WHERE space.oid IS NULL), \
              pg_catalog.count(*) FILTER (WHERE class.relkind IN ('r', 'i', 'm', 't', 'S') AND class.relpersistence <> 't' \
                AND (pg_catalog.pg_stat_file(pg_catalog.pg_relation_filepath(class.oid), true)).size IS NULL), \
              (SELECT pg_catalog.count(*) FROM pg_catalog.pg_index AS index WHERE NOT EXISTS \
                (SELECT FROM pg_catalog.pg_class AS other WHERE other.oid = index.indrelid)), \
              (SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute AS attribute WHERE NOT EXISTS \
                (SELECT FROM pg_catalog.pg_class AS other WHERE other.oid = attribute.attrelid)) \
            FROM pg_catalog.pg_class AS class LEFT JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace";
        let answer = session.rows(&format!("read the catalogs of {database}"), sql, LONG).await;
        let rows = match answer {
            Ok(rows) => rows,
            Err(error) => return Ok((CheckVerdict::Fail, error.to_string())),
        };
        let counts: Vec<u64> = rows
            .into_iter()
            .flatten()
            .map(|text| text.and_then(|text| text.parse().ok()).unwrap_or(0))
            .collect();
        let [all, homeless, fileless, indexes, attributes] = counts.as_slice() else {
            return Err(Error::server("the catalogs returned an unexpected answer"));
        };
        if homeless + fileless + indexes + attributes > 0 {
            return Ok((
                CheckVerdict::Fail,
                format!(
                    "database \"{database}\": {fileless} relations without a file, {homeless} without a schema, \
                     {indexes} indexes and {attributes} columns without a table"
                ),
            ));
        }
        relations += all;
    }
    Ok((
        CheckVerdict::Pass,
        format!("{} databases answer; {relations} relations have their files", opened.databases.len()),
    ))
}

/// Every table and index, heap against index.
pub(super) async fn amcheck(
    server: &PrivateServer,
    opened: &Opened,
    programs: &ServerPrograms,
    budget: Duration,
) -> Result<Finding> {
    let program = programs.path("pg_amcheck");
    if !program.is_file() {
        return Ok((CheckVerdict::Skipped, "this version of PostgreSQL has no pg_amcheck".to_owned()));
    }
    for database in &opened.databases {
        let session = server.connect(SessionRole::Superuser, &opened.superuser, database).await?;
        in_pg_catalog(&session, "amcheck").await.with_context(|| format!("database \"{database}\""))?;
    }
    let mut command = tokio::process::Command::from(programs.command("pg_amcheck"));
    command
        .args(["--all", "--install-missing", "--heapallindexed", "--parent-check", "--progress", "--jobs=2"])
        .args(["--maintenance-db=template1", "--no-password", "--username", &opened.superuser])
        .arg("--host")
        .arg(server.socket_dir())
        .args(["--port", &server.port().to_string()])
        .env("PGOPTIONS", server.options())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|cause| Error::io("start", &program, &cause))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let stdout = tokio::spawn(all_of(stdout));
    let stderr = tokio::spawn(all_of(stderr));
    let status = tokio::time::timeout(budget, child.wait()).await;
    if status.is_err() {
        let _ = child.kill().await;
    }
    let (stdout, stderr) = (stdout.await.unwrap_or_default(), stderr.await.unwrap_or_default());
    let progress = stderr.split(['\r', '\n']).rfind(|line| line.contains("relations (")).unwrap_or("").trim();
    match status {
        Err(_) => Ok((
            CheckVerdict::CouldNotVerify,
            format!("stopped after its budget of {} s; reached {progress}", budget.as_secs()),
        )),
        Ok(Err(cause)) => Err(Error::io("wait for", &program, &cause)),
        Ok(Ok(status)) if status.success() => {
            Ok((CheckVerdict::Pass, format!("all tables and indexes: {progress}")))
        }
        Ok(Ok(status)) if status.code() == Some(2) => Ok((CheckVerdict::Fail, first_lines(&stdout))),
        Ok(Ok(_)) => Ok((CheckVerdict::CouldNotVerify, first_lines(&stderr))),
    }
}

async fn all_of(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut text = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut pipe, &mut text).await;
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn first_lines(text: &str) -> String {
    let told = text
        .split(['\r', '\n'])
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.contains("relations ("));
    told.take(LINES).collect::<Vec<_>>().join("; ")
}

/// Make the functions of `extension` the ones that are called (R20): the cluster may have it in a schema where others make
/// functions too, and one of the same name whose arguments fit better would be called instead, by a superuser. Nobody else
/// makes functions in pg_catalog.
async fn in_pg_catalog(session: &PrivateSession, extension: &str) -> Result<()> {
    let sql = format!(
        "CREATE EXTENSION IF NOT EXISTS {extension} WITH SCHEMA pg_catalog; \
         ALTER EXTENSION {extension} SET SCHEMA pg_catalog; \
         ALTER EXTENSION {extension} UPDATE"
    );
    session.rows(&format!("move the extension {extension} to pg_catalog"), &sql, PATIENCE).await.map(drop)
}

/// Visibility maps say nothing that the tables deny: amcheck does not look at them.
pub(super) async fn visibility(server: &PrivateServer, opened: &Opened) -> Result<Finding> {
    let mut tables = 0_u64;
    for database in &opened.databases {
        let session = server.connect(SessionRole::Superuser, &opened.superuser, database).await?;
        let purpose = format!("check the visibility maps of {database}");
        let there =
            "SELECT pg_catalog.count(*) FROM pg_catalog.pg_available_extensions WHERE name = 'pg_visibility'";
        if session.value(&purpose, there, PATIENCE).await?.as_deref() == Some("0") {
            return Ok((
                CheckVerdict::Skipped,
                "the extension pg_visibility is not installed on this host".to_owned(),
            ));
        }
        in_pg_catalog(&session, "pg_visibility").await?;
        let sql = "SELECT pg_catalog.count(*), \
               pg_catalog.count(*) FILTER (WHERE one.wrong), \
               pg_catalog.min(one.relation::pg_catalog.text) FILTER (WHERE one.wrong) \
             FROM (SELECT class.oid::pg_catalog.regclass AS relation, \
                 EXISTS (SELECT FROM pg_catalog.pg_check_visible(class.oid::pg_catalog.regclass)) \
                   OR EXISTS (SELECT FROM pg_catalog.pg_check_frozen(class.oid::pg_catalog.regclass)) AS wrong \
               FROM pg_catalog.pg_class AS class \
               WHERE class.relkind IN ('r', 'm', 't') AND class.relpersistence = 'p') AS one";
        let rows = session.rows(&purpose, sql, LONG).await?;
        let row = rows.into_iter().next().unwrap_or_default();
        let count =
            |at: usize| row.get(at).cloned().flatten().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        if count(1) > 0 {
            let first = row.get(2).cloned().flatten().unwrap_or_default();
            return Ok((
                CheckVerdict::Fail,
                format!("database \"{database}\": {} tables, such as {first}", count(1)),
            ));
        }
        tables += count(0);
    }
    Ok((CheckVerdict::Pass, format!("{tables} tables")))
}

/// Ask one question of the operator's.
pub(super) async fn question(
    server: &PrivateServer,
    opened: &Opened,
    question: &Question,
    own_role: &str,
    limit: Duration,
) -> Result<Finding> {
    let admitted = async {
        let session = server.connect(SessionRole::Superuser, &opened.superuser, "template1").await?;
        let there =
            format!("SELECT pg_catalog.count(*) FROM pg_catalog.pg_roles WHERE rolname = '{own_role}'");
        let made = session.value("look for the role", &there, PATIENCE).await?.as_deref() == Some("1");
        match &question.role {
            None if made => Ok(own_role.to_owned()),
            role => session.admit(role.as_deref(), own_role, PATIENCE).await,
        }
    };
    let role = admitted.await?;
    if question.role.is_none() && !server.has_reader_role() {
        match server.connect(SessionRole::Superuser, &opened.superuser, &question.database).await {
            Ok(session) => session.let_read(&role, PATIENCE).await?,
            Err(error) => return Ok((CheckVerdict::Fail, error.to_string())),
        }
    }
    let session = match server.connect(SessionRole::Reader, &role, &question.database).await {
        Ok(session) => session,
        Err(error) => return Ok((CheckVerdict::Fail, error.to_string())),
    };
    match session.question(&question.sql, limit).await {
        Ok(Ok(true)) => Ok((CheckVerdict::Pass, format!("true, as {role} in {}", question.database))),
        Ok(Ok(false)) => Ok((CheckVerdict::Fail, format!("false, as {role} in {}", question.database))),
        Ok(Err(why)) => Ok((CheckVerdict::Fail, why)),
        Err(error) => Ok((CheckVerdict::CouldNotVerify, error.to_string())),
    }
}
