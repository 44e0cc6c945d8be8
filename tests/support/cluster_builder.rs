//! How a test asks for a cluster.

use super::Scratch;
use super::cluster::Cluster;
use super::postgres::Binaries;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

/// What every cluster of the rig runs with. Small and quick; fsync off because a test kills processes, not
/// machines. `mmap` keeps dynamic shared memory in the data directory, so that a killed server whose
/// directory is deleted leaves nothing behind in /dev/shm.
const DEFAULTS: [(&str, &str); 10] = [
    ("shared_buffers", "16MB"),
    ("max_connections", "30"),
    ("dynamic_shared_memory_type", "mmap"),
    ("fsync", "off"),
    ("log_line_prefix", "%m [%p] "),
    ("log_timezone", "UTC"),
    ("timezone", "UTC"),
    ("wal_level", "replica"),
    ("wal_retrieve_retry_interval", "100ms"),
    ("jit", "off"),
];

/// Options of a new cluster. `Cluster::builder().segment_size_mb(1).start()`.
#[derive(Debug)]
pub struct ClusterBuilder {
    binaries: Option<Binaries>,
    checksums: bool,
    segment_size_mb: u32,
    settings: Vec<(String, String)>,
    initdb_args: Vec<String>,
}

impl Default for ClusterBuilder {
    fn default() -> Self {
        Self {
            binaries: None,
            checksums: true,
            segment_size_mb: 16,
            settings: Vec::new(),
            initdb_args: Vec::new(),
        }
    }
}

impl ClusterBuilder {
    /// Another PostgreSQL than [`Binaries::find`].
    pub fn binaries(mut self, binaries: Binaries) -> Self {
        self.binaries = Some(binaries);
        self
    }

    /// Page checksums; on unless said otherwise.
    pub fn checksums(mut self, on: bool) -> Self {
        self.checksums = on;
        self
    }

    /// 16 unless said otherwise; 1 makes many segments out of little WAL.
    pub fn segment_size_mb(mut self, megabytes: u32) -> Self {
        self.segment_size_mb = megabytes;
        self
    }

    /// A line of postgresql.conf; it wins over the rig's defaults.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// fsync as in production, for tests about what is on the disk.
    pub fn durable(self) -> Self {
        self.setting("fsync", "on")
    }

    /// One more argument of initdb.
    pub fn initdb_arg(mut self, arg: &str) -> Self {
        self.initdb_args.push(arg.into());
        self
    }

    /// initdb only; the server stays down.
    #[track_caller]
    pub fn create(self) -> Cluster {
        let binaries = match &self.binaries {
            Some(given) => given.clone(),
            None => Binaries::find(),
        };
        let scratch = Scratch::new();
        let data_dir = scratch.join("data");
        self.initdb(&binaries, &data_dir);
        let defaults = DEFAULTS.iter().map(|&(name, value)| (name, value));
        let asked = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        append_settings(&data_dir, defaults.chain(asked));
        Cluster::over(binaries, scratch, data_dir)
    }

    /// initdb and start.
    #[track_caller]
    pub fn start(self) -> Cluster {
        let mut cluster = self.create();
        cluster.start();
        cluster
    }

    #[track_caller]
    fn initdb(&self, binaries: &Binaries, data_dir: &PathBuf) {
        let mut initdb = binaries.command("initdb");
        initdb.arg("-D").arg(data_dir);
        initdb.args(["-U", super::account::Account::SUPERUSER, "-A", "trust", "-N"]);
        initdb.args(["--encoding=UTF8", "--locale=C", &format!("--wal-segsize={}", self.segment_size_mb)]);
        match (self.checksums, binaries.major()) {
            (true, _) => drop(initdb.arg("--data-checksums")),
            (false, 18..) => drop(initdb.arg("--no-data-checksums")),
            (false, _) => {}
        }
        initdb.args(&self.initdb_args);
        super::process::run(initdb, b"", super::process::TIMEOUT).success();
    }
}

/// Append lines to the postgresql.conf of a data directory; the last line of a name wins.
#[track_caller]
pub fn append_settings<'a>(
    data_dir: &std::path::Path,
    settings: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    let mut lines = String::new();
    for (name, value) in settings {
        writeln!(lines, "{name} = '{}'", value.replace('\'', "''")).expect("write to a string");
    }
    let path = data_dir.join("postgresql.conf");
    let file = OpenOptions::new().append(true).open(&path);
    file.and_then(|mut file| file.write_all(lines.as_bytes())).expect("append to postgresql.conf");
}
