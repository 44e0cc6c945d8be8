//! A cluster that archives into a repository, and the clusters that are restored from it.

use super::postgres::{Cluster, ClusterBuilder};
use super::process::{Output, Running};
use super::{Repo, Scratch, Walproof};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer than anything takes on a loaded machine with two cores.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A running cluster whose WAL goes through walproof into a repository.
#[derive(Debug)]
pub struct Archived {
    pub cluster: Cluster,
    pub walproof: Walproof,
    /// Where restored clusters and tablespaces go.
    pub scratch: Scratch,
}

impl Archived {
    /// With 1 MB segments, so that little WAL makes many.
    #[track_caller]
    pub fn start(repo: Repo) -> Self {
        Self::start_as(Cluster::builder().segment_size_mb(1), repo)
    }

    #[track_caller]
    pub fn start_as(builder: ClusterBuilder, repo: Repo) -> Self {
        Self::start_with(builder, repo, "")
    }

    /// With more configuration.
    #[track_caller]
    pub fn start_with(builder: ClusterBuilder, repo: Repo, toml: &str) -> Self {
        let mut cluster = builder.create();
        let walproof = Walproof::builder(repo).cluster(&cluster).toml(toml).build();
        walproof.run(["init"]).success();
        cluster.configure_archiving(&walproof).start();
        Self { cluster, walproof, scratch: Scratch::new() }
    }

    pub fn repo(&self) -> &Repo {
        self.walproof.repo()
    }

    /// The same program with more configuration, on the same repository.
    #[track_caller]
    pub fn configured(&self, toml: &str) -> Walproof {
        let builder = Walproof::builder(self.repo().clone()).cluster(&self.cluster);
        builder.key_of(&self.walproof).toml(toml).build()
    }

    // --- backups

    /// Take a backup; gives what `--json` says of it.
    #[track_caller]
    pub fn backup(&self) -> serde_json::Value {
        self.walproof.json(["backup-push"])
    }

    /// A backup that reads so few bytes a second that the test can do something meanwhile. It has begun to copy.
    #[track_caller]
    pub fn slow_backup(&self, rate: &str) -> Running {
        let slow = self.configured(&format!("[backup]\nmax_rate = \"{rate}\"\nconcurrency = 1"));
        let mut backup = slow.spawn(["backup-push"]);
        backup.wait_for_stderr("backup started", PATIENCE);
        backup
    }

    /// What `backup-list --json` shows.
    #[track_caller]
    pub fn backups(&self) -> Vec<serde_json::Value> {
        let listed = self.walproof.json(["backup-list"]);
        listed.as_array().unwrap_or_else(|| panic!("not an array: {listed}")).clone()
    }

    /// Finish the segment, and wait until everything written up to now is in the repository.
    #[track_caller]
    pub fn archive_all(&self) {
        archive_all(&self.cluster);
    }

    /// Store the finished segment `name`, which is archived and still in pg_wal, once more with other bytes, as a second
    /// writer does when neither saw the other.
    #[track_caller]
    pub fn store_twice(&self, name: &str) {
        let key = self.repo().key(&format!("/{name}-"));
        let aside = self.repo().read(&key);
        self.repo().delete(&key);
        let path = self.cluster.pg_wal().join(name);
        let plain = std::fs::read(&path).expect("read a segment");
        let mut other = plain.clone();
        // In the first record.
        other[44] ^= 1;
        std::fs::write(&path, other).expect("write a segment");
        self.walproof.push(name).success();
        std::fs::write(&path, plain).expect("write a segment");
        self.repo().write(&key, &aside);
        assert_eq!(self.repo().keys(&format!("/{name}-")).len(), 2);
    }

    // --- restores

    /// A path for a restored data directory; nothing is there.
    pub fn target(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// As a day after the last restore: nothing is kept any more for the servers that recover from them.
    #[track_caller]
    pub fn forget_restores(&self) {
        for lease in self.repo().keys("/leases/restore-") {
            self.repo().delete(&lease);
        }
    }

    /// `restore --to DIR` and further arguments.
    #[track_caller]
    pub fn try_restore<A: AsRef<OsStr>>(&self, to: &Path, args: impl IntoIterator<Item = A>) -> Output {
        let mut command = self.walproof.command([OsStr::new("restore"), OsStr::new("--to"), to.as_os_str()]);
        command.args(args);
        super::process::run(command, b"", super::process::TIMEOUT)
    }

    /// Restore into a new directory `name`; the cluster is not started, and will not archive.
    #[track_caller]
    pub fn restore<A: AsRef<OsStr>>(&self, name: &str, args: impl IntoIterator<Item = A>) -> Cluster {
        let to = self.target(name);
        self.try_restore(&to, args).success();
        attach_silent(&to)
    }

    /// Restore the newest state into a new directory `name`, start it and wait until it is open for writing.
    #[track_caller]
    pub fn restore_newest(&self, name: &str) -> Cluster {
        let mut restored = self.restore(name, [""; 0]);
        restored.start();
        wait_open(&restored);
        restored
    }
}

/// The cluster in `data_dir`, which must not write to the archive of the cluster it was restored from.
#[track_caller]
pub fn attach_silent(data_dir: &Path) -> Cluster {
    let mut restored = Cluster::attach(data_dir);
    restored.override_setting("archive_mode", "off");
    restored
}

/// Wait until recovery has ended.
#[track_caller]
pub fn wait_open(cluster: &Cluster) {
    cluster.wait_until("select pg_is_in_recovery()", "f", PATIENCE);
}

/// Wait until recovery has reached its target and waits there.
#[track_caller]
pub fn wait_paused(cluster: &Cluster) {
    let (question, answer) = match cluster.binaries().major() {
        ..14 => ("select pg_is_wal_replay_paused()", "t"),
        14.. => ("select pg_get_wal_replay_pause_state()", "paused"),
    };
    cluster.wait_until(question, answer, PATIENCE);
}

/// Finish the segment, and wait until it and all before it are acknowledged: PostgreSQL archives in order.
#[track_caller]
pub fn archive_all(cluster: &Cluster) {
    let last = cluster.switch_wal();
    cluster.wait_archived(&last, PATIENCE);
}
