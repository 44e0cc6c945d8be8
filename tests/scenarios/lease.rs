//! Leases between real processes: one that was suspended, and leases that cannot be read.

use crate::support::archived::{Archived, PATIENCE};
use crate::support::s3::{Fault, S3Server, Verb};
use crate::support::{Repo, Walproof, wait_until};
use rustix::process::Signal;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

/// Seconds, of leases in these tests.
const LIFETIME: &str = "4";

fn short_lived(walproof: &Walproof) -> Walproof {
    walproof.with_env("WALPROOF_TEST_LEASE_LIFETIME", LIFETIME)
}

#[test]
fn r32_a_suspended_backup_that_another_one_took_over_from_leaves_no_manifest() {
    let archived = Archived::start(Repo::local());
    let slow = short_lived(&archived.configured("[backup]\nmax_rate = \"2MB\"\nconcurrency = 1"));
    let mut first = slow.spawn(["backup-push"]);
    first.wait_for_stderr("backup started", PATIENCE);
    first.signal(Signal::STOP);
    let second = short_lived(&archived.walproof);
    second.run(["backup-push", "-q"]).fails_with(7).stderr_contains(&first.pid().to_string());
    wait_until("the lease of the suspended backup has aged", PATIENCE, || {
        second.run(["backup-push", "-q"]).code() == 0
    });
    let listed = archived.backups();
    assert_eq!(listed.len(), 1);

    first.signal(Signal::CONT);
    let lost = first.wait(PATIENCE);
    lost.fails_with(7).stderr_contains("the lease of this backup was lost").stderr_contains("suspended");
    assert_eq!(archived.backups(), listed);
    assert_eq!(archived.repo().keys("watch/backups/").len(), 1);
    assert_eq!(archived.repo().keys("/leases/"), [""; 0], "neither lease is left");
}

#[test]
fn a_backup_that_lost_its_lease_is_told_of_unless_another_one_has_ended_since() {
    let archived = Archived::start(Repo::local());
    let slow = short_lived(&archived.configured("[backup]\nmax_rate = \"2MB\"\nconcurrency = 1"));
    let mut lost = slow.spawn(["backup-push"]);
    lost.wait_for_stderr("backup started", PATIENCE);
    lost.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(5));
    lost.signal(Signal::CONT);
    lost.wait(PATIENCE).fails_with(7).stderr_contains("lease");
    let status = archived.walproof.run(["--json", "status"]).json();
    let failed = status["problems"].as_array().unwrap().iter().find(|one| one["code"] == "backup_failed");
    let text = failed.unwrap_or_else(|| panic!("{status:#}"))["text"].as_str().unwrap();
    assert!(text.contains("the lease of this backup was lost"), "{text}");

    let mut lost = slow.spawn(["backup-push"]);
    lost.wait_for_stderr("backup started", PATIENCE);
    lost.signal(Signal::STOP);
    let other = short_lived(&archived.walproof);
    wait_until("its lease has aged", PATIENCE, || other.run(["backup-push", "-q"]).code() == 0);
    lost.signal(Signal::CONT);
    lost.wait(PATIENCE).fails_with(7);
    let status = archived.walproof.run(["--json", "status"]).json();
    assert!(!status["problems"].to_string().contains("backup_failed"), "{status:#}");
}

#[test]
fn r32_a_backup_that_is_suspended_just_before_its_commit_commits_nothing() {
    let archived = Archived::start(Repo::local());
    archived.cluster.psql("checkpoint");
    let slow = short_lived(&archived.configured("[backup]\nmax_rate = \"15MB\""));
    let mut first = slow.spawn(["backup-push"]);
    first.wait_for_stderr("backup started", PATIENCE);
    // So that it waits for its WAL, with nothing left to do but the manifest.
    archived.cluster.set("archive_command", "false").reload();
    first.wait_for_stderr("waiting until its WAL is in the repository", PATIENCE);
    first.signal(Signal::STOP);
    archived.cluster.set("archive_command", &archived.walproof.archive_command()).reload();
    archived.archive_all();
    let second = short_lived(&archived.walproof);
    wait_until("the lease has aged", PATIENCE, || second.run(["backup-push", "-q"]).code() == 0);
    first.signal(Signal::CONT);
    first.wait(PATIENCE).fails_with(7).stderr_contains("lease");
    assert_eq!(archived.backups().len(), 1);
}

/// A backup longer than a lease's lifetime renews it.
#[test]
fn a_lease_lives_as_long_as_its_backup() {
    let archived = Archived::start(Repo::local());
    let slow = short_lived(&archived.configured("[backup]\nmax_rate = \"3MB\"\nconcurrency = 1"));
    let mut first = slow.spawn(["backup-push"]);
    first.wait_for_stderr("backup started", PATIENCE);
    std::thread::sleep(Duration::from_secs(5));
    assert!(first.ended().is_none(), "too quick for this test: {}", first.stderr());
    short_lived(&archived.walproof).run(["backup-push", "-q"]).fails_with(7);
    first.wait(PATIENCE).success();
    assert_eq!(archived.backups().len(), 1);
}

#[test]
fn a_lease_that_does_not_open_blocks_while_it_is_young_and_nobody_when_it_is_old() {
    let archived = Archived::start(Repo::local());
    let repo = archived.repo();
    let key = repo.key("identity").replace("identity", "watch/leases/backup-0123456789abcdef");
    repo.write(&key, b"sealed with another key");
    let blocked = archived.walproof.run(["backup-push", "-q"]);
    blocked
        .complains_with(7)
        .stderr_contains("leases/backup-0123456789abcdef")
        .stderr_contains("cannot be read");
    blocked.hints("another key");

    let path = repo.dir().unwrap().join(&key);
    let old = SystemTime::now() - Duration::from_secs(121);
    File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    archived.backup();
    assert_eq!(archived.backups().len(), 1);
    assert!(!path.exists(), "the dead lease is removed");
}

#[test]
fn a_restore_holds_a_lease_while_it_reads() {
    let server = S3Server::start();
    let archived = Archived::start(Repo::s3(&server));
    archived.backup();
    archived.archive_all();
    server.faults().add(Fault::delay(Duration::from_millis(500)).on(Verb::Get).key("packs/"));
    let to = archived.target("restored");
    let restore = archived.walproof.spawn(["restore", "--to", to.to_str().unwrap()]);
    wait_until("the restore holds a lease", PATIENCE, || !archived.repo().keys("leases/restore-").is_empty());
    // Nor does it forbid anything.
    archived.backup();
    restore.wait(PATIENCE).success().says_nowhere("no lease");
    // The server has not recovered yet.
    assert_eq!(archived.repo().keys("/leases/").len(), 1);
}

#[test]
fn a_restore_from_a_store_that_it_cannot_write_to_warns() {
    let archived = Archived::start(Repo::local());
    archived.backup();
    archived.archive_all();
    let leases = archived.repo().key("identity").replace("identity", "watch/leases");
    let leases = archived.repo().dir().unwrap().join(leases);
    fs::set_permissions(&leases, fs::Permissions::from_mode(0o500)).unwrap();
    let restored = archived.try_restore(&archived.target("restored"), [""; 0]);
    restored.success().stderr_contains("no lease protects this restore").stderr_contains("Permission denied");
    fs::set_permissions(&leases, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn r32_an_expiry_that_was_suspended_deletes_nothing_more() {
    let server = S3Server::start();
    let archived = Archived::start(Repo::s3(&server));
    archived.backup();
    archived.walproof.run(["backup-push", "--full"]).success();
    std::thread::sleep(Duration::from_secs(5));
    archived.archive_all();
    let before = archived.backups();
    let short = short_lived(&archived.configured("[retention]\nwindow = \"4s\""));
    server.faults().forget().add(Fault::status(503).on(Verb::DeleteMany));
    server.faults().add(Fault::status(503).on(Verb::Delete).key("watch/backups/"));
    let expire = short.spawn(["expire"]);
    // So that the next try is some time away.
    wait_until("it deletes", PATIENCE, || server.faults().count(Verb::Delete) > 3);
    expire.signal(Signal::STOP);
    server.faults().clear();
    // Others may have removed its lease by now, and reuse what it is about to delete.
    std::thread::sleep(Duration::from_secs(5));
    expire.signal(Signal::CONT);
    let lost = expire.wait(PATIENCE);
    assert_eq!(archived.backups(), before);
    lost.fails_with(7).stderr_contains("the lease of this expiry was lost");
    short.run(["expire"]).success();
    assert_eq!(archived.backups().len(), 1);
}

#[test]
fn a_hold_that_comes_too_late_says_so() {
    let server = S3Server::start();
    let archived = Archived::start(Repo::s3(&server));
    let gone = archived.backup()["id"].as_str().unwrap().to_owned();
    archived.walproof.run(["backup-push", "--full"]).success();
    std::thread::sleep(Duration::from_secs(5));
    archived.archive_all();
    let short = archived.configured("[retention]\nwindow = \"4s\"");
    // The manifest is being deleted when the hold is placed.
    server.faults().forget().add(Fault::delay(Duration::from_secs(6)).on(Verb::DeleteMany).nth(1));
    let expire = short.spawn(["expire"]);
    wait_until("it deletes", PATIENCE, || server.faults().count(Verb::DeleteMany) > 0);
    let hold = short.run(["backup-hold", &gone]);
    hold.fails_with(8).stderr_contains(&format!("backup {gone} was deleted"));
    expire.wait(PATIENCE).success();
    assert_eq!(archived.repo().keys("/holds/"), [""; 0]);
}
