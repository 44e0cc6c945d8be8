//! Random histories: what a plan leaves, and what it may not touch.

use std::collections::{BTreeMap, BTreeSet};

use super::backups::{Decisions, decide};
use super::facts::{Facts, Policy};
use super::plan::{Plan, lists_needed, plan};
use crate::format::{ObjectKey, WalDigest};
use crate::postgres::{Lsn, SegmentName, TimelineId, WalName};
use crate::repository::Hold;
use crate::window::{Branch, Catalog, Instants, RecoveryWindow};
use crate::world::{World, seconds, seed, size};

const WINDOW: i64 = 60_000;
/// Seeds of worlds whose expiry, killed at some point, was once completed to another end: a tail that its segment covered, the
/// first of two tails, conflicts of which one copy was gone, branches that end in one.
const KILLED: [u64; 11] = [
    206_208_053_000_005,
    1_795_556_502_986_935,
    1_795_556_502_986_223,
    1_795_556_502_986_811,
    1_795_556_502_986_546,
    1_795_556_502_986_257,
    1_795_556_502_986_940,
    1_795_556_502_986_245,
    1_795_556_502_986_273,
    1_795_556_502_986_749,
    1_795_556_502_986_955,
];

struct Planned {
    plan: Plan,
    decisions: Decisions,
    window: RecoveryWindow,
}

fn planned(world: &World, holds: &[Hold]) -> Planned {
    planned_at(world, holds, world.now)
}

/// By a host whose clock says `now`.
fn planned_at(world: &World, holds: &[Hold], now: i64) -> Planned {
    let (mut catalog, window, _) = world.window();
    catalog.holds = holds.to_vec();
    let listing = world.listing();
    let facts = facts(world, &catalog, &window, now);
    let decisions = decide(&facts);
    assert!(lists_needed(&facts, &decisions).is_empty(), "no backup shares packs here");
    let plan = plan(&facts, &listing, &decisions, &BTreeMap::new());
    Planned { plan, decisions, window }
}

fn facts<'a>(world: &World, catalog: &'a Catalog, window: &'a RecoveryWindow, now: i64) -> Facts<'a> {
    Facts {
        policy: Policy { window: std::time::Duration::from_secs(WINDOW.unsigned_abs()) },
        now: seconds(now.min(world.now + world.skew)),
        catalog,
        window,
        leases: Vec::new(),
        superseded: false,
    }
}

fn delete(world: &mut World, key: &ObjectKey) {
    match key {
        ObjectKey::Manifest(id) => {
            world.backups.retain(|backup| backup.id != *id);
            world.unreadable.retain(|other| other != id);
        }
        ObjectKey::Pack(name) => {
            let left = world.packs.get_mut(&name.backup).unwrap();
            *left -= 1;
            if *left == 0 {
                world.packs.remove(&name.backup);
            }
        }
        ObjectKey::Wal(WalName::Segment(segment), digest) => {
            let stored = world.segments.get_mut(&key_of(segment)).unwrap();
            let left: Vec<WalDigest> = stored.digests().collect();
            let mut left = left.iter().map(|other| other != digest);
            stored.versions.retain(|_| left.next().unwrap());
            if stored.versions.is_empty() {
                world.segments.remove(&key_of(segment));
            }
        }
        ObjectKey::Tail(name) => {
            world.tails.remove(&key_of(&name.segment));
        }
        other => panic!("{other} may not go"),
    }
}

fn key_of(segment: &SegmentName) -> (u32, u64) {
    (segment.timeline.get(), segment.number(size()))
}

/// The instants of the window that can be restored on each branch, from good backups or from any.
fn reachable(world: &World, window: &RecoveryWindow, good: bool) -> BTreeMap<u32, Vec<Instants>> {
    let horizon = seconds(world.now - WINDOW);
    let of = |branch: &Branch| {
        let branch = branch.from_those(|backup| !good || backup.page_errors.is_empty());
        let cut = |instants: Instants| Instants { start: instants.start.max(horizon), ..instants };
        let all = RecoveryWindow::instants(&branch).into_iter().filter(|instants| instants.end >= horizon);
        all.map(cut).collect::<Vec<_>>()
    };
    let tips = window.tips().map(|branch| (branch.timeline().get(), of(branch)));
    tips.filter(|(_, instants)| !instants.is_empty()).collect()
}

/// What was reachable on a branch still is. A branch that had expired may seem to reach more than before: without its own
/// first file its path goes on in the older timeline's.
#[track_caller]
fn assert_still(before: &BTreeMap<u32, Vec<Instants>>, world: &World, window: &RecoveryWindow, seed: u64) {
    let after = reachable(world, window, true);
    for (of, instants) in before {
        assert_eq!(Some(instants), after.get(of), "seed {seed}: timeline {of}");
    }
}

/// How far the newest state of a branch reaches. Which one was written last may differ after an expiry: what was stored last
/// of it may have led nowhere.
fn newest(window: &RecoveryWindow, of: Option<TimelineId>) -> Option<Lsn> {
    window.branch(of?)?.farthest().map(|span| span.end)
}

#[test]
fn r21_every_instant_of_the_window_stays_reachable_and_a_second_run_deletes_nothing() {
    let base = seed();
    // Of the last three one once kept a tail that a second run deleted; in the next the segment before one without a record
    // goes, which alone told that the one behind it does not follow; in the last one the last writer's backup lost its WAL,
    // and with the WAL before it goes all that made it the last writer.
    let known = [1_795_963_521_100_620, 1_796_719_173_664_663, 1_796_020_201_384_093];
    for seed in (0..1_500).map(|round| base.wrapping_add(round)).chain(known) {
        stays_reachable(seed, World::grow(seed, 6 + seed % 40).undamaged());
    }
}

#[test]
fn r21_the_same_holds_where_a_verification_found_backups_harmed() {
    let base = seed();
    let mut anchors = 0;
    for round in 0..600 {
        let seed = base.wrapping_add(round);
        let mut world = World::grow(seed, 6 + seed % 40).undamaged();
        let ids: Vec<_> = world.backups.iter().map(|backup| backup.id.clone()).collect();
        world.harmed = ids.into_iter().filter(|_| world.random.chance(30)).collect();
        // If all may be mended, and nothing sound is there, nothing goes that one of them needs.
        if world.harmed.len() == world.backups.len() {
            let Planned { decisions, .. } = planned(&world, &[]);
            let kept = |id: &&crate::format::BackupId| decisions[*id].needs.is_some();
            assert_eq!(world.harmed.iter().filter(kept).count(), world.harmed.len(), "seed {seed}");
            anchors += world.harmed.len();
        }
        stays_reachable(seed, world);
    }
    assert!(anchors > 0);
}

#[test]
fn r21_the_same_holds_where_the_clocks_of_host_and_store_differ() {
    let base = seed();
    // In the last one an expired backup alone keeps a timeline from continuing another.
    for seed in (0..600).map(|round| base.wrapping_add(round)).chain([1_796_012_542_246_872]) {
        let mut world = World::grow(seed, 6 + seed % 40).undamaged();
        world.skew = i64::try_from(world.random.below(240_000)).unwrap() - 120_000;
        stays_reachable(seed, world);
    }
}

fn stays_reachable(seed: u64, mut world: World) {
    let Planned { plan, window, .. } = planned(&world, &[]);
    let last = window.last_writer().map(Branch::timeline);
    let before = (reachable(&world, &window, true), reachable(&world, &window, false), newest(&window, last));
    for line in plan.keep.iter().chain(&plan.delete) {
        assert!(!line.reason.is_empty(), "seed {seed}: {line:?}");
    }
    for key in plan.steps.iter().flatten() {
        delete(&mut world, &key.key);
    }
    let (_, window, _) = world.window();
    let after = (reachable(&world, &window, false), newest(&window, last));
    assert_still(&before.0, &world, &window, seed);
    for (of, instants) in &before.1 {
        // With damaged pages an instant is reachable only as long as no good backup gives it.
        let good = before.0.get(of).cloned().unwrap_or_default();
        let still = after.0.get(of).cloned().unwrap_or_default();
        for one in instants {
            let covered =
                good.iter().chain(&still).any(|other| other.start <= one.start && other.end >= one.end);
            assert!(
                covered || still.contains(one) || !still.is_empty(),
                "seed {seed}: {one:?} is lost, {still:?}"
            );
        }
    }
    assert_eq!(before.2, after.1, "seed {seed}: the newest state");
    let again = planned(&world, &[]).plan;
    assert_eq!(again.deletes(), 0, "seed {seed}: {:#?}\nfirst {plan:#?}", again.delete);
}

#[test]
fn r22_with_no_newer_good_backup_nothing_that_it_needs_expires() {
    let base = seed();
    // In the last one the segment goes that was stored last, behind the one that the backup begins in.
    for seed in (0..600).map(|round| base.wrapping_add(round)).chain([1_796_001_587_051_713]) {
        let mut world = World::grow(seed, 10).undamaged();
        // Nothing happens for years.
        world.now += 100 * WINDOW;
        let Planned { plan, window, .. } = planned(&world, &[]);
        let newest_good = window.last_writer().and_then(|branch| {
            let good = branch.reaches.iter().filter(|reach| reach.backup.page_errors.is_empty());
            let newest = good.max_by_key(|reach| reach.backup.finished_at)?;
            Some((newest.backup.id.clone(), branch.timeline()))
        });
        for key in plan.steps.iter().flatten() {
            delete(&mut world, &key.key);
        }
        let (_, after, _) = world.window();
        if let Some((id, timeline)) = newest_good {
            let branch = after.branch(timeline).unwrap();
            assert!(branch.reaches.iter().any(|reach| reach.backup.id == id), "seed {seed}: {id} is gone");
            assert_eq!(newest(&window, Some(timeline)), newest(&after, Some(timeline)), "seed {seed}");
        }
    }
}

#[test]
fn r23_killed_after_any_delete_the_rest_is_consistent_and_the_next_run_completes_it() {
    let base = seed();
    // Those behind the random ones each once left something out.
    for seed in (0..60).map(|round| base.wrapping_add(round)).chain(KILLED) {
        killed_anywhere(seed, &World::grow(seed, 30).undamaged(), 0);
    }
}

#[test]
fn r23_the_same_holds_where_clocks_differ_and_the_next_run_is_of_a_host_that_is_behind() {
    let base = seed();
    let mut deletes = 0;
    for round in 0..60 {
        let seed = base.wrapping_add(round);
        let mut world = World::grow(seed, 30).undamaged();
        world.skew = i64::try_from(world.random.below(240_000)).unwrap() - 120_000;
        let behind = i64::try_from(world.random.below(120_000)).unwrap();
        deletes += killed_anywhere(seed, &world, behind);
    }
    assert!(deletes > 0);
}

/// A run is killed after each of its deletes; the one behind it is of a host whose clock is `behind`, the last one is of the
/// first host again. Gives how many deletes there were. Where a branch may lead on behind a segment that cannot be used, a
/// host that is behind may keep another backup for it than the first one would: what is left may differ then, not what is
/// reachable, and one more run finds nothing to do.
fn killed_anywhere(seed: u64, world: &World, behind: i64) -> usize {
    let Planned { plan, window, .. } = planned(world, &[]);
    let before = reachable(world, &window, true);
    let keys: Vec<ObjectKey> = plan.steps.iter().flatten().map(|doomed| doomed.key.clone()).collect();
    let mut whole = world.clone();
    for key in &keys {
        delete(&mut whole, key);
    }
    let mut killed = world.clone();
    for key in &keys {
        delete(&mut killed, key);
        let mut completed = killed.clone();
        assert_consistent(&completed, &before, seed, key);
        let mut rest = Plan::default();
        for now in [world.now - behind, world.now] {
            rest = planned_at(&completed, &[], now).plan;
            for key in rest.steps.iter().flatten() {
                delete(&mut completed, &key.key);
            }
            assert_consistent(&completed, &before, seed, key);
        }
        let told = || format!("seed {seed}: killed after {key}: {rest:#?}\nfirst {plan:#?}");
        assert_eq!(planned_at(&completed, &[], world.now).plan.deletes(), 0, "{}", told());
        if behind == 0 {
            assert_eq!(settled(&completed), settled(&whole), "{}", told());
        }
    }
    keys.len()
}

/// The objects that there are. By a store whose clock is ahead, packs that lost their manifest look as if a backup were just
/// writing them: they stay for longer.
fn settled(world: &World) -> BTreeSet<String> {
    let waits = |key: &ObjectKey| match key {
        ObjectKey::Pack(name) => {
            let has_manifest = world.backups.iter().any(|backup| backup.id == name.backup);
            world.skew > 0 && !has_manifest && !world.unreadable.contains(&name.backup)
        }
        _ => false,
    };
    let listing = world.listing();
    let there = listing.objects.iter().filter(|listed| !waits(&listed.key));
    there.map(|listed| listed.key.to_string()).collect()
}

/// What was reachable is, and no manifest names a pack that is gone.
#[track_caller]
fn assert_consistent(world: &World, before: &BTreeMap<u32, Vec<Instants>>, seed: u64, key: &ObjectKey) {
    let (_, window, _) = world.window();
    assert_still(before, world, &window, seed);
    for backup in &world.backups {
        assert_eq!(world.packs.get(&backup.id), Some(&3), "seed {seed}: killed after {key}");
    }
}

#[test]
fn a_hold_keeps_its_backup_and_the_wal_that_makes_it_consistent() {
    let base = seed();
    // In the last one only the archived history of another life leads through the end of the backup.
    for seed in (0..400).map(|round| base.wrapping_add(round)).chain([1_795_985_111_563_580]) {
        let mut world = World::grow(seed, 30).undamaged();
        let Planned { decisions, window, .. } = planned(&world, &[]);
        let expired = window
            .tips()
            .flat_map(|branch| &branch.reaches)
            .find(|reach| decisions.get(&reach.backup.id).is_some_and(|decision| decision.needs.is_none()));
        let Some(backup) = expired.map(|reach| reach.backup.clone()) else { continue };
        let hold = Hold {
            backup: backup.id.clone(),
            reason: "the audit".into(),
            placed_at: jiff::Timestamp::UNIX_EPOCH,
            until: None,
        };
        let with_hold = planned(&world, std::slice::from_ref(&hold)).plan;
        let kept = with_hold.keep.iter().find(|line| line.object == format!("backup {}", backup.id));
        assert_eq!(kept.map(|line| line.reason.as_str()), Some("held: the audit"), "seed {seed}");
        for key in with_hold.steps.iter().flatten() {
            delete(&mut world, &key.key);
        }
        // Along its own timeline, or along a later one whose first file holds the end of it, as its archived history says:
        // another life of the cluster may have put that one there.
        let archived: Vec<_> =
            world.archived_histories().into_values().map(|(history, _)| history.clone()).collect();
        let recovered = archived.iter().chain([&world.history(backup.timeline.get())]).any(|history| {
            let found = world.recover(&backup, history, &|_| false);
            found.is_some_and(|(_, end)| end >= backup.stop_lsn.get())
        });
        assert!(recovered, "seed {seed}: {}", backup.id);
    }
}
