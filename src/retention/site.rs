//! For tests: a repository in memory with backups and WAL of this week and long ago.

use std::time::Duration;

use super::{Expired, Policy, expire};
use crate::error::Result;
use crate::format::{BackupId, Manifest};
use crate::postgres::{Lsn, PgTime, SegmentName, TimelineId};
use crate::repository::{
    Hold, Repository,
    fixture::{SIZE, SYSTEM, archive, memory, put_backup, size},
};
use crate::seal::{KeyRing, MasterKey};
use crate::world::manifest as sample_manifest;

const WINDOW: Duration = Duration::from_hours(7 * 24);

/// A repository and two keys: the one that it was made with, and the one that follows it.
pub(super) struct Site {
    pub(super) repository: Repository,
    pub(super) old: String,
    pub(super) new: String,
}

impl Site {
    pub(super) async fn new() -> Self {
        let (namespace, _) = memory().await;
        let key = || MasterKey::generate().unwrap().to_text().to_string();
        let (old, new) = (key(), key());
        let repository = namespace.open(SYSTEM).await.unwrap();
        let site = Self { repository, old, new };
        site.keys(&[&site.old]);
        site
    }

    /// From now on these keys are at hand, the first one seals.
    pub(super) fn keys(&self, keys: &[&str]) {
        self.repository.keys().replace(&KeyRing::parse(&keys.join("\n")).unwrap());
    }

    pub(super) async fn segments(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            archive(&self.repository, &segment(number), 128).await;
        }
    }

    /// A backup in segment `first`, which ended so many days ago.
    pub(super) async fn backup(&self, first: u64, days_ago: i64) -> BackupId {
        let start = first * u64::from(SIZE);
        let mut manifest: Manifest = sample_manifest(Lsn::new(start + 40), Lsn::new(start + 400), 1);
        let ended = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * days_ago);
        manifest.finished_at = PgTime::from(ended);
        manifest.id = format!("{}-00000001", ended.strftime("%Y%m%dT%H%M%SZ")).parse().unwrap();
        put_backup(&self.repository, manifest).await
    }

    pub(super) async fn hold(&self, id: &BackupId) {
        let placed_at = jiff::Timestamp::now();
        let hold = Hold { backup: id.clone(), reason: String::new(), placed_at, until: None };
        self.repository.put_hold(&hold).await.unwrap();
    }

    pub(super) async fn expire(&self) -> Result<Vec<(u64, Expired)>> {
        expire(&self.repository, Policy { window: WINDOW }).await
    }

    /// Manifests and segments that are there.
    pub(super) async fn there(&self) -> (Vec<BackupId>, Vec<u64>) {
        let listing = self.repository.list().await.unwrap();
        let ids = self.repository.list_backup_ids().await.unwrap();
        let files = listing.objects.iter().filter_map(crate::repository::Listed::wal_file);
        (ids, files.filter_map(|file| Some(file.name.segment()?.number(size()))).collect())
    }
}

pub(super) fn segment(number: u64) -> SegmentName {
    SegmentName::from_number(TimelineId::FIRST, number, size())
}
