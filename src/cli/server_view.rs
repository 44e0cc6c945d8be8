//! What the restored server will find when it calls walproof: its user, its environment (R19).

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::user_name;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::postgres::{TimelineId, restore_command_argument};
use crate::restore::{Handover, Plan};

/// Longer than a store that works takes.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);
/// No repository has it: timeline 1 has no ancestor.
const NEVER_THERE: &str = "00000001.history";

/// What the restored server calls: absolute paths and this repository. Only a fresh restore may have the tail, of the
/// timeline that it `follows`; a standby follows whatever comes.
pub(crate) fn restore_command(
    config: &Config,
    system_identifier: u64,
    follows: Option<TimelineId>,
) -> Result<String> {
    let program = program()?;
    let text = |path: &Path| {
        path.to_str().map(restore_command_argument).ok_or_else(|| {
            Error::usage(format!(
                "the path {} is not text that a configuration file can hold",
                path.display()
            ))
        })
    };
    let how =
        follows.map_or_else(|| "--standby".to_owned(), |follows| format!("--tail --timeline {follows}"));
    Ok(format!(
        "{} wal-fetch %f %p {how} --system-identifier {system_identifier} --config {}",
        text(&program)?,
        text(&config.path)?
    ))
}

fn program() -> Result<std::path::PathBuf> {
    super::start::own_program().map_err(|cause| Error::io("find", Path::new("walproof"), &cause))
}

/// What would keep the server from starting or from getting its WAL, in words.
pub(crate) fn warnings(config: &Config, plan: &Plan, handover: &Handover) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let is_root = rustix::process::geteuid().is_root();
    if is_root && handover.owner.is_none() {
        let places = plan.tablespaces.iter().map(|(_, place)| format!(" {}", place.display()));
        found.push(format!(
            "the files are root's, and PostgreSQL does not run as root: before the start, chown -R postgres: {}{}",
            plan.to.display(),
            places.collect::<String>()
        ));
    } else if let Some(why) = rehearse(config, plan.backup.system_identifier, handover.owner)? {
        let who = handover
            .owner
            .map_or_else(|| "this user".to_owned(), |(id, _)| format!("user {}", user_name(id)));
        found.push(format!(
            "the server will not get WAL: its restore_command fails for {who} without this shell's environment \
             ({why}); the configuration has to name files with the key and the credentials that this user can read"
        ));
    }
    Ok(found)
}

/// Ask the repository as the server will: as `owner`, with no variable of this shell. What went wrong, if anything did.
fn rehearse(config: &Config, system_identifier: u64, owner: Option<(u32, u32)>) -> Result<Option<String>> {
    let scratch = tempfile::tempdir()
        .map_err(|cause| Error::io("create a directory in", &std::env::temp_dir(), &cause))?;
    let said = scratch.path().join("stderr");
    let stderr = std::fs::File::create(&said).map_err(|cause| Error::io("create", &said, &cause))?;
    let mut command = Command::new(program()?);
    command.args(["wal-fetch", NEVER_THERE, "/nonexistent/history", "--quiet"]);
    command.args(["--system-identifier", &system_identifier.to_string(), "--config"]).arg(&config.path);
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    if let Some((user, group)) = owner {
        // This drops root's supplementary groups, too.
        command.uid(user).gid(group);
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(cause) => return Ok(Some(format!("cannot be run: {cause}"))),
    };
    let begin = Instant::now();
    loop {
        match child.try_wait() {
            // 1: the repository was asked, and answered.
            Ok(Some(status)) if status.code() == Some(1) => return Ok(None),
            Ok(Some(status)) => {
                let text = std::fs::read_to_string(&said).unwrap_or_default();
                let line = text.lines().next().unwrap_or_default().trim_start_matches("walproof: error: ");
                return Ok(Some(if line.is_empty() { status.to_string() } else { line.to_owned() }));
            }
            Ok(None) if begin.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Ok(Some(format!("no answer within {} s", PATIENCE.as_secs())));
            }
        }
    }
}
