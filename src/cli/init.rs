//! `init`: create the repository, or say that it is there.

use serde_json::json;
use tracing_subscriber::filter::LevelFilter;

use super::args::Global;
use super::{output, start};
use crate::cluster::{DataDir, durable};
use crate::error::{Result, ResultExt};
use crate::store::Policy;

pub(super) fn init(global: &Global) -> Result<u8> {
    let config = start::configure(global, LevelFilter::WARN)?;
    let control = DataDir::open(config.data_dir()?)?.control()?;
    config.keys()?;
    if let Some(directory) = config.repository.directory() {
        // The one command that may make it: for all others a directory that is not there is a disk that is not mounted.
        durable::create_dir_all(directory, 0o700).context("create the repository's directory")?;
    }
    let namespace = config.namespace(Policy::within(std::time::Duration::from_mins(1)))?;
    start::run_large(async {
        let (repository, created) = namespace.init(&control).await?;
        repository.probe().await.context("test the store")?;
        if global.json {
            output::json(&json!({
                "cluster": config.cluster.as_str(),
                "system_identifier": control.system_identifier.to_string(),
                "repository": config.repository.url,
                "created": created,
                "encrypted": config.is_encrypted(),
            }))?;
        } else {
            let state = if created { "created" } else { "is there already" };
            let sealed = if config.is_encrypted() {
                "encrypted"
            } else {
                "NOT encrypted (encryption.mode is \"none\")"
            };
            output::line(format!(
                "repository of cluster {} (system identifier {}) in {}: {state}, {sealed}, store tested",
                config.cluster, control.system_identifier, config.repository.url
            ))?;
        }
        Ok(0)
    })
}
