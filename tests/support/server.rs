//! The processes of one PostgreSQL server: the postmaster is our child, so that we see it end.

use super::Scratch;
use super::cluster::StopMode;
use super::holds_within;
use super::postgres::Binaries;
use super::scratch::write_owned;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub struct Server {
    binaries: Binaries,
    data_dir: PathBuf,
    socket_dir: PathBuf,
    log: PathBuf,
    overrides: Vec<(String, String)>,
    env: Vec<(String, String)>,
    postmaster: Option<Child>,
}

impl Server {
    /// Part of the socket's name only: nothing listens on a network.
    pub const PORT: u16 = 5432;

    pub fn new(binaries: &Binaries, scratch: &Scratch, data_dir: &Path) -> Self {
        let socket_dir = scratch.dir("s");
        let socket = socket_dir.join(format!(".s.PGSQL.{}", Self::PORT));
        let length = socket.as_os_str().len();
        assert!(
            length < 107,
            "{} is too long for a Unix socket: set TMPDIR to a shorter one",
            socket.display()
        );
        let log = scratch.join("postgresql.log");
        write_owned(&log, b"", 0o644);
        let (binaries, data_dir) = (binaries.clone(), data_dir.to_owned());
        Self { binaries, data_dir, socket_dir, log, overrides: Vec::new(), env: Vec::new(), postmaster: None }
    }

    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    pub fn override_setting(&mut self, name: &str, value: &str) {
        self.overrides.push((name.into(), value.into()));
    }

    pub fn env(&mut self, name: &str, value: &str) {
        self.env.push((name.into(), value.into()));
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(40)..];
        format!("--- end of {}\n{}", self.log.display(), tail.join("\n"))
    }

    /// Start without waiting. `postgres` itself, not pg_ctl: the command line wins over every file.
    #[track_caller]
    pub fn spawn(&mut self) {
        assert!(!self.is_running(), "the server of {} runs already", self.data_dir.display());
        let mut postgres = self.binaries.command("postgres");
        postgres.arg("-D").arg(&self.data_dir).arg("-k").arg(&self.socket_dir);
        postgres.args([
            "-p",
            &Self::PORT.to_string(),
            "-c",
            "listen_addresses=",
            "-c",
            "logging_collector=off",
        ]);
        for (name, value) in &self.overrides {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        postgres.envs(self.env.iter().map(|(name, value)| (name, value)));
        let log = OpenOptions::new().append(true).open(&self.log).expect("open the server's log");
        postgres
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log);
        self.postmaster = Some(postgres.spawn().expect("start postgres"));
    }

    #[track_caller]
    pub fn start(&mut self) -> Result<(), String> {
        self.spawn();
        let up = holds_within(START_LIMIT, || self.is_ready() || !self.is_running());
        match (up, self.is_running()) {
            (true, true) => Ok(()),
            (true, false) => Err("the server ended while starting".into()),
            (false, _) => Err(format!("the server was not ready after {START_LIMIT:?}")),
        }
    }

    /// postmaster.pid: line 1 is the process, line 8 the state, padded with blanks. "standby" accepts
    /// connections when hot_standby is on.
    fn is_ready(&self) -> bool {
        let pid = self.postmaster.as_ref().map(|child| child.id().to_string());
        let text = fs::read_to_string(self.data_dir.join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.first().copied() == pid.as_deref() && matches!(lines.get(7), Some(&("ready" | "standby")))
    }

    pub fn is_running(&mut self) -> bool {
        let ended = self.postmaster.as_mut().map(|child| child.try_wait().expect("wait for postgres"));
        matches!(ended, Some(None))
    }

    pub fn wait_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        let child = self.postmaster.as_mut().expect("the server was never started");
        let mut status = None;
        holds_within(limit, || {
            status = child.try_wait().expect("wait for postgres");
            status.is_some()
        });
        status
    }

    #[track_caller]
    pub fn stop(&mut self, mode: StopMode) {
        if !self.is_running() {
            return;
        }
        self.signal(match mode {
            StopMode::Smart => Signal::TERM,
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        });
        if self.wait_exit(STOP_LIMIT).is_none() {
            let tail = self.log_tail();
            self.kill9();
            panic!("the server did not stop ({mode:?}) in {STOP_LIMIT:?}\n{tail}");
        }
    }

    pub fn kill9(&mut self) {
        let Some(postmaster) = &mut self.postmaster else { return };
        if postmaster.try_wait().expect("wait for postgres").is_some() {
            return;
        }
        // Stopped first, they can start nobody while we look for their children.
        let root = Pid::from_child(postmaster);
        let mut family = Vec::new();
        loop {
            let _ = kill_process(root, Signal::STOP);
            for &pid in &family {
                let _ = kill_process(pid, Signal::STOP);
            }
            let seen = descendants(postmaster.id());
            if seen.len() == family.len() {
                break;
            }
            family = seen;
        }
        let _ = kill_process(root, Signal::KILL);
        for &pid in &family {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = postmaster.wait();
        let gone = holds_within(STOP_LIMIT, || family.iter().all(|&pid| !is_alive(pid)));
        assert!(gone || std::thread::panicking(), "processes of a killed server are still there");
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.postmaster {
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        if self.is_running() {
            self.signal(Signal::QUIT);
            if self.wait_exit(Duration::from_secs(10)).is_none() {
                self.kill9();
            }
        }
    }
}

/// Children, their children, and so on, from /proc.
fn descendants(root: u32) -> Vec<Pid> {
    let processes: Vec<(u32, u32)> = fs::read_dir("/proc")
        .expect("list /proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.1)))
        .collect();
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(processes.iter().filter(|&&(_, of)| of == parent).map(|&(pid, _)| pid));
        next += 1;
    }
    family[1..].iter().filter_map(|&pid| Pid::from_raw(pid.cast_signed())).collect()
}

/// A zombie that nobody reaps, as in a container without an init, is dead.
fn is_alive(pid: Pid) -> bool {
    stat(pid.as_raw_nonzero().get().cast_unsigned()).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// State and parent. The name before them is in parentheses and may contain anything.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
