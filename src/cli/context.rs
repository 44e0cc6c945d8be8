//! The configuration and the repository that it means: opened here, for every command that reads it.

use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;

use super::args::Global;
use super::start;
use crate::archive::{Request, ask_for_line};
use crate::cluster::DataDir;
use crate::config::Config;
use crate::error::{Kind, Result};
use crate::repository::{Namespace, Repository};
use crate::store::Policy;

/// What a command works with.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) namespace: Namespace,
}

impl Context {
    /// Read the configuration, begin to log, and find the cluster's place in the store.
    pub(crate) fn of(global: &Global, usual: LevelFilter, policy: Policy) -> Result<Self> {
        let config = start::configure(global, usual)?;
        let namespace = config.namespace(policy)?;
        Ok(Self { config, namespace })
    }

    /// The repository of the cluster with the wanted system identifier; by default of the live cluster, or, on another
    /// host, the newest of that name.
    pub(crate) async fn repository(&self, wanted: Option<u64>) -> Result<Repository> {
        open(&self.config, &self.namespace, wanted).await
    }
}

/// How long a command that moves much data puts up with a store that does not answer. A timer's has
/// all the time in the world; a person would rather know.
pub(crate) fn patience() -> Policy {
    // Of every process of a unit (systemd.exec(5)), and of none that a person starts.
    if std::env::var_os("INVOCATION_ID").is_some() { Policy::default() } else { Policy::attended() }
}

/// See [`Context::repository`].
pub(crate) async fn open(config: &Config, namespace: &Namespace, wanted: Option<u64>) -> Result<Repository> {
    if let Some(wanted) = wanted {
        return namespace.open(wanted).await.map_err(|error| {
            if error.kind() == Kind::NotFound { error.as_kind(Kind::Impossible) } else { error }
        });
    }
    let live = config.data_dir_if_set().and_then(|path| DataDir::open(path).ok()?.control().ok());
    let Some(control) = live else { return namespace.open_newest().await };
    match namespace.open(control.system_identifier).await {
        Err(error) if error.kind() == Kind::NotFound => namespace.open_newest().await,
        other => other,
    }
}

/// Tell the daemon of this host, if there is one, so that it shows at once. One that does not run finds out by itself.
pub(crate) fn tell_daemon(config: &Config, what: &Request) {
    let _ = ask_for_line(&config.archive.socket, what, Duration::from_secs(1));
}
