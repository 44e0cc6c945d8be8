//! Sessions on a private server. The restored databases hold other people's code: nothing of it runs as superuser, and a
//! session that could run it cannot become one.

use std::path::Path;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::server_error;
use crate::error::{Error, Result};

const CONNECT_DEADLINE: Duration = Duration::from_secs(30);

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionRole {
    /// Walproof itself, with statements of its own in which every name is PostgreSQL's.
    Superuser,
    /// The operator's questions.
    Reader,
}

impl SessionRole {
    /// Sent when the session begins: stronger than what a database or a role may have set.
    pub(super) fn options(self, major: u16) -> String {
        let mut settings = vec!["local_preload_libraries=", "lock_timeout=0", "idle_session_timeout=0"];
        if major < 14 {
            settings.pop();
        }
        if self == Self::Superuser {
            settings.extend([
                "session_preload_libraries=",
                "search_path=",
                "statement_timeout=0",
                "role=none",
            ]);
            settings.extend(["default_transaction_read_only=off", "client_min_messages=error"]);
            if major >= 17 {
                settings.push("event_triggers=off");
            }
        }
        let options: Vec<String> = settings.iter().map(|setting| format!("-c {setting}")).collect();
        options.join(" ")
    }
}

/// A session. Dropping it ends it.
#[derive(Debug)]
pub struct PrivateSession {
    client: Client,
    connection: JoinHandle<()>,
}

impl PrivateSession {
    pub(super) async fn connect(
        socket_dir: &Path,
        port: u16,
        major: u16,
        role: SessionRole,
        user: &str,
        database: &str,
    ) -> Result<Self> {
        let mut config = Config::new();
        config.host_path(socket_dir).port(port).user(user).dbname(database);
        config.application_name("walproof drill").options(role.options(major));
        let purpose = format!("connect to database \"{database}\" as {user}");
        let connecting = timeout(CONNECT_DEADLINE, config.connect(NoTls)).await;
        let connected = connecting.map_err(|_| {
            Error::server(format!("{purpose}: no answer within {} s", CONNECT_DEADLINE.as_secs()))
        })?;
        let (client, connection) = connected.map_err(|cause| server_error::running(&purpose, &cause))?;
        let connection = tokio::spawn(async move {
            // Its end shows in the next statement.
            let _ = connection.await;
        });
        Ok(Self { client, connection })
    }

    /// The rows that `sql` answers with, as text; of walproof's own statements.
    pub async fn rows(&self, purpose: &str, sql: &str, limit: Duration) -> Result<Vec<Vec<Option<String>>>> {
        let answer = timeout(limit, self.client.simple_query(sql)).await;
        let messages = answer.map_err(|_| self.late(purpose, limit))?;
        let messages = messages.map_err(|cause| server_error::running(purpose, &cause))?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The first column of the only row.
    pub async fn value(&self, purpose: &str, sql: &str, limit: Duration) -> Result<Option<String>> {
        let mut rows = self.rows(purpose, sql, limit).await?;
        match (rows.len(), rows.pop().and_then(|row| row.into_iter().next())) {
            (1, Some(value)) => Ok(value),
            (count, _) => Err(Error::server(format!("{purpose}: the answer has {count} rows"))),
        }
    }

    /// Ask the operator's question in a transaction that only reads. One statement, one row, one column of type boolean;
    /// anything else is the error of the inner result. The outer one: it was not answered in time,
    /// or this host did not have what it takes.
    pub async fn question(&self, sql: &str, limit: Duration) -> Result<Result<bool, String>> {
        let begin = format!(
            "BEGIN READ ONLY; SET LOCAL statement_timeout = '{}ms'",
            limit.as_millis().min(2_000_000_000)
        );
        let ask = async {
            self.client.batch_execute(&begin).await?;
            self.client.query(sql, &[]).await
        };
        // The server ends it; should it not, we do.
        let answer =
            timeout(limit + Duration::from_secs(5), ask).await.map_err(|_| self.late("ask", limit))?;
        let rows = match answer {
            Ok(rows) => rows,
            Err(cause) if cause.code() == Some(&tokio_postgres::error::SqlState::QUERY_CANCELED) => {
                return Err(self.late("ask", limit));
            }
            // Class 53: the disk is full, or memory.
            Err(cause) if cause.code().is_some_and(|code| code.code().starts_with("53")) => {
                return Err(server_error::running("ask", &cause));
            }
            Err(cause) => return Ok(Err(server_error::text(&cause))),
        };
        let [row] = rows.as_slice() else {
            return Ok(Err(format!("it returned {} rows, not one", rows.len())));
        };
        if row.len() != 1 {
            return Ok(Err(format!("it returned {} columns, not one", row.len())));
        }
        Ok(match row.try_get::<_, Option<bool>>(0) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err("it returned null, neither true nor false".to_owned()),
            Err(_) => Err(format!("it returned a value of type {}, not boolean", row.columns()[0].type_())),
        })
    }

    fn late(&self, purpose: &str, limit: Duration) -> Error {
        self.connection.abort();
        Error::server(format!("{purpose}: no answer within {} s", limit.as_secs_f64()))
    }
}

impl Drop for PrivateSession {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A name in a statement.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl PrivateSession {
    /// Make a role that may log in, read everything, and no more; or let the operator's role log in. Fails for a role
    /// that could do more than read.
    pub async fn admit(&self, role: Option<&str>, own: &str, limit: Duration) -> Result<String> {
        let purpose = "prepare the role for queries";
        let Some(role) = role else {
            let name = quoted(own);
            let make = format!("CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION");
            self.rows(purpose, &make, limit).await?;
            // From 14 on; before, see `let_read`.
            let grant = format!(
                "DO $$ BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pg_read_all_data') \
                 THEN GRANT pg_read_all_data TO {name}; END IF; END $$"
            );
            self.rows(purpose, &grant, limit).await?;
            return Ok(own.to_owned());
        };
        let literal = format!("'{}'", role.replace('\'', "''"));
        let sql = format!(
            "SELECT rolsuper OR rolreplication OR EXISTS (SELECT FROM pg_catalog.pg_roles AS strong \
               WHERE (strong.rolsuper OR strong.rolname IN \
               ('pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files')) \
               AND pg_catalog.pg_has_role(mine.oid, strong.oid, 'MEMBER')) \
             FROM pg_catalog.pg_roles AS mine WHERE rolname = E{}",
            literal.replace('\\', "\\\\")
        );
        let rows = self.rows(purpose, &sql, limit).await?;
        match rows.first().and_then(|row| row.first()).and_then(Option::as_deref) {
            None => Err(Error::server(format!("the role \"{role}\" does not exist"))),
            Some("t") => Err(Error::server(format!("the role \"{role}\" can do more than read"))
                .hint("drill.query runs other people's code: name a role that is not a superuser")),
            Some(_) => {
                let login = format!("ALTER ROLE {} LOGIN CONNECTION LIMIT -1", quoted(role));
                self.rows(purpose, &login, limit).await?;
                Ok(role.to_owned())
            }
        }
    }

    /// Let a role read all of this database, for a server that has no `pg_read_all_data`.
    pub async fn let_read(&self, role: &str, limit: Duration) -> Result<()> {
        let role = quoted(role).replace('\'', "''");
        let sql = format!(
            "DO $$ DECLARE space name; BEGIN FOR space IN SELECT nspname FROM pg_catalog.pg_namespace \
               WHERE nspname !~ '^pg_(toast|temp|toast_temp)(_|$)' LOOP \
               EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA %I TO %s', space, '{role}'); \
               EXECUTE pg_catalog.format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO %s', space, '{role}'); \
               EXECUTE pg_catalog.format('GRANT SELECT ON ALL SEQUENCES IN SCHEMA %I TO %s', space, '{role}'); \
             END LOOP; END $$"
        );
        self.rows("let the role for queries read", &sql, limit).await.map(|_| ())
    }
}
