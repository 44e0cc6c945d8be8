//! `init`: create the repository, or say that it is there.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;
use serde_json::json;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{args::Global, output, start};
use crate::cluster::{DataDir, user_name};
use crate::disk::durable;
use crate::error::{Error, Result, ResultExt};
use crate::store::Policy;

fn make_directory(directory: &Path) -> Result<()> {
    let made = durable::create_dir_all(directory, 0o700).context("create the repository's directory");
    made.map_err(|error| {
        let (path, user) = (directory.display(), user_name(geteuid().as_raw()));
        Error::new(error.kind(), error.to_string())
            .hint(format!("make it for the user that archives: sudo install -d -m 700 -o {user} {path}"))
    })
}

/// A directory that root makes is closed to the user that archives.
fn refuse_to_make_it_as_root(directory: &Path, data_dir: &Path) -> Result<()> {
    if directory.exists() || !geteuid().is_root() {
        return Ok(());
    }
    let owner = std::fs::metadata(data_dir).map_err(|cause| Error::io("look at", data_dir, &cause))?.uid();
    if owner == 0 {
        return Ok(());
    }
    let (path, owner) = (directory.display(), user_name(owner));
    Err(Error::usage(format!(
        "as root, init would make {path} for root alone, and the data directory belongs to user {owner}"
    ))
    .hint(format!("sudo install -d -m 700 -o {owner} {path}, then sudo -u {owner} walproof init")))
}

pub(super) fn init(global: &Global) -> Result<u8> {
    let config = start::configure(global, LevelFilter::WARN)?;
    let control = DataDir::open(config.data_dir()?)?.control()?;
    config.keys()?;
    config.repository.refuse_root()?;
    if let Some(directory) = config.repository.directory() {
        refuse_to_make_it_as_root(directory, config.data_dir()?)?;
        // The one command that may make it: for all others a directory that is not there is a disk that is not mounted.
        make_directory(directory)?;
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
            let state = if created { "created" } else { "already there" };
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
