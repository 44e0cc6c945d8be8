//! Leases: which processes work on the repository now, and what they need of it. No conditional
//! write is needed: each process puts an object of its own, then lists; one that sees another
//! living lease that forbids its own steps back. Two that start in the same instant may both step
//! back, never both go on.
//!
//! A lease fences (R32): a holder that could not renew it in time, because its host was suspended or the store was away,
//! knows so before the others may take over, and commits nothing.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{sleep, timeout};

use super::lease_grip::{Found, Grip, Moment, keep, read};
use super::namespace::Repository;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::lease_record::{Holder, Protection, Purpose, Record, Verdict, lifetime};
use crate::format::{Manifest, layout};
use crate::seal::fill_random;

/// How long a backup waits for an expiry to end.
const PATIENCE: Duration = Duration::from_mins(10);
const PAUSE: Duration = Duration::from_secs(1);
/// Of what only warns when it fails.
const OPTIONAL_PATIENCE: Duration = Duration::from_secs(30);
/// Between this host's clock and the store's, where nothing better is known.
const SKEW: Duration = Duration::from_mins(1);

/// A living lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLease {
    /// What it is held for.
    pub purpose: Purpose,
    /// What must stay while it lives.
    pub protects: Protection,
    /// By the clock of its holder.
    pub taken_at: Timestamp,
    /// Host of its holder.
    pub host: String,
    /// Process id of its holder, on that host.
    pub pid: u32,
}

impl HeldLease {
    fn new(record: Record) -> Self {
        let Record { purpose, protects, taken_at, holder: Holder { host, pid, .. }, .. } = record;
        Self { purpose, protects, taken_at, host, pid }
    }
}

/// A held lease, renewed until it is released, dropped or lost.
#[derive(Debug)]
pub struct Lease {
    grip: Arc<Grip>,
    renewal: tokio::task::JoinHandle<()>,
}

impl Lease {
    /// Take the lease. Fails with kind `Busy` when another one forbids it ([`Purpose::may_begin_beside`]).
    pub async fn take(repository: &Repository, purpose: Purpose, protects: Protection) -> Result<Self> {
        let end = Moment::now() + PATIENCE;
        loop {
            let lease = Self::put(repository, purpose, protects.clone()).await?;
            let obstacle = match lease.obstacle(purpose).await {
                Ok(None) => return Ok(lease),
                Ok(Some(obstacle)) => obstacle,
                Err(error) => {
                    // The cause is worth more than that this failed, too.
                    let _ = lease.release().await;
                    return Err(error);
                }
            };
            lease.release().await?;
            if !obstacle.passes || Moment::now() > end {
                return Err(obstacle.error);
            }
            tracing::info!("waiting: {}", obstacle.error);
            sleep(PAUSE).await;
        }
    }

    /// Take the lease where that is possible. A reader must not fail because the store is read-only: it warns, and goes
    /// on without.
    pub async fn take_if_possible(
        repository: &Repository,
        purpose: Purpose,
        protects: Protection,
    ) -> Option<Self> {
        let taken = timeout(OPTIONAL_PATIENCE, Self::take(repository, purpose, protects)).await;
        let why = match taken {
            Ok(Ok(lease)) => return Some(lease),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", OPTIONAL_PATIENCE.as_secs()),
        };
        tracing::warn!(
            "no lease protects this {} from an expiry that runs at the same time: {why}",
            purpose.noun()
        );
        None
    }

    /// All living leases, for those that hold none themselves. Dead ones may be among them for a minute: their age is
    /// known by this host's clock only.
    pub async fn held(repository: &Repository) -> Result<Vec<HeldLease>> {
        let objects =
            repository.store().list(&repository.key(layout::LEASES)).await.context("list leases")?;
        let mut held = Vec::new();
        for object in &objects {
            let age = Timestamp::now().duration_since(object.modified).unsigned_abs().saturating_sub(SKEW);
            match read(repository, object, age).await? {
                Found::Living(record) => held.push(HeldLease::new(record)),
                Found::Unreadable { error, .. } => tracing::warn!("a lease is left out: {error}"),
                Found::Dead => {}
            }
        }
        Ok(held)
    }

    /// All other living leases now; dead ones are removed. One that is young and cannot be read is an error: what it
    /// protects is not known.
    pub async fn others(&self) -> Result<Vec<HeldLease>> {
        let mut held = Vec::new();
        for found in self.grip.look().await? {
            match found {
                Found::Living(record) => held.push(HeldLease::new(record)),
                Found::Unreadable { error, .. } => return Err(error),
                Found::Dead => {}
            }
        }
        Ok(held)
    }

    /// When the lease was last written, by the store's clock; `None` if that is not listed.
    pub async fn written_at(&self) -> Result<Option<Timestamp>> {
        let repository = &self.grip.repository;
        let mine = repository.key(&self.grip.relative);
        let objects =
            repository.store().list(&repository.key(layout::LEASES)).await.context("list leases")?;
        Ok(objects.iter().find(|object| object.key == mine).map(|object| object.modified))
    }

    /// Whether the lease is still held, by the time since its last renewal began: an error of kind `Busy` if it is not.
    /// The lease says so a quarter of its lifetime before others may think it dead.
    pub fn still_held(&self) -> Result<()> {
        self.grip.left().map(|_| ())
    }

    /// Do what only a holder may do. Once the lease is no longer held, no further step of `work` is taken, whatever it waited
    /// for: a request that is tried again after the host was suspended would come too late (R32).
    pub async fn while_held<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        let mut work = pin!(work);
        let mut steps = pin!(poll_fn(|context| match self.still_held() {
            Ok(()) => work.as_mut().poll(context).map(Ok),
            Err(error) => Poll::Ready(Err(error)),
        }));
        loop {
            let left = self.grip.left()?;
            if let Ok(done) = timeout(left, &mut steps).await {
                return done;
            }
        }
    }

    /// Returns when the lease is lost, with the error to end with.
    pub async fn lost(&self) -> Error {
        let mut renewed = self.grip.renewed.subscribe();
        // Neither side goes away before this lease does.
        let _ = renewed.wait_for(Option::is_none).await;
        self.grip.error()
    }

    /// Put the manifest: the commit point of a backup, and only while the lease is held. It is taken back if the lease turns
    /// out to have been lost meanwhile, or the put has failed: what was not answered may be there all the same.
    pub async fn commit(&self, manifest: &Manifest) -> Result<()> {
        let repository = &self.grip.repository;
        repository.check_reused(manifest).await?;
        // So that nearly a whole lifetime is left, and another one that took over is noticed.
        self.grip.renew().await?;
        let left = self.grip.left()?;
        let error = match timeout(left, repository.put_manifest(manifest)).await {
            // If it is late by our clock, nobody took over as long as nobody removed the lease.
            Ok(Ok(())) if self.still_held().is_ok() || self.grip.is_there().await.unwrap_or(false) => {
                match repository.check_unharmed(manifest).await {
                    Err(error) if error.kind() == Kind::Corrupt => error,
                    // What could not be asked says nothing against it.
                    _ => return Ok(()),
                }
            }
            Ok(Err(error)) => error,
            _ => self.grip.error(),
        };
        let key = repository.key(&layout::manifest_key(&manifest.id));
        match repository.store().delete(&key).await {
            Ok(()) => Err(error),
            Err(cause) => Err(error.context(format!(
                "backup {} may be listed all the same: its manifest cannot be taken back ({cause})",
                manifest.id
            ))),
        }
    }

    /// End, and leave the lease behind for a day: what it protects is still needed, by a server that recovers from it.
    pub async fn leave_behind(self) -> Result<()> {
        self.grip.leave_behind().await.context("leave the lease behind")
    }

    /// Give the lease back.
    pub async fn release(self) -> Result<()> {
        self.renewal.abort();
        self.grip.release().await.context("release the lease")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Why a lease cannot be had.
struct Obstacle {
    error: Error,
    /// It will be over within minutes.
    passes: bool,
}

impl Lease {
    async fn put(repository: &Repository, purpose: Purpose, protects: Protection) -> Result<Self> {
        let mut random = [0; 8];
        fill_random(&mut random)?;
        let relative = layout::lease_key(&format!("{purpose}-{:016x}", u64::from_le_bytes(random)));
        let lifetime = lifetime();
        let record = Record {
            purpose,
            protects,
            taken_at: Timestamp::now(),
            lifetime_seconds: lifetime.as_secs(),
            holder: Holder::this_process(),
        };
        let plain =
            serde_json::to_vec(&record).map_err(|cause| Error::corrupt(format!("write lease: {cause}")))?;
        let grip = Grip::new(repository.clone(), purpose, relative, plain, lifetime);
        let grip = Arc::new(grip);
        grip.put().await.context("take the lease")?;
        let renewal = tokio::spawn(keep(Arc::clone(&grip)));
        Ok(Self { grip, renewal })
    }

    async fn obstacle(&self, purpose: Purpose) -> Result<Option<Obstacle>> {
        let mut waits = None;
        for found in self.grip.look().await? {
            match found {
                Found::Living(record) => match purpose.may_begin_beside(record.purpose) {
                    Verdict::Together | Verdict::Respecting => {}
                    Verdict::AfterIt => waits = Some(Obstacle { error: under_way(&record), passes: true }),
                    Verdict::Refused => {
                        return Ok(Some(Obstacle { error: under_way(&record), passes: false }));
                    }
                },
                Found::Unreadable { purpose: other, error } => {
                    let harmless = match other {
                        Some(other) => purpose.may_begin_beside(other) == Verdict::Together,
                        // A restore waits for nobody.
                        None => purpose == Purpose::Restore,
                    };
                    if !harmless {
                        return Ok(Some(Obstacle { error, passes: false }));
                    }
                }
                Found::Dead => {}
            }
        }
        Ok(waits)
    }
}

fn under_way(record: &Record) -> Error {
    let Record { purpose, holder, lifetime_seconds, .. } = record;
    Error::new(
        Kind::Busy,
        format!("another {} is under way (process {} on {})", purpose.noun(), holder.pid, holder.host),
    )
    .hint(format!(
        "wait for it; if that host is gone, its lease expires {lifetime_seconds} s after it was last renewed"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use crate::format::lease_record::LIFETIME;

    async fn take(repository: &Repository, purpose: Purpose) -> Result<Lease> {
        Lease::take(repository, purpose, Protection::default()).await
    }

    /// Age the lease as if its last renewal had begun so long ago.
    fn age(lease: &Lease, by: Duration) {
        let then = Moment::now() - by;
        lease.grip.renewed.send_replace(Some(then));
    }

    #[tokio::test]
    async fn r32_a_holder_knows_that_it_lost_its_lease() {
        let (_, repository) = fixture::memory().await;
        let lease = take(&repository, Purpose::Backup).await.unwrap();
        age(&lease, LIFETIME / 2);
        lease.still_held().unwrap();
        lease.grip.renew().await.unwrap();
        age(&lease, LIFETIME * 3 / 4);
        assert_eq!(lease.still_held().unwrap_err().kind(), Kind::Busy);
        // What is lost is not won back by renewing.
        assert_eq!(lease.grip.renew().await.unwrap_err().kind(), Kind::Busy);
        assert_eq!(lease.still_held().unwrap_err().kind(), Kind::Busy);
    }

    #[tokio::test]
    async fn r32_work_takes_no_step_after_the_lease_was_lost() {
        let (_, repository) = fixture::memory().await;
        let lease = take(&repository, Purpose::Expire).await.unwrap();
        assert_eq!(lease.while_held(async { 7 }).await.unwrap(), 7);
        let steps = std::sync::atomic::AtomicU32::new(0);
        let work = async {
            loop {
                steps.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                sleep(Duration::from_millis(20)).await;
            }
        };
        let losing = async {
            sleep(Duration::from_millis(50)).await;
            age(&lease, LIFETIME);
            let taken = steps.load(std::sync::atomic::Ordering::Relaxed);
            sleep(Duration::from_millis(100)).await;
            taken
        };
        let (lost, taken) = tokio::join!(lease.while_held::<()>(work), losing);
        assert_eq!(lost.unwrap_err().kind(), Kind::Busy);
        assert_eq!(steps.into_inner(), taken);
    }

    #[tokio::test]
    async fn r32_a_lease_that_another_one_removed_is_lost_at_the_next_renewal() {
        let (_, repository) = fixture::memory().await;
        let lease = take(&repository, Purpose::Expire).await.unwrap();
        repository.store().delete(&repository.key(&lease.grip.relative)).await.unwrap();
        assert_eq!(lease.grip.renew().await.unwrap_err().kind(), Kind::Busy);
        let lost = timeout(Duration::from_secs(5), lease.lost()).await.unwrap();
        assert!(lost.to_string().contains("the lease of this expiry was lost"), "{lost}");
        assert!(!lease.grip.is_there().await.unwrap(), "it must not rise again");
    }

    #[tokio::test]
    async fn what_is_under_way_shows_with_what_it_protects() {
        let (_, repository) = fixture::memory().await;
        let id = "20261122T130000Z-00000001".parse().unwrap();
        let protects = Protection { backups: vec![id], wal: Vec::new() };
        let restore = Lease::take(&repository, Purpose::Restore, protects.clone()).await.unwrap();
        let also = take(&repository, Purpose::Restore).await.unwrap();
        let expire = take(&repository, Purpose::Expire).await.unwrap();
        let others = expire.others().await.unwrap();
        assert_eq!(others.len(), 2);
        assert!(others.iter().any(|held| held.protects == protects && held.pid == std::process::id()));
        let refused = take(&repository, Purpose::Expire).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Busy);
        assert_eq!(Lease::held(&repository).await.unwrap().len(), 3, "the refused one left nothing");
        for lease in [restore, also, expire] {
            lease.release().await.unwrap();
        }
        assert_eq!(Lease::held(&repository).await.unwrap(), []);
    }

    #[tokio::test]
    async fn r22_what_a_restore_leaves_behind_lives_for_a_day() {
        let (_, repository) = fixture::memory().await;
        let restore = take(&repository, Purpose::Restore).await.unwrap();
        restore.leave_behind().await.unwrap();
        assert_eq!(Lease::held(&repository).await.unwrap().len(), 1);
        let objects = repository.store().list(&repository.key(layout::LEASES)).await.unwrap();
        for (hours, lives) in [(23, true), (25, false)] {
            let found = read(&repository, &objects[0], Duration::from_hours(hours)).await.unwrap();
            assert_eq!(matches!(found, Found::Living(_)), lives, "{hours} h");
        }
    }

    #[tokio::test]
    async fn a_backup_waits_for_an_expiry() {
        let (_, repository) = fixture::memory().await;
        let expire = take(&repository, Purpose::Expire).await.unwrap();
        let waiting = take(&repository, Purpose::Backup);
        let ending = async {
            sleep(Duration::from_millis(300)).await;
            expire.release().await
        };
        let (backup, ended) =
            timeout(Duration::from_secs(30), async { tokio::join!(waiting, ending) }).await.unwrap();
        ended.unwrap();
        backup.unwrap().still_held().unwrap();
    }

    #[tokio::test]
    async fn a_young_lease_that_cannot_be_read_blocks_what_it_could_concern() {
        let (_, repository) = fixture::memory().await;
        repository
            .store()
            .put(&repository.key(&layout::lease_key("backup-00")), vec!["garbage".into()])
            .await
            .unwrap();
        for (purpose, blocked) in [
            (Purpose::Backup, true),
            (Purpose::Expire, true),
            (Purpose::Restore, false),
            (Purpose::Verify, false),
        ] {
            match take(&repository, purpose).await {
                Ok(lease) => {
                    assert!(!blocked, "{purpose}");
                    lease.release().await.unwrap();
                }
                Err(error) => {
                    assert!(blocked, "{purpose}: {error}");
                    assert_eq!(error.kind(), Kind::Busy);
                    assert!(error.to_string().contains("leases/backup-00") && error.hint_text().is_some());
                }
            }
        }
        repository
            .store()
            .put(&repository.key(&layout::lease_key("noise")), vec!["garbage".into()])
            .await
            .unwrap();
        take(&repository, Purpose::Restore).await.unwrap().release().await.unwrap();
        assert_eq!(take(&repository, Purpose::Verify).await.unwrap_err().kind(), Kind::Busy);
    }
}
