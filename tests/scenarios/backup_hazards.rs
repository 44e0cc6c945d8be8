//! What happens to the server, its disks and the repository while a backup runs, and must not end in a backup that is
//! called good.

use crate::support::archived::PATIENCE;
use crate::support::postgres::{Cluster, StopMode};
use crate::support::s3::{Fault, S3Server, Verb};
use crate::support::{Archived, Repo, Walproof, wait_until};
use std::fs;
use std::time::Duration;

/// What an empty `backup-list` shows.
const NONE: [serde_json::Value; 0] = [];
const DONE: &str = "waiting until its WAL is in the repository";

/// Until this is undone, a backup that has copied everything waits for its WAL.
fn hold_wal_back(archived: &Archived) {
    archived.cluster.set("archive_command", "false").reload();
}

fn let_wal_go(archived: &Archived) {
    archived.cluster.set("archive_command", &archived.walproof.archive_command()).reload();
}

#[test]
fn a_tablespace_whose_disk_is_not_mounted_makes_no_backup() {
    let mut archived = Archived::start(Repo::local());
    let (mount, aside) = (archived.scratch.dir("disk"), archived.scratch.join("aside"));
    archived.cluster.psql(&format!(
        "create tablespace disk location '{}'; create table t tablespace disk as select 1 as n",
        mount.display()
    ));
    let oid = archived.cluster.psql("select oid from pg_tablespace where spcname = 'disk'");
    let good = archived.backup();
    for is_there in [false, true] {
        archived.cluster.stop(StopMode::Fast);
        fs::rename(&mount, &aside).unwrap();
        if is_there {
            archived.scratch.dir("disk");
        }
        archived.cluster.start();
        let told = archived.walproof.run(["backup-push"]);
        told.fails_with(6).stderr_contains(&format!("tablespace {oid}")).stderr_contains("mounted");
        let checked = archived.walproof.run(["check"]);
        checked.stdout_contains(&format!("tablespace {oid}")).stdout_contains("mounted");
        assert_ne!(checked.code(), 0);
        archived.cluster.stop(StopMode::Fast);
        if is_there {
            fs::remove_dir(&mount).unwrap();
        }
        fs::rename(&aside, &mount).unwrap();
        archived.cluster.start();
    }
    // It goes away between the listing and the end of the copy.
    archived.cluster.psql("checkpoint");
    let backup = archived.slow_backup("8MB");
    fs::rename(&mount, &aside).unwrap();
    backup.wait(PATIENCE).fails_with(6).stderr_contains(&format!("tablespace {oid}"));
    fs::rename(&aside, &mount).unwrap();
    assert_eq!(archived.backups(), [good]);
    // One that is dropped meanwhile is nobody's loss.
    let backup = archived.slow_backup("8MB");
    archived.cluster.psql("drop table t");
    archived.cluster.psql("drop tablespace disk");
    backup.wait(PATIENCE).success();
    assert_eq!(archived.backups().len(), 2);
    archived.walproof.run(["check"]).says_nowhere("mounted");
}

#[test]
fn damage_that_is_found_while_a_backup_runs_makes_no_backup_that_needs_it() {
    let archived = Archived::start(Repo::local());
    archived.backup();
    let repo = archived.repo();
    let mut packs: Vec<(String, u64)> =
        repo.objects().into_iter().filter(|(key, _)| key.contains("/packs/")).collect();
    packs.sort_by_key(|(_, bytes)| *bytes);
    let (pack, bytes) = packs.pop().unwrap();
    let second = archived.slow_backup("8MB");
    hold_wal_back(&archived);
    let mut second = second;
    second.wait_for_stderr(DONE, PATIENCE);
    repo.flip_bit(&pack, usize::try_from(bytes / 2).unwrap());
    archived.walproof.run(["verify", "--content"]).fails_with(1);
    let_wal_go(&archived);
    archived.archive_all();
    let told = second.wait(PATIENCE);
    told.fails_with(5).stderr_contains(pack.rsplit_once("/packs/").unwrap().1).stderr_contains("again");
    assert_eq!(archived.backups().len(), 1);
    let third = archived.backup();
    assert!(third["reused_bytes"].as_u64() > Some(0), "{third}");
    archived.restore_newest("restored");
}

#[test]
fn an_unlogged_relation_that_is_made_during_a_backup_comes_back_empty() {
    let archived = Archived::start(Repo::local());
    let cluster = &archived.cluster;
    cluster.psql(
        "create unlogged table cache as select n from generate_series(1, 1000) n;
         create function slowly(n int) returns int immutable language plpgsql as $$
         begin
             if n = 1000 then perform pg_advisory_xact_lock(4711); end if;
             return n;
         end $$",
    );
    std::thread::scope(|scope| {
        let lock = scope.spawn(|| cluster.psql("begin; select pg_advisory_lock(4711); select pg_sleep(6)"));
        let locked = "select count(*) from pg_locks where locktype = 'advisory' and granted";
        cluster.wait_until(locked, "1", PATIENCE);
        // Its main fork is there from the start, its init fork when it is built.
        let build = scope.spawn(|| cluster.psql("create index late on cache (slowly(n))"));
        let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
        cluster.wait_until(waits, "1", PATIENCE);
        let mut backup = archived.slow_backup("4MB");
        std::thread::sleep(Duration::from_secs(1));
        lock.join().unwrap();
        build.join().unwrap();
        assert!(backup.ended().is_none(), "too fast: nothing happened during the backup");
        backup.wait(PATIENCE).success();
    });
    archived.archive_all();
    archived.walproof.run(["verify", "--content"]).success();
    let restored = archived.restore_newest("restored");
    assert_eq!(restored.psql("select count(*) from cache"), "0");
    restored.psql("insert into cache values (1); set enable_seqscan = off");
    assert_eq!(restored.psql("select n from cache where slowly(n) = 1"), "1");
    // Whoever has this one as its base leaves it out, too.
    let next = archived.backup();
    assert!(next["reused_bytes"].as_u64() > Some(0), "{next}");
}

fn short_lived(walproof: &Walproof) -> Walproof {
    walproof.with_env("WALPROOF_TEST_LEASE_LIFETIME", "4")
}

#[test]
fn r32_a_manifest_whose_put_was_not_answered_is_taken_back() {
    let server = S3Server::start();
    let archived = Archived::start(Repo::s3(&server));
    server.faults().add(Fault::commit_then_503().on(Verb::Put).key("/backups/"));
    archived.walproof.run(["backup-push"]).fails_with(4);
    assert!(server.faults().struck() > 0);
    server.faults().clear();
    assert_eq!(archived.backups(), NONE);
}

#[test]
fn r32_a_manifest_that_came_while_the_lease_was_lost_is_taken_back() {
    let server = S3Server::start();
    let archived = Archived::start(Repo::s3(&server));
    server.faults().add(Fault::commit_then_hang().on(Verb::Put).key("/backups/"));
    let backup = short_lived(&archived.walproof).spawn(["backup-push"]);
    wait_until("the manifest is there", PATIENCE, || !archived.repo().keys("/backups/").is_empty());
    // The lease cannot be renewed any more.
    server.faults().add(Fault::hang().on(Verb::Get).key("/leases/"));
    server.faults().add(Fault::hang().on(Verb::Put).key("/leases/"));
    backup.wait(PATIENCE).fails_with(7).stderr_contains("the lease of this backup was lost");
    server.faults().clear();
    assert_eq!(archived.backups(), NONE);
}

#[test]
fn a_standby_that_follows_a_timeline_switch_makes_no_backup_of_two_timelines() {
    let archived = Archived::start(Repo::local());
    archived.cluster.pgbench(["-i", "-q", "-s", "2"]);
    let mut middle = Cluster::standby_of(&archived.cluster);
    middle.start();
    let mut standby = Cluster::standby_of(&middle);
    standby.start();
    archived.cluster.psql("create table t as select 1 as n");
    wait_until("the standby has followed", PATIENCE, || standby.try_psql("select n from t").is_ok());
    let toml = format!(
        "[cluster]\nprimary_conninfo = \"{}\"\n[backup]\nmax_rate = \"4MB\"\nconcurrency = 1",
        middle.conninfo()
    );
    let builder = Walproof::builder(archived.repo().clone()).cluster(&standby).key_of(&archived.walproof);
    let walproof = builder.toml(&toml).build();
    middle.set("archive_command", &walproof.archive_command());
    middle.set("wal_keep_size", "256MB").reload();
    let mut backup = walproof.spawn(["backup-push"]);
    backup.wait_for_stderr("backup started", PATIENCE);
    middle.promote();
    middle.psql("create table after_the_switch as select generate_series(1, 1000) as n");
    let followed = "select count(*) from pg_class where relname = 'after_the_switch'";
    wait_until("the standby has followed", PATIENCE, || standby.psql(followed) == "1");
    middle.psql("checkpoint; insert into after_the_switch values (0)");
    let last = "select count(*) from after_the_switch where n = 0";
    wait_until("the standby has followed", PATIENCE, || standby.psql(last) == "1");
    standby.psql("checkpoint");
    assert!(backup.ended().is_none(), "too fast: nothing happened during the backup");
    // The old primary goes on, and archives what the new one did not write.
    archived.cluster.psql("create table elsewhere as select generate_series(1, 500000)");
    archived.archive_all();
    backup.wait(PATIENCE).fails_with(6).stderr_contains("timeline");
    assert_eq!(archived.backups(), NONE);
    let again = Walproof::builder(archived.repo().clone()).cluster(&standby).key_of(&archived.walproof);
    let again = again.toml(&format!("[cluster]\nprimary_conninfo = \"{}\"", middle.conninfo())).build();
    assert_eq!(again.json(["backup-push"])["timeline"], 2);
}
