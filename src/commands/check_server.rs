//! `check`: the server, its settings, and whether its WAL arrives in the repository.

use std::path::Path;
use std::time::Duration;

use crate::arrivals::{Arrivals, try_archiving};
use crate::cli::{findings::Findings, findings::Status};
use crate::cluster::{DataDir, ServerInfo, Session};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::postgres::{ControlFile, WalName};
use crate::repository::Repository;

const ARCHIVING: &str = "archiving";
const COMMAND: &str = "set archive_command = 'walproof wal-push %p' and reload the server";

/// The session and what the server says of itself, if it can be asked.
pub(super) async fn check_server(
    config: &Config,
    local: Option<&(DataDir, ControlFile)>,
    found: &mut Findings,
) -> Option<(Session, ServerInfo)> {
    let connected = async { Session::connect(config.conninfo()?, "walproof check").await }.await;
    let session =
        found.result("server", connected, |session| format!("PostgreSQL {} answers", session.major()))?;
    let info = match session.info().await {
        Ok(info) => info,
        Err(error) => {
            found.error("server settings", Status::Fail, &error);
            return None;
        }
    };
    if let Some((data_dir, control)) = local {
        let same = session.must_run_in(&info, data_dir, control).await;
        let same = found.result("same server", same, |()| {
            format!("the server that answers runs in {}", data_dir.path().display())
        });
        if same.is_some() {
            let there = async { session.must_have(&session.tablespaces(control).await?, data_dir).await };
            found.result("tablespaces", there.await, |()| "all are there".to_owned());
        }
    }
    found.must(
        "backup rights",
        info.may_backup,
        if info.may_backup { "the role may take backups" } else { "the role may not execute the backup functions" },
        "use a superuser, or grant execute on pg_backup_start and pg_backup_stop to the role in cluster.conninfo",
    );
    check_settings(&info, found);
    Some((session, info))
}

fn check_settings(info: &ServerInfo, found: &mut Findings) {
    found.must(
        "wal_level",
        info.wal_level != "minimal",
        &*info.wal_level,
        "set wal_level = replica and restart the server",
    );
    found.must(
        "archive_mode",
        info.archive_mode != "off",
        &*info.archive_mode,
        "set archive_mode = on and restart the server",
    );
    if !info.full_page_writes {
        found.warn("full_page_writes", "off", "backups force it on while they run; is it off on purpose?");
    }
    if !info.data_checksums {
        found.warn(
            "page checksums",
            "off: backups cannot notice damaged pages",
            "pg_checksums --enable turns them on while the server is stopped",
        );
    }
}

/// Whether WAL arrives: judged by the command's name, or else by what it does, unless a daemon does
/// that, too.
pub(super) async fn check_archiving(
    session: &Session,
    info: &ServerInfo,
    (repository, daemon_stores): (Option<&Repository>, bool),
    patience: Duration,
    found: &mut Findings,
) {
    if info.archive_mode == "off" {
        return;
    }
    let (setting, value) = if info.archive_library.is_empty() {
        ("archive_command", &info.archive_command)
    } else {
        ("archive_library", &info.archive_library)
    };
    if value.is_empty() {
        return found.add(setting, Status::Fail, "empty", Some(COMMAND));
    }
    if info.archives_through_us() {
        if let Some(program) = missing_program(value) {
            let what = format!("{value}: there is no program {program} on this host");
            return found.add(setting, Status::Fail, what, Some("where is it? `command -v walproof` says"));
        }
        found.ok(setting, value);
        return check_archiver(session, found).await;
    }
    found.ok(setting, format!("{value} (not walproof by name)"));
    match prove(session, info, repository, patience).await {
        Ok(Proof::Arrived(name)) if daemon_stores => found.warn(
            ARCHIVING,
            format!("{name} arrived in the repository, but the daemon also stores it, so this proves nothing about the command"),
            "does it end with the exit code of `walproof wal-push %p`? to see it, stop the daemon, finish a segment (select pg_switch_wal()), and check again",
        ),
        Ok(Proof::Arrived(name)) => found.ok(ARCHIVING, format!("{name} arrived in the repository")),
        Ok(Proof::Unknown(why)) => found.warn(
            ARCHIVING,
            format!("cannot tell whether WAL arrives in the repository: {why}"),
            "does the command end with the exit code of `walproof wal-push %p`? `walproof wal-list` shows what has arrived",
        ),
        Err(error) => {
            let error = error.hint(COMMAND);
            found.error(ARCHIVING, Status::Fail, &error);
        }
    }
}

/// The program of a command line that names it by an absolute path, where that does not exist. A quoted path, or a name
/// that the server's shell looks up, is not judged.
fn missing_program(command: &str) -> Option<&str> {
    let program = command.split_whitespace().next()?;
    let plain = program.starts_with('/') && !program.contains(['\'', '"', '\\', '$', '`', '%']);
    (plain && matches!(Path::new(program).try_exists(), Ok(false))).then_some(program)
}

enum Proof {
    Arrived(WalName),
    Unknown(String),
}

/// See a file arrive: the one that was archived last, if that was since the settings were read, else one that is finished
/// for that.
async fn prove(
    session: &Session,
    info: &ServerInfo,
    repository: Option<&Repository>,
    patience: Duration,
) -> Result<Proof> {
    let unknown = |why: &str| Ok(Proof::Unknown(why.to_owned()));
    let Some(repository) = repository else { return unknown("the repository cannot be opened") };
    let last = session.last_archived().await?.and_then(|name| name.parse::<WalName>().ok());
    if let Some(name) = last
        && repository.list_wal_beside(&name).await?.iter().any(|file| file.name == name)
    {
        return Ok(Proof::Arrived(name));
    }
    if info.in_recovery {
        return unknown("a standby cannot finish a segment");
    }
    if !session.may_switch_wal().await? {
        return unknown("the role may not execute pg_switch_wal");
    }
    let arrivals = Arrivals::new(repository, info, Path::new(&info.data_directory));
    match try_archiving(&arrivals, session, info, patience).await? {
        Some(segment) => Ok(Proof::Arrived(WalName::Segment(segment))),
        None => unknown("a standby cannot finish a segment"),
    }
}

async fn check_archiver(session: &Session, found: &mut Findings) {
    match session.archiver_failure().await {
        Ok(None) => found.ok("archiver", "the last archive_command succeeded, or none was needed yet"),
        Ok(Some(failure)) => {
            let error = Error::server(failure).hint("what does the server's log say about archive_command?");
            found.error("archiver", Status::Fail, &error);
        }
        Err(error) => found.error("archiver", Status::Warn, &error),
    }
}
