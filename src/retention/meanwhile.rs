//! What begins to be needed while an expiry runs: from each of its requests on.

use super::interleaved::{begin, expiry, id, world};
use crate::format::{BackupId, ObjectKey, Protection, Purpose};
use crate::repository::{Hold, Lease, Repository};

/// Begins to need a backup.
async fn need(repository: &Repository, id: &BackupId, by_hold: bool) -> Option<Lease> {
    if by_hold {
        let placed_at = jiff::Timestamp::now();
        let hold = Hold { backup: id.clone(), reason: String::new(), placed_at, until: None };
        repository.put_hold(&hold).await.unwrap();
        return None;
    }
    let protects = Protection { backups: vec![id.clone()], wal: Vec::new() };
    Some(Lease::take(repository, Purpose::Restore, protects).await.unwrap())
}

/// The expiry makes so many requests, then the backup is needed that goes first; whether the expiry had ended by then, and
/// whether the backup was lost although it was there when it began to be needed.
fn needed_after(requests: usize, by_hold: bool) -> (bool, bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (namespace, repository) = world().await;
        let oldest = id(30);
        let manifest = ObjectKey::Manifest(repository.list_backup_ids().await.unwrap()[0].clone());
        let ObjectKey::Manifest(oldest) = &manifest else { panic!("{oldest}") };
        let (gate, thread) = begin(&namespace, expiry);
        let ended = gate.run_to(requests);
        let lease = need(&repository, oldest, by_hold).await;
        let was_there = repository.is_there(&manifest).await.unwrap();
        gate.run_to(usize::MAX);
        thread.join().unwrap();
        let lost = was_there && !repository.is_there(&manifest).await.unwrap();
        drop(lease);
        (ended, lost)
    })
}

/// The requests after which what begins to be needed is lost.
fn losses(by_hold: bool) -> Vec<usize> {
    let mut lost = Vec::new();
    for requests in 1.. {
        let (ended, is_lost) = needed_after(requests, by_hold);
        lost.extend(is_lost.then_some(requests));
        if ended {
            assert!(requests > 15, "an expiry makes more requests than {requests}");
            return lost;
        }
    }
    lost
}

#[test]
fn r22_a_lease_that_is_taken_while_the_plan_is_made_counts() {
    // Between the last look and the delete nobody sees it.
    assert!(losses(false).len() <= 1, "{:?}", losses(false));
}

#[test]
fn r22_a_hold_that_is_placed_while_the_plan_is_made_counts() {
    assert!(losses(true).len() <= 2, "{:?}", losses(true));
}
