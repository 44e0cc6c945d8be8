//! The program under test with a configuration of its own, called from outside as its users call it.

use super::fabricate::FakeDataDir;
use super::postgres::Cluster;
use super::process::{self, Output, Running, TIMEOUT};
use super::repo::Repo;
use super::walproof_builder::WalproofBuilder;
use super::{Scratch, program};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// walproof and its configuration file. Cheap to clone; clones share the file, not the environment.
#[derive(Debug, Clone)]
pub struct Walproof {
    pub(super) scratch: Arc<Scratch>,
    pub(super) config: PathBuf,
    pub(super) name: String,
    pub(super) repo: Repo,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) metrics_port: u16,
    pub(super) env: Vec<(OsString, OsString)>,
}

impl Walproof {
    pub fn builder(repo: Repo) -> WalproofBuilder {
        WalproofBuilder::new(repo)
    }

    /// For a live cluster, encrypted, all defaults.
    #[track_caller]
    pub fn for_cluster(cluster: &Cluster, repo: Repo) -> Self {
        Self::builder(repo).cluster(cluster).build()
    }

    /// For a fabricated data directory without a server, encrypted, all defaults.
    #[track_caller]
    pub fn for_data_dir(data: &FakeDataDir, repo: Repo) -> Self {
        Self::builder(repo).data_dir(data.path()).build()
    }

    pub fn repo(&self) -> &Repo {
        &self.repo
    }

    /// `cluster.name` of the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Where this program's files are: `key`, `run/walproof.sock`, `staging`.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    pub fn socket(&self) -> PathBuf {
        self.scratch.join("run/walproof.sock")
    }

    /// `http://127.0.0.1:port`, where `daemon` serves metrics. The port was free when the rig chose it.
    pub fn metrics_url(&self) -> String {
        format!("http://{}", self.metrics_address())
    }

    /// `metrics.listen`
    pub fn metrics_address(&self) -> String {
        format!("127.0.0.1:{}", self.metrics_port)
    }

    /// The same program and configuration with one more environment variable.
    pub fn with_env(&self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        let mut other = self.clone();
        other.env.push((name.into(), value.into()));
        other
    }

    /// `archive_command` of postgresql.conf.
    pub fn archive_command(&self) -> String {
        format!("{} wal-push --config {} %p", program::walproof().display(), self.config.display())
    }

    /// `restore_command` of a standby.
    pub fn standby_restore_command(&self) -> String {
        let (program, config) = (program::walproof().display(), self.config.display());
        format!("{program} wal-fetch --config {config} --standby %f %p")
    }

    /// A command to be spawned by the test: the first argument is the subcommand.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = process::command(program::walproof());
        let mut args = args.into_iter();
        command.args(args.next()).arg("--config").arg(&self.config).args(args);
        // PostgreSQL runs its commands in PGDATA; operators anywhere.
        let dir = self.data_dir.as_deref().filter(|dir| dir.is_dir());
        command.current_dir(dir.unwrap_or_else(|| self.scratch.path()));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Run to the end. After two minutes the test fails, naming the command.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Output {
        self.run_within(TIMEOUT, args)
    }

    #[track_caller]
    pub fn run_within<A: AsRef<OsStr>>(&self, limit: Duration, args: impl IntoIterator<Item = A>) -> Output {
        process::run(self.command(args), b"", limit)
    }

    /// Start it and go on: a daemon, or a command to be killed half way.
    #[track_caller]
    pub fn spawn<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Running {
        Running::start(self.command(args), b"")
    }

    /// Run with `--json` and expect success.
    #[track_caller]
    pub fn json<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> serde_json::Value {
        let mut command = self.command(args);
        command.arg("--json");
        process::run(command, b"", TIMEOUT).success().json()
    }

    /// `wal-push pg_wal/NAME` in the data directory, as PostgreSQL's archiver calls it.
    #[track_caller]
    pub fn push(&self, name: &str) -> Output {
        self.run(["wal-push", &format!("pg_wal/{name}")])
    }

    /// `wal-fetch NAME TARGET`, as recovery calls it.
    #[track_caller]
    pub fn fetch(&self, name: &str, target: &Path) -> Output {
        self.run([OsStr::new("wal-fetch"), OsStr::new(name), target.as_os_str()])
    }
}
