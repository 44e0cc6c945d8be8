//! `check`: everything that archiving and restoring need, one line each.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tracing_subscriber::filter::LevelFilter;

use super::args::Global;
use super::output::{self, size};
use super::start;
use crate::archive::{Request, ask_for_line};
use crate::cluster::{DataDir, ServerInfo, Session};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::postgres::ControlFile;
use crate::repository::{Namespace, Repository};
use crate::store::Policy;

/// More than this between this host's clock and the store's makes S3 refuse requests and ages lie.
const MOST_SKEW: Duration = Duration::from_mins(1);
/// Less than this share of free space is worth a word.
const LEAST_FREE_PERCENT: u64 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
enum Status {
    #[serde(rename = "OK")]
    Ok,
    #[serde(rename = "WARN")]
    Warn,
    #[serde(rename = "FAIL")]
    Fail,
}

#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    status: Status,
    detail: String,
    hint: Option<String>,
}

/// Collects the lines in the order in which they were found out.
#[derive(Debug, Default)]
struct Findings {
    lines: Vec<Line>,
}

impl Findings {
    fn add(&mut self, name: &'static str, status: Status, detail: impl Into<String>, hint: Option<&str>) {
        self.lines.push(Line { name, status, detail: detail.into(), hint: hint.map(str::to_owned) });
    }

    /// Note what came out; the value if it is good.
    fn result<T>(
        &mut self,
        name: &'static str,
        result: Result<T>,
        detail: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                self.add(name, Status::Ok, detail(&value), None);
                Some(value)
            }
            Err(error) => {
                self.add(name, Status::Fail, error.to_string(), error.hint_text());
                None
            }
        }
    }

    /// Note a condition that must hold.
    fn must(&mut self, name: &'static str, holds: bool, detail: impl Into<String>, hint: &str) {
        let status = if holds { Status::Ok } else { Status::Fail };
        self.add(name, status, detail, (!holds).then_some(hint));
    }
}

pub(super) fn check(global: &Global) -> Result<u8> {
    let config = start::configure(global, LevelFilter::ERROR)?;
    let mut found = Findings::default();
    found.add("configuration", Status::Ok, config.path.display().to_string(), None);
    start::run_large(async {
        let control = check_data_dir(&config, &mut found);
        check_server(&config, control.as_ref(), &mut found).await;
        check_repository(&config, control.as_ref(), &mut found).await;
        Ok(())
    })?;
    check_daemon(&config, &mut found);
    check_space(&config, &mut found);
    let failed = found.lines.iter().any(|line| line.status == Status::Fail);
    if global.json {
        output::json(&serde_json::json!({ "ok": !failed, "checks": found.lines }))?;
    } else {
        print(&found)?;
    }
    Ok(u8::from(failed))
}

fn print(found: &Findings) -> Result<()> {
    for line in &found.lines {
        let status = match line.status {
            Status::Ok => "OK  ",
            Status::Warn => "WARN",
            Status::Fail => "FAIL",
        };
        output::line(format!("{status}  {:<18}{}", line.name, line.detail))?;
        if let Some(hint) = &line.hint {
            output::line(format!("      {:<18}hint: {hint}", ""))?;
        }
    }
    Ok(())
}

fn check_data_dir(config: &Config, found: &mut Findings) -> Option<ControlFile> {
    let control = config.data_dir().and_then(DataDir::open).and_then(|data_dir| data_dir.control());
    found.result("data directory", control, |control| {
        format!(
            "PostgreSQL {}, system identifier {}, timeline {}",
            control.major, control.system_identifier, control.timeline
        )
    })
}

async fn check_server(config: &Config, control: Option<&ControlFile>, found: &mut Findings) {
    let connected = async { Session::connect(config.conninfo()?, "walproof check").await }.await;
    let Some(session) =
        found.result("server", connected, |session| format!("PostgreSQL {} answers", session.major()))
    else {
        return;
    };
    let info = match session.info().await {
        Ok(info) => info,
        Err(error) => {
            return found.add("server settings", Status::Fail, error.to_string(), error.hint_text());
        }
    };
    if let Some(control) = control {
        found.must(
            "same cluster",
            info.system_identifier == control.system_identifier,
            format!("the server's system identifier is {}", info.system_identifier),
            "do cluster.data_dir and cluster.conninfo belong to the same cluster?",
        );
    }
    found.must(
        "backup rights",
        info.may_backup,
        if info.may_backup { "the role may take backups" } else { "the role may not execute the backup functions" },
        "use a superuser, or grant execute on pg_backup_start and pg_backup_stop to the role in cluster.conninfo",
    );
    check_settings(&info, found);
    check_archiver(&session, found).await;
    session.close().await;
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
    let command = &info.archive_command;
    if !info.archive_library.is_empty() {
        found.add(
            "archive_command",
            Status::Warn,
            format!("archive_library is {}", info.archive_library),
            Some("it takes the place of archive_command; is that meant?"),
        );
    } else if info.archives_through_us() {
        found.add("archive_command", Status::Ok, command, None);
    } else if info.archive_mode != "off" {
        found.add(
            "archive_command",
            Status::Fail,
            command,
            Some("set archive_command = 'walproof wal-push %p' and reload the server"),
        );
    }
    if !info.full_page_writes {
        found.add(
            "full_page_writes",
            Status::Warn,
            "off",
            Some("backups force it on while they run; is it off on purpose?"),
        );
    }
    if !info.data_checksums {
        found.add(
            "page checksums",
            Status::Warn,
            "off: backups cannot notice damaged pages",
            Some("pg_checksums --enable turns them on while the server is stopped"),
        );
    }
}

async fn check_archiver(session: &Session, found: &mut Findings) {
    match session.archiver_failure().await {
        Ok(None) => found.add(
            "archiver",
            Status::Ok,
            "the last archive_command succeeded, or none was needed yet",
            None,
        ),
        Ok(Some(failure)) => found.add(
            "archiver",
            Status::Fail,
            failure,
            Some("what does the server's log say of archive_command?"),
        ),
        Err(error) => found.add("archiver", Status::Warn, error.to_string(), error.hint_text()),
    }
}

async fn check_repository(config: &Config, control: Option<&ControlFile>, found: &mut Findings) {
    let keys = config.keys();
    let encrypted = config.is_encrypted();
    if found
        .result("key", keys, |_| {
            if encrypted { "usable" } else { "none: encryption.mode is \"none\"" }.to_owned()
        })
        .is_none()
    {
        return;
    }
    let namespace = config.namespace(Policy::within(Duration::from_secs(30)));
    let Some(namespace) = found.result("store", namespace, |namespace| namespace.store().to_string()) else {
        return;
    };
    let opened = open(&namespace, control).await;
    let Some(repository) = found.result("repository", opened, |repository| {
        format!(
            "cluster {}, system identifier {}",
            repository.identity().cluster,
            repository.identity().system_identifier
        )
    }) else {
        return;
    };
    let probe = repository.probe().await;
    let Some(written) = found.result("store test", probe, |_| "write, list, read back, delete".to_owned())
    else {
        return;
    };
    let skew = jiff::Timestamp::now().duration_since(written).unsigned_abs();
    let detail = format!("{} s apart from the store's", skew.as_secs());
    let status = if skew > MOST_SKEW { Status::Fail } else { Status::Ok };
    found.add("clock", status, detail, (skew > MOST_SKEW).then_some("is this host's clock synchronised?"));
}

async fn open(namespace: &Namespace, control: Option<&ControlFile>) -> Result<Repository> {
    match control {
        Some(control) => namespace.open(control.system_identifier).await,
        None => namespace.open_newest().await,
    }
}

/// Without the daemon archiving works all the same, so that is no failure.
fn check_daemon(config: &Config, found: &mut Findings) {
    if config.data_dir_if_set().is_none() {
        return;
    }
    let socket = &config.archive.socket;
    match ask_for_line(socket, &Request::Status, Duration::from_secs(5)) {
        Ok(_) => found.add("daemon", Status::Ok, format!("answers at {}", socket.display()), None),
        Err(why) => found.add(
            "daemon",
            Status::Warn,
            format!("{why} ({})", socket.display()),
            Some("without it a lost host loses the unfinished segment: systemctl enable --now walproof"),
        ),
    }
}

fn check_space(config: &Config, found: &mut Findings) {
    let pg_wal = config.data_dir_if_set().map(|path| path.join("pg_wal"));
    let places = [("space for WAL", pg_wal.as_deref()), ("space for backups", config.repository.directory())];
    for (name, path) in places {
        let Some(path) = path.filter(|path| path.exists()) else { continue };
        match free(path) {
            Ok((free, total)) if free.saturating_mul(100) < total.saturating_mul(LEAST_FREE_PERCENT) => found
                .add(
                    name,
                    Status::Warn,
                    format!("{} free of {}", size(free), size(total)),
                    Some("a full disk stops the server when WAL cannot be archived"),
                ),
            Ok((free, total)) => {
                found.add(name, Status::Ok, format!("{} free of {}", size(free), size(total)), None);
            }
            Err(error) => found.add(name, Status::Warn, error.to_string(), error.hint_text()),
        }
    }
}

fn free(path: &Path) -> Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)
        .map_err(|cause| Error::io("examine the file system of", path, &cause.into()))?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}
