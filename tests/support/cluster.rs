//! A PostgreSQL cluster that belongs to one test.

use super::account::Account;
use super::cluster_builder::{ClusterBuilder, append_settings};
use super::postgres::Binaries;
use super::process::{self, Output};
use super::server::Server;
use super::{Scratch, Walproof};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// How a server is asked to stop, as `pg_ctl stop -m` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Wait for clients; SIGTERM.
    Smart,
    /// Checkpoint and leave cleanly; SIGINT.
    Fast,
    /// No checkpoint, recovery at the next start; SIGQUIT.
    Immediate,
}

/// A data directory and its server, reachable through a private Unix socket only. Dropping stops the server
/// and deletes what the rig made; if the test is failing it prints the end of the server's log.
#[derive(Debug)]
pub struct Cluster {
    binaries: Binaries,
    server: Server,
    data_dir: PathBuf,
    /// Holds the socket, the log and, unless attached, the data directory. Dropped after the server.
    scratch: Scratch,
}

impl Cluster {
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::default()
    }

    /// A running cluster with all defaults.
    #[track_caller]
    pub fn start_new() -> Self {
        Self::builder().start()
    }

    /// The cluster in `data_dir`, which somebody else made (a restore); not started. Its own settings hold but
    /// for the socket, the port and the network.
    #[track_caller]
    pub fn attach(data_dir: impl Into<PathBuf>) -> Self {
        Self::over(Binaries::find(), Scratch::new(), data_dir.into())
    }

    pub(super) fn over(binaries: Binaries, scratch: Scratch, data_dir: PathBuf) -> Self {
        let server = Server::new(&binaries, &scratch, &data_dir);
        Self { binaries, server, data_dir, scratch }
    }

    /// A streaming standby of `primary`, made by pg_basebackup; not started.
    #[track_caller]
    pub fn standby_of(primary: &Self) -> Self {
        let scratch = Scratch::new();
        let data_dir = scratch.join("data");
        let mut copy = primary.binaries.command("pg_basebackup");
        copy.arg("-D").arg(&data_dir).args([
            "-d",
            &primary.conninfo(),
            "-X",
            "stream",
            "-c",
            "fast",
            "-N",
            "-R",
        ]);
        process::run(copy, b"", process::TIMEOUT).success();
        Self::over(primary.binaries.clone(), scratch, data_dir)
    }

    // --- what and where

    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub fn pg_wal(&self) -> PathBuf {
        self.data_dir.join("pg_wal")
    }

    pub fn conninfo(&self) -> String {
        self.conninfo_to("postgres")
    }

    pub fn conninfo_to(&self, database: &str) -> String {
        let (socket, port) = (self.server.socket_dir().display(), Server::PORT);
        format!("host={socket} port={port} user={} dbname={database}", Account::SUPERUSER)
    }

    pub fn socket_dir(&self) -> &Path {
        self.server.socket_dir()
    }

    pub fn log(&self) -> String {
        self.server.log()
    }

    /// From the control file, so the server need not run.
    #[track_caller]
    pub fn system_identifier(&self) -> u64 {
        let control = self.binaries.run("pg_controldata", [&self.data_dir]);
        let text = control.success().stdout();
        let line = text.lines().find_map(|line| line.strip_prefix("Database system identifier:"));
        line.and_then(|value| value.trim().parse().ok())
            .unwrap_or_else(|| panic!("no system identifier: {control}"))
    }

    // --- settings

    /// Append a line to postgresql.conf; takes effect at the next start or [`Cluster::reload`].
    #[track_caller]
    pub fn set(&self, name: &str, value: &str) -> &Self {
        append_settings(&self.data_dir, [(name, value)]);
        self
    }

    /// An environment variable of the server, when it is started next.
    pub fn env(&mut self, name: &str, value: &str) -> &mut Self {
        self.server.env(name, value);
        self
    }

    /// A setting on the server's command line: it wins over every file, and is never part of a backup.
    pub fn override_setting(&mut self, name: &str, value: &str) -> &mut Self {
        self.server.override_setting(name, value);
        self
    }

    /// Let PostgreSQL archive through `walproof`; restarts a running server, as archive_mode needs it.
    #[track_caller]
    pub fn configure_archiving(&mut self, walproof: &Walproof) -> &mut Self {
        self.set("archive_mode", "on").set("archive_command", &walproof.archive_command());
        if self.is_running() {
            self.restart();
        }
        self
    }

    #[track_caller]
    pub fn reload(&self) {
        self.psql("select pg_reload_conf()");
    }

    // --- life

    /// Start and wait until it accepts connections.
    #[track_caller]
    pub fn start(&mut self) -> &mut Self {
        self.server.start().unwrap_or_else(|why| panic!("{why}\n{}", self.server.log_tail()));
        self
    }

    /// Start, and wait until it accepts connections or has ended.
    pub fn try_start(&mut self) -> Result<(), String> {
        self.server.start()
    }

    /// Start a server that is expected to end by itself (recovery fails, or its target says shutdown).
    #[track_caller]
    pub fn start_until_exit(&mut self, limit: Duration) -> ExitStatus {
        self.server.spawn();
        self.wait_exit(limit)
    }

    /// Wait until the running server has ended by itself.
    #[track_caller]
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let ended = self.server.wait_exit(limit);
        ended.unwrap_or_else(|| panic!("the server still runs after {limit:?}\n{}", self.server.log_tail()))
    }

    pub fn is_running(&mut self) -> bool {
        self.server.is_running()
    }

    #[track_caller]
    pub fn stop(&mut self, mode: StopMode) -> &mut Self {
        self.server.stop(mode);
        self
    }

    #[track_caller]
    pub fn restart(&mut self) -> &mut Self {
        self.stop(StopMode::Fast).start()
    }

    /// SIGKILL to the postmaster and everything below it, archive_command included, as when the host dies.
    /// Returns when all are gone.
    #[track_caller]
    pub fn kill9(&mut self) -> &mut Self {
        self.server.kill9();
        self
    }

    /// Make a standby the primary; waits until it is.
    #[track_caller]
    pub fn promote(&self) -> &Self {
        let promoted = self.psql("select pg_promote(true, 60)");
        assert_eq!(promoted, "t", "pg_promote\n{}", self.server.log_tail());
        self
    }

    /// The disk is gone. The server, if it runs, is killed first.
    #[track_caller]
    pub fn destroy_data_dir(&mut self) -> &mut Self {
        self.server.kill9();
        std::fs::remove_dir_all(&self.data_dir).expect("destroy the data directory");
        self
    }

    // --- work

    /// Run SQL (statements one by one, each its own transaction) and give what psql -At prints.
    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql)
    }

    #[track_caller]
    pub fn psql_in(&self, database: &str, sql: &str) -> String {
        self.run_psql(database, sql).success().stdout().trim_end_matches('\n').to_owned()
    }

    /// Like [`Cluster::psql`], where failing is a possible answer: psql's stderr.
    #[track_caller]
    pub fn try_psql(&self, sql: &str) -> Result<String, String> {
        let output = self.run_psql("postgres", sql);
        let text = output.stdout().trim_end_matches('\n').to_owned();
        if output.code() == 0 { Ok(text) } else { Err(output.stderr()) }
    }

    #[track_caller]
    fn run_psql(&self, database: &str, sql: &str) -> Output {
        let mut psql = self.binaries.command("psql");
        psql.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            &self.conninfo_to(database),
            "-f",
            "-",
        ]);
        process::run(psql, sql.as_bytes(), process::TIMEOUT)
    }

    /// pgbench with these arguments, e.g. `["-i", "-s", "1"]`.
    #[track_caller]
    pub fn pgbench<const N: usize>(&self, args: [&str; N]) -> Output {
        let output = process::run(self.pgbench_command(args), b"", process::TIMEOUT);
        output.success();
        output
    }

    /// pgbench in the background, killed when dropped.
    #[track_caller]
    pub fn spawn_pgbench<const N: usize>(&self, args: [&str; N]) -> process::Running {
        process::Running::start(self.pgbench_command(args), b"")
    }

    #[track_caller]
    fn pgbench_command<const N: usize>(&self, args: [&str; N]) -> std::process::Command {
        let mut pgbench = self.binaries.command("pgbench");
        pgbench.arg("-h").arg(self.server.socket_dir()).arg("-p").arg(Server::PORT.to_string());
        pgbench.args(["-U", Account::SUPERUSER]).args(args).arg("postgres");
        pgbench
    }

    /// Ask `sql` until it answers `expected`.
    #[track_caller]
    pub fn wait_until(&self, sql: &str, expected: &str, limit: Duration) -> &Self {
        let mut last = Ok(String::new());
        let held = super::holds_within(limit, || {
            last = self.try_psql(sql);
            last.as_deref() == Ok(expected)
        });
        assert!(held, "{sql}: waited {limit:?} for {expected:?}, last {last:?}\n{}", self.server.log_tail());
        self
    }

    /// Finish the current segment, even if nothing was written to it; gives the finished segment's name.
    #[track_caller]
    pub fn switch_wal(&self) -> String {
        self.psql("select pg_logical_emit_message(true, 'rig', 'switch')");
        self.psql("select pg_walfile_name(pg_switch_wal())")
    }

    /// Wait until PostgreSQL's archiver has got an exit code 0 for the finished segment `name`.
    #[track_caller]
    pub fn wait_archived(&self, name: &str, limit: Duration) -> &Self {
        let (ready, done) = (format!("archive_status/{name}.ready"), format!("archive_status/{name}.done"));
        let there = |name: &str| self.pg_wal().join(name).exists();
        // Acknowledged segments may be recycled at once, and their .done with them.
        let held = super::holds_within(limit, || !there(&ready) && (there(&done) || !there(name)));
        assert!(held, "{name} was not archived in {limit:?}\n{}", self.server.log_tail());
        self
    }
}
