//! The configuration as it is written. Every section and key may be left out but the cluster's name and the
//! repository's url; defaults stand beside their fields.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::ArchiveConfig;
use super::secret;
use super::units::{duration, workers};
use crate::error::{Error, Result, ResultExt};
use crate::format::ClusterName;
use crate::seal::KeyRing;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) cluster: Cluster,
    pub(super) repository: super::repository::Raw,
    #[serde(default)]
    pub(super) encryption: Encryption,
    #[serde(default)]
    pub(super) compression: Compression,
    #[serde(default)]
    pub(super) archive: Archive,
    #[serde(default)]
    pub(super) backup: Backup,
    #[serde(default)]
    pub(super) retention: Retention,
    #[serde(default)]
    pub(super) log: Log,
    #[serde(default)]
    pub(super) objectives: Objectives,
    #[serde(default)]
    pub(super) drill: super::drill::Raw,
    #[serde(default)]
    pub(super) metrics: Metrics,
    #[serde(default)]
    pub(super) notify: Notify,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cluster {
    pub(super) name: String,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) conninfo: Option<String>,
    pub(super) primary_conninfo: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Encryption {
    mode: Option<String>,
    key_file: Option<PathBuf>,
    key_command: Option<String>,
}

impl Encryption {
    pub(super) fn is_on(&self) -> bool {
        self.mode.as_deref() != Some("none")
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.mode.as_deref() {
            None | Some("aes-256-gcm" | "none") => {}
            Some(other) => {
                return Err(Error::usage(format!("encryption.mode is \"{other}\""))
                    .hint("leave it out, or set it to \"none\""));
            }
        }
        let keys = usize::from(self.key_file.is_some()) + usize::from(self.key_command.is_some());
        if !self.is_on() && keys > 0 {
            return Err(Error::usage("encryption.mode is \"none\", and a key is configured")
                .hint("which one is meant?"));
        }
        if keys > 1 {
            return Err(
                Error::usage("[encryption] has both key_file and key_command").hint("which one is meant?")
            );
        }
        if self.is_on() && keys == 0 && secret::credential("key").is_none() {
            return Err(Error::usage("[encryption] needs key_file or key_command").hint(
                "make a key with `walproof keygen` and keep a copy elsewhere; or set encryption.mode = \"none\"",
            ));
        }
        Ok(())
    }

    /// The file that holds the keys, unless a command prints them.
    pub(super) fn key_file(&self) -> Option<PathBuf> {
        if self.key_command.is_some() {
            return None;
        }
        self.key_file.clone().or_else(|| secret::credential("key"))
    }

    pub(super) fn keys(&self, patience: Duration) -> Result<KeyRing> {
        if !self.is_on() {
            return Ok(KeyRing::unencrypted());
        }
        if let Some(command) = &self.key_command {
            return KeyRing::parse(&secret::output_of(command, patience)?).context("encryption.key_command");
        }
        let file = self.key_file();
        let file = file.ok_or_else(|| Error::usage("[encryption] needs key_file or key_command"))?;
        KeyRing::parse(&secret::read(&file)?).with_context(|| format!("key file {}", file.display()))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Compression {
    pub(super) level: i32,
}

impl Default for Compression {
    fn default() -> Self {
        Self { level: 1 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Archive {
    tail_interval: String,
    heartbeat_interval: String,
    concurrency: usize,
    timeout: String,
    socket: Option<PathBuf>,
}

impl Default for Archive {
    fn default() -> Self {
        Self {
            tail_interval: "5s".to_owned(),
            heartbeat_interval: "10s".to_owned(),
            concurrency: 4,
            timeout: "60s".to_owned(),
            socket: None,
        }
    }
}

impl Archive {
    pub(super) fn check(&self, cluster: &ClusterName) -> Result<ArchiveConfig> {
        let timeout = duration(&self.timeout).context("archive.timeout")?;
        if timeout < Duration::from_secs(1) {
            return Err(Error::usage(format!(
                "archive.timeout is \"{}\", shorter than a second",
                self.timeout
            )));
        }
        Ok(ArchiveConfig {
            tail_interval: duration(&self.tail_interval).context("archive.tail_interval")?,
            heartbeat_interval: duration(&self.heartbeat_interval).context("archive.heartbeat_interval")?,
            concurrency: workers("archive.concurrency", self.concurrency)?,
            timeout,
            socket: self.socket.clone().unwrap_or_else(|| format!("/run/walproof/{cluster}.sock").into()),
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Backup {
    pub(super) concurrency: usize,
    pub(super) max_rate: String,
    pub(super) on_rto_threat: bool,
    pub(super) reread: String,
}

impl Default for Backup {
    fn default() -> Self {
        Self { concurrency: 2, max_rate: "0".to_owned(), on_rto_threat: false, reread: "7d".to_owned() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Retention {
    pub(super) window: String,
}

impl Retention {
    pub(super) fn check(&self) -> Result<Duration> {
        let window = duration(&self.window).context("retention.window")?;
        if window.is_zero() {
            return Err(Error::usage("retention.window is 0: nothing would stay restorable")
                .hint("how far back must you be able to go? such as \"7d\""));
        }
        Ok(window)
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { window: "7d".to_owned() }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    format: Option<String>,
}

impl Log {
    pub(super) fn is_json(&self) -> Result<bool> {
        match self.format.as_deref() {
            None | Some("text") => Ok(false),
            Some("json") => Ok(true),
            Some(other) => {
                Err(Error::usage(format!("log.format is \"{other}\"")).hint("use \"text\" or \"json\""))
            }
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Objectives {
    pub(super) rpo: String,
    pub(super) rto: String,
}

impl Default for Objectives {
    fn default() -> Self {
        Self { rpo: "15m".to_owned(), rto: "1h".to_owned() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Metrics {
    pub(super) listen: SocketAddr,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9847)) }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Notify {
    pub(super) heartbeat_url: Option<url::Url>,
}
