//! The configuration: words from the operator become values. Unknown keys are errors.

mod credentials;
mod drill;
mod keys;
mod raw;
mod repository;
mod rotation;
mod secret;
mod units;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use drill::{DrillConfig, DrillQuery, DrillTarget};
pub use keys::KeyFollower;
pub use repository::RepositoryConfig;

use zeroize::Zeroizing;

use crate::archive::Destination;
use crate::error::{Error, Result, ResultExt};
use crate::format::ClusterName;
use crate::repository::Namespace;
use crate::seal::KeyRing;
use crate::store::{Policy, Store};

/// A number of bytes such as "0", "50MB", "100MiB".
pub fn parse_bytes(text: &str) -> Result<u64> {
    units::bytes(text)
}

/// Path of the configuration file unless another one is given.
pub const DEFAULT_PATH: &str = "/etc/walproof/walproof.toml";

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from, absolute.
    pub path: PathBuf,
    /// The cluster's name.
    pub cluster: ClusterName,
    /// `cluster.data_dir`, needed by commands that touch the live cluster.
    data_dir: Option<PathBuf>,
    conninfo: Option<String>,
    /// How a backup on a standby reaches its primary, to ask it to finish a segment.
    pub primary_conninfo: Option<String>,
    /// Where backups go.
    pub repository: RepositoryConfig,
    encryption: raw::Encryption,
    /// zstd level.
    pub level: i32,
    /// `[archive]`.
    pub archive: ArchiveConfig,
    /// Threads of a backup.
    pub backup_concurrency: usize,
    /// Bytes a second read by a backup; 0 for no limit.
    pub backup_max_rate: u64,
    /// Whether the daemon takes a backup when a restore would take almost too long.
    pub backup_on_rto_threat: bool,
    /// How long a backup may leave a file that does not change unread; zero reads everything.
    pub backup_reread: Duration,
    /// How far back every instant stays restorable.
    pub retention_window: Duration,
    /// How much may be lost, as promised.
    pub rpo_objective: Duration,
    /// How long a restore may take, as promised.
    pub rto_objective: Duration,
    /// `[drill]`.
    pub drill: DrillConfig,
    /// Where the daemon serves metrics, health and the status page.
    pub metrics_listen: SocketAddr,
    /// What the daemon pings while all is well.
    pub heartbeat_url: Option<url::Url>,
    /// Whether logs are JSON.
    pub log_json: bool,
}

/// `[archive]`.
#[derive(Debug, Clone)]
pub struct ArchiveConfig {
    /// How often the tail goes out; zero turns it off.
    pub tail_interval: Duration,
    /// How often a commit record is written; zero turns it off.
    pub heartbeat_interval: Duration,
    /// Segments pushed at a time by the daemon.
    pub concurrency: usize,
    /// Time that one `wal-push` may take.
    pub timeout: Duration,
    /// Where the daemon listens.
    pub socket: PathBuf,
}

impl Config {
    /// Read and check the configuration file.
    pub fn load(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).map_err(|cause| Error::io("find", path, &cause))?;
        let text = std::fs::read_to_string(&path).map_err(|cause| {
            Error::usage(format!("read the configuration {}: {cause}", path.display()))
                .hint("name another file with --config or WALPROOF_CONFIG; config/walproof.toml is an annotated example")
        })?;
        Self::parse(&text, &path).with_context(|| format!("configuration {}", path.display()))
    }

    /// Check the text of a configuration file that lies at `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let raw: raw::Raw = read(text)?;
        let cluster: ClusterName = raw.cluster.name.parse().context("cluster.name")?;
        let archive = raw.archive.check(&cluster)?;
        if !(-7..=22).contains(&raw.compression.level) {
            return Err(Error::usage(format!(
                "compression.level is {}, zstd has -7 to 22",
                raw.compression.level
            )));
        }
        raw.encryption.check()?;
        Ok(Self {
            path: path.to_owned(),
            cluster,
            data_dir: raw.cluster.data_dir,
            conninfo: raw.cluster.conninfo,
            primary_conninfo: raw.cluster.primary_conninfo,
            repository: raw.repository.check()?,
            encryption: raw.encryption,
            level: raw.compression.level,
            archive,
            backup_concurrency: units::workers("backup.concurrency", raw.backup.concurrency)?,
            backup_max_rate: units::bytes(&raw.backup.max_rate).context("backup.max_rate")?,
            backup_on_rto_threat: raw.backup.on_rto_threat,
            backup_reread: units::duration(&raw.backup.reread).context("backup.reread")?,
            retention_window: raw.retention.check()?,
            rpo_objective: units::duration(&raw.objectives.rpo).context("objectives.rpo")?,
            rto_objective: units::duration(&raw.objectives.rto).context("objectives.rto")?,
            drill: raw.drill.check()?,
            metrics_listen: raw.metrics.listen,
            heartbeat_url: raw.notify.heartbeat_url,
            log_json: raw.log.is_json()?,
        })
    }

    /// `cluster.data_dir`, or a clear error.
    pub fn data_dir(&self) -> Result<&Path> {
        self.data_dir.as_deref().ok_or_else(|| {
            Error::usage(format!("cluster.data_dir is not set in {}", self.path.display()))
                .hint("this command needs the live cluster; is this the database host?")
        })
    }

    /// `cluster.data_dir`, if it is set.
    pub fn data_dir_if_set(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }

    /// `cluster.conninfo`, or a clear error.
    pub fn conninfo(&self) -> Result<&str> {
        self.conninfo.as_deref().ok_or_else(|| {
            Error::usage(format!("cluster.conninfo is not set in {}", self.path.display()))
                .hint("such as \"host=/var/run/postgresql user=postgres dbname=postgres\"")
        })
    }

    /// The repository that is meant, as `wal-push` and the daemon tell it each other.
    pub fn destination(&self) -> Destination {
        Destination::of(&format!("{} {}", self.cluster, self.repository.description()))
    }

    /// The keys, from the file, the command, or systemd's credentials.
    pub fn keys(&self) -> Result<KeyRing> {
        self.encryption.keys(secret::COMMAND_PATIENCE)
    }

    /// The keys, where a command that prints them may take no longer than `patience`.
    pub fn keys_within(&self, patience: Duration) -> Result<KeyRing> {
        self.encryption.keys(secret::COMMAND_PATIENCE.min(patience))
    }

    /// What keeps a ring of these keys up to date; `None` where there are no keys.
    pub fn key_follower(&self) -> Result<Option<KeyFollower>> {
        KeyFollower::of(&self.encryption)
    }

    /// The text of the key that signs drills' reports: `drill.signing_key_file`, or systemd's credential `drill_key`.
    pub fn drill_signing_key(&self) -> Result<Zeroizing<String>> {
        let path = self.drill.signing_key_file.clone().or_else(|| secret::credential("drill_key"));
        let path = path.ok_or_else(|| {
            Error::usage(format!("drill.signing_key_file is not set in {}", self.path.display()))
                .hint("name the key there; `walproof drill-keygen --to FILE` makes one")
        })?;
        if path.try_exists().is_ok_and(|there| !there) {
            return Err(Error::usage(format!("drill.signing_key_file: {} is not there", path.display()))
                .hint("`walproof drill-keygen --to FILE` makes one"));
        }
        secret::read(&path).context("drill.signing_key_file")
    }

    /// Whether objects are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.encryption.is_on()
    }

    /// Open the cluster's place in the store with these deadlines.
    pub fn namespace(&self, policy: Policy) -> Result<Namespace> {
        self.namespace_with(self.keys_within(policy.patience)?, policy)
    }

    /// The same, with keys that are at hand already.
    pub fn namespace_with(&self, keys: KeyRing, policy: Policy) -> Result<Namespace> {
        let store = Store::open(&self.repository.location()?, policy)?;
        Ok(Namespace::new(store, self.repository.prefix.clone(), self.cluster.clone(), keys, self.level))
    }
}

fn read(text: &str) -> Result<raw::Raw> {
    let parser =
        toml::Deserializer::parse(text).map_err(|cause| Error::usage(describe(&cause, text, None)))?;
    serde_path_to_error::deserialize(parser).map_err(|cause| {
        let path = cause.path().to_string();
        Error::usage(describe(cause.inner(), text, Some(&path)))
    })
}

/// One line that says where and what: the library's message draws a picture over several, and names no key.
fn describe(cause: &toml::de::Error, text: &str, key: Option<&str>) -> String {
    let line = cause.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let message = cause.message().trim();
    let line = line.map(|line| format!("line {line}"));
    let key = key.filter(|key| *key != ".").map(str::to_owned);
    let parts: Vec<String> = line.into_iter().chain(key).chain([message.to_owned()]).collect();
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text, Path::new("/etc/walproof/walproof.toml"))
    }

    const LEAST: &str =
        "[cluster]\nname = \"main\"\n[repository]\nurl = \"file:///srv/b\"\n[encryption]\nmode = \"none\"\n";

    #[test]
    fn the_least_that_is_needed() {
        let config = parse(LEAST).unwrap();
        assert_eq!(config.archive.socket, Path::new("/run/walproof/main.sock"));
        assert!(!config.is_encrypted());
        assert_eq!(config.data_dir().unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn r27_mistakes_are_named_with_their_place() {
        for (change, expected) in [
            ("name = \"main\"\nnmae = 1", "line 3: cluster.nmae: unknown field `nmae`"),
            ("name = \"a/b\"", "cluster.name: \"a/b\" is not a valid cluster name"),
            ("name = 7", "line 2: cluster.name: invalid type: integer `7`, expected a string"),
        ] {
            let error = parse(&LEAST.replace("name = \"main\"", change)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        for (extra, expected) in [
            ("[archive]\ntimeout = \"soon\"", "archive.timeout"),
            ("[archive]\nconcurrency = 0", "archive.concurrency is 0"),
            ("[backup]\nconcurrency = 9223372036854775807", "more than 256"),
            ("[archive]\ntimeout = \"300000000000y\"", "longer than a hundred years"),
            ("[backup]\nmax_rate = \"fast\"", "backup.max_rate"),
            ("[backup]\nreread = \"weekly\"", "backup.reread"),
            ("[compression]\nlevel = 99", "compression.level is 99"),
            ("[log]\nformat = \"xml\"", "log.format"),
            (
                "[archive]\ntimeout = 60",
                "line 8: archive.timeout: invalid type: integer `60`, expected a string",
            ),
            ("[archive]\nconcurrency = \"4\"", "line 8: archive.concurrency: invalid type"),
            ("[metrics]\nlisten = \"9847\"", "metrics.listen: invalid socket address"),
            ("[notify]\nheartbeat_url = \"here\"", "notify.heartbeat_url: relative URL"),
            ("[archive]\nconcurrency = -1", "archive.concurrency: "),
            ("[archive", "line 7: "),
            ("archive = 1", "archive"),
            ("[retention]\nwindow = \"0s\"", "retention.window is 0"),
            ("[drill]\ntarget = \"oldest\"", "drill.target is \"oldest\""),
            ("[drill]\nevery = \"monthly\"", "drill.every"),
            ("[drill]\nevery = \"0s\"", "drill.every is 0"),
            ("[drill]\ndirectory = \"staging\"", "drill.directory \"staging\" is not absolute"),
            ("[drill]\namcheck = \"yes\"", "drill.amcheck: invalid type"),
            ("[[drill.query]]\nname = \"x\"\ndatabase = \"d\"", "missing field `sql`"),
            ("[[drill.query]]\nname = \"x\"\ndatabase = \"d\"\nsql = \" \"", "sql is empty"),
            (
                "[[drill.query]]\nname = \"x\"\ndatabase = \"d\"\nsql = \"s\"\n\
                 [[drill.query]]\nname = \"x\"\ndatabase = \"e\"\nsql = \"s\"",
                "the name \"x\"",
            ),
        ] {
            let error = parse(&format!("{LEAST}{extra}\n")).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn encryption_is_on_unless_none_is_said() {
        let text = LEAST.replace("[encryption]\nmode = \"none\"\n", "");
        assert!(parse(&text).unwrap_err().to_string().contains("encryption"));
        let both = LEAST.replace("mode = \"none\"", "mode = \"none\"\nkey_file = \"/k\"");
        assert!(parse(&both).unwrap_err().to_string().contains("encryption"));
    }
}
