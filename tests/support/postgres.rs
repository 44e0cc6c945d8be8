//! The PostgreSQL programs under test, and through them [`Cluster`].
//!
//! Another version is another [`Binaries`]; a container would be another way for [`Binaries::command`] to
//! start a program (data directory and socket directory mounted). No scenario names a path of PostgreSQL.

pub use super::cluster::{Cluster, StopMode};
pub use super::cluster_builder::ClusterBuilder;

use super::process;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// One installed PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    dir: PathBuf,
    major: u32,
}

impl Binaries {
    /// The PostgreSQL of this test run: `WALPROOF_TEST_PGBIN`, else the newest under
    /// `/usr/lib/postgresql`, else the one on `PATH`. None fails the test.
    #[track_caller]
    pub fn find() -> Self {
        static FOUND: OnceLock<Result<Binaries, String>> = OnceLock::new();
        match FOUND.get_or_init(Self::search) {
            Ok(found) => found.clone(),
            Err(why) => panic!("{why}"),
        }
    }

    /// The PostgreSQL whose programs lie in `dir`.
    pub fn at(dir: impl Into<PathBuf>) -> Result<Self, String> {
        let dir = dir.into();
        let mut version = process::command(dir.join("postgres"));
        let output = version.arg("--version").output();
        let output = output.map_err(|error| format!("start {}/postgres: {error}", dir.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // "postgres (PostgreSQL) 15.14 (Debian ...)", "... 19beta1", "... 18devel"
        let digits = text.split_whitespace().nth(2).unwrap_or_default();
        let digits = digits.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        let major =
            digits.parse().map_err(|_| format!("{}/postgres has no version: {text:?}", dir.display()))?;
        Ok(Self { dir, major })
    }

    fn search() -> Result<Self, String> {
        if let Some(dir) = std::env::var_os("WALPROOF_TEST_PGBIN") {
            return Self::at(dir).map_err(|error| format!("WALPROOF_TEST_PGBIN: {error}"));
        }
        let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut found: Vec<Self> =
            installed.filter_map(|entry| Self::at(entry.path().join("bin")).ok()).collect();
        found.sort_by_key(Self::major);
        if let Some(newest) = found.pop() {
            return Ok(newest);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path = std::env::split_paths(&path).find(|dir| dir.join("initdb").is_file());
        on_path.map_or_else(|| Err(MISSING.to_owned()), Self::at)
    }

    pub fn major(&self) -> u32 {
        self.major
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command of this PostgreSQL, run as the unprivileged account in a clean environment.
    #[track_caller]
    pub fn command(&self, program: &str) -> Command {
        let path = self.dir.join(program);
        assert!(
            path.is_file(),
            "no {program} in {}: apt-get install postgresql postgresql-contrib",
            self.dir.display()
        );
        process::command(path)
    }

    /// Run a program of this PostgreSQL to its end.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = A>) -> process::Output {
        let mut command = self.command(program);
        command.args(args);
        process::run(command, b"", process::TIMEOUT)
    }
}

const MISSING: &str = "no PostgreSQL server found (tried $WALPROOF_TEST_PGBIN, /usr/lib/postgresql/*/bin, $PATH): \
                       apt-get install postgresql";
