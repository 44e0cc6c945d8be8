//! What a verification found is known to everything that looks at the repository afterwards: the
//! claim, a restore, the next backup.

use std::sync::Arc;
use std::time::Duration;

use super::borders::name_cluster;
use super::findings::Findings;
use super::{Verified, Wanted, harm, verify};
use crate::error::Result;
use crate::format::{BackupId, Manifest, ObjectKey, PackList, PackName, PackUse};
use crate::postgres::{Lsn, PgTime, RecoveryTarget, SegmentName, TimelineId};
use crate::repository::{
    Repository, fixture::SIZE, fixture::SYSTEM, fixture::archive, fixture::archive_bytes, fixture::memory,
    fixture::size,
};
use crate::wal::writer::Writer;
use crate::window::{Catalog, Chooser, Chosen, Records, RecoveryWindow, WalTimes, look};
use crate::world::manifest as sample_manifest;

async fn run(repository: &Repository, content: bool, max_bytes: u64) -> Verified {
    let window = Duration::from_hours(24);
    verify(repository, Wanted { window, content, max_rate: 0, max_bytes, again: false }).await.unwrap()
}

fn segment(number: u64) -> SegmentName {
    SegmentName::from_number(TimelineId::FIRST, number, size())
}

fn pack(id: &Manifest) -> ObjectKey {
    ObjectKey::Pack(PackName { backup: id.id.clone(), number: 0 })
}

fn path(key: &ObjectKey) -> String {
    format!("main/{SYSTEM}/{key}")
}

/// Segments 3 to 7, with a commit for every 8 KiB or so.
async fn archive_run(repository: &Repository) {
    let mut writer = Writer::new(3 * u64::from(SIZE));
    while writer.bytes.len() < 5 * SIZE as usize - 9000 {
        writer.filler(7000);
        let second = i64::try_from(writer.position() / 8192).unwrap();
        writer.commit(0, 7, second * 1_000_000);
    }
    writer.pad_segment();
    let mut bytes = writer.bytes;
    name_cluster(&mut bytes);
    for (number, bytes) in (3..).zip(bytes.chunks(SIZE as usize)) {
        archive_bytes(repository, &segment(number), bytes).await;
    }
}

/// A backup in segment `first`, with one pack and no files.
async fn backup(repository: &Repository, first: u64) -> Manifest {
    let start = first * u64::from(SIZE);
    let mut manifest = sample_manifest(Lsn::new(start + 40), Lsn::new(start + 400), 1);
    manifest.id = format!("20261122T13000{first}Z-00000001").parse().unwrap();
    manifest.finished_at = PgTime::from_postgres_micros(i64::try_from(first * 128).unwrap() * 1_000_000);
    manifest.parts = Vec::new();
    let name = PackName { backup: manifest.id.clone(), number: 0 };
    let list = PackList(vec![PackUse { name, bytes: 4, live_bytes: 4 }]);
    manifest.pack_list_bytes = repository.put_pack_list(&manifest.id, &list).await.unwrap();
    repository.store().put(&path(&pack(&manifest)), vec!["pack".into()]).await.unwrap();
    repository.put_manifest(&manifest).await.unwrap();
    manifest
}

/// As somebody sees it who has not looked before.
async fn seen(repository: &Repository) -> (Arc<Catalog>, RecoveryWindow, WalTimes) {
    let listing = repository.list().await.unwrap();
    let (mut records, mut times) = (Records::default(), WalTimes::default());
    let (catalog, window) = look(repository, &listing, &mut records, &mut times).await.unwrap();
    (catalog, window, times)
}

/// The backups that lead somewhere, and up to where.
async fn claim(repository: &Repository) -> (Vec<u64>, u64) {
    let (_, window, _) = seen(repository).await;
    let branch = window.default_branch().unwrap();
    let number = |lsn: Lsn| lsn.get() / u64::from(SIZE);
    let backups = branch.reaches.iter().map(|reach| number(reach.backup.start_lsn)).collect();
    (backups, branch.farthest().map_or(0, |span| number(span.end)))
}

/// What a restore of the newest state would take.
async fn newest(repository: &Repository, backup: Option<BackupId>) -> Result<Chosen> {
    let (catalog, window, mut times) = seen(repository).await;
    let mut chooser =
        Chooser { repository, catalog: &catalog, window: &window, times: &mut times, progress: &|_, _| {} };
    let wanted = crate::window::Wanted { target: RecoveryTarget::Latest, timeline: None, backup };
    chooser.choose(&wanted).await
}

#[tokio::test]
async fn r28_a_segment_that_was_found_damaged_ends_the_claim_until_it_is_mended() {
    let (_, repository) = memory().await;
    archive_run(&repository).await;
    backup(&repository, 3).await;
    assert_eq!(claim(&repository).await, (vec![3], 8));
    let listing = repository.list().await.unwrap();
    let key = |listed: &&crate::repository::Listed| matches!(listed.key, ObjectKey::Wal(name, _) if name.segment() == Some(segment(5)));
    let victim = path(&listing.objects.iter().find(key).unwrap().key);
    let sound = repository.store().get(&victim).await.unwrap();
    let mut damaged = sound.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    repository.store().put(&victim, vec![damaged.into()]).await.unwrap();
    assert_eq!(claim(&repository).await, (vec![3], 8), "nobody has looked at it yet");

    assert_eq!(run(&repository, true, 0).await.findings.problems.len(), 1);
    assert_eq!(claim(&repository).await, (vec![3], 5));
    // A run that does not open it changes nothing about that.
    let ages = Duration::from_hours(50 * 365 * 24);
    let wanted = Wanted { window: ages, content: false, max_rate: 0, max_bytes: 0, again: false };
    let told = verify(&repository, wanted).await.unwrap().restorable;
    assert!(told.backups.iter().all(|backup| backup.restorable) && !told.is_whole(), "{told:#?}");
    assert_eq!(claim(&repository).await, (vec![3], 5));
    let refused = newest(&repository, None).await.unwrap_err();
    assert!(refused.to_string().contains("a verification found"), "{refused}");

    repository.store().put(&victim, vec![sound]).await.unwrap();
    assert_eq!(run(&repository, true, 0).await.findings.problems, []);
    assert_eq!(claim(&repository).await, (vec![3], 8), "it was found sound");
    assert_eq!(repository.get_harm().await.unwrap(), []);
}

#[tokio::test]
async fn r28_a_backup_that_lacks_a_pack_counts_for_nothing_until_it_is_back() {
    let (_, repository) = memory().await;
    for number in 3..8 {
        archive(&repository, &segment(number), 128).await;
    }
    let (older, newer) = (backup(&repository, 3).await, backup(&repository, 5).await);
    run(&repository, false, 0).await;
    assert_eq!(claim(&repository).await, (vec![3, 5], 8));
    repository.store().delete(&path(&pack(&newer))).await.unwrap();
    run(&repository, false, 0).await;
    assert_eq!(claim(&repository).await, (vec![3], 8));
    let chosen = newest(&repository, None).await.unwrap();
    assert_eq!(chosen.backup.id, older.id);
    assert!(chosen.warnings.iter().any(|told| told.contains(newer.id.as_str())), "{:?}", chosen.warnings);
    let refused = newest(&repository, Some(newer.id.clone())).await.unwrap_err();
    assert!(refused.to_string().contains("is missing"));
    // The next backup stores anew what lay there.
    let found = repository.find_base(|_| true).await.unwrap();
    let name = |of: &Manifest| PackName { backup: of.id.clone(), number: 0 };
    repository.store().put(&path(&pack(&newer)), vec!["pack".into()]).await.unwrap();
    assert_eq!(repository.confirm_base(&found).await.unwrap().pack_bytes(&name(&newer)), None);

    assert_eq!(claim(&repository).await, (vec![3, 5], 8), "it is back");
    run(&repository, false, 0).await;
    assert_eq!(repository.confirm_base(&found).await.unwrap().pack_bytes(&name(&newer)), Some(4));
}

#[tokio::test]
async fn damage_is_blamed_for_a_backup_that_was_taken_since_the_listing() {
    let (_, repository) = memory().await;
    let older = backup(&repository, 3).await;
    let listing = repository.list().await.unwrap();
    let newer = backup(&repository, 5).await;
    let name = |of: &Manifest| PackName { backup: of.id.clone(), number: 0 };
    let packs = [&older, &newer].map(|of| PackUse { name: name(of), bytes: 4, live_bytes: 4 });
    repository.put_pack_list(&newer.id, &PackList(packs.to_vec())).await.unwrap();
    let mut findings = Findings::default();
    findings.loses(&older.id, &pack(&older), "rotten");
    findings.problem(pack(&older).to_string(), "rotten", "a backup", "");
    harm::note(&repository, &listing, &findings, true).await.unwrap();
    let noted = repository.get_harm().await.unwrap();
    assert_eq!(noted.len(), 1);
    assert_eq!(noted[0].backups, [older.id, newer.id]);
}
