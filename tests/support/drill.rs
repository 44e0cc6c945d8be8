//! A staging host: it has the repository, the key, and a signing key of its own; nothing of the cluster's host.

use super::daemon::value_of;
use super::process::{self, Output};
use super::{Archived, Scratch, Walproof};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A drill of a small cluster, on a loaded machine.
pub const DRILL_TIME: Duration = Duration::from_mins(3);

#[derive(Debug)]
pub struct Staging {
    pub walproof: Walproof,
    /// The public half of the signing key.
    pub public_key: PathBuf,
    scratch: Arc<Scratch>,
}

impl Staging {
    /// For the repository of `archived`, without heartbeats.
    #[track_caller]
    pub fn of(archived: &Archived) -> Self {
        Self::with(archived, "[archive]\nheartbeat_interval = \"0s\"")
    }

    /// The same with more configuration.
    #[track_caller]
    pub fn with(archived: &Archived, toml: &str) -> Self {
        Self::configured(archived, &archived.walproof, toml)
    }

    /// With the key of `key`.
    #[track_caller]
    pub fn configured(archived: &Archived, key: &Walproof, toml: &str) -> Self {
        let scratch = Arc::new(Scratch::new());
        // Drills run where the host's memory for temporary files is.
        let signing = scratch.join("drill.key");
        let builder = || Walproof::builder(archived.repo().clone()).key_of(key);
        let made = builder().build().run(["drill-keygen", "--to", signing.to_str().unwrap()]);
        let public_key = scratch.file("drill.pub", made.success().stdout());
        let walproof = builder().toml(&signing_key_file(&scratch)).toml(toml).build();
        Self { walproof: walproof.with_env("PATH", path(archived)), public_key, scratch }
    }

    /// The same host and signing key with another configuration.
    #[track_caller]
    pub fn reconfigured(&self, archived: &Archived, toml: &str) -> Self {
        let builder = Walproof::builder(archived.repo().clone()).key_of(&archived.walproof);
        let walproof = builder.toml(&signing_key_file(&self.scratch)).toml(toml).build();
        Self {
            walproof: walproof.with_env("PATH", path(archived)),
            public_key: self.public_key.clone(),
            scratch: Arc::clone(&self.scratch),
        }
    }

    /// Run a drill with these arguments; whatever comes of it, nothing is left in its directory.
    #[track_caller]
    pub fn try_drill<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Output {
        let mut command = self.walproof.command(["drill", "--json", "--textfile"]);
        command.arg(self.textfile()).args(args);
        let output = process::run(command, b"", DRILL_TIME);
        assert_eq!(self.left(), Vec::<PathBuf>::new(), "a drill left something: {output}");
        output
    }

    /// One that ends with this exit code; gives its report.
    #[track_caller]
    pub fn drill<'a>(&self, code: i32, args: impl IntoIterator<Item = &'a str>) -> Value {
        let output = self.try_drill(args);
        assert_eq!(output.code(), code, "{output}");
        let report = output.json();
        self.assert_metrics(&report);
        report
    }

    fn textfile(&self) -> PathBuf {
        self.scratch.join("drill.prom")
    }

    /// The metrics of the last drill say what its report says.
    #[track_caller]
    fn assert_metrics(&self, report: &Value) {
        let text = std::fs::read_to_string(self.textfile()).expect("the textfile of a drill");
        let value = |name: &str| value_of(&text, name);
        for verdict in ["pass", "fail", "inconclusive"] {
            let shown = value(&format!("walproof_drill_verdict{{verdict=\"{verdict}\"}}"));
            assert_eq!(shown == Some(1.0), report["verdict"] == verdict, "{verdict}: {text}");
        }
        let passed = f64::from(u8::from(report["verdict"] == "pass"));
        assert_eq!(value("walproof_drill_success"), Some(passed), "{text}");
        let rto = value("walproof_drill_rto_seconds").expect("how long it took");
        assert!((rto - report["rto_seconds"].as_f64().unwrap()).abs() < 0.01, "{text}");
        assert_eq!(
            report["reasons"].as_array().unwrap().is_empty(),
            report["verdict"] == "pass",
            "{report:#}"
        );
    }

    /// Directories of drills in the staging directory.
    pub fn left(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.directory()).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    /// `drill.directory`
    pub fn directory(&self) -> PathBuf {
        self.walproof.scratch().join("staging")
    }

    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }
}

fn signing_key_file(scratch: &Scratch) -> String {
    format!("[drill]\nsigning_key_file = \"{}\"", scratch.join("drill.key").display())
}

/// `PATH` with PostgreSQL's programs.
pub fn path(archived: &Archived) -> std::ffi::OsString {
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let all =
        std::iter::once(archived.cluster.binaries().dir().to_owned()).chain(std::env::split_paths(&usual));
    std::env::join_paths(all).expect("a path")
}

/// The check of this name in a report.
#[track_caller]
pub fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap_or_else(|| panic!("no checks: {report:#}"));
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no check {name}: {report:#}"))
}

/// Its verdict is this one; gives its detail.
#[track_caller]
pub fn assert_check<'a>(report: &'a Value, name: &str, verdict: &str) -> &'a str {
    let check = check(report, name);
    assert_eq!(check["verdict"], verdict, "{report:#}");
    check["detail"].as_str().unwrap()
}
