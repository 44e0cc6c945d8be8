//! What lasts is sealed anew, so that the old key can go.

use std::time::Duration;

use super::OlderKey;
use crate::error::Kind;
use crate::format::{Harm, Protection, Purpose};
use crate::repository::{ExpiryRecord, Hold, Lease, Repository, fixture::memory};
use crate::seal::{KeyRing, MasterKey};

const WINDOW: Duration = Duration::from_hours(24);
const BACKUP: &str = "20261122T130000Z-00000001";

fn set_keys(repository: &Repository, keys: &[&str]) {
    repository.keys().replace(&KeyRing::parse(&keys.join("\n")).unwrap());
}

/// A repository with one record of each kind under an old key; the new key is put first.
async fn with_records() -> (Repository, [String; 2]) {
    let (_, repository) = memory().await;
    let [old, new] = [(); 2].map(|()| MasterKey::generate().unwrap().to_text().to_string());
    set_keys(&repository, &[&old]);
    let placed_at = jiff::Timestamp::UNIX_EPOCH;
    let hold =
        Hold { backup: BACKUP.parse().unwrap(), reason: "the audit".to_owned(), placed_at, until: None };
    repository.put_hold(&hold).await.unwrap();
    for number in 1..4_u8 {
        repository.put_report(number.into(), number.into(), &[number]).await.unwrap();
    }
    repository.put_report_head(b"head").await.unwrap();
    repository.put_harm(&[harm()]).await.unwrap();
    repository.put_expiry(&ExpiryRecord { deleted_objects: 7, ..ExpiryRecord::default() }).await.unwrap();
    let keys = [old, new];
    set_keys(&repository, &[&keys[1], &keys[0]]);
    (repository, keys)
}

fn harm() -> Harm {
    Harm { object: "a".to_owned(), state: None, why: "b".to_owned(), backups: Vec::new() }
}

#[tokio::test]
async fn holds_reports_and_what_is_known_outlive_the_old_key() {
    let (repository, [_, new]) = with_records().await;
    let rotation = super::records(&repository, repository.keys().sealing().unwrap().id()).await;
    assert_eq!(rotation.unwrap(), 7);
    set_keys(&repository, &[&new]);
    assert_eq!(repository.list_holds().await.unwrap()[0].reason, "the audit");
    let (reports, _) = repository.list_reports().await.unwrap();
    for (report, number) in reports.iter().zip(1_u8..) {
        assert_eq!(repository.get_report(report).await.unwrap(), [number]);
    }
    assert_eq!(reports.len(), 3);
    assert_eq!(repository.get_report_head().await.unwrap().unwrap(), b"head");
    assert_eq!(repository.get_harm().await.unwrap(), [harm()]);
    assert_eq!(repository.get_expiry().await.unwrap().deleted_objects, 7);
    let again = super::records(&repository, repository.keys().sealing().unwrap().id()).await;
    assert_eq!(again.unwrap(), 0);
    assert!(Lease::held(&repository).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_drill_that_is_under_way_is_not_disturbed() {
    let (repository, _) = with_records().await;
    let key = repository.keys().sealing().unwrap().id();
    let drill = Lease::take(&repository, Purpose::Drill, Protection::default()).await.unwrap();
    assert_eq!(super::records(&repository, key).await.unwrap_err().kind(), Kind::Busy);
    drill.release().await.unwrap();
    super::records(&repository, key).await.unwrap();
}

#[tokio::test]
async fn what_a_key_sealed_that_is_not_at_hand_is_counted() {
    let (repository, [_, new]) = with_records().await;
    set_keys(&repository, &[&new]);
    let key = repository.keys().sealing().unwrap().id();
    let listing = repository.list().await.unwrap();
    let records = super::lasting(&listing);
    let sealed = super::Sealed::of(&repository, &listing, key, Vec::new(), &records).await.unwrap();
    let [older] = <[OlderKey; 1]>::try_from(sealed.older_keys(&repository, key, WINDOW)).unwrap();
    assert_eq!((older.at_hand, older.records, older.needed_until), (false, 7, None));
}
