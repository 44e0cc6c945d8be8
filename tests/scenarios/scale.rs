//! A repository of years: what a plan and a verification by a listing say of it. What they cost is measured by
//! `cargo bench --bench retention`.

use std::time::Duration;

use crate::support::scale::{BACKUPS, SEGMENTS, fill, repository};
use walproof::retention::{Policy, plan_now};
use walproof::store::{Location, Store};
use walproof::verify::{Wanted, verify};

#[test]
fn a_listing_of_200_000_segments_and_400_backups_is_judged_and_planned() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(&Location::Memory, walproof::store::Policy::default()).unwrap();
        let repository = repository(store).await;
        fill(&repository).await;
        let objects = repository.list().await.unwrap().objects.len() as u64;
        let window = Duration::from_hours(168);
        let wanted = Wanted { window, content: false, max_rate: 0, max_bytes: 0, again: false };
        let verified = verify(&repository, wanted).await.unwrap();
        assert_eq!(verified.findings.problems, []);
        assert_eq!(verified.findings.remarks, []);
        let backups = &verified.restorable.backups;
        assert!(backups.iter().all(|backup| backup.restorable) && backups.len() as u64 == BACKUPS);
        assert_eq!(verified.objects, objects);

        let plans = plan_now(&repository, Policy { window }).await.unwrap();
        let deletes = plans[0].1.deletes() as u64;
        // A week of them, the oldest of which leads to its beginning.
        let kept = 28;
        let expired = BACKUPS - kept;
        let wal = expired * (SEGMENTS / BACKUPS);
        // A manifest, a pack list, a file table and 50 packs each; those of the first are used by all.
        let of_backups = expired * 3 + (expired - 1) * 50;
        assert_eq!(deletes, wal + of_backups);
    });
}
