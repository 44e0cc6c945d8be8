//! The repository, and what the timers make of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::{DAY, START, agent};
use crate::drill::{Objectives, Phases, Report, Verdict, Versions};
use crate::format::PacksRecord;
use crate::postgres::Lsn;
use crate::repository::{ExpiryRecord, Listing};
use crate::retention::{Policy, next};
use crate::status::{Verifications, VerifyLine};
use crate::window::{Catalog, RecoveryWindow};
use crate::world::{SIZE, World, manifest as sample_manifest, seconds};

/// The repository, and the store that it is in.
pub(super) struct Vault {
    pub(super) world: World,
    pub(super) expiry: ExpiryRecord,
    pub(super) verifications: Verifications,
    pub(super) drills: Vec<Arc<Report>>,
    /// How much longer than usual a request takes.
    pub(super) slower: i64,
    /// It does not answer at all.
    pub(super) away: bool,
}

impl Vault {
    fn takes(&self, ms: i64) -> i64 {
        if self.away { 10_000 } else { ms * self.slower }
    }

    /// A request that carries little, a segment, and the few requests of a look, in milliseconds.
    pub(super) fn small(&self) -> i64 {
        self.takes(60)
    }

    pub(super) fn large(&self) -> i64 {
        self.takes(400)
    }

    pub(super) fn list(&self) -> i64 {
        self.takes(300)
    }

    pub(super) fn listed(&mut self) -> (Listing, Catalog, RecoveryWindow) {
        let listing = self.world.listing();
        let (mut catalog, window, _) = self.world.window();
        catalog.expiry = self.expiry.clone();
        (listing, catalog, window)
    }

    /// R14: a backup ends once its WAL is stored.
    pub(super) fn backup(&mut self, begun: i64, from: u64, to: u64, timeline: u32) -> bool {
        let segments = from / u64::from(SIZE)..=to / u64::from(SIZE);
        if !segments.into_iter().all(|number| self.world.segments.contains_key(&(timeline, number))) {
            return false;
        }
        let prefix = Timestamp::from_second(START + begun).unwrap().strftime("%Y%m%dT%H%M%SZ");
        let mut made = sample_manifest(Lsn::new(from), Lsn::new(to), timeline);
        made.id = format!("{prefix}-00000001").parse().unwrap();
        made.finished_at = seconds(self.world.now);
        let packs =
            |backup| PacksRecord { backup, key_ids: Vec::new(), packs: 3, bytes: 300, live_bytes: 300 };
        made.packs = vec![packs(made.id.clone())];
        self.world.packs.insert(made.id.clone(), 3);
        self.world.backups.push(Arc::new(made));
        true
    }

    /// What retention says goes, goes; and the WAL that leads to nothing then.
    pub(super) fn expire(&mut self, now: i64) {
        let (_, catalog, window) = self.listed();
        let policy = Policy { window: agent::PROMISES.retention_window };
        let long_ago = seconds(START - 100 * DAY);
        let due = next(&catalog, &window, policy, long_ago).filter(|next| next.at <= seconds(START + now));
        let gone: BTreeSet<_> = due.map(|next| next.backups).unwrap_or_default().into_iter().collect();
        self.world.backups.retain(|backup| !gone.contains(&backup.id));
        self.world.packs.retain(|id, _| !gone.contains(id));
        let oldest = self.world.backups.first().map_or(0, |backup| backup.start_lsn.get() / u64::from(SIZE));
        let before = self.world.segments.len();
        self.world.segments.retain(|(_, number), _| *number >= oldest);
        self.expiry.completed_at = Some(seconds(START + now).timestamp());
        self.expiry.deleted_objects += (before - self.world.segments.len() + 4 * gone.len()) as u64;
    }

    pub(super) fn verify(&mut self, level: &str, now: i64) {
        let at = seconds(START + now);
        let line = VerifyLine {
            level: level.to_owned(),
            finished_at: at,
            last_success_at: Some(at),
            problems: 0,
            left: 0,
            oldest: (level == "content").then_some(at),
            covered: Vec::new(),
            first: None,
            loses: None,
        };
        self.verifications.verifications.retain(|line| line.level != level);
        self.verifications.verifications.push(line);
        self.verifications.verifications.sort_by(|one, other| other.level.cmp(&one.level));
    }

    pub(super) fn rehearse(&mut self, now: i64) {
        let at = seconds(START + now);
        let report = Report {
            id: format!("drill-{now}"),
            cluster: "main".into(),
            system_identifier: String::new(),
            started_at: at,
            finished_at: at,
            ran_by: String::new(),
            target: "latest".into(),
            target_choice: "latest".into(),
            backup: None,
            backup_digest: None,
            timeline: None,
            branch: None,
            reached_lsn: None,
            reached_time: None,
            rpo_seconds: Some(4.0),
            rto_seconds: 330.0,
            phases: Phases { lookup: 5.0, fetch: 200.0, replay: 60.0, open: 5.0, checks: 60.0 },
            bytes: 10 << 30,
            wal_segments: 400,
            checks: Vec::new(),
            objectives: Objectives {
                rpo_seconds: 900.0,
                rto_seconds: 3600.0,
                every_seconds: 31.0 * 86_400.0,
            },
            estimate_seconds: None,
            verdict: Verdict::Pass,
            reasons: Vec::new(),
            versions: Versions::default(),
            isolation: Vec::new(),
        };
        self.drills.push(Arc::new(report));
    }
}
