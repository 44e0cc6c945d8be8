//! `kill -9` at any moment, then the same command again: nothing is lost, and nothing has to be cleaned up by hand.

use std::thread::sleep;
use std::time::Duration;

use crate::support::archived::{Archived, PATIENCE};
use crate::support::{Daemon, Random, Repo, Walproof, wait_until};
use crate::support::{s3::S3Server, site::Site};

/// A random part of `longest`, so that kills fall anywhere in the work.
fn pause(random: &mut Random, longest: Duration) {
    sleep(Duration::from_micros(random.below(u64::try_from(longest.as_micros()).unwrap())));
}

#[test]
fn r1_a_killed_wal_push_succeeds_the_next_time() {
    let server = S3Server::start();
    let mut random = Random::from_seed("kill wal-push");
    for repo in [Repo::local(), Repo::s3(&server)] {
        let site = Site::new(repo);
        for number in 1..=15 {
            let name = site.data.add_wal(&site.data.wal(number).random(number));
            let running = site.walproof.spawn(["wal-push", &format!("pg_wal/{name}")]);
            pause(&mut random, Duration::from_millis(25));
            running.kill9();
            site.walproof.push(&name).success();
            site.comes_back(&name);
        }
        // A killed put may leave its staging file (`name#1`), which no listing of the store shows.
        let keys: Vec<String> =
            site.repo().keys("/wal/").into_iter().filter(|key| !key.contains('#')).collect();
        assert_eq!(keys.len(), 15, "killed pushes leave nothing that counts: {keys:?}");
    }
}

#[test]
fn r15_a_killed_backup_does_not_exist_and_the_next_one_is_whole() {
    let archived = Archived::start(Repo::local());
    let mut random = Random::from_seed("kill backup-push");
    archived.cluster.pgbench(["-i", "-q", "-s", "2"]);
    for _ in 0..6 {
        let before = archived.backups().len();
        let running = archived.walproof.spawn(["backup-push"]);
        pause(&mut random, Duration::from_millis(400));
        running.kill9();
        let after = archived.backups().len();
        assert!(after == before || after == before + 1);
    }
    archived.backup();
    let restored = archived.target("restored");
    archived.try_restore(&restored, ["--target-immediate"]).success();
}

#[test]
fn r18_a_restore_killed_anywhere_completes_the_next_time() {
    let archived = Archived::start(Repo::local());
    let mut random = Random::from_seed("kill restore");
    archived.cluster.pgbench(["-i", "-q", "-s", "2"]);
    archived.backup();
    for round in 0..8 {
        let to = archived.target(&format!("restored{round}"));
        let running = archived.walproof.spawn(["restore", "--to", to.to_str().unwrap()]);
        pause(&mut random, Duration::from_millis(150));
        running.kill9();
        if to.join("global/pg_control").exists() {
            // Killed after its commit point: the restore is complete, and will not be overwritten.
            archived.try_restore(&to, [""; 0]).fails_with(8);
        } else {
            archived.try_restore(&to, [""; 0]).success();
        }
        assert!(to.join("global/pg_control").exists());
    }
}

#[test]
fn what_lies_before_a_damaged_newest_segment_is_still_restored() {
    let mut archived = Archived::start(Repo::local());
    archived.cluster.psql("create table t as select 1 as n");
    archived.backup();
    archived.cluster.psql("insert into t values (2)");
    let moment = archived.cluster.psql("select now()");
    archived.cluster.psql("insert into t values (3)");
    archived.archive_all();
    archived.cluster.psql("insert into t values (4)");
    archived.archive_all();
    let newest = archived.repo().keys("/wal/").into_iter().rfind(|key| !key.contains(".backup-")).unwrap();
    archived.repo().truncate(&newest, 100);

    archived.try_restore(&archived.target("newest"), [""; 0]).fails_with(5).stderr_contains("--target-time");
    let to = archived.target("before");
    archived.try_restore(&to, ["--target-time", &moment, "--target-action", "promote"]).success();
    archived.cluster.kill9();
    let mut restored = crate::support::postgres::Cluster::attach(&to);
    restored.override_setting("archive_mode", "off");
    restored.start();
    restored.wait_until("select not pg_is_in_recovery()", "t", PATIENCE);
    assert_eq!(restored.psql("select string_agg(n::text, ',' order by n) from t"), "1,2");
}

/// Out of memory, or the host died: the next look at the repository tells, whoever looks.
#[test]
fn a_backup_that_was_killed_or_failed_is_a_problem_until_one_succeeds() {
    let archived = Archived::start(Repo::local());
    archived.backup();
    let brief = archived.walproof.with_env("WALPROOF_TEST_LEASE_LIFETIME", "2");
    let failure = || {
        let status = brief.run(["status", "--json"]).json();
        let problems = status["problems"].as_array().unwrap().clone();
        let failed = problems.into_iter().find(|problem| problem["code"] == "backup_failed");
        failed.map(|problem| problem["text"].as_str().unwrap().to_owned())
    };
    archived.cluster.psql("create table t as select generate_series(1, 100000) n");
    let slow = archived.configured("[backup]\nmax_rate = \"1MB\"\nconcurrency = 1");
    let mut backup = slow.with_env("WALPROOF_TEST_LEASE_LIFETIME", "2").spawn(["backup-push", "--full"]);
    backup.wait_for_stderr("backup started", PATIENCE);
    sleep(Duration::from_secs(6));
    assert_eq!(failure(), None, "it is under way");
    backup.kill9();
    wait_until("its lease is old", PATIENCE, || failure().is_some());
    assert!(failure().unwrap().contains("it never ended"), "{:?}", failure());
    archived.backup();
    assert_eq!(failure(), None);

    let conninfo = archived.cluster.conninfo().replace("user=postgres", "user=nobody_there");
    let builder = Walproof::builder(archived.repo().clone()).data_dir(archived.cluster.data_dir());
    let unknown = builder.conninfo(&conninfo).key_of(&archived.walproof).build();
    unknown.run(["backup-push"]).fails_with(6);
    assert!(failure().unwrap().contains("nobody_there"), "{:?}", failure());
    // A daemon that was not there knows as well.
    let daemon = Daemon::start_whole(&archived.walproof);
    daemon.wait("it knows", |status| status["problems"].to_string().contains("backup_failed"));
    archived.backup();
    assert_eq!(failure(), None);
}
