//! `check`: the key, the store, and the backups in it.

use std::time::Duration;

use crate::cli::{findings::Findings, findings::Status};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::postgres::ControlFile;
use crate::repository::{Backups, Namespace, Repository};
use crate::store::Policy;
use crate::window::harmed_backups;

/// More than this between this host's clock and the store's makes S3 refuse requests and ages lie.
const MOST_SKEW: Duration = Duration::from_mins(1);
const BACKUPS: &str = "backups";

/// The repository, if it can be used.
pub(super) async fn check_repository(
    config: &Config,
    control: Option<&ControlFile>,
    found: &mut Findings,
) -> Option<Repository> {
    let encrypted = config.is_encrypted();
    found.result("key", config.keys(), |_| {
        if encrypted { "usable" } else { "none: encryption.mode is \"none\"" }.to_owned()
    })?;
    let namespace = config.namespace(Policy::within(Duration::from_secs(30)));
    let namespace = found.result("store", namespace, |namespace| namespace.store().to_string())?;
    let opened = open(&namespace, control).await;
    let repository = found.result("repository", opened, |repository| {
        format!(
            "cluster {}, system identifier {}",
            repository.identity().cluster,
            repository.identity().system_identifier
        )
    })?;
    check_store(config, &repository, found).await;
    check_backups(&repository, found).await;
    Some(repository)
}

async fn open(namespace: &Namespace, control: Option<&ControlFile>) -> Result<Repository> {
    match control {
        Some(control) => match namespace.open(control.system_identifier).await {
            Err(error) if error.kind() == Kind::NotFound => Err(not_of_this_cluster(namespace, error).await),
            other => other,
        },
        None => namespace.open_newest().await,
    }
}

/// There is none for the cluster in `cluster.data_dir`: a host that will restore, whose package made an empty one, must not
/// be told to make a second repository.
async fn not_of_this_cluster(namespace: &Namespace, error: Error) -> Error {
    let others = namespace.system_identifiers().await.unwrap_or_default();
    if others.is_empty() {
        return error;
    }
    let others = others.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let name = namespace.cluster();
    Error::new(error.kind(), format!("{error}; the name {name} belongs to system identifier {others}")).hint(
        "will this host restore it? then set cluster.data_dir's database aside; was the database made anew or \
         upgraded? then `walproof init`",
    )
}

async fn check_store(config: &Config, repository: &Repository, found: &mut Findings) {
    if let Err(error) = config.repository.refuse_root() {
        return found.error("store test", Status::Fail, &error);
    }
    let probe = repository.probe().await;
    let Some(written) = found.result("store test", probe, |_| "write, list, read back, delete".to_owned())
    else {
        return;
    };
    let skew = jiff::Timestamp::now().duration_since(written).unsigned_abs();
    let detail = format!("{} s apart from the store's", skew.as_secs());
    found.must("clock", skew <= MOST_SKEW, detail, "is this host's clock synchronised?");
}

async fn check_backups(repository: &Repository, found: &mut Findings) {
    // Everything that is there: a directory that cannot be listed is in the way of every restore.
    let listed = async {
        repository.list().await?;
        Ok((repository.list_backups().await?, harmed_backups(repository).await?))
    };
    let (Backups { usable, damaged }, harmed) = match listed.await {
        Ok(listed) => listed,
        Err::<_, Error>(error) => {
            let error = error
                .hint("were files made there as another user (root)? chown them to the repository's owner");
            return found.error(BACKUPS, Status::Fail, &error);
        }
    };
    for backup in &damaged {
        found.error(BACKUPS, Status::Fail, &backup.error);
    }
    for (_, error) in &harmed {
        found.error(BACKUPS, Status::Fail, error);
    }
    match usable.last() {
        None if damaged.is_empty() => found.warn(BACKUPS, "none yet", "take one: walproof backup-push"),
        None => {}
        Some(newest) if !newest.page_errors.is_empty() => found.add(
            BACKUPS,
            Status::Fail,
            format!("the newest, {}, holds {} damaged pages", newest.id, newest.page_errors.len()),
            Some("is the disk failing? `walproof backup-show` names the pages"),
        ),
        Some(newest) if harmed.iter().any(|(id, _)| *id == newest.id) => {}
        Some(newest) => found.ok(
            BACKUPS,
            format!("{}, the newest is {}, finished {}", usable.len(), newest.id, newest.finished_at),
        ),
    }
}
