//! Which backup, which timeline, how much WAL: decided and checked before the disk is touched (R16).

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::{BackupId, Manifest, TablespaceRecord};
use crate::postgres::{Lsn, PgTime, RecoveryTarget, TargetAction, TimelineId};
use crate::repository::Repository;
use crate::window::{Chooser, Chosen, Records, WalPath, WalTimes, Wanted, look};

/// What the operator asks for.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// The new data directory.
    pub to: PathBuf,
    /// Where recovery ends.
    pub target: RecoveryTarget,
    /// What the server does there.
    pub action: TargetAction,
    /// The timeline to follow; by default the newest.
    pub timeline: Option<TimelineId>,
    /// The backup to start from; by default the newest that stopped before the target.
    pub backup: Option<BackupId>,
    /// Tablespaces by their old location, and where they go.
    pub tablespaces: Vec<(PathBuf, PathBuf)>,
    /// Whether the directory may hold this very cluster, of which stays what is as in the backup.
    pub delta: bool,
}

/// What will be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The new data directory.
    pub to: PathBuf,
    /// The backup to start from.
    pub backup: Manifest,
    /// The timeline that recovery follows: the one in which the target lies.
    pub timeline: TimelineId,
    /// The branch that leads to the target; its timeline may continue the one above.
    pub branch: TimelineId,
    /// Where recovery ends.
    pub target: RecoveryTarget,
    /// What the server does there.
    pub action: TargetAction,
    /// How far the WAL reaches.
    pub reach: Reach,
    /// Where each tablespace goes, by oid.
    pub tablespaces: Vec<(u32, PathBuf)>,
    /// Whether the directory may hold this very cluster.
    pub delta: bool,
    /// What the operator should know before the restore begins.
    pub warnings: Vec<String>,
}

/// How far the backup leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The WAL that is there.
    pub path: WalPath,
    /// End of the last complete record.
    pub end: Lsn,
    /// The latest commit, abort or restore point on the path. `None`: nothing happened since the backup.
    pub end_time: Option<PgTime>,
    /// Why the path ends where it does, when the next segment is there but cannot be used.
    pub damage: Option<String>,
}

/// Decide how to restore what `request` asks for. `progress` hears (segments looked at, of how many) while the target is
/// looked for.
pub async fn plan(
    repository: &Repository,
    request: &RestoreRequest,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Plan> {
    let listing = repository.list().await?;
    let (mut records, mut times) = (Records::default(), WalTimes::default());
    let (catalog, window) = look(repository, &listing, &mut records, &mut times).await?;
    let wanted =
        Wanted { target: request.target.clone(), timeline: request.timeline, backup: request.backup.clone() };
    let mut chooser = Chooser { repository, catalog: &catalog, window: &window, times: &mut times, progress };
    let chosen = chooser.choose(&wanted).await?;
    for warning in &chosen.warnings {
        tracing::warn!("{warning}");
    }
    Plan::of(chosen, request)
}

impl Plan {
    /// How to restore what was chosen for `request`.
    pub fn of(chosen: Chosen, request: &RestoreRequest) -> Result<Self> {
        let tablespaces = map_tablespaces(&chosen.backup, &request.tablespaces)?;
        Ok(Self {
            to: request.to.clone(),
            backup: Manifest::clone(&chosen.backup),
            timeline: chosen.timeline,
            branch: chosen.branch,
            target: request.target.clone(),
            action: request.action,
            reach: Reach {
                path: chosen.path,
                end: chosen.end,
                end_time: chosen.end_time,
                damage: chosen.damage,
            },
            tablespaces,
            delta: request.delta,
            warnings: chosen.warnings,
        })
    }
}

/// Where each tablespace goes: as asked for, else where it was.
fn map_tablespaces(backup: &Manifest, wanted: &[(PathBuf, PathBuf)]) -> Result<Vec<(u32, PathBuf)>> {
    for (from, to) in wanted {
        if !backup.tablespaces.iter().any(|tablespace| tablespace.location.as_path() == from) {
            let known: Vec<String> =
                backup.tablespaces.iter().map(|tablespace| tablespace.location.to_string()).collect();
            return Err(Error::usage(format!("the backup has no tablespace at {}", from.display())).hint(
                format!("it has: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") }),
            ));
        }
        if !to.is_absolute() {
            return Err(Error::usage(format!("{} is not an absolute path", to.display())));
        }
    }
    let place = |location: &Path| {
        let mapped = wanted.iter().find(|(from, _)| from == location).map(|(_, to)| to.clone());
        mapped.unwrap_or_else(|| location.to_owned())
    };
    let place = |tablespace: &TablespaceRecord| (tablespace.oid, place(tablespace.location.as_path()));
    Ok(backup.tablespaces.iter().map(place).collect())
}
