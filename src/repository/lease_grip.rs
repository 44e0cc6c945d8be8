//! Holding on to a lease: what its holder and the task that renews it share, and what others make of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::namespace::Repository;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::layout;
use crate::format::lease_record::{Purpose, Record, lifetime, lifetime_left_behind};
use crate::seal::ObjectKind;
use crate::store::Object;

/// What a lease object turned out to be.
pub(super) enum Found {
    Living(Record),
    /// Sealed with another key, or damaged, and young.
    Unreadable {
        purpose: Option<Purpose>,
        error: Error,
    },
    Dead,
}

/// Read the lease `object`, which is `age` old.
pub(super) async fn read(repository: &Repository, object: &Object, age: Duration) -> Result<Found> {
    let Some(relative) = repository.relative(&object.key) else { return Ok(Found::Dead) };
    let plain = repository.get_sealed(ObjectKind::Lease, relative).await;
    let record = plain.and_then(|plain| {
        serde_json::from_slice::<Record>(&plain)
            .map_err(|cause| Error::corrupt(format!("read lease: {cause}")))
    });
    match record {
        Ok(record) if age < record.lifetime() && !record.holder.has_ended() => Ok(Found::Living(record)),
        Ok(record) => {
            tracing::debug!(
                host = record.holder.host,
                pid = record.holder.pid,
                "the holder of a lease is gone"
            );
            Ok(Found::Dead)
        }
        Err(error) if error.kind() == Kind::NotFound => Ok(Found::Dead),
        Err(error) if error.kind().is_unreadable() => {
            let name = relative.rsplit('/').next().and_then(|name| name.split('-').next());
            let purpose = name.and_then(|name| name.parse().ok());
            // A restore that another key sealed may have left it behind for the server that recovers.
            let left_behind = purpose == Some(Purpose::Restore) && error.kind() == Kind::KeyMissing;
            let lifetime = if left_behind { lifetime_left_behind() } else { lifetime() };
            if age >= lifetime {
                return Ok(Found::Dead);
            }
            let text = format!(
                "the lease {relative} was written {} s ago and cannot be read: {error}",
                age.as_secs()
            );
            let hint = format!(
                "does another host use another key? the lease is ignored once it is {} s old",
                lifetime.as_secs()
            );
            Ok(Found::Unreadable { purpose, error: Error::new(Kind::Busy, text).hint(hint) })
        }
        Err(error) => Err(error),
    }
}

/// What the holder and the task that renews the lease share.
#[derive(Debug)]
pub(super) struct Grip {
    pub(super) repository: Repository,
    purpose: Purpose,
    pub(super) relative: String,
    plain: Vec<u8>,
    lifetime: Duration,
    /// When the last renewal that succeeded began; `None` once the lease is lost, for good.
    pub(super) renewed: watch::Sender<Option<Moment>>,
    one_at_a_time: tokio::sync::Mutex<()>,
}

impl Grip {
    /// Of a lease that is about to be put.
    pub(super) fn new(
        repository: Repository,
        purpose: Purpose,
        relative: String,
        plain: Vec<u8>,
        lifetime: Duration,
    ) -> Self {
        let renewed = watch::Sender::new(Some(Moment::now()));
        let one_at_a_time = tokio::sync::Mutex::new(());
        Self { repository, purpose, relative, plain, lifetime, renewed, one_at_a_time }
    }

    pub(super) async fn put(&self) -> Result<()> {
        self.replace(&self.plain).await
    }

    /// Whether the lease object is there: others remove it when they think it dead.
    pub(super) async fn is_there(&self) -> Result<bool> {
        match self.repository.store().get(&self.repository.key(&self.relative)).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// For how long the lease is surely held. Its age counts from before the last renewal, and a quarter of its
    /// lifetime is kept in reserve for a commit that is under way, and for clocks that tell whole seconds.
    pub(super) fn left(&self) -> Result<Duration> {
        let renewed = *self.renewed.borrow();
        let end = renewed.map(|begun| begun + self.lifetime * 3 / 4);
        let left = end.and_then(|end| end.0.checked_sub(Moment::now().0));
        left.filter(|left| !left.is_zero()).ok_or_else(|| self.error())
    }

    pub(super) fn error(&self) -> Error {
        Error::new(
            Kind::Busy,
            format!("the lease of this {} was lost: it was not renewed in time", self.purpose.noun()),
        )
        .hint("was this process or its host suspended, or the store out of reach? run the command again")
    }

    /// Put the lease again, if it is still held: what is lost stays lost.
    pub(super) async fn renew(&self) -> Result<()> {
        let _one = self.one_at_a_time.lock().await;
        let left = self.left()?;
        let begun = Moment::now();
        let renewal = async {
            if self.is_there().await? {
                return self.put().await;
            }
            self.renewed.send_replace(None);
            Err(self.error())
        };
        timeout(left, renewal)
            .await
            .unwrap_or_else(|_| Err(Error::new(Kind::Unreachable, "renew the lease: no answer in time")))?;
        // While it was put, the process may have been suspended.
        self.left()?;
        self.renewed.send_modify(|renewed| *renewed = renewed.map(|_| begun));
        Ok(())
    }

    /// Remove the lease. Where nothing may be deleted it is put once more, as one that is dead at once.
    pub(super) async fn release(&self) -> Result<()> {
        match self.repository.store().delete(&self.repository.key(&self.relative)).await {
            Err(error) if error.kind() == Kind::Denied => self.replace(&Record::ended(&self.plain)?).await,
            deleted => deleted,
        }
    }

    /// Put it for the last time, so that it lives on without its holder.
    pub(super) async fn leave_behind(&self) -> Result<()> {
        let _one = self.one_at_a_time.lock().await;
        // No renewal comes after it.
        self.renewed.send_replace(None);
        self.replace(&Record::left_behind(&self.plain, lifetime_left_behind())?).await
    }

    async fn replace(&self, plain: &[u8]) -> Result<()> {
        self.repository.put_sealed(ObjectKind::Lease, &self.relative, plain).await.map(|_| ())
    }

    /// All other leases. Ages are differences of the store's own times; what is dead is removed, so that its holder,
    /// should it wake up, knows.
    pub(super) async fn look(&self) -> Result<Vec<Found>> {
        let store = self.repository.store();
        let objects = store.list(&self.repository.key(layout::LEASES)).await.context("list leases")?;
        let mine = self.repository.key(&self.relative);
        let now = objects.iter().find(|object| object.key == mine).map(|object| object.modified).ok_or_else(
            || {
                Error::new(Kind::Unreachable, "the lease that was just written is not listed")
                    .hint("is this store strongly consistent?")
            },
        )?;
        let mut all = Vec::new();
        for object in objects.iter().filter(|object| object.key != mine) {
            let found =
                read(&self.repository, object, now.duration_since(object.modified).unsigned_abs()).await?;
            if matches!(found, Found::Dead) {
                tracing::info!(lease = object.key, "remove a dead lease");
                match store.delete(&object.key).await {
                    // Where nothing may be deleted its holder knows by its age alone.
                    Err(error) if error.kind() != Kind::Denied => return Err(error),
                    _ => {}
                }
            }
            all.push(found);
        }
        Ok(all)
    }
}

/// Renew the lease again and again, so that it stays young by the store's clock, until it is lost.
pub(super) async fn keep(grip: Arc<Grip>) {
    let mut pause = grip.lifetime / 4;
    loop {
        sleep(pause).await;
        match grip.renew().await {
            Ok(()) => pause = grip.lifetime / 4,
            Err(error) if grip.left().is_ok() => {
                tracing::warn!(%error, "cannot renew the lease, will try again");
                pause = grip.lifetime / 12;
            }
            Err(_) => {
                grip.renewed.send_replace(None);
                return;
            }
        }
    }
}

/// By a clock that goes on while the host is suspended.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(super) struct Moment(Duration);

impl Moment {
    pub(super) fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self(Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default()))
    }
}

impl std::ops::Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Lease, fixture};
    use super::*;
    use crate::format::lease_record::{LIFETIME, Protection};
    use crate::seal::{KeyRing, MasterKey};

    /// The server that recovers needs its WAL, whichever key its restore had.
    #[tokio::test]
    async fn what_a_restore_left_behind_lives_for_a_day_where_its_key_is_not_at_hand() {
        let (_, repository) = fixture::memory().await;
        let keys = repository.keys().clone();
        let lease = Lease::take(&repository, Purpose::Restore, Protection::default()).await.unwrap();
        let backup = Lease::take(&repository, Purpose::Backup, Protection::default()).await.unwrap();
        let objects = repository.store().list(&repository.key(layout::LEASES)).await.unwrap();
        let other = MasterKey::generate().unwrap().to_text();
        repository.keys().replace(&KeyRing::parse(&other).unwrap());
        let mut found = Vec::new();
        for object in &objects {
            for age in [LIFETIME, lifetime_left_behind() / 2, lifetime_left_behind()] {
                let is_dead = matches!(read(&repository, object, age).await.unwrap(), Found::Dead);
                found.push((object.key.contains("/restore-"), is_dead));
            }
        }
        found.sort_unstable();
        assert_eq!(
            found,
            [(false, true), (false, true), (false, true), (true, false), (true, false), (true, true)]
        );
        repository.keys().replace(&keys);
        lease.release().await.unwrap();
        backup.release().await.unwrap();
    }
}
