//! What is no harm: WAL that is sound and does not follow the WAL before it, and what this host has no key for. Other hosts go on
//! counting on it.

use std::time::Duration;

use super::{Verified, Wanted, verify};
use crate::format::{Harm, Manifest, ObjectKey, VerifyRecord};
use crate::postgres::{Lsn, SegmentName, TimelineId};
use crate::repository::{
    Repository,
    fixture::{SIZE, archive, memory, put_backup, size},
};
use crate::seal::{KeyRing, MasterKey};
use crate::window::{Records, WalTimes, look};
use crate::world::manifest as sample_manifest;

async fn run(repository: &Repository, content: bool) -> Verified {
    let window = Duration::from_hours(24);
    verify(repository, Wanted { window, content, max_rate: 0, max_bytes: 0, again: false }).await.unwrap()
}

/// Segments, of each so many pages are WAL.
async fn segments(repository: &Repository, pages: &[(u64, usize)]) {
    for (number, pages) in pages {
        let segment = SegmentName::from_number(TimelineId::FIRST, *number, size());
        archive(repository, &segment, *pages).await;
    }
}

/// A backup in segment `first`, with one pack and no files.
async fn backup(repository: &Repository, first: u64) {
    let start = first * u64::from(SIZE);
    let mut manifest: Manifest = sample_manifest(Lsn::new(start + 40), Lsn::new(start + 400), 1);
    manifest.id = format!("20261122T13000{first}Z-00000001").parse().unwrap();
    put_backup(repository, manifest).await;
}

/// The segments in which backups begin that can be restored, as somebody sees it who has not looked before.
async fn restorable(repository: &Repository) -> Vec<u64> {
    let listing = repository.list().await.unwrap();
    let (mut records, mut times) = (Records::default(), WalTimes::default());
    let (_, window) = look(repository, &listing, &mut records, &mut times).await.unwrap();
    let branch = window.default_branch().unwrap();
    branch.reaches.iter().map(|reach| reach.backup.start_lsn.get() / u64::from(SIZE)).collect()
}

async fn harm(repository: &Repository) -> Vec<Harm> {
    let found = repository.get_harm().await.unwrap();
    found.into_iter().filter(|harm| harm.object.contains("wal")).collect()
}

#[tokio::test]
async fn a_segment_with_which_another_life_begins_is_no_harm() {
    let (_, repository) = memory().await;
    // The records of segment 5 do not follow those of segment 4, of which the rest is empty.
    segments(&repository, &[(3, 128), (4, 64), (5, 128), (6, 128)]).await;
    backup(&repository, 3).await;
    backup(&repository, 5).await;
    assert_eq!(restorable(&repository).await, [3, 5]);
    let told = run(&repository, false).await.findings.problems;
    assert!(told.iter().any(|found| found.problem.contains("does not go on where")), "{told:?}");
    assert_eq!((harm(&repository).await, restorable(&repository).await), (Vec::new(), vec![3, 5]));
    run(&repository, true).await;
    assert_eq!((harm(&repository).await, restorable(&repository).await), (Vec::new(), vec![3, 5]));
}

#[tokio::test]
async fn what_a_host_has_no_key_for_is_no_harm() {
    let (_, repository) = memory().await;
    let [old, new] = [(); 2].map(|()| MasterKey::generate().unwrap().to_text().to_string());
    let set_keys = |keys: &[&str]| repository.keys().replace(&KeyRing::parse(&keys.join("\n")).unwrap());
    set_keys(&[&old]);
    segments(&repository, &[(3, 128), (4, 128), (5, 128)]).await;
    set_keys(&[&new, &old]);
    backup(&repository, 3).await;
    // A new host that was given the new key alone.
    set_keys(&[&new]);
    let told = run(&repository, true).await.findings.problems;
    assert!(told.iter().any(|found| found.problem.contains("sealed with key")), "{told:?}");
    set_keys(&[&new, &old]);
    assert_eq!((harm(&repository).await, restorable(&repository).await), (Vec::new(), vec![3]));

    // Nor does that host forget what those found that could look.
    let listing = repository.list().await.unwrap();
    let wal = listing.objects.iter().find(|listed| listed.wal_file().is_some()).unwrap();
    let (object, state) = (wal.key.to_string(), listing.state(&wal.key));
    let known = [Harm { object, state, why: "flipped".to_owned(), backups: Vec::new() }];
    repository.put_harm(&known).await.unwrap();
    set_keys(&[&new]);
    run(&repository, true).await;
    assert_eq!(harm(&repository).await, known);
    // Not even if it cannot read it.
    set_keys(&[&old]);
    repository.seal_anew(&ObjectKey::Verify(VerifyRecord::Harm)).await.unwrap_err();
    set_keys(&[&old, &new]);
    repository.seal_anew(&ObjectKey::Verify(VerifyRecord::Harm)).await.unwrap();
    set_keys(&[&new]);
    run(&repository, true).await;
    set_keys(&[&old]);
    assert_eq!(harm(&repository).await, known);
}
