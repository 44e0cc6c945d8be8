//! A server for a restored copy that nobody else can reach and that reaches nobody (R20): no network, a private socket, no
//! archive, no primary, no jobs, nothing preloaded. `postgres` itself, not pg_ctl: its end is seen, whatever it is.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::private_server_log::ServerLog;
use super::private_server_programs::ServerPrograms;
use super::private_server_session::{PrivateSession, SessionRole};
use super::private_server_settings::{PORT, PrivateSettings};
use crate::error::{Error, Result};

/// A server that was told to stop at once does so within seconds.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// How far a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// It recovers.
    Starting,
    /// It accepts connections.
    Ready,
    /// It has ended.
    Ended(ExitStatus),
}

/// A private server. Dropping it stops it.
#[derive(Debug)]
pub struct PrivateServer {
    child: Child,
    data_dir: PathBuf,
    socket_dir: PathBuf,
    log: ServerLog,
    major: u16,
}

impl PrivateServer {
    /// Write its configuration and start it.
    pub fn start(programs: &ServerPrograms, settings: &PrivateSettings) -> Result<Self> {
        settings.write()?;
        let log_path = settings.log_file();
        let log = File::options().append(true).open(&log_path);
        let log = log.map_err(|cause| Error::io("open", &log_path, &cause))?;
        let stdout = log.try_clone().map_err(|cause| Error::io("open", &log_path, &cause))?;
        let mut command = programs.command("postgres");
        let mut config = std::ffi::OsString::from("--config-file=");
        config.push(settings.config_file());
        command.arg("-D").arg(&settings.data_dir).arg(config);
        let child = command
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(log)
            // A signal to the terminal's group is for the drill, which then stops the server.
            .process_group(0)
            .spawn()
            .map_err(|cause| Error::io("start", &programs.path("postgres"), &cause))?;
        Ok(Self {
            child,
            data_dir: settings.data_dir.clone(),
            socket_dir: settings.socket_dir.clone(),
            log: ServerLog::at(&log_path),
            major: settings.control.major.get(),
        })
    }

    /// Its log.
    pub const fn log(&self) -> &ServerLog {
        &self.log
    }

    /// Where its socket is.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// The port in the socket's name.
    pub const fn port(&self) -> u16 {
        PORT
    }

    /// What a superuser's program sends when it connects: nothing of the cluster is loaded, called or fired.
    pub fn options(&self) -> String {
        SessionRole::Superuser.options(self.major)
    }

    /// Whether it has a role that reads everything, `pg_read_all_data`.
    pub const fn has_reader_role(&self) -> bool {
        self.major >= 14
    }

    /// How far it is.
    pub fn state(&mut self) -> Result<ServerState> {
        let ended = self.child.try_wait();
        if let Some(status) = ended.map_err(|cause| Error::io("wait for", Path::new("postgres"), &cause))? {
            return Ok(ServerState::Ended(status));
        }
        let text = std::fs::read_to_string(self.data_dir.join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines().map(str::trim);
        let ours = lines.next() == Some(self.child.id().to_string().as_str());
        let ready = ours && lines.nth(6) == Some("ready");
        Ok(if ready { ServerState::Ready } else { ServerState::Starting })
    }

    /// Connect to one of its databases.
    pub async fn connect(&self, role: SessionRole, user: &str, database: &str) -> Result<PrivateSession> {
        PrivateSession::connect(&self.socket_dir, PORT, self.major, role, user, database).await
    }

    /// Stop it at once: nothing of it is kept.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return Ok(());
        }
        let pid = Pid::from_child(&self.child);
        let _ = kill_process(pid, Signal::QUIT);
        let begin = Instant::now();
        while begin.elapsed() < STOP_PATIENCE {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = kill_process(pid, Signal::KILL);
        self.child.wait().map(|_| ()).map_err(|cause| Error::io("wait for", Path::new("postgres"), &cause))
    }

    /// Stop the server that a drill which was killed left behind in `data_dir`: the process that its `postmaster.pid`
    /// names, if that still runs there.
    pub fn stop_left_over(data_dir: &Path) -> Result<bool> {
        let text = std::fs::read_to_string(data_dir.join("postmaster.pid")).unwrap_or_default();
        let Some(raw) = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()) else {
            return Ok(false);
        };
        let directory = std::fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        let runs_there = || {
            let cwd = std::fs::read_link(format!("/proc/{raw}/cwd"));
            cwd.is_ok_and(|cwd| cwd == directory)
        };
        let Some(pid) = Pid::from_raw(raw).filter(|_| runs_there()) else { return Ok(false) };
        let begin = Instant::now();
        let _ = kill_process(pid, Signal::QUIT);
        while runs_there() {
            if begin.elapsed() > STOP_PATIENCE {
                let _ = kill_process(pid, Signal::KILL);
            }
            if begin.elapsed() > STOP_PATIENCE * 2 {
                return Err(Error::server(format!(
                    "process {raw}, which an earlier drill started in {}, does not exit",
                    data_dir.display()
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(true)
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        // Whoever comes next finds it by its directory.
        let _ = self.end();
    }
}
