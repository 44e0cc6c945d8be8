//! One verification, from the listing to what is lost.

use std::time::Duration;

use jiff::Timestamp;

use super::content::{Content, Tally, Throttle};
use super::covered;
use super::findings::{Finding, Findings};
use super::harm;
use super::listing::{Pass, judge};
use super::memory::{Age, Memory};
use super::restorable::Restorable;
use crate::error::Result;
use crate::format::{BackupId, ObjectKey};
use crate::postgres::PgTime;
use crate::repository::{HeldLease, Lease, Listing, Repository};
use crate::window::{Instants, Records, RecoveryWindow, WalTimes, look};

/// After which part of the window what was opened is due again: with a run a day everything within a window of a week was
/// opened within it.
const LASTS: f64 = 0.75;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The window that was promised.
    pub window: Duration,
    /// Open every object.
    pub content: bool,
    /// Bytes a second that are read for it; 0 for no limit.
    pub max_rate: u64,
    /// Bytes that are read for it at most; 0 for no limit. The rest is left for the next run.
    pub max_bytes: u64,
    /// Open again what was opened lately, too.
    pub again: bool,
}

/// What came out.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Objects that were listed.
    pub objects: u64,
    /// Of those, opened and found sound.
    pub opened: u64,
    /// Opened lately by an earlier run.
    pub remembered: u64,
    /// Left for the next run by the budget.
    pub left: u64,
    /// By content: of all that is stored and sound, when that was opened, now or earlier, which was so longest ago. What
    /// never was counts from its put.
    pub oldest: Option<Timestamp>,
    /// What was not opened within the window, now or earlier.
    pub overdue: u64,
    /// By content: the instants that a restore reaches with nothing but what was opened within the window.
    pub covered: Vec<Instants>,
    /// What was found.
    pub findings: Findings,
    /// What can be restored.
    pub restorable: Restorable,
}

/// Verify a repository. Nothing that is being put or deleted meanwhile counts as a problem: what a first pass does not
/// find is looked for again.
pub async fn verify(repository: &Repository, wanted: Wanted) -> Result<Verified> {
    let (mut records, mut times) = (Records::without_harm(), WalTimes::default());
    let (listing, mut findings) = pass(repository, wanted.window, &mut records, &mut times).await?;
    if !findings.problems.is_empty() {
        (records, times) = (Records::without_harm(), WalTimes::default());
        let (_, again) = pass(repository, wanted.window, &mut records, &mut times).await?;
        findings = findings.confirmed_by(again);
    }
    let (mut catalog, window) = look(repository, &listing, &mut records, &mut times).await?;
    let (mut tally, mut age, mut covered) = (Tally::default(), Age::default(), Vec::new());
    let mut window: RecoveryWindow = window;
    if wanted.content {
        let content = Content {
            repository,
            listing: &listing,
            catalog: &catalog,
            throttle: Throttle::new(wanted.max_rate),
            budget: wanted.max_bytes,
        };
        let missing: Vec<Finding> = findings.problems.clone();
        let missing_backups: Vec<BackupId> = findings.lost.keys().cloned().collect();
        let lasts = if wanted.again { Duration::ZERO } else { wanted.window.mul_f64(LASTS) };
        let mut memory = Memory::load(repository, &listing, (wanted.window, lasts)).await?;
        tally = content.verify(&mut findings, &mut times, &mut memory).await?;
        age = memory.age();
        covered = covered::covered(&content, &memory, &mut records, &times).await?;
        memory.finish(repository).await?;
        let later = repository.list().await?;
        let there = |key: &ObjectKey| later.get(key).is_some();
        // What expired while the rest was read is not a loss.
        findings.problems.retain(|found| {
            missing.contains(found) || found.object.parse().map_or(true, |key: ObjectKey| there(&key))
        });
        findings.lost.retain(|id, _| missing_backups.contains(id) || there(&ObjectKey::Manifest(id.clone())));
        // The window without the segments that were found damaged.
        (_, window) = look(repository, &listing, &mut records, &mut times).await?;
    }
    let looked_at_all = wanted.content && tally.left == 0;
    let noted = harm::note(repository, &listing, &findings, looked_at_all).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the damage cannot be recorded in the repository: others go on relying on it");
        Vec::new()
    });
    let mut lost = findings.lost.clone();
    if !looked_at_all && !noted.is_empty() {
        // What an earlier run found and this one did not open stands, for a restore as well.
        (catalog, window) = look(repository, &listing, &mut records.with_harm(), &mut times).await?;
        let harmed = catalog.harmed.iter().map(|(backup, why)| (backup.id.clone(), why.to_string()));
        lost = harmed.chain(lost).collect();
    }
    let restorable = Restorable::of(&catalog, &window, &lost, (wanted.window, PgTime::now()));
    let Tally { opened, remembered, left } = tally;
    let objects = listing.objects.len() as u64;
    let Age { oldest, overdue } = age;
    Ok(Verified { objects, opened, remembered, left, oldest, overdue, covered, findings, restorable })
}

async fn pass(
    repository: &Repository,
    promised: Duration,
    records: &mut Records,
    times: &mut WalTimes,
) -> Result<(Listing, Findings)> {
    // Before the listing: a backup that ends in between has its manifest there.
    let leases: Vec<HeldLease> = Lease::held(repository).await?;
    let listing = repository.list().await?;
    let (catalog, window) = look(repository, &listing, records, times).await?;
    let now = Timestamp::now();
    let pass = Pass { listing: &listing, catalog: &catalog, window: &window, leases: &leases, now, promised };
    let findings = judge(repository, &pass).await?;
    Ok((listing, findings))
}
