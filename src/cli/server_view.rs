//! What the restored server will find when it calls walproof: its user, its environment (R19).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout_at};

use crate::cluster::user_name;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::postgres::{TimelineId, restore_command_argument};
use crate::restore::Plan;

/// Longer than a store that works takes.
const PATIENCE: Duration = Duration::from_secs(30);
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

fn program() -> Result<PathBuf> {
    super::start::own_program().map_err(|cause| Error::io("find", Path::new("walproof"), &cause))
}

/// The question whether the restored server will get its WAL, asked of the repository as the server will ask: as `owner`,
/// with no variable of this shell. It is answered by a process of its own while the restore is planned.
pub(crate) struct Rehearsal {
    owner: Option<(u32, u32)>,
    asked: Option<Asked>,
}

/// A call that is under way.
struct Asked {
    child: std::io::Result<Child>,
    /// Holds what the call says.
    scratch: TempDir,
    begin: Instant,
}

impl Rehearsal {
    /// Ask for a server whose files will be `owner`'s. As root none will run, and nothing is asked.
    pub(crate) fn begin(config: &Config, system_identifier: u64, owner: Option<(u32, u32)>) -> Result<Self> {
        let no_server = rustix::process::geteuid().is_root() && owner.is_none();
        let ask = || Asked::begin(config, system_identifier, owner);
        Ok(Self { owner, asked: (!no_server).then(ask).transpose()? })
    }

    /// What would keep the server of `plan` from starting or from getting its WAL, in words.
    pub(crate) async fn warnings(self, plan: &Plan) -> Vec<String> {
        let Some(asked) = self.asked else {
            let places = plan.tablespaces.iter().map(|(_, place)| format!(" {}", place.display()));
            return vec![format!(
                "root owns the files, and PostgreSQL does not run as root: before you start it, chown -R postgres: {}{}",
                plan.to.display(),
                places.collect::<String>()
            )];
        };
        let Some(why) = asked.answer().await else { return Vec::new() };
        let who =
            self.owner.map_or_else(|| "this user".to_owned(), |(id, _)| format!("user {}", user_name(id)));
        vec![format!(
            "the server will not get WAL: its restore_command fails for {who} without this shell's environment \
             ({why}); the configuration has to name files with the key and the credentials that this user can read"
        )]
    }
}

impl Asked {
    fn begin(config: &Config, system_identifier: u64, owner: Option<(u32, u32)>) -> Result<Self> {
        let scratch = tempfile::tempdir()
            .map_err(|cause| Error::io("create a directory in", &std::env::temp_dir(), &cause))?;
        let said = said(&scratch);
        let stderr = File::create(&said).map_err(|cause| Error::io("create", &said, &cause))?;
        let mut command = Command::new(program()?);
        command.args(["wal-fetch", NEVER_THERE, "/nonexistent/history", "--quiet"]);
        command.args(["--system-identifier", &system_identifier.to_string(), "--config"]).arg(&config.path);
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).kill_on_drop(true);
        if let Some((user, group)) = owner {
            // This drops root's supplementary groups, too.
            command.uid(user).gid(group);
        }
        Ok(Self { child: command.spawn(), scratch, begin: Instant::now() })
    }

    /// What went wrong, if anything did.
    async fn answer(self) -> Option<String> {
        let mut child = match self.child {
            Ok(child) => child,
            Err(cause) => return Some(format!("cannot be run: {cause}")),
        };
        match timeout_at(self.begin + PATIENCE, child.wait()).await {
            // 1: the repository was asked, and answered.
            Ok(Ok(status)) if status.code() == Some(1) => None,
            Ok(Ok(status)) => {
                let text = std::fs::read_to_string(said(&self.scratch)).unwrap_or_default();
                let line = text.lines().next().unwrap_or_default().trim_start_matches("walproof: error: ");
                Some(if line.is_empty() { status.to_string() } else { line.to_owned() })
            }
            _ => Some(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }
}

fn said(scratch: &TempDir) -> PathBuf {
    scratch.path().join("stderr")
}
