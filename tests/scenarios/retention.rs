//! Retention on a real cluster: what is kept, what goes, and that what is kept can be restored.

use crate::support::archived::{attach_silent, wait_paused};
use crate::support::s3::{Fault, S3Server, Verb};
use crate::support::{Archived, Repo};
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

    short.run(["backup-unhold", &held]).success().stdout_contains("no longer held");
    short.run(["expire"]).success();
    assert_eq!(ids(&archived), [third]);
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
