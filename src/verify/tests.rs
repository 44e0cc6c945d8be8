//! What verification by a listing costs is printed, and asserted is what it finds:
//! `cargo test --release --lib verify::tests -- --nocapture`.

#![expect(clippy::print_stdout, reason = "it measures")]

use std::time::Instant;

use jiff::Timestamp;

use super::listing::{Pass, judge};
use super::{Wanted, verify};
use crate::format::{BackupId, Manifest, ObjectKey, PackList, PackName, PackUse, WalDigest};
use crate::postgres::{Lsn, PgTime, SegmentName, TimelineId, WalName};
use crate::repository::{
    Listed, Repository, fixture::PAGE, fixture::archive, fixture::archive_history, fixture::memory,
    fixture::put_piece, fixture::size, fixture::wal,
};
use crate::window::{Records, WalTimes, look};

const SEGMENTS: u64 = 200_000;
const BACKUPS: u64 = 400;
/// Packs of the first backup, which all others use, too.
const SHARED: u32 = 1000;
const OWN: u32 = 50;
const SEGMENT: u64 = 1 << 20;

fn timeline_of(number: u64) -> TimelineId {
    TimelineId::new(if number < SEGMENTS / 2 {
        1
    } else if number < SEGMENTS * 3 / 4 {
        2
    } else {
        3
    })
    .unwrap()
}

fn segment(number: u64) -> SegmentName {
    SegmentName::from_number(timeline_of(number), number, size())
}

fn backup_id(index: u64) -> BackupId {
    format!("20261122T130000Z-{index:08x}").parse().unwrap()
}

fn pack_use(backup: u64, number: u32) -> PackUse {
    let name = PackName { backup: backup_id(backup), number };
    PackUse { name, bytes: 32 << 20, live_bytes: 30 << 20 }
}

async fn put_backup(repository: &Repository, index: u64, objects: &mut Vec<Listed>) {
    let text = include_str!("../format/FORMAT.md");
    let json = text.split("```json manifest\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut manifest = Manifest::parse(json.as_bytes()).unwrap();
    let id = backup_id(index);
    let own = if index == 0 { SHARED } else { OWN };
    let mut list: Vec<PackUse> = (0..own).map(|number| pack_use(index, number)).collect();
    let listed = |key, size| Listed { key, size, modified: Timestamp::UNIX_EPOCH };
    objects.extend(list.iter().map(|pack| listed(ObjectKey::Pack(pack.name.clone()), pack.bytes.into())));
    if index > 0 {
        list.splice(0..0, (0..SHARED).map(|number| pack_use(0, number)));
    }
    let first = index * (SEGMENTS / BACKUPS);
    (manifest.id, manifest.timeline) = (id.clone(), timeline_of(first));
    (manifest.start_lsn, manifest.stop_lsn) =
        (Lsn::new(first * SEGMENT + 40), Lsn::new((first + 1) * SEGMENT));
    manifest.finished_at = PgTime::from_unix_micros(i64::try_from(index).unwrap() * 1_000_000);
    manifest.page_errors.clear();
    manifest.pack_list_bytes = repository.put_pack_list(&id, &PackList(list)).await.unwrap();
    for (number, part) in (0..).zip(&manifest.parts) {
        objects.push(listed(ObjectKey::FileTable(id.clone(), number), part.table_bytes));
    }
    repository.put_manifest(&manifest).await.unwrap();
}

/// The most memory of this process so far, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test]
async fn a_listing_of_200_000_segments_and_400_backups_is_judged() {
    let (_, repository) = memory().await;
    let mut objects = Vec::new();
    for index in 0..BACKUPS {
        put_backup(&repository, index, &mut objects).await;
    }
    let lsn = |number: u64| Lsn::new(number * SEGMENT);
    let (first, second) = (lsn(SEGMENTS / 2), lsn(SEGMENTS * 3 / 4));
    archive_history(&repository, 2, format!("1\t{first}\tpromoted\n").as_bytes()).await;
    archive_history(&repository, 3, format!("1\t{first}\tpromoted\n2\t{second}\tpromoted\n").as_bytes())
        .await;
    let ends = [SEGMENTS / 2, SEGMENTS * 3 / 4, SEGMENTS];
    let genuine = |number: u64| ends.iter().any(|end| (end - 8..*end).contains(&number));
    for number in 0..SEGMENTS {
        if genuine(number) {
            archive(&repository, &segment(number), 4).await;
        } else {
            let key = ObjectKey::Wal(WalName::Segment(segment(number)), WalDigest::from_bytes([7; 16]));
            objects.push(Listed { key, size: 5 << 20, modified: Timestamp::UNIX_EPOCH });
        }
    }
    let mut listing = repository.list().await.unwrap();
    listing.objects.extend(objects);
    listing.objects.sort_by_cached_key(|listed| listed.key.to_string());
    let before = peak();

    let began = Instant::now();
    let (mut records, mut times) = (Records::default(), WalTimes::default());
    let (catalog, window) = look(&repository, &listing, &mut records, &mut times).await.unwrap();
    let looked = began.elapsed();
    let pass = Pass {
        listing: &listing,
        catalog: &catalog,
        window: &window,
        leases: &[],
        now: Timestamp::now(),
        promised: std::time::Duration::from_hours(168),
    };
    let findings = judge(&repository, &pass).await.unwrap();
    println!(
        "{} objects: window {looked:?}, in all {:?}, peak {before} -> {} MiB",
        listing.objects.len(),
        began.elapsed(),
        peak()
    );
    assert_eq!(findings.problems, [], "{:#?}", window.branches.len());
    assert_eq!((window.branches.len(), catalog.backups.len()), (3, 400));
}

/// A piece in the middle of a tail is gone: what lies behind it is not served, and nothing else would say so.
#[tokio::test]
async fn a_tail_with_a_hole_is_named_and_one_that_begins_anew_is_not() {
    let (_, repository) = memory().await;
    let name = segment(3);
    archive(&repository, &segment(2), 4).await;
    let bytes = wal(&name, 9);
    put_piece(&repository, &name, 0, 0, &bytes[..2 * PAGE]).await;
    let middle = put_piece(&repository, &name, 0, 2 * PAGE, &bytes[2 * PAGE..4 * PAGE]).await;
    put_piece(&repository, &name, 0, 4 * PAGE, &bytes[4 * PAGE..]).await;
    put_piece(&repository, &name, 1, 4 * PAGE, &bytes[4 * PAGE..]).await;
    let wanted = |content| Wanted {
        window: std::time::Duration::from_hours(24),
        content,
        max_rate: 0,
        max_bytes: 0,
        again: false,
    };
    assert_eq!(verify(&repository, wanted(true)).await.unwrap().findings.problems, []);
    repository.delete_tail_piece(&middle).await.unwrap();
    for content in [false, true] {
        let found = verify(&repository, wanted(content)).await.unwrap().findings.problems;
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0].object, format!("watch/tail/{name}"));
        assert_eq!(found[0].problem, "bytes 16384 to 32768 are missing, and later ones are there");
    }
}
