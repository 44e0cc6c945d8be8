//! What is damaged may be mended: WAL that a verification found so, or a manifest. A backup that needs it goes only when
//! something takes its place.

use super::site::{Site, segment};
use crate::format::{BackupId, Harm, ObjectKey};
use crate::repository::{Listed, fixture::swap};

/// Note that a verification found this segment damaged.
async fn harm(site: &Site, number: u64) {
    let listing = site.repository.list().await.unwrap();
    let is_its =
        |listed: &&Listed| listed.wal_file().is_some_and(|file| file.name.segment() == Some(segment(number)));
    let listed = listing.objects.iter().find(is_its).unwrap();
    let state = listing.state(&listed.key);
    let harm = Harm { object: listed.key.to_string(), state, why: "flipped".to_owned(), backups: Vec::new() };
    assert!(matches!(listed.key, ObjectKey::Wal(..)));
    site.repository.put_harm(&[harm]).await.unwrap();
}

/// Change a byte of a manifest.
async fn flip(site: &Site, id: &BackupId) {
    let flipped = |mut bytes: Vec<u8>| {
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    };
    swap(&site.repository, &ObjectKey::Manifest(id.clone()), &flipped).await;
}

#[tokio::test]
async fn r21_an_anchor_whose_manifest_cannot_be_read_stays_until_something_takes_its_place() {
    let site = Site::new().await;
    site.segments(3..8).await;
    let anchor = site.backup(3, 8).await;
    let newer = site.backup(5, 1).await;
    flip(&site, &anchor).await;
    site.expire().await.unwrap();
    assert_eq!(site.there().await, (vec![anchor, newer], vec![3, 4, 5, 6, 7]));
}

#[tokio::test]
async fn r21_so_does_the_wal_of_one_in_the_window() {
    let site = Site::new().await;
    site.segments(3..8).await;
    let damaged = site.backup(3, 6).await;
    let newer = site.backup(5, 1).await;
    flip(&site, &damaged).await;
    site.expire().await.unwrap();
    assert_eq!(site.there().await, (vec![damaged, newer], vec![3, 4, 5, 6, 7]));
}

#[tokio::test]
async fn one_that_cannot_be_read_goes_with_another_one_to_restore_the_start_of_the_window_from() {
    let site = Site::new().await;
    site.segments(3..8).await;
    let damaged = site.backup(3, 9).await;
    let anchor = site.backup(5, 8).await;
    flip(&site, &damaged).await;
    site.expire().await.unwrap();
    assert_eq!(site.there().await, (vec![anchor], vec![5, 6, 7]));
}

#[tokio::test]
async fn r21_an_anchor_whose_wal_was_found_damaged_stays_until_something_takes_its_place() {
    let site = Site::new().await;
    site.segments(3..8).await;
    let anchor = site.backup(3, 8).await;
    let newer = site.backup(5, 1).await;
    harm(&site, 3).await;
    site.expire().await.unwrap();
    assert_eq!(site.there().await, (vec![anchor, newer], vec![3, 4, 5, 6, 7]));
}

#[tokio::test]
async fn with_another_one_to_restore_the_start_of_the_window_from_it_goes() {
    let site = Site::new().await;
    site.segments(3..8).await;
    site.backup(3, 9).await;
    let newer = site.backup(5, 8).await;
    harm(&site, 3).await;
    site.expire().await.unwrap();
    assert_eq!(site.there().await, (vec![newer], vec![5, 6, 7]));
}

#[tokio::test]
async fn one_whose_wal_is_gone_goes_as_ever() {
    let site = Site::new().await;
    site.segments(4..8).await;
    site.backup(3, 8).await;
    let newer = site.backup(5, 1).await;
    site.expire().await.unwrap();
    assert_eq!(site.there().await.0, [newer]);
}
