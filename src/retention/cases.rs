//! What a plan follows from besides the histories: leases, the reports of drills, a database that was replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::backups::decide;
use super::facts::{Facts, Policy};
use super::plan::{Line, Plan, plan};
use crate::format::{BackupId, ObjectKey, Protection, Purpose, WalFrom};
use crate::postgres::PgTime;
use crate::repository::{HeldLease, Listed, Listing, REPORTS_KEPT};
use crate::world::{World, seconds};

const WINDOW: i64 = 60_000;
const DAY: u64 = 86_400;

/// A plan for `world` at `now`.
fn planned(world: &World, now: PgTime, leases: Vec<HeldLease>, superseded: bool, more: Vec<Listed>) -> Plan {
    let (catalog, window, _) = world.window();
    let mut listing: Listing = world.listing();
    listing.objects.extend(more);
    let policy = Policy { window: Duration::from_secs(WINDOW.unsigned_abs()) };
    let facts = Facts { policy, now, catalog: &catalog, window: &window, leases, superseded };
    plan(&facts, &listing, &decide(&facts), &BTreeMap::new())
}

fn deleted(plan: &Plan) -> BTreeSet<String> {
    plan.steps.iter().flatten().map(|doomed| doomed.key.to_string()).collect()
}

fn lease(purpose: Purpose, protects: Protection) -> HeldLease {
    HeldLease { purpose, protects, taken_at: Timestamp::UNIX_EPOCH, host: "db2".into(), pid: 1 }
}

/// Worlds in which a backup expires, with that backup.
fn expiring(worlds: u64) -> Vec<(u64, World, BackupId)> {
    let found = (0..worlds).filter_map(|seed| {
        let world = World::grow(seed, 30).undamaged();
        let gone = deleted(&planned(&world, seconds(world.now), Vec::new(), false, Vec::new()));
        let is_gone = |id: &BackupId| gone.contains(&ObjectKey::Manifest(id.clone()).to_string());
        let id = world.backups.iter().map(|backup| backup.id.clone()).find(is_gone)?;
        Some((seed, world, id))
    });
    let found: Vec<_> = found.collect();
    assert!(found.len() > 20, "{} worlds are too few", found.len());
    found
}

#[test]
fn r22_what_a_restore_a_drill_or_a_backup_needs_now_stays() {
    for (seed, world, id) in expiring(120) {
        let backup = world.backups.iter().find(|backup| backup.id == id).unwrap();
        let wal = vec![WalFrom { timeline: backup.timeline, start: backup.start_lsn }];
        for purpose in [Purpose::Restore, Purpose::Drill, Purpose::Backup] {
            let protects = Protection { backups: vec![id.clone()], wal: wal.clone() };
            let held = planned(&world, seconds(world.now), vec![lease(purpose, protects)], false, Vec::new());
            let gone = deleted(&held);
            let needed = |key: &String| key.contains(id.as_str());
            assert!(!gone.iter().any(needed), "seed {seed}: {purpose}: {gone:?}");
            let first = backup.start_lsn;
            let (catalog, ..) = world.window();
            let segments = catalog.stored_from(&world.history(backup.timeline.get()), first).0;
            for segment in segments {
                let name = segment.to_string();
                assert!(!gone.iter().any(|key| key.contains(&format!("/{name}-"))), "seed {seed}: {name}");
            }
            let told = held.keep.iter().any(|line| line.reason.contains("on db2"));
            assert!(told, "seed {seed}: {purpose}: {:#?}", held.keep);
        }
    }
}

fn report(number: u32, days_ago: u64, now: i64) -> Listed {
    let put = now - i64::try_from(days_ago * DAY).unwrap();
    let modified = Timestamp::from_second(put).unwrap();
    Listed { key: ObjectKey::Report(number, 7), size: 10, modified }
}

#[test]
fn reports_go_after_thirteen_months_from_the_beginning_of_their_chain_on() {
    let world = World::grow(1, 10).undamaged();
    let kept = REPORTS_KEPT.as_secs() / DAY;
    let gone = |ages: &[u64], superseded| {
        let reports = (1..).zip(ages).map(|(number, days)| report(number, *days, world.now)).collect();
        let plan = planned(&world, seconds(world.now), Vec::new(), superseded, reports);
        let reports = plan.steps.iter().flatten().filter_map(|doomed| match doomed.key {
            ObjectKey::Report(number, _) => Some(number),
            _ => None,
        });
        reports.collect::<Vec<u32>>()
    };
    assert_eq!(gone(&[kept + 40, kept + 10, kept - 10, 5], false), [1, 2]);
    assert_eq!(gone(&[kept, kept - 1], false), [0_u32; 0], "a day is left for clocks that differ");
    // One that is put later than those behind it holds these back: what stays follows on without a gap.
    assert_eq!(gone(&[kept + 40, 3, kept + 10, 5], false), [1]);
    // The newest stays: the head names it. Of a database that was replaced it goes, too.
    assert_eq!(gone(&[kept + 40, kept + 30], false), [1]);
    assert_eq!(gone(&[kept + 40, kept + 30], true), [1, 2]);
}

#[test]
fn the_database_before_an_upgrade_expires_by_the_same_policy() {
    for seed in 0..60 {
        let mut world = World::grow(seed, 20).undamaged();
        let within = planned(&world, seconds(world.now), Vec::new(), true, Vec::new());
        let own = planned(&world, seconds(world.now), Vec::new(), false, Vec::new());
        // While the window reaches back into it, what it holds of the window stays.
        let in_window = |plan: &Plan| {
            let lines = plan.keep.iter().filter(|line| line.object.starts_with("backup "));
            let whole =
                |line: &&Line| line.reason.starts_with("in the window") && !line.reason.contains("cannot");
            lines.filter(whole).count()
        };
        assert_eq!(in_window(&within), in_window(&own), "seed {seed}");
        // Long after it, nothing is left, and the identity goes last.
        world.now += 100 * WINDOW;
        let over = planned(&world, seconds(world.now), Vec::new(), true, Vec::new());
        assert_eq!(over.deletes(), world.listing().objects.len(), "seed {seed}: {:#?}", over.keep);
    }
}
