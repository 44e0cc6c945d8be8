//! The whole life of a cluster in every shape that initdb and the server's settings give it, on whatever PostgreSQL the
//! tests run with: `scripts/test --versions` runs them with every one that walproof supports.

use crate::support::archived::{PATIENCE, wait_open};
use crate::support::drill::{Staging, assert_check};
use crate::support::dump::amcheck;
use crate::support::postgres::{Binaries, Cluster, ClusterBuilder, StopMode};
use crate::support::{Archived, Daemon, Repo, Walproof};
use std::path::Path;

const TAIL: &str = "[archive]\ntail_interval = \"1s\"\nheartbeat_interval = \"0s\"";

/// The rows of both tables, in their tablespaces.
const CONTENT: &str = "select count(*) || ' ' || md5(string_agg(n || word, ',' order by n)) from inside;
     select count(*) || ' ' || md5(string_agg(n || word, ',' order by n)) from outside";

#[track_caller]
fn insert(cluster: &Cluster, from: u32) {
    let rows = format!("select n, md5(n::text) from generate_series({from}, {}) n", from + 999);
    cluster.psql(&format!("insert into inside {rows}; insert into outside {rows}"));
}

/// A cluster with tables in a tablespace of its own and in one inside the data directory; its daemon ships the tail.
#[track_caller]
fn furnished(builder: ClusterBuilder) -> Archived {
    let builder = builder.setting("allow_in_place_tablespaces", "on");
    let archived = Archived::start_with(builder, Repo::local(), TAIL);
    let place = archived.scratch.dir("outside");
    archived.cluster.psql(&format!(
        "create tablespace outside location '{}';
         create tablespace inside location '';
         create table inside (n int, word text) tablespace inside;
         create table outside (n int primary key, word text) tablespace outside",
        place.display()
    ));
    insert(&archived.cluster, 0);
    archived
}

/// Restore the newest state with the outer tablespace elsewhere, open it, and see that it is sound.
#[track_caller]
fn restored(archived: &Archived, name: &str) -> Cluster {
    let (from, to) = (archived.scratch.join("outside"), archived.target(&format!("{name} outside")));
    let mut restored = archived.restore(name, [format!("--tablespace={}={}", from.display(), to.display())]);
    restored.start();
    wait_open(&restored);
    amcheck(&restored);
    restored
}

/// Every page of a stopped cluster has the checksum that belongs to it. Of 14 the tests may have no such program; there the
/// server has checked every page for amcheck.
#[track_caller]
fn assert_checksums(cluster: &mut Cluster) {
    if cluster.binaries().major() == 14 {
        return;
    }
    cluster.stop(StopMode::Fast);
    cluster.binaries().run("pg_checksums", ["--check", "-D", cluster.data_dir().to_str().unwrap()]).success();
    cluster.start();
}

/// A backup, more rows, a lost host, its newest state with the tail, a drill, an expiry.
#[track_caller]
fn a_life(builder: ClusterBuilder, checksums: bool) {
    let mut archived = furnished(builder);
    archived.walproof.run(["check"]).success();
    let daemon = Daemon::start_whole(&archived.walproof);
    let backup = archived.backup();
    assert_eq!(backup["page_errors"], 0, "{backup:#}");
    let shown = archived.walproof.json(["backup-show", backup["id"].as_str().unwrap()]);
    assert_eq!(shown["page_checksums"], checksums, "{shown:#}");
    // Not server_version, which says "19rc1" or what a packager adds.
    let number: u32 = archived.cluster.psql("show server_version_num").parse().unwrap();
    assert_eq!(backup["pg_version"], format!("{}.{}", number / 10_000, number % 10_000));
    insert(&archived.cluster, 1000);
    archived.archive_all();
    insert(&archived.cluster, 2000);
    let expected = archived.cluster.psql(CONTENT);
    daemon.wait_all_stored();
    daemon.kill9();
    archived.cluster.destroy_data_dir();

    let mut newest = restored(&archived, "newest");
    assert_eq!(newest.psql(CONTENT), expected);
    if checksums {
        assert_checksums(&mut newest);
    }
    let listed = archived.walproof.json(["wal-list"]);
    assert_eq!(listed["gaps"].as_array().unwrap().len(), 0, "{listed:#}");

    let question = "[[drill.query]]\nname = \"rows\"\ndatabase = \"postgres\"\nsql = \"select count(*) = 3000 from outside\"";
    let staging = Staging::with(&archived, &format!("{question}\n{TAIL}"));
    let report = staging.drill(0, ["--target-timeline", "1"]);
    assert_eq!(report["verdict"], "pass", "{report:#}");
    assert_check(&report, "query: rows", "pass");
    assert_check(&report, "visibility maps", "pass");
    let (verdict, told) = match newest.binaries().major() {
        13 => ("skipped", "has no pg_amcheck"),
        _ => ("pass", "all tables and indexes"),
    };
    assert!(assert_check(&report, "tables and indexes", verdict).contains(told), "{report:#}");

    archived.walproof.run(["verify", "--content"]).success();
    archived.walproof.run(["expire"]).success();
    assert_eq!(archived.backups().len(), 1);
}

#[test]
fn segments_of_1_mb() {
    a_life(Cluster::builder().segment_size_mb(1), true);
}

#[test]
fn segments_of_16_mb() {
    a_life(Cluster::builder().segment_size_mb(16), true);
}

#[test]
fn segments_of_64_mb() {
    a_life(Cluster::builder().segment_size_mb(64), true);
}

#[test]
fn without_page_checksums() {
    a_life(Cluster::builder().checksums(false), false);
}

#[test]
fn compressed_full_page_images() {
    a_life(Cluster::builder().segment_size_mb(1).setting("wal_compression", "on"), true);
}

/// Lives with each value of a setting, where there is one.
#[track_caller]
fn lives_with(since: u32, name: &str, values: &[&str]) {
    if Binaries::find().major() < since {
        let missing = Cluster::start_new().try_psql(&format!("show {name}")).unwrap_err();
        assert!(missing.contains("unrecognized configuration parameter"), "{missing}");
        return;
    }
    for value in values {
        println!("{name} = {value}");
        a_life(Cluster::builder().segment_size_mb(1).setting(name, value), true);
    }
}

/// A server reads by itself, by workers, or through io_uring.
#[test]
fn every_io_method() {
    lives_with(18, "io_method", &["sync", "worker", "io_uring"]);
}

/// Summaries are made beside WAL, and no backup holds them.
#[test]
fn wal_summaries() {
    lives_with(17, "summarize_wal", &["on"]);
}

/// A standby takes the backup, is promoted, and what both wrote comes back.
#[test]
fn a_failover() {
    let mut old = Archived::start(Repo::local());
    old.cluster.psql("create table t as select generate_series(1, 1000) as n");
    let mut standby = Cluster::standby_of(&old.cluster);
    let builder = Walproof::builder(old.repo().clone()).cluster(&standby).key_of(&old.walproof);
    let walproof = builder.toml(TAIL).build();
    standby.set("archive_command", &walproof.archive_command());
    standby.start();
    // A standby's backup ends where its primary's WAL is archived.
    let mut backup = walproof.spawn(["backup-push"]);
    let done = crate::support::holds_within(PATIENCE, || {
        old.cluster.switch_wal();
        backup.ended().is_some()
    });
    assert!(done, "{}", backup.stderr());
    backup.wait(PATIENCE).success();
    assert_eq!(old.backups().len(), 1);

    old.cluster.psql("insert into t values (1001)");
    old.archive_all();
    let reached = old.cluster.psql("select pg_current_wal_flush_lsn()");
    standby.wait_until(&format!("select pg_last_wal_replay_lsn() >= '{reached}'"), "t", PATIENCE);
    old.cluster.kill9();
    standby.promote();
    standby.psql("insert into t values (1002)");
    let daemon = Daemon::start_whole(&walproof);
    daemon.wait_all_stored();
    daemon.kill9();
    standby.kill9();
    let newest = old.restore_newest("newest");
    assert_eq!(newest.psql("select count(*), max(n) from t"), "1002|1002");
    let by_then = old.restore("before", ["--target-timeline", "1"]);
    assert!(Path::new(&by_then.data_dir().join("recovery.signal")).exists());
}
