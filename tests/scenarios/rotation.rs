//! Changing the master key.

use crate::support::s3::{Fault, S3Server, Verb};
use crate::support::{Archived, Repo, Walproof, drill::Staging, postgres::Cluster};
use crate::support::{archived::PATIENCE, fabricate::history};
use crate::support::{site::Site, walproof_builder::WalproofBuilder};
use serde_json::{Value, json};
use std::fs;

/// The content of the key file.
fn keys(walproof: &Walproof) -> String {
    fs::read_to_string(walproof.scratch().join("key")).unwrap()
}

fn set_keys(walproof: &Walproof, keys: &str) {
    walproof.scratch().file("key", keys);
}

/// Put a new key first; gives it.
fn add_key(walproof: &Walproof) -> String {
    let new = walproof.run(["keygen"]).success().stdout();
    set_keys(walproof, &format!("{new}{}", keys(walproof)));
    new
}

/// The id of the key that sealed an object.
fn key_id(repo: &Repo, key: &str) -> String {
    format!("{:016x}", u64::from_be_bytes(*repo.read(key)[16..].first_chunk().unwrap()))
}

#[test]
fn a_rotation_ends_when_the_window_has_left_the_old_key() {
    let archived = Archived::start(Repo::local());
    let (walproof, repo) = (&archived.walproof, archived.repo());
    let identity = repo.key("/identity");
    let first = archived.backup();
    archived.archive_all();
    let old = key_id(repo, &identity);
    assert_eq!(walproof.json(["key-rotate"])["older_keys"], json!([]));
    walproof.run(["key-rotate"]).success().stdout_contains("nothing needs an older key");

    let new_key = add_key(walproof);
    let rotated = walproof.json(["key-rotate"]);
    let new = key_id(repo, &identity);
    assert_ne!(new, old);
    assert_eq!((&rotated["key_id"], &rotated["identity_key_id_before"]), (&json!(new), &json!(old)));
    let [needed] = rotated["older_keys"].as_array().unwrap().clone().try_into().unwrap();
    let newest = archived.cluster.psql("select last_archived_wal from pg_stat_archiver");
    let expected = json!({
        "system_identifier": archived.cluster.system_identifier().to_string(),
        "key_id": old, "at_hand": true, "backups": 1, "newest_backup": first["id"], "newest_wal": newest,
        "held_backups": [], "records": 0, "needed_until": Value::Null,
    });
    assert_eq!(needed, expected);
    let again = walproof.run(["key-rotate"]);
    again.success().stdout_contains("already").stdout_contains("168 hours after the next full backup");

    let second = archived.backup();
    let rotated = walproof.json(["key-rotate"]);
    assert_eq!(rotated["identity_key_id_before"], Value::Null);
    let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let until = time(&second["finished_at"]) + jiff::SignedDuration::from_hours(168);
    assert_eq!(time(&rotated["older_keys"][0]["needed_until"]), until);

    // Then the old key goes, and what is left needs it no more.
    set_keys(walproof, &new_key);
    archived.archive_all();
    let id = |backup: &Value| backup["id"].as_str().unwrap().to_owned();
    archived.try_restore(&archived.target("new"), ["--backup", &id(&second)]).success();
    let refused = archived.try_restore(&archived.target("old"), ["--backup", &id(&first)]);
    refused.fails_with(5).stderr_contains(&format!("sealed with key {old}"));
    let rotated = walproof.json(["key-rotate"]);
    assert_eq!(
        (&rotated["older_keys"][0]["key_id"], &rotated["older_keys"][0]["at_hand"]),
        (&json!(old), &json!(false))
    );
}

#[test]
fn a_rotation_during_a_backup_does_not_hurt_it() {
    let archived = Archived::start(Repo::local());
    add_key(&archived.walproof);
    let backup = archived.slow_backup("8MB");
    archived.walproof.run(["key-rotate"]).success();
    backup.wait(PATIENCE).success();
    assert_eq!(archived.backups().len(), 1);
}

#[test]
fn histories_stay_readable_without_the_old_key() {
    let site = Site::new(Repo::local());
    site.archive_text("00000002.history", history(&[(1, 0x50_0000)]));
    let segment = site.archive_all([5]).remove(0);
    let new = add_key(&site.walproof);
    assert_eq!(site.walproof.json(["key-rotate"])["histories_sealed"], 1);
    assert_eq!(site.walproof.json(["key-rotate"])["histories_sealed"], 0);
    assert_eq!(site.stored("00000002.history").len(), 1, "no conflict");
    site.comes_back("00000002.history");
    site.comes_back(&segment);
    set_keys(&site.walproof, &new);
    site.comes_back("00000002.history");
    site.fetch(&segment).complains_with(205).stderr_contains("sealed with key");
}

#[test]
fn a_rotation_that_was_cut_short_is_completed() {
    let server = S3Server::start();
    let site = Site::new(Repo::s3(&server));
    site.archive_text("00000002.history", history(&[(1, 0x50_0000)]));
    let segment = site.archive_all([5]).remove(0);
    let old = keys(&site.walproof);
    let new = add_key(&site.walproof);
    for (key, identity_is_new) in [("identity", false), ("history", true)] {
        server.faults().clear().add(Fault::status(403).on(Verb::Put).key(key));
        site.walproof.run(["key-rotate"]).fails_with(4);
        server.faults().clear();
        site.comes_back("00000002.history");
        site.comes_back(&segment);
        set_keys(&site.walproof, &old);
        assert_eq!(site.walproof.run(["wal-list"]).code() != 0, identity_is_new);
        set_keys(&site.walproof, &format!("{new}{old}"));
    }
    site.walproof.run(["key-rotate"]).success();
    set_keys(&site.walproof, &new);
    site.comes_back("00000002.history");
}

#[test]
fn without_encryption_there_is_no_key_to_rotate() {
    let site = Site::with(Repo::local(), WalproofBuilder::unencrypted);
    site.walproof.run(["key-rotate"]).complains_with(2).stderr_contains("not encrypted");
}

#[test]
fn nothing_is_reused_of_what_an_older_key_sealed() {
    let archived = Archived::start(Repo::local());
    let walproof = &archived.walproof;
    archived.backup();
    let before = archived.backup();
    assert!(before["reused_bytes"].as_u64().unwrap() > 0, "{before}");
    let new = add_key(walproof);
    walproof.run(["key-rotate"]).success();
    let first = archived.backup();
    assert_eq!((&first["base"], &first["reused_bytes"]), (&before["id"], &json!(0)));
    let next = archived.backup();
    let (reused, size) = (next["reused_bytes"].as_u64().unwrap(), next["size_bytes"].as_u64().unwrap());
    assert!(next["base"] == first["id"] && 10 * reused > 9 * size, "{next}");
    // So the old key can go.
    set_keys(walproof, &new);
    let to = archived.target("restored");
    archived.try_restore(&to, ["--backup", next["id"].as_str().unwrap(), "--target-immediate"]).success();
}

#[test]
fn a_rotation_covers_the_repository_of_the_database_before_an_upgrade() {
    let old = Archived::start(Repo::local());
    let held = old.backup()["id"].as_str().unwrap().to_owned();
    old.walproof.run(["backup-hold", &held]).success();
    let identity = old.repo().key("/identity");
    let old_key = key_id(old.repo(), &identity);
    let cluster = Cluster::builder().create();
    let walproof = Walproof::builder(old.repo().clone()).cluster(&cluster).build();
    // Its first key is a new one from the beginning.
    set_keys(&walproof, &format!("{}{}", keys(&walproof), keys(&old.walproof)));
    walproof.run(["init"]).success();
    let rotated = walproof.json(["key-rotate"]);
    assert_ne!(key_id(old.repo(), &identity), old_key, "{rotated:#}");
    let [needed] = rotated["older_keys"].as_array().unwrap().clone().try_into().unwrap();
    assert_eq!((&needed["key_id"], &needed["held_backups"]), (&json!(old_key), &json!([held])));
    assert_eq!(needed["system_identifier"], json!(old.cluster.system_identifier().to_string()));
    let told = walproof.run(["key-rotate"]);
    told.success().stdout_contains(&format!("as long as backup {held} is held"));
}

/// A staging host that was forgotten when the key was changed: that says nothing about what a restore gives.
#[test]
fn a_drill_without_the_new_key_is_inconclusive() {
    let archived = Archived::start(Repo::local());
    archived.cluster.psql("create table t (n int)");
    archived.backup();
    archived.archive_all();
    // A key file of its own.
    let own = Walproof::builder(archived.repo().clone()).build();
    set_keys(&own, &keys(&archived.walproof));
    let staging = Staging::configured(&archived, &own, "[drill]\ntarget = \"latest\"");
    add_key(&archived.walproof);
    archived.cluster.psql("insert into t values (1)");
    archived.archive_all();
    let report = staging.drill(10, []);
    assert!(report["reasons"].to_string().contains("is sealed with key"), "{report:#}");
    let report = staging.drill(10, ["--target-immediate"]);
    assert!(report["reasons"].to_string().contains("is sealed with key"), "{report:#}");
}

#[test]
fn a_held_backup_outlives_its_key() {
    let archived = Archived::start(Repo::local());
    let walproof = &archived.walproof;
    archived.cluster.psql("create table t (n int)");
    let held = archived.backup()["id"].as_str().unwrap().to_owned();
    walproof.run(["backup-hold", &held, "--reason", "the audit"]).success();
    archived.archive_all();
    let old = keys(walproof);
    let new = add_key(walproof);
    let rotated = walproof.json(["key-rotate"]);
    assert_eq!(rotated["records_sealed"].as_u64(), Some(2), "the hold, and what retention did: {rotated}");
    std::thread::sleep(std::time::Duration::from_secs(1));
    walproof.run(["backup-push", "--full"]).success();
    archived.archive_all();
    // The window has left the first backup; the hold has not.
    let short = archived.configured("[retention]\nwindow = \"1s\"");
    std::thread::sleep(std::time::Duration::from_secs(2));
    let rotated = short.json(["key-rotate"]);
    let [needed] = rotated["older_keys"].as_array().unwrap().clone().try_into().unwrap();
    assert_eq!((&needed["held_backups"], &needed["needed_until"]), (&json!([held]), &Value::Null));
    short.run(["key-rotate"]).success().stdout_contains(&format!("as long as backup {held} is held"));

    // Who does not read that loses nothing.
    set_keys(walproof, &new);
    let before = archived.repo().objects();
    short.run(["expire"]).complains_with(5).stderr_contains("nothing expires: read backup");
    let left: Vec<String> = archived.repo().objects().into_iter().map(|(key, _)| key).collect();
    assert!(before.iter().all(|(key, _)| left.contains(key)), "{before:?} -> {left:?}");
    set_keys(walproof, &format!("{new}{old}"));
    short.run(["expire"]).success();
    let to = archived.target("held");
    archived.try_restore(&to, ["--backup", &held, "--target-immediate"]).success();
}
