//! One connection to the cluster's server.
//!
//! A backup lives in the session that started it: when the session ends, PostgreSQL aborts the backup.

use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, Connection, NoTls, Row, Socket, tls::NoTlsStream};

use super::version::major_of;
use super::{conninfo, server_error};
use crate::error::{Error, Result, ResultExt};
use crate::postgres::Major;

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Of a statement that normally takes milliseconds. A server that is stopped or drowned must not hang us.
const STATEMENT_DEADLINE: Duration = Duration::from_mins(1);
/// To say goodbye, so that the server does not log a lost client.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(1);

/// What a role or database may have set must not end a session that is idle while a backup copies for
/// hours. Names that a version does not know are left out by the join. From the next statement on, names
/// without a schema are PostgreSQL's own.
const SETTINGS: &str = "
    SELECT pg_catalog.count(pg_catalog.set_config(wanted.name, wanted.value, false))
    FROM (VALUES
        ('statement_timeout', '0'), ('lock_timeout', '0'), ('transaction_timeout', '0'),
        ('idle_in_transaction_session_timeout', '0'), ('idle_session_timeout', '0'),
        ('client_min_messages', 'error'), ('TimeZone', 'UTC'), ('search_path', ''),
        ('default_transaction_read_only', 'off'),
        -- A heartbeat is about local durability; it must not wait for a standby that is away.
        ('synchronous_commit', 'local')
    ) AS wanted (name, value)
    JOIN pg_catalog.pg_settings AS known ON known.name OPERATOR(pg_catalog.=) wanted.name";

/// A value for `$1`, `$2` ... of a statement, with the type that the server shall take it for.
pub(super) type Value<'a> = (&'a (dyn ToSql + Sync), Type);

/// A session of its own on the server. Dropping it ends it, and aborts a backup that runs in it.
///
/// Errors of its methods are [`Kind::Server`](crate::error::Kind::Server) and carry PostgreSQL's own words.
#[derive(Debug)]
pub struct Session {
    client: Client,
    connection: JoinHandle<()>,
    /// Why the connection ended. The next caller learns it.
    lost: Arc<OnceLock<String>>,
    major: Major,
    /// Tells the connection's task that the session was dropped. Declared after the client, to be
    /// dropped after it.
    _alive: oneshot::Sender<()>,
}

impl Session {
    /// Connects within 10 seconds, without TLS. `conninfo` is libpq's `key=value` or URL form; of libpq's
    /// defaults only the user (that of the operating system) applies, so it must name a host. The server
    /// shows `application_name` in `pg_stat_activity`.
    pub async fn connect(conninfo: &str, application_name: &str) -> Result<Self> {
        let mut config = conninfo::parse(conninfo)?;
        config.application_name(application_name);
        let target = conninfo::target(&config);
        let connecting = timeout(CONNECT_DEADLINE, config.connect(NoTls)).await.map_err(|_| {
            Error::server(format!("connect to {target}: no answer within {CONNECT_DEADLINE:?}"))
                .hint("is the server overloaded, or is a firewall dropping the packets?")
        })?;
        let (client, connection) = connecting.map_err(|cause| server_error::connecting(&target, &cause))?;
        let version = connection.parameter("server_version").unwrap_or_default();
        let major = major_of(version).with_context(|| format!("connect to {target}"))?;
        let lost = Arc::new(OnceLock::new());
        let (alive, dropped) = oneshot::channel();
        let connection = tokio::spawn(drive(connection, dropped, Arc::clone(&lost)));
        let session = Self { client, connection, lost, major, _alive: alive };
        session.row("prepare the session", SETTINGS, &[]).await?;
        Ok(session)
    }

    /// The server's version.
    pub fn major(&self) -> Major {
        self.major
    }

    /// Whether the connection is gone, and with it any backup that was started in it.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Asks the server for a sign of life. An error means that a backup in this session is void.
    pub async fn ping(&self) -> Result<()> {
        self.row("ask the server for a sign of life", "SELECT 1", &[]).await.map(|_| ())
    }

    /// Ends the session like dropping it does, and waits (for up to a second) until the server was told.
    /// A process that exits right after should, or the server logs a lost client.
    pub async fn close(self) {
        let Self { client, connection, _alive: alive, .. } = self;
        drop(client);
        drop(alive);
        // It ends within its own deadline, whatever the server does.
        let _ = connection.await;
    }

    /// The one row that the statement answers with. `purpose` is a verb and a noun for the error.
    pub(super) async fn row(&self, purpose: &str, sql: &str, values: &[Value<'_>]) -> Result<Row> {
        let answer = timeout(STATEMENT_DEADLINE, self.row_without_deadline(purpose, sql, values));
        answer.await.unwrap_or_else(|_| Err(self.give_up(purpose, STATEMENT_DEADLINE)))
    }

    /// Like [`Session::row`], for a statement whose time depends on the server's load.
    pub(super) async fn row_without_deadline(
        &self,
        purpose: &str,
        sql: &str,
        values: &[Value<'_>],
    ) -> Result<Row> {
        self.client.query_typed_one(sql, values).await.map_err(|cause| match self.lost.get() {
            Some(reason) if cause.is_closed() => {
                Error::server(format!("{purpose}: the connection was lost: {reason}"))
                    .hint("was the server stopped or restarted, or the session terminated?")
            }
            _ => server_error::running(purpose, &cause),
        })
    }

    /// The statement goes on in the server, and the next ones would queue up behind it: the session is of
    /// no more use.
    pub(super) fn give_up(&self, purpose: &str, deadline: Duration) -> Error {
        self.connection.abort();
        Error::server(format!("{purpose}: no answer within {deadline:?}"))
            .hint("is the server overloaded, stopped, or waiting for a full disk?")
    }
}

/// Moves the bytes of one session until its end.
async fn drive(
    mut connection: Connection<Socket, NoTlsStream>,
    dropped: oneshot::Receiver<()>,
    lost: Arc<OnceLock<String>>,
) {
    tokio::select! {
        // By reference: the reason must be there before the connection is dropped and callers notice.
        ended = &mut connection => if let Err(cause) = ended {
            // Cannot fail: nobody else writes.
            let _ = lost.set(server_error::text(&cause));
        },
        // Without the client, the connection says goodbye by itself; but first it would wait for the
        // answer to a statement that nobody wants any more.
        _ = dropped => {
            let _ = timeout(GOODBYE_DEADLINE, &mut connection).await;
        }
    }
}

/// A column that PostgreSQL must have filled, and with this type.
pub(super) fn column<'a, T: FromSql<'a>>(row: &'a Row, name: &str) -> Result<T> {
    row.try_get(name).map_err(|cause| server_error::running(&format!("read {name} of the answer"), &cause))
}

/// A column of text that is parsed further.
pub(super) fn parsed<T: FromStr<Err = Error>>(row: &Row, name: &str) -> Result<T> {
    let text: &str = column(row, name)?;
    text.parse().with_context(|| format!("read {name} of the answer"))
}
