//! `check`: everything that archiving and restoring need, one line each.

use std::path::Path;
use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;

use super::check_repository::check_repository;
use super::check_server::{check_archiving, check_server};
use super::daemon::promises;
use super::status::host;
use crate::archive::{Request, ask_for_line};
use crate::cli::{args::Global, findings::Findings, findings::Status, output, output::size, start};
use crate::cluster::DataDir;
use crate::config::Config;
use crate::daemon::repository_snapshot;
use crate::disk::Space;
use crate::error::Result;
use crate::postgres::ControlFile;
use crate::repository::Repository;
use crate::status::{Code, Severity, Snapshot};

/// Less than this share of free space is worth a word.
const LEAST_FREE_PERCENT: u64 = 10;

pub(super) fn check(global: &Global) -> Result<u8> {
    let config = start::configure(global, LevelFilter::ERROR)?;
    let mut found = Findings::default();
    found.ok("configuration", config.path.display().to_string());
    start::run_large(async {
        let daemon = ask_for_line(&config.archive.socket, &Request::Status, Duration::from_secs(5));
        let Some(data_dir) = expected_data_dir(&config) else {
            check_absence(&config, daemon.is_ok(), &mut found);
            let repository = check_repository(&config, None, &mut found).await;
            check_problems(&config, &daemon, repository.as_ref(), &mut found).await;
            return Ok(());
        };
        let control = check_data_dir(data_dir, &mut found);
        let server = check_server(&config, control.as_ref(), &mut found).await;
        let repository =
            check_repository(&config, control.as_ref().map(|(_, control)| control), &mut found).await;
        if let Some((session, info)) = server {
            let stores = daemon.as_ref().is_ok_and(|line| serves_another(&config, line).is_none());
            let places = (repository.as_ref(), stores);
            check_archiving(&session, &info, places, config.archive.timeout, &mut found).await;
            session.close().await;
        }
        check_daemon(&config, &daemon, &mut found);
        check_problems(&config, &daemon, repository.as_ref(), &mut found).await;
        Ok(())
    })?;
    check_space(&config, &mut found);
    let failed = found.failed();
    if global.json {
        output::json(&serde_json::json!({ "ok": !failed, "checks": found }))?;
    } else {
        found.print()?;
    }
    Ok(u8::from(failed))
}

/// The data directory, unless this host only restores: then none is configured, or the one that is configured (the file was
/// copied from the database's host) is not there, or empty.
fn expected_data_dir(config: &Config) -> Option<&Path> {
    let path = config.data_dir_if_set()?;
    let empty = std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    let absent = std::fs::metadata(path).is_err_and(|cause| cause.kind() == std::io::ErrorKind::NotFound);
    (!empty && !absent).then_some(path)
}

/// Where a daemon runs there should be a database.
fn check_absence(config: &Config, daemon_runs: bool, found: &mut Findings) {
    let Some(path) = config.data_dir_if_set().filter(|_| daemon_runs) else {
        return found.ok("database", "not on this host: only what restoring needs is checked");
    };
    found.must(
        "database",
        false,
        format!("{} is missing or empty, but a daemon runs on this host", path.display()),
        "is cluster.data_dir right, and its file system mounted?",
    );
}

fn check_data_dir(path: &Path, found: &mut Findings) -> Option<(DataDir, ControlFile)> {
    let opened = DataDir::open(path).and_then(|data_dir| {
        let control = data_dir.control()?;
        Ok((data_dir, control))
    });
    found.result("data directory", opened, |(_, control)| {
        format!(
            "PostgreSQL {}, system identifier {}, timeline {}",
            control.major, control.system_identifier, control.timeline
        )
    })
}

/// Without the daemon archiving works all the same, so that is not a failure.
fn check_daemon(config: &Config, answer: &Result<String, String>, found: &mut Findings) {
    let socket = &config.archive.socket;
    match answer {
        Ok(line) => match serves_another(config, line) {
            None => found.ok("daemon", format!("answers at {}", socket.display())),
            Some(other) => found.must(
                "daemon",
                false,
                format!("archives to {other}, but this configuration names {}", config.repository.url),
                "was the configuration changed? systemctl restart walproof",
            ),
        },
        Err(why) => found.warn(
            "daemon",
            format!("{why} ({})", socket.display()),
            "without it a lost host loses the unfinished segment: systemctl enable --now walproof",
        ),
    }
}

/// Problems that `check` judges by itself: better, or milder while a cluster is being set up.
const JUDGED: [Code; 5] =
    [Code::DaemonDown, Code::NoBackup, Code::PageErrors, Code::ArchiveModeOff, Code::ArchiveCommand];

/// R31: what a restore would trip over, as the daemon knows it, or without one the repository.
async fn check_problems(
    config: &Config,
    daemon: &Result<String, String>,
    repository: Option<&Repository>,
    found: &mut Findings,
) {
    let told = daemon.as_ref().ok().filter(|line| serves_another(config, line).is_none());
    let snapshot = match (told.and_then(|line| serde_json::from_str(line).ok()), repository) {
        (Some(snapshot), _) => Ok(snapshot),
        (None, Some(repository)) => {
            let why = daemon.as_ref().err().cloned().unwrap_or_default();
            repository_snapshot(repository, promises(config), host(config, why)).await
        }
        (None, None) => return,
    };
    let Snapshot { problems, .. } = match snapshot {
        Ok(snapshot) => snapshot,
        Err(error) => return found.error("problem", Status::Fail, &error),
    };
    for problem in &problems {
        if JUDGED.contains(&problem.code) || found.tells(&problem.text) {
            continue;
        }
        let status = if problem.severity == Severity::Critical { Status::Fail } else { Status::Warn };
        let detail = format!("{}: {}", problem.code.as_str(), problem.text);
        found.add("problem", status, detail, problem.hint.as_deref());
    }
}

/// The repository that the daemon was started with, if that is another one.
fn serves_another(config: &Config, line: &str) -> Option<String> {
    let told: Snapshot = serde_json::from_str(line).ok()?;
    (told.store.repository != config.repository.url).then_some(told.store.repository)
}

fn check_space(config: &Config, found: &mut Findings) {
    let pg_wal = config.data_dir_if_set().map(|path| path.join("pg_wal"));
    let places = [("space for WAL", pg_wal.as_deref()), ("space for backups", config.repository.directory())];
    for (name, path) in places {
        let Some(path) = path.filter(|path| path.exists()) else { continue };
        match Space::at(path) {
            Ok(Space { free, total }) => {
                let detail = format!("{} free of {}", size(free), size(total));
                if free.saturating_mul(100) < total.saturating_mul(LEAST_FREE_PERCENT) {
                    found.warn(name, detail, "a full disk stops the server when WAL cannot be archived");
                } else {
                    found.ok(name, detail);
                }
            }
            Err(error) => found.error(name, Status::Warn, &error),
        }
    }
}
