//! What the program needs of an S3 server, and its core flows on one: on the server in the test process, or on any that
//! `WALPROOF_TEST_S3_URL` names. `scripts/test --stores` runs them on several.

use crate::support::archived::wait_open;
use crate::support::drill::Staging;
use crate::support::postgres::Cluster;
use crate::support::s3::S3Target;
use crate::support::site::Site;
use crate::support::{Archived, Daemon, Repo, Scratch, Walproof};
use bytes::Bytes;
use std::time::Duration;
use walproof::config::Config;
use walproof::error::Kind;
use walproof::store::{Policy, Store};

const TAIL: &str = "[archive]\ntail_interval = \"1s\"\nheartbeat_interval = \"0s\"";

/// The store as the program's configuration opens it, and the key that everything of this test begins with.
fn open(site: &Site) -> (Store, String) {
    let config = Config::load(site.walproof.config()).unwrap();
    let store = config.namespace(Policy::within(Duration::from_secs(30))).unwrap().store().clone();
    let prefix = site.repo().location().unwrap().prefix.clone();
    (store, format!("{prefix}/verbs"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verbs_keep_their_promises() {
    // Waiting for an answer in an async test needs a thread of its own.
    let target = S3Target::from_env();
    let repo = Repo::s3(&target);
    let site = tokio::task::spawn_blocking(|| Site::new(repo)).await.unwrap();
    let (store, at) = open(&site);
    let key = |name: &str| format!("{at}/{name}");
    let absent = store.get(&key("absent")).await.unwrap_err();
    assert_eq!(absent.kind(), Kind::NotFound, "{absent}");
    assert!(store.list(&at).await.unwrap().is_empty());

    // A put is whole when it returns, overwrites, and may be repeated.
    let large = crate::support::Random::from_seed("stores").bytes(3 << 20);
    let (head, tail) = large.split_at(1 << 20);
    let parts = || vec![Bytes::copy_from_slice(head), Bytes::copy_from_slice(tail)];
    for name in ["a/large", "b", "a b=c%2F*'", "empty"] {
        store.put(&key(name), vec![Bytes::from_static(b"old")]).await.unwrap();
    }
    for _ in 0..2 {
        store.put(&key("a/large"), parts()).await.unwrap();
        assert_eq!(store.get(&key("a/large")).await.unwrap(), large);
    }
    store.put(&key("empty"), Vec::new()).await.unwrap();
    assert!(store.get(&key("empty")).await.unwrap().is_empty());
    assert_eq!(store.get(&key("a b=c%2F*'")).await.unwrap(), "old");

    // A range is exact, or an error.
    let range = store.get_range(&key("a/large"), 1_000_000..1_100_000).await.unwrap();
    assert_eq!(range, large[1_000_000..1_100_000]);
    let end = large.len() as u64;
    assert_eq!(store.get_range(&key("a/large"), end - 1..end).await.unwrap(), large[large.len() - 1..]);
    assert!(store.get_range(&key("a/large"), end - 1..end + 1).await.is_err());

    // A listing shows what was put before, at once and in order.
    let listed = store.list(&at).await.unwrap();
    let names: Vec<&str> = listed.iter().map(|object| &object.key[at.len() + 1..]).collect();
    assert_eq!(names, ["a b=c%2F*'", "a/large", "b", "empty"]);
    assert_eq!(listed[1].size, end);
    assert_eq!(store.list_directories(&at).await.unwrap(), ["a"]);

    // What was deleted is gone at once, and may be deleted again.
    for _ in 0..2 {
        store.delete(&key("b")).await.unwrap();
        assert_eq!(store.get(&key("b")).await.unwrap_err().kind(), Kind::NotFound);
        assert_eq!(store.list(&at).await.unwrap().len(), 3);
    }
    drop(tokio::task::spawn_blocking(move || drop(site)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_listings_and_many_deletes() {
    let target = S3Target::from_env();
    let repo = Repo::s3(&target);
    let site = tokio::task::spawn_blocking(|| Site::new(repo)).await.unwrap();
    let (store, at) = open(&site);
    let keys: Vec<String> = (0..2300).map(|number| format!("{at}/{number:06}")).collect();
    for some in keys.chunks(32) {
        let puts = some.iter().map(|key| store.put(key, vec![Bytes::from_static(b"x")]));
        futures_util::future::try_join_all(puts).await.unwrap();
    }
    let listed = store.list(&at).await.unwrap();
    assert!(listed.iter().map(|object| &object.key).eq(&keys));
    assert_eq!(store.list_after(&at, &keys[1999]).await.unwrap().len(), 300);
    assert_eq!(store.list_beginning(&at, "0001").await.unwrap().len(), 100);

    let mut doomed = keys.clone();
    doomed.push(format!("{at}/absent"));
    let results = store.delete_many(doomed).await;
    assert!(results.iter().all(|(_, result)| result.is_ok()), "{results:?}");
    assert!(store.list(&at).await.unwrap().is_empty());
    drop(tokio::task::spawn_blocking(move || drop(site)).await);
}

#[test]
fn init_and_check_hold() {
    let target = S3Target::from_env();
    let archived = Archived::start(Repo::s3(&target));
    archived.archive_all();
    archived.walproof.run(["init"]).success();
    archived.walproof.run(["check"]).success().stdout_contains("store");

    // A bucket that is not there is said, by servers that do not make one.
    let mut elsewhere = target.location();
    elsewhere.bucket = "walproof-test-is-not-there".into();
    let site = Site::uninitialised(Repo::s3(&S3Target::External(elsewhere)), |builder| builder);
    let output = site.walproof.run(["wal-list"]);
    assert!([4, 8].contains(&output.code()), "{output}");
}

#[test]
fn segments_come_back_and_conflicts_are_told() {
    let target = S3Target::from_env();
    let site = Site::new(Repo::s3(&target));
    let names = site.archive_all([1, 2, 3]);
    for name in &names {
        site.comes_back(name);
    }
    site.walproof.push(&names[0]).success();
    site.data.add_wal(&site.data.wal(2).random(99));
    site.walproof.push(&names[1]).complains_with(3);
    for absent in ["000000010000000000000009", "00000002.history"] {
        assert_eq!(site.fetch(absent).code(), 1, "{absent}");
    }
    let listed = site.walproof.json(["wal-list"]);
    assert_eq!(listed["timelines"][0]["runs"][0]["segments"], 3, "{listed:#}");
}

#[test]
fn a_whole_life() {
    let target = S3Target::from_env();
    let mut cluster = Cluster::builder().segment_size_mb(1).create();
    let walproof = Walproof::builder(Repo::s3(&target)).cluster(&cluster).toml(TAIL).build();
    walproof.run(["init"]).success();
    cluster.configure_archiving(&walproof).start();
    let mut archived = Archived { cluster, walproof, scratch: Scratch::new() };
    archived.cluster.psql("create table t as select n, md5(n::text) from generate_series(1, 20000) n");
    let daemon = Daemon::start_whole(&archived.walproof);
    let first = archived.backup();
    archived.cluster.psql("insert into t select n, md5(n::text) from generate_series(20001, 30000) n");
    archived.archive_all();
    let second = archived.backup();
    assert!(second["new_bytes"].as_u64() < first["new_bytes"].as_u64(), "{first:#} {second:#}");
    archived.cluster.psql("insert into t values (0, 'in the tail')");
    daemon.wait_all_stored();
    daemon.kill9();
    archived.cluster.destroy_data_dir();

    let restored = archived.restore_newest("newest");
    wait_open(&restored);
    assert_eq!(restored.psql("select count(*), min(n), max(n) from t"), "30001|0|30000");
    let report = Staging::of(&archived).drill(0, ["--target-timeline", "1"]);
    assert_eq!(report["verdict"], "pass", "{report:#}");
    archived.walproof.run(["verify", "--content"]).success();

    // Both backups left a window of a second: the newest stays.
    std::thread::sleep(Duration::from_secs(2));
    let before = archived.repo().objects().len();
    archived.configured("[retention]\nwindow = \"1s\"").run(["expire"]).success();
    assert!(archived.repo().objects().len() < before);
    let kept = archived.backups();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(kept[0]["id"], second["id"]);
    assert_eq!(archived.restore_newest("kept").psql("select count(*) from t"), "30001");
    archived.walproof.run(["verify", "--content"]).success();
}
