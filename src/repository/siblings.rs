//! Several repositories under one cluster's name: the database was recreated or upgraded, or two
//! clusters share a name.

use std::cmp::Reverse;

use super::namespace::{Namespace, Repository};
use crate::error::{Error, Kind, Result, ResultExt};

const CHOOSE: &str =
    "commands that read or restore take --system-identifier; else the cluster in cluster.data_dir is meant";

/// A repository of the name that opens.
struct Sibling {
    repository: Repository,
    /// The id of its newest backup; ids sort by time.
    newest_backup: Option<String>,
}

impl Sibling {
    fn system_identifier(&self) -> u64 {
        self.repository.identity().system_identifier
    }

    fn describe(&self) -> String {
        let newest = self.newest_backup.as_deref();
        format!("{} (newest backup {})", self.system_identifier(), newest.unwrap_or("none"))
    }
}

impl Namespace {
    /// The system identifiers that the cluster's name has repositories for, sorted.
    pub async fn system_identifiers(&self) -> Result<Vec<u64>> {
        let names = self.store().list_directories(&self.directory()).await.context("find the repository")?;
        let mut found: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Open the repository of this name for hosts that know no more than the name. Of several (the
    /// database was recreated under the same name), the one that was made last and has backups: a
    /// new one hides nothing before its first backup. Where two are being backed up side by side,
    /// neither is chosen.
    pub async fn open_newest(&self) -> Result<Repository> {
        let mut found = self.siblings().await?;
        found.sort_by_key(|sibling| Reverse(sibling.repository.identity().created_at));
        let with_backup = found.iter().position(|sibling| sibling.newest_backup.is_some());
        let chosen = found.swap_remove(with_backup.unwrap_or_default());
        let made = chosen.repository.identity().created_at;
        let made_id = made.strftime("%Y%m%dT%H%M%SZ").to_string();
        let goes_on = |other: &&Sibling| other.newest_backup.as_ref().is_some_and(|id| *id > made_id);
        let rivals: Vec<String> = found.iter().filter(goes_on).map(Sibling::describe).collect();
        if !rivals.is_empty() {
            let all = format!("{}, {}", chosen.describe(), rivals.join(", "));
            return Err(Error::impossible(format!(
                "several clusters are backed up under the name {}, by system identifier: {all}",
                self.cluster()
            ))
            .hint(CHOOSE));
        }
        for other in &found {
            let identity = other.repository.identity();
            let (used, other) = (chosen.system_identifier(), other.describe());
            if identity.created_at > made {
                tracing::warn!(cluster = %self.cluster(), used, other, "the database was recreated and has no backup yet: this is about the previous one");
            } else if with_backup.is_some() && chosen.newest_backup.is_some() {
                tracing::warn!(cluster = %self.cluster(), used, other, "an older database of this name has a repository, too; --system-identifier selects it");
            }
        }
        Ok(chosen.repository)
    }

    /// The other repositories of the name of `own`, by system identifier. An error within for one that does not open.
    pub async fn others(&self, own: &Repository) -> Result<Vec<(u64, Result<Repository>)>> {
        let mut found = Vec::new();
        for system_identifier in self.system_identifiers().await? {
            if system_identifier == own.identity().system_identifier {
                continue;
            }
            match self.open(system_identifier).await {
                Err(error) if !error.kind().is_unreadable() && error.kind() != Kind::NotFound => {
                    return Err(error);
                }
                opened => found.push((system_identifier, opened)),
            }
        }
        Ok(found)
    }

    /// The repositories of this name; at least one. One that does not open is left out with a warning, unless there
    /// is not another.
    async fn siblings(&self) -> Result<Vec<Sibling>> {
        let (mut found, mut closed) = (Vec::new(), Vec::new());
        let all = self.system_identifiers().await?;
        for &system_identifier in &all {
            match self.open(system_identifier).await {
                Ok(repository) => {
                    // Of one there is nothing to choose.
                    let ids = if all.len() > 1 { repository.list_backup_ids().await? } else { Vec::new() };
                    let newest_backup = ids.into_iter().max().map(|id| id.to_string());
                    found.push(Sibling { repository, newest_backup });
                }
                Err(error) if error.kind().is_unreadable() || error.kind() == Kind::NotFound => {
                    closed.push((system_identifier, error));
                }
                Err(error) => return Err(error),
            }
        }
        if found.is_empty() {
            return Err(self.none_opens(closed));
        }
        for (system_identifier, error) in closed {
            tracing::warn!(cluster = %self.cluster(), system_identifier, %error, "a repository of this name cannot be opened and is left out");
        }
        Ok(found)
    }

    fn none_opens(&self, closed: Vec<(u64, Error)>) -> Error {
        let names: Vec<String> = closed.iter().map(|(identifier, _)| identifier.to_string()).collect();
        match closed.into_iter().next_back() {
            Some((_, error)) if names.len() == 1 => error,
            Some((_, error)) => error.context(format!(
                "no repository of cluster {} can be opened (system identifiers {})",
                self.cluster(),
                names.join(", ")
            )),
            None => Error::impossible(format!(
                "there is no repository of cluster {} in {}",
                self.cluster(),
                self.store()
            ))
            .hint("is cluster.name right, was `walproof init` run, and is the repository's disk mounted?"),
        }
    }
}
