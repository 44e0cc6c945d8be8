//! From the repository to a plan, and from the plan to deletes.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::facts::{Facts, Policy};
use super::plan::{Plan, decisions, lists_needed, plan};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::postgres::PgTime;
use crate::repository::{
    HeldLease, Hold, Lease, Listed, Listing, Namespace, ObjectKey, Protection, Purpose, Repository,
};
use crate::window::{Branch, Catalog, Records, RecoveryWindow, WalTimes, look};

/// Objects that are deleted between two looks at the leases.
const BATCH: usize = 10_000;
/// More than this between two clocks is worth a word.
const MOST_SKEW: Duration = Duration::from_mins(1);

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct Expired {
    /// What was planned.
    pub plan: Plan,
    /// Objects that were deleted.
    pub deleted: u64,
    /// Objects that the store refused to delete, and why; they are still paid for.
    pub refused: Option<(u64, Error)>,
    /// Objects that another process began to need meanwhile: left for the next run.
    pub spared: u64,
}

/// The plan as it would be carried out now, for every repository of the cluster's name that `repository` belongs to, its
/// own first. Takes no lease and deletes nothing.
pub async fn plan_now(repository: &Repository, policy: Policy) -> Result<Vec<(u64, Plan)>> {
    let now = PgTime::now();
    let (own, covers) = look_and_plan(repository, policy, now, false, None).await?;
    let mut plans = vec![(repository.identity().system_identifier, own)];
    for older in older(repository).await? {
        let (plan, _) = look_and_plan(&older, policy, now, covers, None).await?;
        plans.push((older.identity().system_identifier, plan));
    }
    Ok(plans)
}

/// Enforce retention on every repository of the cluster's name. A store that refuses deletes is reported, and no error.
pub async fn expire(repository: &Repository, policy: Policy) -> Result<Vec<(u64, Expired)>> {
    let (own, covers) = expire_one(repository, policy, false).await?;
    let mut done = vec![(repository.identity().system_identifier, own)];
    for older in older(repository).await? {
        let (expired, _) = expire_one(&older, policy, covers).await?;
        done.push((older.identity().system_identifier, expired));
    }
    Ok(done)
}

/// The other repositories of the same name that were made before. One that does not open is left alone.
async fn older(repository: &Repository) -> Result<Vec<Repository>> {
    let namespace: &Namespace = repository.namespace();
    let own = repository.identity();
    let mut found = Vec::new();
    for system_identifier in namespace.system_identifiers().await? {
        if system_identifier == own.system_identifier {
            continue;
        }
        match namespace.open(system_identifier).await {
            Ok(other) if other.identity().created_at < own.created_at => found.push(other),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::NotFound) => {
                tracing::warn!(system_identifier, %error, "a repository of the same name is left alone");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

async fn expire_one(repository: &Repository, policy: Policy, superseded: bool) -> Result<(Expired, bool)> {
    let lease = Lease::take(repository, Purpose::Expire, Protection::default()).await?;
    let result = under_lease(repository, &lease, policy, superseded).await;
    let released = lease.release().await;
    let done = result?;
    released?;
    Ok(done)
}

async fn under_lease(
    repository: &Repository,
    lease: &Lease,
    policy: Policy,
    superseded: bool,
) -> Result<(Expired, bool)> {
    let now = earlier_clock(repository, lease).await?;
    let (plan, covers) = look_and_plan(repository, policy, now, superseded, Some(lease)).await?;
    let mut expired = Expired { plan, ..Expired::default() };
    let mut known = lease.others().await?;
    // R23: manifests, then packs that no manifest names, then WAL.
    for step in 0..expired.plan.steps.len() {
        let keys = std::mem::take(&mut expired.plan.steps[step]);
        for batch in keys.chunks(BATCH) {
            // R32, and R22: who began to need something since the plan was made gets a new plan.
            lease.still_held()?;
            let others = lease.others().await?;
            if others.iter().any(|other| protects(other) && !known.contains(other)) {
                expired.spared += keys.len() as u64;
                tracing::warn!(
                    "another process began to work on the repository: the rest is left for the next run"
                );
                return Ok((expired, covers));
            }
            known = others;
            expired.delete(repository, batch).await?;
        }
        expired.plan.steps[step] = keys;
    }
    Ok((expired, covers))
}

impl Expired {
    async fn delete(&mut self, repository: &Repository, batch: &[ObjectKey]) -> Result<()> {
        for (_, result) in repository.delete_objects(batch).await {
            match result {
                Ok(()) => self.deleted += 1,
                Err(error) if error.kind() == Kind::Denied => {
                    let (count, _) = self.refused.get_or_insert((0, error));
                    *count += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn protects(lease: &HeldLease) -> bool {
    !lease.protects.backups.is_empty() || !lease.protects.wal.is_empty()
}

/// The earlier of this host's clock and the store's: of the lease that was just written.
async fn earlier_clock(repository: &Repository, lease: &Lease) -> Result<PgTime> {
    let here = Timestamp::now();
    let Some(store) = lease.written_at().await? else { return Ok(here.into()) };
    let skew = here.duration_since(store).unsigned_abs();
    if skew > MOST_SKEW {
        let seconds = skew.as_secs();
        tracing::warn!(store = %repository.store(), seconds, "this host's clock and the store's differ; the earlier one counts");
    }
    Ok(here.min(store).into())
}

/// List, look, plan. Also whether the window is covered by a good backup from its start on.
async fn look_and_plan(
    repository: &Repository,
    policy: Policy,
    now: PgTime,
    superseded: bool,
    lease: Option<&Lease>,
) -> Result<(Plan, bool)> {
    let leases = match lease {
        Some(lease) => lease.others().await?,
        None => Lease::held(repository).await?,
    };
    let listing = repository.list().await?;
    let (mut records, mut times) = (Records::default(), WalTimes::default());
    let (catalog, window) = look(repository, &listing, &mut records, &mut times).await?;
    let holds = repository.holds(&listing).await.context("read the holds")?;
    let facts = Facts {
        policy,
        now,
        listing: &listing,
        catalog: &catalog,
        window: &window,
        holds,
        leases,
        superseded,
    };
    let decisions = decisions(&facts);
    let mut lists = BTreeMap::new();
    for id in lists_needed(&facts, &decisions) {
        lists.insert(id.clone(), repository.get_pack_list(&id).await?);
    }
    let covers = covers(&window, facts.horizon());
    Ok((plan(&facts, &decisions, &lists), covers))
}

/// Whether every instant from `horizon` on can be restored from a good backup on the last writer's branch.
fn covers(window: &RecoveryWindow, horizon: PgTime) -> bool {
    let Some(branch) = window.last_writer() else { return false };
    let good: Vec<_> =
        branch.reaches.iter().filter(|reach| reach.backup.page_errors.is_empty()).cloned().collect();
    let good = Branch { reaches: good, ..branch.clone() };
    let instants = RecoveryWindow::instants(&good);
    instants.last().is_some_and(|instants| instants.start <= horizon)
}

/// Bytes that only a hold keeps, once its backup is older than the window: of the packs that the backup itself wrote, its
/// file tables and its WAL.
pub async fn held_bytes(
    repository: &Repository,
    listing: &Listing,
    catalog: &Catalog,
    hold: &Hold,
) -> Result<u64> {
    let Some(backup) = catalog.backups.iter().find(|backup| backup.id == hold.backup) else { return Ok(0) };
    let size = catalog.segment_size;
    let until = hold.until.unwrap_or(backup.stop_lsn).max(backup.stop_lsn);
    let numbers = backup.start_lsn.get() / size.bytes()..=until.get().saturating_sub(1) / size.bytes();
    let packs = repository.get_pack_list(&backup.id).await?;
    let packs: u64 = packs.0.iter().map(|pack| u64::from(pack.bytes)).sum();
    let of_backup = |listed: &&Listed| match &listed.key {
        ObjectKey::FileTable(id, _) | ObjectKey::PageDigests(id, _) | ObjectKey::PackList(id) => {
            *id == backup.id
        }
        ObjectKey::Wal(name, _) => name.segment().is_some_and(|segment| {
            segment.timeline == backup.timeline && numbers.contains(&segment.number(size))
        }),
        _ => false,
    };
    Ok(packs + listing.objects.iter().filter(of_backup).map(|listed| listed.size).sum::<u64>())
}
