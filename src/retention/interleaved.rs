//! An expiry and a backup that reuses packs, interleaved at every request that they make of the store: no manifest ever
//! names a missing pack.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;

use super::Policy;
use super::expire;
use crate::format::{BackupId, Manifest, ObjectKey, PackList, PackName, PackUse, PacksRecord};
use crate::format::{Protection, Purpose};
use crate::postgres::{Lsn, PgTime, SegmentName, TimelineId};
use crate::repository::{
    Lease, Namespace, Repository, fixture::SIZE, fixture::SYSTEM, fixture::archive, fixture::memory,
    fixture::size,
};
use crate::store::{Observe, Outcome};
use crate::world::manifest as sample_manifest;

/// Lets one side go on for so many requests.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    seen: usize,
    allowed: usize,
    ended: bool,
}

impl Observe for Gate {
    fn request(&self, _: &'static str, _: Outcome, _: Duration) {
        let mut state = self.state.lock().unwrap();
        state.seen += 1;
        self.changed.notify_all();
        while state.seen >= state.allowed {
            state = self.changed.wait(state).unwrap();
        }
    }
}

impl Gate {
    /// Go on until `requests` were answered, or the end; whether it ended.
    pub(super) fn run_to(&self, requests: usize) -> bool {
        let mut state = self.state.lock().unwrap();
        state.allowed = requests;
        self.changed.notify_all();
        while !state.ended && state.seen < requests {
            state = self.changed.wait(state).unwrap();
        }
        state.ended
    }

    fn end(&self) {
        self.state.lock().unwrap().ended = true;
        self.changed.notify_all();
    }
}

/// `work` in a thread and a runtime of its own, stopped before its first request is answered. Its clock jumps over pauses.
pub(super) fn begin<F>(
    namespace: &Namespace,
    work: impl FnOnce(Repository) -> F + Send + 'static,
) -> (Arc<Gate>, JoinHandle<()>)
where
    F: Future<Output = ()>,
{
    let gate = Arc::new(Gate::default());
    let namespace = namespace.observed(Arc::clone(&gate) as Arc<dyn Observe>);
    let ours = Arc::clone(&gate);
    let thread = std::thread::spawn(move || {
        let builder = &mut tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async { work(namespace.open(SYSTEM).await.unwrap()).await });
        ours.end();
    });
    (gate, thread)
}

const DAY: i64 = 86_400;

pub(super) fn id(days_ago: i64) -> BackupId {
    let began = Timestamp::from_second(Timestamp::now().as_second() - days_ago * DAY).unwrap();
    format!("{}-0000000{}", began.strftime("%Y%m%dT%H%M%SZ"), days_ago % 10).parse().unwrap()
}

async fn put(repository: &Repository, key: &ObjectKey) {
    let key = format!("main/{SYSTEM}/{key}");
    repository.store().put(&key, vec!["pack".into()]).await.unwrap();
}

/// What a backup puts before its manifest; it uses `reused`, too.
pub(super) async fn put_data(
    repository: &Repository,
    id: &BackupId,
    days_ago: i64,
    segment: u64,
    reused: &[PackName],
) -> Manifest {
    let own = PackName { backup: id.clone(), number: 0 };
    put(repository, &ObjectKey::Pack(own.clone())).await;
    let mut names: Vec<PackName> = reused.iter().cloned().chain([own]).collect();
    names.sort();
    let uses = names.iter().map(|name| PackUse { name: name.clone(), bytes: 4, live_bytes: 4 });
    repository.put_pack_list(id, &PackList(uses.collect())).await.unwrap();
    let start = segment * u64::from(SIZE);
    let mut manifest = sample_manifest(Lsn::new(start + 40), Lsn::new(start + 400), 1);
    manifest.id = id.clone();
    let micros = (Timestamp::now().as_second() - days_ago * DAY) * 1_000_000;
    manifest.finished_at = PgTime::from_unix_micros(micros);
    let record = |name: &PackName| PacksRecord {
        backup: name.backup.clone(),
        key_ids: Vec::new(),
        packs: 1,
        bytes: 4,
        live_bytes: 4,
    };
    manifest.packs = names.iter().map(record).collect();
    manifest
}

/// Four backups: the first two expire, and the last one uses a pack of the second.
pub(super) async fn world() -> (Namespace, Repository) {
    let (namespace, repository) = memory().await;
    for segment in 3..9 {
        archive(&repository, &SegmentName::from_number(TimelineId::FIRST, segment, size()), 2).await;
    }
    // Once: an id made again in the next second would name a backup that was never there.
    let [first, second, third, fourth] = [30, 20, 10, 1].map(|days_ago| (id(days_ago), days_ago));
    let reused = PackName { backup: second.0.clone(), number: 0 };
    for ((id, days_ago), segment, reused) in
        [(first, 3, vec![]), (second, 4, vec![]), (third, 5, vec![]), (fourth, 6, vec![reused])]
    {
        let manifest = put_data(&repository, &id, days_ago, segment, &reused).await;
        repository.put_manifest(&manifest).await.unwrap();
    }
    (namespace, repository)
}

/// A backup that reuses the packs of the oldest one, the worst choice that there is: it finds its base, protects it and
/// confirms it as every backup does. `protects`: whether its lease says so.
async fn reusing_backup(repository: Repository, protects: bool) {
    let oldest = id(30);
    let found = repository.find_base(|manifest| manifest.id == oldest).await.unwrap();
    let own = id(0);
    let backups = found.backups().filter(|_| protects).chain([&own]).cloned().collect();
    let lease = Lease::take(&repository, Purpose::Backup, Protection { backups, wal: Vec::new() });
    let lease = lease.await.unwrap();
    // What was found before the lease may be gone; from here on it stays.
    let base = repository.confirm_base(&found).await.unwrap();
    let packs = [30, 20].map(|days_ago| PackName { backup: id(days_ago), number: 0 });
    let reused: Vec<PackName> = packs.into_iter().filter(|name| base.pack_bytes(name).is_some()).collect();
    let manifest = put_data(&repository, &own, 0, 7, &reused).await;
    // What was deleted before is noticed.
    if let Err(error) = lease.commit(&manifest).await {
        assert!(!protects && error.to_string().contains("was deleted meanwhile"), "{error}");
    }
    lease.release().await.unwrap();
}

pub(super) async fn expiry(repository: Repository) {
    let policy = Policy { window: Duration::from_hours(7 * 24) };
    // While another expiry runs there is none to be had; here there is one.
    expire(&repository, policy).await.unwrap();
}

/// The packs that manifests name and that are not there.
async fn missing(repository: &Repository) -> Vec<PackName> {
    let there: Vec<ObjectKey> =
        repository.list().await.unwrap().objects.into_iter().map(|listed| listed.key).collect();
    let mut missing = Vec::new();
    for id in repository.list_backup_ids().await.unwrap() {
        let list = repository.get_pack_list(&id).await.unwrap();
        let gone = list.0.into_iter().filter(|pack| !there.contains(&ObjectKey::Pack(pack.name.clone())));
        missing.extend(gone.map(|pack| pack.name));
    }
    missing
}

/// The backup makes `backup` requests, then the expiry `expiry` ones, then the backup ends if it does not wait for the
/// expiry, then all ends. Whether both made so many, and what is missing.
fn interleaved(backup: usize, expiry_requests: usize, protects: bool) -> ((bool, bool), Vec<PackName>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (namespace, repository) = world().await;
        let (of_backup, one) = begin(&namespace, move |repository| reusing_backup(repository, protects));
        let backup_ended = of_backup.run_to(backup);
        let (of_expiry, other) = begin(&namespace, expiry);
        let expiry_ended = of_expiry.run_to(expiry_requests);
        // One that waits asks again and again: more than it needs to end.
        of_backup.run_to(backup + 60);
        of_expiry.run_to(usize::MAX);
        of_backup.run_to(usize::MAX);
        one.join().unwrap();
        other.join().unwrap();
        ((backup_ended, expiry_ended), missing(&repository).await)
    })
}

/// Every interleaving; the packs that are missing after some.
fn all(protects: bool) -> Vec<(usize, usize, Vec<PackName>)> {
    let mut found = Vec::new();
    for backup in 1.. {
        let mut backup_ended = false;
        for expiry in 1.. {
            let (ended, missing) = interleaved(backup, expiry, protects);
            if !missing.is_empty() {
                found.push((backup, expiry, missing));
            }
            backup_ended = ended.0;
            if ended.1 {
                assert!(expiry > 15, "an expiry makes more requests than {expiry}");
                break;
            }
        }
        if backup_ended {
            assert!(backup > 8, "a backup makes more requests than {backup}");
            return found;
        }
    }
    found
}

#[test]
fn no_manifest_names_a_pack_that_an_expiry_deleted_meanwhile() {
    assert_eq!(all(true), []);
}

#[tokio::test]
async fn r32_a_backup_names_no_pack_that_a_late_delete_took() {
    let (_, repository) = world().await;
    let own = id(0);
    let lease = Lease::take(&repository, Purpose::Backup, Protection::default()).await.unwrap();
    let backups = repository.list_backup_ids().await.unwrap();
    let reused = PackName { backup: backups[3].clone(), number: 0 };
    let manifest = put_data(&repository, &own, 0, 7, std::slice::from_ref(&reused)).await;
    for (key, result) in repository.delete_objects(&[ObjectKey::Pack(reused)]).await {
        result.unwrap_or_else(|error| panic!("{key}: {error}"));
    }
    let error = lease.commit(&manifest).await.unwrap_err();
    assert!(error.to_string().contains("was deleted meanwhile"), "{error}");
    assert_eq!(repository.list_backup_ids().await.unwrap(), backups);
}

#[test]
fn without_its_lease_a_backup_would_lose_what_it_reuses() {
    assert!(!all(false).is_empty(), "the interleavings above find nothing");
}
