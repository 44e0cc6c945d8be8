//! What one archiver is to do.

use std::path::PathBuf;
use std::time::Duration;

use crate::repository::Namespace;

/// One repository and the cluster that fills it, from the configuration.
#[derive(Debug)]
pub struct Setup {
    /// The cluster's place in the store, with the deadlines of one push.
    pub namespace: Namespace,
    /// `cluster.data_dir`.
    pub data_dir: PathBuf,
    /// `cluster.conninfo`.
    pub conninfo: String,
    /// How often the tail goes out; zero turns it off.
    pub tail_interval: Duration,
    /// How often a commit record is written; zero turns it off.
    pub heartbeat_interval: Duration,
    /// Segments pushed at a time.
    pub concurrency: usize,
    /// Time that one push may take.
    pub archive_timeout: Duration,
}
