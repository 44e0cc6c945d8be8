//! With a key that is not at hand nothing expires: what it sealed cannot be judged, and may be needed.

use super::Expired;
use super::site::Site;
use crate::error::Result;
use crate::format::{Harm, ObjectKey};

#[track_caller]
fn assert_refused(done: Result<Vec<(u64, Expired)>>) {
    let error = done.unwrap_err();
    assert_eq!((error.kind().name(), error.kind().exit_code()), ("key_missing", 5), "{error}");
    assert!(error.to_string().contains("nothing expires"), "{error}");
}

#[tokio::test]
async fn r22_a_held_backup_whose_key_is_gone_keeps_its_wal() {
    let site = Site::new().await;
    site.segments(3..5).await;
    let held = site.backup(3, 30).await;
    site.hold(&held).await;
    site.keys(&[&site.new, &site.old]);
    site.segments(5..8).await;
    let newest = site.backup(5, 8).await;
    site.keys(&[&site.new]);
    let before = site.there().await;
    let refused = site.expire().await;
    assert_eq!(site.there().await, before);
    assert_refused(refused);
    // With the key it goes on as ever.
    site.keys(&[&site.new, &site.old]);
    site.expire().await.unwrap();
    assert_eq!(site.there().await, (vec![held, newest], vec![3, 5, 6, 7]));
}

#[tokio::test]
async fn r21_a_backup_whose_key_was_dropped_early_is_still_there_when_the_key_comes_back() {
    let site = Site::new().await;
    site.segments(3..5).await;
    let anchor = site.backup(3, 8).await;
    site.keys(&[&site.new, &site.old]);
    site.segments(5..8).await;
    let newer = site.backup(5, 1).await;
    site.keys(&[&site.new]);
    let refused = site.expire().await;
    assert_eq!(site.there().await, (vec![anchor, newer], vec![3, 4, 5, 6, 7]));
    assert_refused(refused);
}

#[tokio::test]
async fn wal_that_is_looked_at_and_whose_key_is_gone_lets_nothing_expire() {
    let site = Site::new().await;
    site.segments(3..8).await;
    site.keys(&[&site.new, &site.old]);
    let older = site.backup(3, 30).await;
    let newer = site.backup(5, 8).await;
    site.keys(&[&site.new]);
    let refused = site.expire().await;
    assert_eq!(site.there().await, (vec![older, newer], vec![3, 4, 5, 6, 7]));
    assert_refused(refused);
}

#[tokio::test]
async fn r21_harm_that_another_host_noted_under_a_newer_key_lets_nothing_expire() {
    let site = Site::new().await;
    site.segments(3..8).await;
    let sound = site.backup(3, 9).await;
    let harmed = site.backup(5, 8).await;
    let newest = site.backup(6, 1).await;
    site.keys(&[&site.new, &site.old]);
    let object = ObjectKey::Manifest(harmed.clone());
    let state = site.repository.list().await.unwrap().state(&object);
    let why = "its packs are rotten".to_owned();
    let harm = Harm { object: object.to_string(), state, why, backups: vec![harmed.clone()] };
    site.repository.put_harm(&[harm]).await.unwrap();
    site.keys(&[&site.old]);
    let refused = site.expire().await;
    assert_eq!(site.there().await, (vec![sound, harmed, newest], vec![3, 4, 5, 6, 7]));
    assert_refused(refused);
}
