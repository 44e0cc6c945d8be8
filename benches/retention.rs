//! What a large repository costs: a verification by a listing and a plan of retention over 200,000 segments, 400 backups that
//! share packs and three timelines, and the deletion of 100,000 objects from an S3 server that answers each request in 20 ms:
//! `cargo bench --bench retention`. The repository is fabricated in memory, the server runs in this process.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark that cannot go on fails; its numbers are small"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::process::{peak_memory, resident_memory};
use support::repo::Objects;
use support::s3::S3Server;
use support::scale::{BACKUPS, SEGMENTS, fill, repository, segment_key};
use walproof::format::ObjectKey;
use walproof::repository::Repository;
use walproof::retention::{Policy, plan_now};
use walproof::store::{Credentials, Location, S3Location, Store};
use walproof::verify::{Wanted, verify};

const ROUNDS: usize = 5;
const WINDOW: Duration = Duration::from_hours(168);
const LATENCY: Duration = Duration::from_millis(20);
const DELETED: u64 = 100_000;
/// Objects that `expire` deletes between two looks at the leases.
const BATCH: usize = 10_000;

fn main() {
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("only `cargo bench` measures");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(large());
    deletion(&runtime);
}

/// A figure beside its target.
fn judge(what: &str, measured: f64, unit: &str, limit: f64) {
    let (measured, target) = (format!("{measured:.2} {unit}"), format!("<= {limit} {unit}"));
    println!("{what:<56} {measured:>14} {target:>12}");
}

fn tell(what: &str, measured: f64, unit: &str) {
    println!("{what:<56} {:>14}", format!("{measured:.2} {unit}"));
}

async fn large() {
    let store = Store::open(&Location::Memory, walproof::store::Policy::default()).unwrap();
    let repository = repository(store).await;
    fill(&repository).await;
    println!("--- {SEGMENTS} segments, {BACKUPS} backups, 3 timelines; the median of {ROUNDS} rounds");
    // The allocator keeps what was freed: all are measured from here.
    let before = memory(resident_memory);
    let list = || async {
        repository.list().await.unwrap();
    };
    let listing = cost(before, list).await;
    let wanted = Wanted { window: WINDOW, content: false, max_rate: 0, max_bytes: 0, again: false };
    let verification = cost(before, || async {
        let verified = verify(&repository, wanted).await.unwrap();
        assert_eq!(verified.findings.problems, []);
    });
    let verification = verification.await;
    let planning = cost(before, || async {
        let plans = plan_now(&repository, Policy { window: WINDOW }).await.unwrap();
        assert!(plans[0].1.deletes() as u64 > DELETED);
    });
    let planning = planning.await;
    tell("the listing alone", listing.seconds, "s");
    tell("the listing alone: memory", listing.mebibytes, "MiB");
    for (what, whole) in [("verify", verification), ("plan", planning)] {
        judge(&format!("{what}, besides the listing"), whole.seconds - listing.seconds, "s", 2.0);
        let memory = whole.mebibytes - listing.mebibytes;
        judge(&format!("{what}, besides the listing: memory"), memory, "MiB", 300.0);
        tell(&format!("{what}, with the listing: memory"), whole.mebibytes, "MiB");
    }
}

/// Median seconds, and the most memory beyond `before`.
struct Cost {
    seconds: f64,
    mebibytes: f64,
}

async fn cost<F: Future<Output = ()>>(before: f64, work: impl Fn() -> F) -> Cost {
    let (mut seconds, mut mebibytes) = (Vec::new(), 0_f64);
    for _ in 0..ROUNDS {
        // The peak of this process begins anew.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let began = Instant::now();
        work().await;
        seconds.push(began.elapsed().as_secs_f64());
        mebibytes = mebibytes.max(memory(peak_memory) - before);
    }
    seconds.sort_by(f64::total_cmp);
    Cost { seconds: seconds[ROUNDS / 2], mebibytes }
}

/// Of this process, in MiB.
fn memory(of: impl Fn(u32) -> u64) -> f64 {
    of(std::process::id()) as f64 / 1024.0 / 1024.0
}

fn deletion(runtime: &tokio::runtime::Runtime) {
    let server = S3Server::start();
    let repository = runtime.block_on(repository(open(&server)));
    let keys: Vec<ObjectKey> = (0..DELETED).map(segment_key).collect();
    put_beneath(&*server.objects(), &repository, &keys);
    server.faults().latency(LATENCY);
    let before = server.faults().requests().len();
    let began = Instant::now();
    for batch in keys.chunks(BATCH) {
        let deleted = runtime.block_on(repository.delete_objects(batch));
        assert!(deleted.iter().all(|(_, result)| result.is_ok()));
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("--- {DELETED} objects, each request takes {} ms more", LATENCY.as_millis());
    judge("all of them deleted", seconds, "s", 60.0);
    tell("requests", (server.faults().requests().len() - before) as f64, "");
    let left = server.objects().list().into_iter().filter(|(key, _)| key.contains("/wal/")).count();
    assert_eq!(left, 0, "objects are left");
}

fn open(server: &S3Server) -> Store {
    let place = server.location();
    let credentials = Credentials {
        access_key_id: place.access_key,
        secret_access_key: place.secret_key.into(),
        session_token: None,
    };
    let location = Location::S3(Box::new(S3Location {
        bucket: place.bucket,
        region: place.region,
        endpoint: place.endpoint,
        allow_http: true,
        credentials: Arc::new(Arc::new(credentials)),
        server_side_encryption: false,
        ca: None,
    }));
    Store::open(&location, walproof::store::Policy::default()).unwrap()
}

/// As files of the server: to put so many through it would take longer than all the rest.
fn put_beneath(objects: &dyn Objects, repository: &Repository, keys: &[ObjectKey]) {
    let (root, _) = objects.list().into_iter().find(|(key, _)| key.ends_with("/identity")).unwrap();
    let root = root.trim_end_matches("/identity");
    assert_eq!(root, repository.name());
    for key in keys {
        objects.write(&format!("{root}/{key}"), b"x");
    }
}
