//! Retention on a real cluster: what is kept, what goes, and that what is kept can be restored.

use crate::support::archived::{attach_silent, wait_open, wait_paused};
use crate::support::s3::{Fault, Request, S3Server, Verb};
use crate::support::{Archived, Repo, Scratch};
use std::time::Duration;

/// A window that backups fall out of while a test runs.
const SHORT: &str = "[retention]\nwindow = \"4s\"";

fn id(backup: &serde_json::Value) -> String {
    backup["id"].as_str().unwrap().to_owned()
}

fn ids(archived: &Archived) -> Vec<String> {
    archived.backups().iter().map(id).collect()
}

/// A table, and rows with the instants behind them, each a second after the one before.
#[track_caller]
fn insert(archived: &Archived, n: u32) -> String {
    archived.cluster.psql(&format!("insert into t values ({n})"));
    std::thread::sleep(Duration::from_millis(300));
    let at = archived
        .cluster
        .psql("select to_char(now() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
    std::thread::sleep(Duration::from_millis(300));
    at
}

#[test]
fn r21_the_window_stays_restorable_and_nothing_older_is_kept_without_a_reason() {
    let server = S3Server::start();
    let archived = Archived::start(Repo::s3(&server));
    archived.cluster.psql("create table t (n int)");
    let first = id(&archived.backup());
    let gone = insert(&archived, 1);
    let held = id(&archived.backup());
    archived
        .walproof
        .run(["backup-hold", &held, "--reason", "the audit"])
        .success()
        .stdout_contains("is held");
    insert(&archived, 2);
    let third = id(&archived.backup());
    insert(&archived, 3);
    std::thread::sleep(Duration::from_secs(5));
    let last = insert(&archived, 4);
    insert(&archived, 5);
    archived.archive_all();
    let short = archived.configured(SHORT);

    // The plan says why, and deletes nothing.
    let before = archived.repo().objects();
    let plan = short.run(["expire", "--dry-run"]);
    plan.success()
        .stdout_contains("held: the audit")
        .stdout_contains("is restored from it")
        .stdout_contains("would delete");
    assert_eq!(archived.repo().objects(), before);
    let plan = short.json(["expire", "--dry-run"]);
    let deleted =
        |object: &str| plan["delete"].as_array().unwrap().iter().any(|line| line["object"] == object);
    assert!(deleted(&format!("backup {first}")) && !deleted(&format!("backup {third}")), "{plan}");

    short.run(["expire"]).success().stdout_contains("deleted ");
    assert_eq!(ids(&archived), [held.clone(), third.clone()]);
    let listed = archived.backups();
    assert_eq!((&listed[0]["held"], &listed[1]["held"]), (&true.into(), &false.into()));
    short.run(["expire"]).success().stdout_contains("deleted 0 objects");

    // An instant of the window, and the held backup for itself.
    for (name, args, rows) in [
        ("inside", vec!["--target-time", &last], "1 2 3 4"),
        ("held", vec!["--backup", &held, "--target-immediate"], "1"),
    ] {
        let to = archived.target(name);
        short.run([&["restore", "--to", to.to_str().unwrap()], &args[..]].concat()).success();
        let mut restored = attach_silent(&to);
        restored.start();
        wait_paused(&restored);
        assert_eq!(restored.psql("select string_agg(n::text, ' ' order by n) from t"), rows, "{name}");
    }
    // What is older is gone, and the message says what there is.
    let to = archived.target("gone");
    let refused = short.run(["restore", "--to", to.to_str().unwrap(), "--target-time", &gone]);
    refused
        .fails_with(8)
        .stderr_contains("outside the recovery window")
        .stderr_contains("reachable on timeline 1: ");

    // A second thought about one half of a hold changes nothing of the other.
    let again = |args: &[&str]| short.json([&["backup-hold", &held], args].concat());
    let until = again(&["--until-now"]);
    assert_eq!((&until["reason"], until["until_lsn"].is_string()), (&"the audit".into(), true), "{until}");
    let renamed = again(&["--reason", "the second audit"]);
    assert_eq!(
        (&renamed["until_lsn"], &renamed["reason"]),
        (&until["until_lsn"], &"the second audit".into())
    );

    short.run(["backup-unhold", &held]).success().stdout_contains("no longer held");
    archived.forget_restores();
    short.run(["backup-unhold", &held]).success().stdout_contains("was not held");
    short
        .run(["backup-unhold", "20200101T000000Z-00000000"])
        .fails_with(8)
        .stderr_contains("there is no backup");
    short.run(["expire"]).success();
    assert_eq!(ids(&archived), [third]);
}

/// The restore is over when the files are there; the server that is started later needs the WAL.
#[test]
fn r22_what_was_restored_can_still_recover_when_its_backup_has_expired() {
    let archived = Archived::start(Repo::local());
    archived.cluster.psql("create table t (n int)");
    let first = id(&archived.backup());
    insert(&archived, 1);
    archived.archive_all();
    let second = id(&archived.backup());
    insert(&archived, 2);
    archived.archive_all();
    let short = archived.configured(SHORT);
    let mut restored = archived.restore("early", ["--backup", &first]);
    std::thread::sleep(Duration::from_secs(5));
    short.run(["expire"]).success().stdout_contains("a restore on ");
    assert_eq!(ids(&archived), [first, second]);
    restored.start();
    wait_open(&restored);
    assert_eq!(restored.psql("select string_agg(n::text, ' ' order by n) from t"), "1 2");
}

#[test]
fn r22_a_backup_enforces_retention_and_a_store_that_refuses_deletes_stops_nothing() {
    let server = S3Server::start();
    let archived = Archived::start(Repo::s3(&server));
    archived.cluster.psql("create table t (n int)");
    let first = id(&archived.backup());
    insert(&archived, 1);
    let second = id(&archived.backup());
    std::thread::sleep(Duration::from_secs(5));
    archived.archive_all();
    let short = archived.configured(SHORT);
    // With no newer good backup the second stays, however old it is.
    server.faults().add(Fault::status(403).on(Verb::DeleteMany));
    server.faults().add(Fault::status(403).on(Verb::Delete).key("watch/backups/"));
    let refused = short.run(["expire"]);
    refused.success().stderr_contains("the store refuses deletes");
    assert_eq!(ids(&archived), [first, second.clone()]);
    server.faults().clear();
    let third = id(&short.json(["backup-push"]));
    assert_eq!(ids(&archived), [second, third]);
}

fn codes(status: &serde_json::Value) -> Vec<String> {
    let problems = status["problems"].as_array().unwrap();
    problems.iter().map(|problem| problem["code"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn where_nothing_may_be_deleted_backups_go_on_and_it_is_said_once() {
    let server = S3Server::start();
    let archived = Archived::start(Repo::s3(&server));
    archived.cluster.psql("create table t (n int)");
    let first = id(&archived.backup());
    insert(&archived, 1);
    let second = id(&archived.backup());
    std::thread::sleep(Duration::from_secs(5));
    insert(&archived, 2);
    let short = archived.configured(SHORT);

    // These credentials may not delete anything, leases included.
    server.faults().add(Fault::status(403).on(Verb::DeleteMany));
    server.faults().add(Fault::status(403).on(Verb::Delete));
    let third = short.run(["backup-push"]);
    third.success().stderr_contains("the store refuses deletes");
    server.faults().forget();
    let again = short.run(["expire"]);
    again.success().stdout_contains("deleted 0 objects");
    let said = again.stderr().matches("the store refuses deletes").count();
    assert_eq!(said, 1, "{again}");
    let one_by_one = |request: &Request| request.verb == Verb::Delete && !request.key.contains("/leases/");
    let asked = server.faults().requests().into_iter().filter(one_by_one).count();
    assert!(asked <= 4, "{asked} objects were asked for one by one");
    assert_eq!(ids(&archived).len(), 3);
    let status = short.json(["status"]);
    assert!(codes(&status).contains(&"deletes_refused".to_owned()), "{status}");
    let refused = &status["expiry"]["refused"];
    assert!(refused["objects"].as_u64() > Some(3) && refused["bytes"].as_u64() > Some(1000), "{refused}");
    // A lease that could not be deleted holds nobody up.
    let begin = std::time::Instant::now();
    short.run(["backup-push"]).success();
    assert!(begin.elapsed() < Duration::from_mins(1));

    server.faults().clear();
    std::thread::sleep(Duration::from_secs(5));
    short.run(["expire"]).success();
    assert!(!ids(&archived).contains(&first) && !ids(&archived).contains(&second));
    let status = short.json(["status"]);
    assert!(!codes(&status).contains(&"deletes_refused".to_owned()), "{status}");
    assert!(
        status["expiry"]["deleted_objects"].as_u64() > Some(3) && !status["expiry"]["completed_at"].is_null()
    );
}

#[test]
fn what_a_bucket_with_versioning_keeps_is_counted_as_paid_for() {
    let server = S3Server::start();
    server.faults().keep_versions();
    let archived = Archived::start(Repo::s3(&server));
    archived.cluster.psql("create table t (n int)");
    let first = id(&archived.backup());
    insert(&archived, 1);
    // One that uses nothing of the first.
    archived.walproof.json(["backup-push", "--full"]);
    std::thread::sleep(Duration::from_secs(5));
    archived.archive_all();
    let short = archived.configured(SHORT);
    let size_of_first: u64 = {
        let objects = archived.repo().objects();
        objects.iter().filter(|(key, _)| key.contains(&first)).map(|(_, size)| size).sum()
    };
    let expired = short.run(["expire"]);
    expired.success().stderr_contains("keeps old versions").stderr_contains("lifecycle rule");
    assert!(!ids(&archived).contains(&first));
    let status = short.json(["status"]);
    let paid = status["deleted_bytes"].as_u64().unwrap();
    let kept: u64 = server.faults().old_versions().unwrap().iter().map(|(_, size)| size).sum();
    // The lease of this expiry was kept, too, after they were counted.
    assert!(paid >= size_of_first && paid <= kept, "{size_of_first} <= {paid} <= {kept}");
    short.run(["status"]).stdout_contains("deleted, kept by");
}

/// The clock of the server and of the program, set by libfaketime.
struct Clock(Scratch);

impl Clock {
    fn set(&self, days_ago: f64) {
        self.0.file("clock", format!("-{days_ago}d"));
    }

    fn env(&self) -> [(&'static str, String); 5] {
        let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
        assert!(std::path::Path::new(library).exists(), "install faketime (scripts/test does)");
        [
            ("LD_PRELOAD", library.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", self.0.join("clock").display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
    }
}

#[test]
fn r21_of_ten_days_with_a_backup_a_day_exactly_the_last_seven_can_be_restored() {
    let clock = Clock(Scratch::new());
    clock.set(10.0);
    let mut archived = Archived::start(Repo::local());
    archived.cluster.stop(crate::support::postgres::StopMode::Fast);
    let mut walproof = archived.walproof.clone();
    for (name, value) in clock.env() {
        archived.cluster.env(name, &value);
        walproof = walproof.with_env(name, value);
    }
    archived.cluster.start();
    archived.cluster.psql("create table t (n int, at timestamptz default clock_timestamp())");
    let mut n = 0;
    for day in 0..10_u32 {
        for (part, share) in [0.0, 0.25, 0.5, 0.75].into_iter().enumerate() {
            clock.set(10.0 - f64::from(day) - share);
            n += 1;
            archived.cluster.psql(&format!("insert into t values ({n})"));
            if part == 0 {
                walproof.json(["backup-push"]);
            }
        }
    }
    clock.set(0.0);
    archived.cluster.psql("insert into t values (1000)");
    archived.archive_all();
    walproof.run(["expire"]).success();

    let ago = |days: f64, and: &str| {
        archived.cluster.psql(&format!(
            "select to_char((now() - interval '{days} days' + interval '{and}') at time zone 'utc', \
             'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
        ))
    };
    // The promise counts from when it is asked; the backup of that day ended seconds before.
    let (inside, outside) = (ago(7.0, "1 second"), ago(8.0, "0 seconds"));
    let rows = "select string_agg(n::text, ' ' order by n) from t";
    let expected = archived.cluster.psql(&format!("{rows} where at <= '{inside}'"));
    assert_eq!(expected.split(' ').count(), 13, "{expected}");
    let to = archived.target("inside");
    archived.walproof.run(["restore", "--to", to.to_str().unwrap(), "--target-time", &inside]).success();
    let mut restored = attach_silent(&to);
    restored.start();
    wait_paused(&restored);
    assert_eq!(restored.psql(rows), expected);

    let to = archived.target("outside");
    let refused = archived.walproof.run(["restore", "--to", to.to_str().unwrap(), "--target-time", &outside]);
    let left = archived.backups();
    assert_eq!(left.len(), 7, "{left:?}");
    let end = |index: usize| left[index]["finished_at"].as_str().unwrap().to_owned();
    refused.fails_with(8);
    // It was committed a moment after it was written, perhaps in the next second.
    let lasts = archived.cluster.psql(
        "select to_char((at + s) at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS')
         from t, unnest(array['0 s', '1 s']::interval[]) s where n = 1000",
    );
    let reachable = |last| format!("reachable on timeline 1: after {} and before {last}", end(0));
    let said = refused.stderr();
    assert!(lasts.lines().any(|last| said.contains(&reachable(last))), "{lasts}\n{said}");
}
