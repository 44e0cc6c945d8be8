//! R10: whether the server that answers is the one that runs in a data directory. A virtual IP address, a proxy or a copied
//! configuration can lead to another one with the same system identifier, version and path.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::data_dir::DataDir;
use super::server_info::ServerInfo;
use super::session::{Session, column};
use crate::error::{Error, Result};
use crate::postgres::{ControlFile, PgTime};

const PID_FILE: &str = "postmaster.pid";
/// `postmaster.pid` has the second in which the server was started; its own start time is taken after it has set up shared
/// memory.
const LATEST: Duration = Duration::from_mins(1);
const ELSEWHERE: &str = "does cluster.conninfo lead to another host (a virtual IP address, a proxy)? use the socket directory of this one";

impl Session {
    /// See that the server of this session is the process that runs in `data_dir`, whose control file is `control`. An
    /// error of kind `Server` if it is not, or does not answer.
    pub async fn must_run_in(
        &self,
        info: &ServerInfo,
        data_dir: &DataDir,
        control: &ControlFile,
    ) -> Result<()> {
        must_run_in(info, self.pid_file().await?.as_deref(), data_dir, control)
    }

    /// The server's own `postmaster.pid`, where the role may read it.
    pub async fn pid_file(&self) -> Result<Option<String>> {
        let may =
            "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_read_file(text)', 'execute') AS may";
        let row = self.row("ask whether the role may read files", may, &[]).await?;
        if !column::<bool>(&row, "may")? {
            return Ok(None);
        }
        let read = "SELECT pg_catalog.pg_read_file('postmaster.pid') AS text";
        column(&self.row("ask for the server's process", read, &[]).await?, "text").map(Some)
    }
}

/// See that the server that says this of itself (`theirs`: its `postmaster.pid`) is the process that runs in `data_dir`. An
/// error of kind `Server` if it is not.
pub fn must_run_in(
    info: &ServerInfo,
    theirs: Option<&str>,
    data_dir: &DataDir,
    control: &ControlFile,
) -> Result<()> {
    same_cluster(info, data_dir, control)?;
    let path = data_dir.path().join(PID_FILE);
    let ours = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            let text = format!("a server answers, but none runs in {}", data_dir.path().display());
            return Err(Error::server(text).hint(ELSEWHERE));
        }
        Err(cause) => return Err(Error::io("read", &path, &cause)),
    };
    same_start(info.started, &ours, &path)?;
    match theirs {
        Some(theirs) if process(theirs) != process(&ours) => Err(another(&path)),
        _ => Ok(()),
    }
}

/// What does not change while the server runs: process id, data directory, start time, port. The rest tells its state.
fn process(pid_file: &str) -> Vec<&str> {
    pid_file.lines().take(4).map(str::trim).collect()
}

fn same_start(started: PgTime, pid_file: &str, path: &Path) -> Result<()> {
    let line = pid_file.lines().nth(2).and_then(|line| line.trim().parse::<i64>().ok());
    let Some(here) = line else {
        return Err(Error::server(format!("{} has no start time in its third line", path.display()))
            .hint("is the server just starting? try again"));
    };
    let after = started.unix_micros().div_euclid(1_000_000) - here;
    let latest = i64::try_from(LATEST.as_secs()).unwrap_or(i64::MAX);
    if (0..=latest).contains(&after) { Ok(()) } else { Err(another(path)) }
}

fn another(pid_file: &Path) -> Error {
    Error::server(format!("the server that answers is not the process in {}", pid_file.display()))
        .hint(ELSEWHERE)
}

fn same_cluster(info: &ServerInfo, data_dir: &DataDir, control: &ControlFile) -> Result<()> {
    if info.system_identifier != control.system_identifier {
        return Err(Error::server(format!(
            "the server has system identifier {}, {} has {}",
            info.system_identifier,
            data_dir.path().display(),
            control.system_identifier
        ))
        .hint("do cluster.data_dir and cluster.conninfo belong to the same cluster?"));
    }
    let theirs = fs::canonicalize(&info.data_directory).unwrap_or_else(|_| info.data_directory.clone());
    if theirs != data_dir.path() {
        return Err(Error::server(format!(
            "the server's data directory is {}, the configured one is {}",
            theirs.display(),
            data_dir.path().display()
        ))
        .hint("is cluster.data_dir a copy, or another cluster's?"));
    }
    if info.major != data_dir.version_major() {
        return Err(Error::server(format!(
            "the server is PostgreSQL {}, its data directory {}",
            info.major,
            data_dir.version_major()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: &str = "4711\n/var/lib/postgresql/15/main\n1700000000\n5432\n/run/postgresql\n";

    #[test]
    fn a_server_starts_in_the_second_of_its_pid_file_or_soon_after() {
        let check = |seconds: i64| {
            let started: PgTime = jiff::Timestamp::from_second(seconds).unwrap().to_string().parse().unwrap();
            same_start(started, PID, Path::new("/d/postmaster.pid"))
        };
        for good in [1_700_000_000, 1_700_000_001, 1_700_000_060] {
            check(good).unwrap();
        }
        for other in [1_699_999_999, 1_700_000_061, 1_800_000_000] {
            let error = check(other).unwrap_err();
            assert!(
                error.to_string().contains("/d/postmaster.pid") && error.hint_text().is_some(),
                "{error}"
            );
        }
        let started = "2026-11-22T13:00:00Z".parse().unwrap();
        same_start(started, "4711\n", Path::new("/d")).unwrap_err();
    }

    #[test]
    fn a_process_is_told_by_what_does_not_change() {
        assert_eq!(process(&format!("{PID}*\nready   \n")), process(&format!("{PID}*\nstarting\n")));
        assert_ne!(process(PID), process(&PID.replace("4711", "4712")));
    }
}
