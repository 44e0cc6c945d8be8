//! From the repository to a plan, and from the plan to deletes.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::backups::decide;
use super::facts::{Facts, Policy};
use super::locked;
use super::plan::{Doomed, Plan, REPORTS, lists_needed, plan};
use crate::error::{Error, Kind, Result};
use crate::format::ObjectKey;
use crate::format::{Protection, Purpose};
use crate::postgres::PgTime;
use crate::repository::{ExpiryFailure, ExpiryRecord, HeldLease, Lease, Listed, Refused, Repository};
use crate::store::OldVersions;
use crate::window::{Records, RecoveryWindow, WalTimes, look};

/// Objects that are deleted between two looks at the leases and holds: as many as one request takes.
const BATCH: usize = 1000;
/// More than this between two clocks is worth a word.
const MOST_SKEW: Duration = Duration::from_mins(1);

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct Expired {
    /// What was planned.
    pub plan: Plan,
    /// Objects that were deleted.
    pub deleted: u64,
    /// Objects that the store refused to delete; they are still paid for.
    pub refused: Option<Refused>,
    /// What the store keeps of what was deleted: that is still paid for, too.
    pub old_versions: Option<OldVersions>,
    /// Objects that another process began to need meanwhile: left for the next run.
    pub spared: u64,
}

/// The plan as it would be carried out now, for every repository of the cluster's name that `repository` belongs to, its
/// own first. Takes no lease and deletes nothing.
pub async fn plan_now(repository: &Repository, policy: Policy) -> Result<Vec<(u64, Plan)>> {
    let now = PgTime::now();
    let own = look_and_plan(repository, policy, now, false, None).await?;
    let mut plans = vec![(repository.identity().system_identifier, own.plan)];
    for older in older(repository).await? {
        let looked = look_and_plan(&older, policy, now, own.covers, None).await?;
        plans.push((older.identity().system_identifier, looked.plan));
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
    let made = repository.identity().created_at;
    let mut found = Vec::new();
    for (system_identifier, opened) in repository.namespace().others(repository).await? {
        match opened {
            Ok(other) if other.identity().created_at < made => found.push(other),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(system_identifier, %error, "a repository of the same name is left alone");
            }
        }
    }
    Ok(found)
}

async fn expire_one(repository: &Repository, policy: Policy, superseded: bool) -> Result<(Expired, bool)> {
    let lease = Lease::take(repository, Purpose::Expire, Protection::default()).await?;
    let mut expired = Expired::default();
    let covers = under_lease(repository, &lease, policy, superseded, &mut expired).await;
    if !superseded && let Err(error) = expired.note(repository, covers.as_ref().err()).await {
        tracing::warn!(%error, "what retention did could not be recorded in the repository");
    }
    if let Err(error) = lease.release().await {
        tracing::warn!(%error, "the expiry's lease is left to expire");
    }
    Ok((expired, covers?))
}

/// Whether the window is covered by a good backup from its start on; what was done is in `expired`.
async fn under_lease(
    repository: &Repository,
    lease: &Lease,
    policy: Policy,
    superseded: bool,
    expired: &mut Expired,
) -> Result<bool> {
    let now = earlier_clock(repository, lease).await?;
    let Looked { plan, covers, mut needed } =
        look_and_plan(repository, policy, now, superseded, Some(lease)).await?;
    expired.plan = plan;
    // R23: manifests, then packs that no manifest names, then WAL; reports one by one.
    for step in 0..expired.plan.steps.len() {
        let doomed = std::mem::take(&mut expired.plan.steps[step]);
        let size = if step == REPORTS { 1 } else { BATCH };
        for (at, batch) in doomed.chunks(size).enumerate() {
            // R32, and R22: if something began to be needed since the plan was made, there is a new plan.
            let now = Needed::now(repository, lease).await?;
            if now.is_more_than(&needed) {
                let rest = expired.plan.steps[step + 1..].iter().map(Vec::len).sum::<usize>();
                expired.spared = (doomed.len() - at * size + rest) as u64;
                tracing::warn!(
                    "another process began to work on the repository: the rest is left for the next run"
                );
                return Ok(covers);
            }
            needed = now;
            let refused = expired.refused.clone();
            lease.while_held(expired.delete(repository, batch)).await??;
            if step == REPORTS && expired.refused != refused {
                // What comes behind one that stays would leave a gap.
                break;
            }
        }
        expired.plan.steps[step] = doomed;
    }
    match repository.old_versions().await {
        Ok(old_versions) => expired.old_versions = old_versions,
        Err(error) => {
            tracing::warn!(%error, "the store keeps old versions, but does not say how large they are");
        }
    }
    Ok(covers)
}

impl Expired {
    async fn delete(&mut self, repository: &Repository, batch: &[Doomed]) -> Result<()> {
        let keys: Vec<ObjectKey> = batch.iter().map(|doomed| doomed.key.clone()).collect();
        let results = repository.delete_objects(&keys).await;
        let mut failed = None;
        for ((_, result), doomed) in results.into_iter().zip(batch) {
            match result {
                Ok(()) => self.deleted += 1,
                Err(error) if error.kind() == Kind::Denied => {
                    let first = || Refused { objects: 0, bytes: 0, reason: error.to_string() };
                    let refused = self.refused.get_or_insert_with(first);
                    refused.objects += 1;
                    refused.bytes += doomed.bytes;
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Keep in the repository what was done, and why it ended early if it did.
    async fn note(&self, repository: &Repository, failed: Option<&Error>) -> Result<()> {
        let before = repository.get_expiry().await?;
        let now = Timestamp::now();
        let complete = failed.is_none() && self.refused.is_none() && self.spared == 0;
        let record = ExpiryRecord {
            completed_at: if complete { Some(now) } else { before.completed_at },
            deleted_objects: before.deleted_objects + self.deleted,
            refused: self.refused.clone().or(before.refused.filter(|_| failed.is_some())),
            old_versions: self.old_versions.or(before.old_versions.filter(|_| failed.is_some())),
            failure: failed.map(|error| ExpiryFailure { at: now, reason: error.to_string() }),
        };
        repository.put_expiry(&record).await
    }
}

/// What a look at the repository led to.
struct Looked {
    plan: Plan,
    /// Whether the window is covered by a good backup from its start on.
    covers: bool,
    needed: Needed,
}

/// What others say that they need.
struct Needed {
    leases: Vec<HeldLease>,
    holds: Vec<Listed>,
}

impl Needed {
    /// Holds first: the leases are what changes.
    async fn now(repository: &Repository, lease: &Lease) -> Result<Self> {
        let holds = repository.listed_holds().await?;
        Ok(Self { leases: lease.others().await?, holds })
    }

    /// Whether something is needed that was not when `before` was seen. A hold that was put again may reach farther.
    fn is_more_than(&self, before: &Self) -> bool {
        let protects =
            |lease: &&HeldLease| !lease.protects.backups.is_empty() || !lease.protects.wal.is_empty();
        let new_lease = self.leases.iter().filter(protects).any(|lease| !before.leases.contains(lease));
        new_lease || self.holds.iter().any(|hold| !before.holds.contains(hold))
    }
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

/// List, look, plan.
async fn look_and_plan(
    repository: &Repository,
    policy: Policy,
    now: PgTime,
    superseded: bool,
    lease: Option<&Lease>,
) -> Result<Looked> {
    let leases = match lease {
        Some(lease) => lease.others().await?,
        None => Lease::held(repository).await?,
    };
    let listing = repository.list().await?;
    let (mut records, mut times) = (Records::default(), WalTimes::default());
    let (catalog, window) = look(repository, &listing, &mut records, &mut times).await?;
    locked::refuse(&catalog, &window, &times)?;
    // What takes the place of what goes by what is known to be harmed, too. Only a restore may do without knowing that.
    repository.get_harm().await.map_err(locked::refusal_for_want_of_key)?;
    let facts = Facts { policy, now, catalog: &catalog, window: &window, leases: leases.clone(), superseded };
    let decisions = decide(&facts);
    let mut lists = BTreeMap::new();
    for id in lists_needed(&facts, &decisions) {
        lists.insert(id.clone(), repository.get_pack_list(&id).await?);
    }
    let covers = covers(&window, facts.horizon());
    let plan = plan(&facts, &listing, &decisions, &lists);
    let is_hold = |listed: &Listed| matches!(listed.key, ObjectKey::Hold(_));
    let holds = listing.objects.into_iter().filter(is_hold).collect();
    Ok(Looked { plan, covers, needed: Needed { leases, holds } })
}

/// Whether every instant from `horizon` on can be restored from a good backup on the last writer's branch.
fn covers(window: &RecoveryWindow, horizon: PgTime) -> bool {
    let Some(branch) = window.last_writer() else { return false };
    let good = branch.from_those(|backup| backup.page_errors.is_empty());
    let instants = RecoveryWindow::instants(&good);
    instants.last().is_some_and(|instants| instants.start <= horizon)
}
