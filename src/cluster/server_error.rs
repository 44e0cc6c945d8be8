//! What PostgreSQL or the connection to it said, as our error: one line, with a question that finds the
//! cause, and without a password.

use std::error::Error as _;
use std::io;

use tokio_postgres::error::{DbError, SqlState};

use crate::error::{Error, with_causes};

/// A failed connection. `target` says to where, from the parts of conninfo that are no secret.
pub(super) fn connecting(target: &str, cause: &tokio_postgres::Error) -> Error {
    let hint = match (cause.as_db_error(), io_cause(cause)) {
        (Some(refusal), _) => refused(refusal),
        (None, Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)) => {
            "is the server running, and is conninfo's host its socket directory (and port its port)?"
        }
        (None, Some(io::ErrorKind::PermissionDenied)) => "may this operating system user use the socket?",
        _ if text(cause).contains("TLS") => {
            "connections are made without TLS: can conninfo's host be the socket directory?"
        }
        _ => {
            "is the server running, is conninfo's host its socket directory, and may this operating system \
             user log in?"
        }
    };
    Error::server(format!("connect to {target}: {}", text(cause))).hint(hint)
}

fn refused(refusal: &DbError) -> &'static str {
    match refusal.code() {
        &SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "does the role exist, and does pg_hba.conf let this operating system user log in as it?"
        }
        &SqlState::INVALID_CATALOG_NAME => "does conninfo name a database that exists (dbname=postgres)?",
        &SqlState::CANNOT_CONNECT_NOW => "is the server still starting, recovering or shutting down?",
        &SqlState::TOO_MANY_CONNECTIONS => "do other clients use up max_connections?",
        _ => "may this role log in to that database?",
    }
}

/// A failed statement. `purpose` is a verb and a noun.
pub(super) fn running(purpose: &str, cause: &tokio_postgres::Error) -> Error {
    let error = Error::server(format!("{purpose}: {}", text(cause)));
    match cause.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => error.hint(
            "is the role in conninfo a superuser, or a member of pg_read_all_settings that may execute the \
             backup functions?",
        ),
        Some(&SqlState::ADMIN_SHUTDOWN | &SqlState::CRASH_SHUTDOWN) => {
            error.hint("was the server stopped or restarted, or the session terminated?")
        }
        _ => error,
    }
}

/// PostgreSQL's severity, message, detail and hint, or what happened to the connection.
pub(super) fn text(cause: &tokio_postgres::Error) -> String {
    if let Some(said) = cause.as_db_error() {
        let extra = [("detail", said.detail()), ("hint", said.hint())];
        let extra = extra.iter().filter_map(|(name, text)| text.map(|text| format!("; {name}: {text}")));
        return format!("{}: {}{}", said.severity(), said.message(), extra.collect::<String>());
    }
    with_causes(cause)
}

fn io_cause(cause: &tokio_postgres::Error) -> Option<io::ErrorKind> {
    cause.source()?.downcast_ref::<io::Error>().map(io::Error::kind)
}
