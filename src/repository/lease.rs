//! Leases: who works on the repository now. No conditional write is needed: everyone puts an object of its own, then
//! lists; who sees another live one steps back. Two that start in the same instant may both step back, never both go on.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::layout;
use super::namespace::Repository;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::seal::{ObjectKind, fill_random};
use crate::store::Object;

/// A lease that was not renewed for so long, by the store's clock, is dead.
const LIFETIME: Duration = Duration::from_mins(2);
/// How often a lease is renewed.
const RENEWAL: Duration = Duration::from_secs(30);

/// What a lease says about its holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    /// Why the lease is held ("backup").
    purpose: String,
    host: String,
    /// Identifies the boot of the host and the process namespace (containers share the former), so that a process id
    /// means something.
    boot: String,
    pid: u32,
    /// Start time of the process in clock ticks since boot: process ids are used again.
    started: u64,
}

impl Holder {
    fn this_process(purpose: &str) -> Self {
        let pid = std::process::id();
        Self {
            purpose: purpose.to_owned(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            boot: boot_id(),
            pid,
            started: process_start(pid).unwrap_or(0),
        }
    }

    /// Whether the holder was a process of this host that is gone: then nobody has to wait for the lease to age.
    fn is_gone(&self) -> bool {
        let here = Self::this_process("");
        !here.boot.is_empty()
            && self.boot == here.boot
            && self.host == here.host
            && process_start(self.pid) != Some(self.started)
    }
}

fn boot_id() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let namespace = std::fs::read_link("/proc/self/ns/pid");
    boot.and_then(|boot| Ok(format!("{} {}", boot.trim(), namespace?.display()))).unwrap_or_default()
}

/// Field 22 of `/proc/<pid>/stat`; the command name before it may hold anything, so count from its last `)`.
fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// A held lease; renewed until released or dropped.
#[derive(Debug)]
pub struct Lease {
    repository: Repository,
    relative: String,
    renewal: tokio::task::JoinHandle<()>,
}

impl Lease {
    /// Take the lease for `purpose`, or fail with kind `Busy` when another holder lives.
    pub async fn take(repository: &Repository, purpose: &str) -> Result<Self> {
        let holder = Holder::this_process(purpose);
        let mut random = [0; 8];
        fill_random(&mut random)?;
        let relative = layout::lease_key(&format!("{purpose}-{:016x}", u64::from_le_bytes(random)));
        let plain =
            serde_json::to_vec(&holder).map_err(|cause| Error::corrupt(format!("write lease: {cause}")))?;
        repository.put_sealed(ObjectKind::Lease, &relative, &plain).await.context("take the lease")?;
        let renewal = tokio::spawn(renew(repository.clone(), relative.clone(), plain));
        let lease = Self { repository: repository.clone(), relative, renewal };
        match lease.other_holder(purpose).await {
            Ok(None) => Ok(lease),
            Ok(Some(other)) => {
                lease.release().await?;
                Err(Error::new(
                    Kind::Busy,
                    format!("another {purpose} is under way (process {} on {})", other.pid, other.host),
                )
                .hint("wait for it, or, should that host be gone, until its lease has aged 2 minutes"))
            }
            Err(error) => {
                let _ = lease.release().await;
                Err(error)
            }
        }
    }

    /// Give the lease back.
    pub async fn release(self) -> Result<()> {
        self.renewal.abort();
        self.repository
            .store()
            .delete(&self.repository.key(&self.relative))
            .await
            .context("release the lease")
    }

    async fn other_holder(&self, purpose: &str) -> Result<Option<Holder>> {
        let objects = self.repository.store().list(&self.repository.key(layout::LEASES)).await?;
        let mine = self.repository.key(&self.relative);
        let now = objects.iter().find(|object| object.key == mine).map(|object| object.modified).ok_or_else(
            || {
                Error::new(Kind::Unreachable, "the lease that was just written is not listed")
                    .hint("is this store strongly consistent?")
            },
        )?;
        for object in objects.iter().filter(|object| object.key != mine) {
            if let Some(holder) = self.living_holder(object, now, purpose).await? {
                return Ok(Some(holder));
            }
        }
        Ok(None)
    }

    /// The holder of the lease `object`, unless it is for something else or dead; a dead one is removed.
    async fn living_holder(&self, object: &Object, now: Timestamp, purpose: &str) -> Result<Option<Holder>> {
        let Some(relative) = self.repository.relative(&object.key) else { return Ok(None) };
        if !relative.starts_with(&layout::lease_key(&format!("{purpose}-"))) {
            return Ok(None);
        }
        let age = now.duration_since(object.modified);
        let plain = match self.repository.get_sealed(ObjectKind::Lease, relative).await {
            Ok(plain) => plain,
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let holder: Holder =
            serde_json::from_slice(&plain).map_err(|cause| Error::corrupt(format!("read lease: {cause}")))?;
        if age.unsigned_abs() < LIFETIME && !holder.is_gone() {
            return Ok(Some(holder));
        }
        tracing::info!(host = holder.host, pid = holder.pid, "remove the lease of a dead holder");
        self.repository.store().delete(&object.key).await?;
        Ok(None)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Write the lease again and again, so that it stays young by the store's clock.
async fn renew(repository: Repository, relative: String, plain: Vec<u8>) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        if let Err(error) = repository.put_sealed(ObjectKind::Lease, &relative, &plain).await {
            tracing::warn!(%error, "cannot renew the lease");
        }
    }
}
