//! Drills: what a restore has to prove, and what stands in the way of proving it.

use crate::support::archived::PATIENCE;
use crate::support::drill::{Staging, assert_check};
use crate::support::postgres::{Cluster, StopMode};
use crate::support::{Archived, Daemon, Repo, Walproof};
use crate::support::{s3::S3Server, site::files_below};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A backup, and commits before and after it.
#[track_caller]
fn with_rows(archived: &Archived) {
    archived
        .cluster
        .psql("create table t (n int primary key); insert into t select generate_series(1, 1000)");
    archived.backup();
    for n in 2000..2010 {
        archived.cluster.psql(&format!("insert into t values ({n})"));
    }
    archived.archive_all();
}

#[track_caller]
fn started() -> Archived {
    let archived = Archived::start(Repo::local());
    with_rows(&archived);
    archived
}

/// Phases add up to the RTO, within a second.
#[track_caller]
fn assert_times(report: &Value) {
    let phases = report["phases"].as_object().unwrap();
    let sum: f64 = phases.values().map(|seconds| seconds.as_f64().unwrap()).sum();
    let rto = report["rto_seconds"].as_f64().unwrap();
    assert!((sum - rto).abs() < 1.0 && rto > 0.0, "{report:#}");
    let time = |name: &str| report[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let whole = time("finished_at").duration_since(time("started_at")).as_secs_f64();
    assert!((whole - rto).abs() < 1.0, "{report:#}");
}

#[test]
fn drills_of_random_targets_on_s3_pass_and_write_nothing_but_their_evidence() {
    let server = S3Server::start();
    let archived = Archived::start(Repo::s3(&server));
    with_rows(&archived);
    archived.backup();
    archived.cluster.psql("insert into t values (3000)");
    archived.archive_all();
    let staging = Staging::of(&archived);
    let sessions = "select count(*) from pg_stat_activity where backend_type = 'client backend'";
    let before = archived.repo().keys("");
    let mut targets = Vec::new();
    for seed in ["1", "2", "3", "4"] {
        let report = staging.drill(0, ["--seed", seed]);
        assert_eq!(report["verdict"], "pass");
        assert_times(&report);
        assert_check(&report, "target reached", "pass");
        assert_check(&report, "tables and indexes", "pass");
        assert_check(&report, "databases and catalogs", "pass");
        assert_check(&report, "visibility maps", "pass");
        targets.push(report["target"].as_str().unwrap().to_owned());
        assert_eq!(archived.cluster.psql(sessions), "1", "only the one that asks");
    }
    println!("{targets:?}");
    let report = staging.drill(0, ["--seed", "1"]);
    assert_eq!(report["target"], targets[0].as_str(), "a seed gives the same target");
    assert_eq!(report["sequence"], 5);
    let after = archived.repo().keys("");
    let new: Vec<&String> = after.iter().filter(|key| !before.contains(key)).collect();
    assert!(new.iter().all(|key| key.contains("/watch/reports/")), "{new:?}");
    assert_eq!(new.len(), 6, "five reports and the head: {new:?}");
    let listed = staging.walproof.run(["drill-list"]);
    listed.success().stdout_contains("5 entries, numbers, chain and signatures hold");
}

#[test]
fn given_targets_are_reached_exactly() {
    let archived = started();
    archived.cluster.psql("insert into t values (4000)");
    let lsn = archived.cluster.psql("select pg_current_wal_insert_lsn()");
    archived.cluster.psql("insert into t values (4001)");
    archived.archive_all();
    let query = "[[drill.query]]\nname = \"rows\"\ndatabase = \"postgres\"\n\
        sql = \"select max(n) = 4000 from t\"\n[archive]\nheartbeat_interval = \"0s\"";
    let staging = Staging::with(&archived, query);
    let report = staging.drill(0, ["--target-lsn", &lsn]);
    assert_check(&report, "query: rows", "pass");
    let newest = staging.drill(1, ["--target-timeline", "1"]);
    assert_check(&newest, "query: rows", "fail");
    assert!(newest["rpo_seconds"].as_f64().unwrap() < 120.0, "{newest:#}");
    staging.drill(1, ["--target-immediate"]);
    staging
        .try_drill(["--target-time", "2030-01-01T00:00:00Z"])
        .fails_with(8)
        .stderr_contains("outside the recovery window");
}

/// Every file below `dir` with its content.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    files_below(dir).into_iter().map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

#[test]
fn r20_what_a_cluster_brings_with_it_changes_nothing_outside_the_drill() {
    let builder = Cluster::builder().segment_size_mb(1).setting("log_connections", "on");
    // Only a drill could start the subscription.
    let builder = builder.setting("max_logical_replication_workers", "0").setting("wal_level", "logical");
    let archived = Archived::start_as(builder, Repo::local());
    let (early, late) = (archived.scratch.dir("early"), archived.scratch.dir("l"));
    let cluster = &archived.cluster;
    let own = cluster.conninfo();
    cluster.psql("create database other");
    cluster.psql(&format!(
        "create table t (n int primary key);
         insert into t values (1);
         create tablespace early location '{}';
         create table e (n int) tablespace early;
         insert into e values (1);
         create role app login;
         grant select on t to app;
         create extension dblink;
         create function reach() returns boolean security definer language plpgsql as $$
           begin perform dblink_exec('{own}', 'insert into t values (99)'); return true; end $$;
         create publication p for table t;
         create subscription s connection '{own}' publication p with (connect = false, slot_name = 's');
         alter subscription s enable;
         alter role app set session_preload_libraries = 'not_there';
         alter database other set session_preload_libraries = 'not_there_either';
         create function trap() returns event_trigger language plpgsql as $$ begin raise 'a trap'; end $$;
         create function pg_catalog_trap(bigint, integer) returns boolean language sql as 'select false'",
        early.display(),
    ));
    archived.backup();
    cluster.psql(&format!(
        "create tablespace late location '{}';
         create table l (n int primary key) tablespace late;
         insert into l select generate_series(1, 500);
         create event trigger trap on ddl_command_end execute function trap();
         checkpoint",
        late.display()
    ));
    archived.archive_all();
    cluster.psql("checkpoint");
    let before = (contents(&early), contents(&late), archived.repo().keys(""));
    assert!(!before.1.is_empty(), "the tablespace has files");
    let connections = || cluster.log().matches("connection received").count();
    let connected = connections();
    let query = |name: &str, sql: &str, role: &str| {
        format!("[[drill.query]]\nname = \"{name}\"\ndatabase = \"postgres\"\nsql = \"{sql}\"\n{role}\n")
    };
    let toml = [
        query("late", "select count(*) = 500 and (select count(*) from e) = 1 from l", ""),
        query("reach", "select reach()", ""),
        query("app", "select count(*) = 1 from t", "role = \"app\""),
        query("strong", "select true", "role = \"postgres\""),
        "[archive]\nheartbeat_interval = \"0s\"".to_owned(),
    ];
    let staging = Staging::with(&archived, &toml.concat());
    let report = staging.drill(1, ["--target-timeline", "1"]);
    assert_eq!(connections(), connected, "somebody connected to production");
    assert_check(&report, "query: late", "pass");
    assert_check(&report, "query: app", "pass");
    assert!(assert_check(&report, "query: reach", "fail").contains("not_in_a_drill"));
    assert!(assert_check(&report, "query: strong", "could_not_verify").contains("more than read"));
    // 13 has no pg_amcheck.
    let amcheck = if cluster.binaries().major() >= 14 { "pass" } else { "skipped" };
    assert_check(&report, "tables and indexes", amcheck);
    assert_check(&report, "visibility maps", "pass");
    assert_eq!((contents(&early), contents(&late)), (before.0, before.1), "production's tablespaces changed");
    assert_eq!(cluster.psql("select count(*) from t"), "1");
    let new: Vec<String> =
        archived.repo().keys("").into_iter().filter(|key| !before.2.contains(key)).collect();
    assert!(new.len() == 2 && new.iter().all(|key| key.contains("/watch/reports/")), "{new:?}");
    assert!(report["isolation"].to_string().contains("1 tablespaces that were created"), "{report:#}");
}

#[test]
fn an_index_that_lost_rows_fails_the_drill() {
    let builder = Cluster::builder().segment_size_mb(1).checksums(false);
    let mut archived = Archived::start_as(builder, Repo::local());
    let cluster = &mut archived.cluster;
    cluster
        .psql("create table t (n int primary key); insert into t select generate_series(1, 100); checkpoint");
    let index = cluster.data_dir().join(cluster.psql("select pg_relation_filepath('t_pkey')"));
    let old = std::fs::read(&index).unwrap();
    cluster.psql("insert into t values (101); checkpoint");
    cluster.stop(StopMode::Fast);
    std::fs::write(&index, old).unwrap();
    cluster.start();
    archived.backup();
    let report = Staging::of(&archived).drill(1, ["--target-immediate"]);
    let told = assert_check(&report, "tables and indexes", "fail");
    assert!(told.contains("t_pkey"), "{told}");
}

#[test]
fn a_page_that_was_corrupt_in_the_backup_fails_the_drill() {
    let mut archived = Archived::start(Repo::local());
    let cluster = &mut archived.cluster;
    cluster.psql("create table t (n int); insert into t select generate_series(1, 1000); checkpoint");
    let table = cluster.data_dir().join(cluster.psql("select pg_relation_filepath('t')"));
    cluster.stop(StopMode::Fast);
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[8000] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    cluster.start();
    archived.walproof.run(["backup-push"]).fails_with(5);
    let report = Staging::of(&archived).drill(1, ["--target-immediate"]);
    assert!(assert_check(&report, "restore", "fail").contains("checksum"));
}

#[test]
fn damage_in_the_repository_fails_the_drill_and_a_wrong_key_begins_none() {
    let archived = started();
    for n in 3000..3004 {
        archived.cluster.psql(&format!("insert into t values ({n})"));
        archived.archive_all();
    }
    let staging = Staging::of(&archived);
    let repo = archived.repo();
    let other = Walproof::for_cluster(&archived.cluster, Repo::local());
    let stranger = Staging::configured(&archived, &other, "");
    stranger.try_drill([]).fails_with(5);
    assert!(repo.keys("watch/reports").is_empty());

    let segments: Vec<String> =
        repo.keys("/wal/").into_iter().filter(|key| !key.contains(".backup")).collect();
    let damaged = &segments[segments.len() - 3];
    let len = repo.read(damaged).len();
    repo.flip_bit(damaged, len - 20);
    let report = staging.drill(1, ["--target-timeline", "1"]);
    let told = report["reasons"].to_string();
    assert!(told.contains("recovery: could not restore file") && told.contains("is damaged"), "{told}");
    repo.flip_bit(damaged, len - 20);
    staging.drill(0, ["--target-timeline", "1"]);

    // What was archived behind the gap cannot be reached, wherever the drill goes.
    let kept = repo.read(damaged);
    repo.delete(damaged);
    let report = staging.drill(1, []);
    assert!(assert_check(&report, "recovery window", "fail").contains("is missing"));
    repo.write(damaged, &kept);

    let packs = repo.keys("packs/");
    let largest = packs.iter().max_by_key(|key| repo.read(key).len()).unwrap();
    repo.flip_bit(largest, repo.read(largest).len() / 2);
    let report = staging.drill(1, ["--target-immediate"]);
    assert_check(&report, "restore", "fail");
}

#[test]
fn a_canary_proves_whose_wal_was_replayed_and_how_fresh_it_is() {
    let archived = started();
    let beating = archived.configured("[archive]\nheartbeat_interval = \"200ms\"");
    let staging = Staging::with(&archived, "[archive]\nheartbeat_interval = \"200ms\"");
    let daemon = Daemon::start(&beating);
    daemon.wait_all_stored();
    archived.cluster.wait_until("select pg_sleep(1) is null", "f", PATIENCE);
    archived.archive_all();
    let report = staging.drill(0, ["--target-timeline", "1"]);
    assert!(assert_check(&report, "canary", "pass").contains("this cluster's daemon"));
    daemon.terminate();
    std::thread::sleep(Duration::from_secs(17));
    archived.cluster.psql("insert into t values (5000)");
    archived.archive_all();
    let report = staging.drill(1, ["--target-timeline", "1"]);
    assert!(assert_check(&report, "canary", "fail").contains("stale"));
    archived.cluster.psql(
        "select pg_logical_emit_message(true, 'walproof', 'canary 1 roadwave/1 2030-01-01T00:00:00Z 00')",
    );
    archived.archive_all();
    let report = staging.drill(1, ["--target-timeline", "1"]);
    assert!(assert_check(&report, "canary", "fail").contains("not written by this repository's daemon"));
}

/// Processes that work in or below `dir`.
fn processes_in(dir: &Path) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir)))
        .count()
}

#[test]
fn a_drill_killed_at_any_phase_is_cleared_away_by_the_next() {
    let archived = started();
    let toml = "[[drill.query]]\nname = \"long\"\ndatabase = \"postgres\"\nsql = \"select pg_sleep(5) is not null\"\n\
        [archive]\nheartbeat_interval = \"0s\"";
    let staging = Staging::with(&archived, toml);
    // Before the first word, and in each phase after its last.
    for pause in [0, 100, 300] {
        let drill = staging.walproof.spawn(["drill", "--target-immediate"]);
        std::thread::sleep(Duration::from_millis(pause));
        drill.kill9();
    }
    let said = ["recovery window", "restore", "target reached", "databases and catalogs", "visibility maps"];
    for said in said {
        let mut drill = staging.walproof.spawn(["drill", "--target-immediate"]);
        drill.wait_for_stderr(said, PATIENCE);
        drill.kill9();
        assert_eq!(staging.left().len(), 1, "after {said}");
    }
    let report = staging.drill(0, ["--target-immediate"]);
    assert_eq!(report["sequence"], 1);
    assert_eq!(processes_in(&staging.directory()), 0);
    assert_eq!(archived.repo().keys("/leases/"), [""; 0], "of a drill that was killed");
    // Told to stop, it clears away by itself.
    let mut drill = staging.walproof.spawn(["drill", "--target-immediate"]);
    drill.wait_for_stderr("visibility maps", PATIENCE);
    drill.terminate(PATIENCE).fails_with(9).stderr_contains("stopped before its end");
    assert_eq!((staging.left().len(), processes_in(&staging.directory())), (0, 0));
}

#[test]
fn evidence_that_was_tampered_with_is_named_and_an_export_needs_a_public_key_only() {
    let archived = started();
    let staging =
        Staging::with(&archived, "[drill]\namcheck = false\n[archive]\nheartbeat_interval = \"0s\"");
    let first = staging.drill(0, ["--target-immediate"]);
    staging.drill(0, ["--target-immediate"]);
    let third = staging.drill(0, ["--target-immediate"]);
    let id = first["id"].as_str().unwrap();
    staging.walproof.run(["drill-note", id, "looked at it"]).success();
    staging.walproof.run(["drill-list"]).success().stdout_contains("4 entries");
    staging.walproof.run(["drill-report", id]).success().stdout_contains("looked at it");
    assert_eq!(staging.walproof.json(["drill-report"])["digest"], third["digest"]);
    let page = staging.walproof.run(["drill-report", "--format", "html"]);
    page.success().stdout_contains("The backup restores");

    let repo = archived.repo();
    let keys: Vec<String> =
        repo.keys("watch/reports/").into_iter().filter(|key| !key.ends_with("/head")).collect();
    let memory = std::fs::read_dir(staging.directory()).unwrap().flatten();
    let memory =
        memory.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|kind| kind == "json"));
    std::fs::remove_file(memory.expect("what this host remembers")).unwrap();
    let newest = repo.read(&keys[3]);
    repo.delete(&keys[3]);
    staging.walproof.run(["drill-list"]).fails_with(1).stdout_contains("report 4 was removed");
    repo.write(&keys[3], &newest);
    staging.walproof.run(["drill-list"]).success();
    let (one, two) = (repo.read(&keys[0]), repo.read(&keys[1]));
    repo.write(&keys[0], &two);
    repo.write(&keys[1], &one);
    staging
        .walproof
        .run(["drill-list"])
        .fails_with(1)
        .stdout_contains("report 1")
        .stdout_contains("report 2");
    repo.write(&keys[0], &one);
    repo.write(&keys[1], &two);
    repo.flip_bit(&keys[1], two.len() - 1);
    staging.walproof.run(["drill-list"]).fails_with(1).stdout_contains("report 2");
    // A document about one drill has no place for what is wrong with another.
    staging.walproof.run(["drill-report", id, "--json"]).fails_with(1).stderr_contains("report 2");
    repo.write(&keys[1], &two);
    let stranger = Staging::of(&archived);
    stranger.walproof.run(["drill-list"]).fails_with(1).stdout_contains("another key");
    let trusted = staging.public_key.to_str().unwrap();
    stranger.walproof.run(["drill-list", "--public-key", trusted]).success();

    let file = staging.scratch().join("drill.dsse");
    let export = ["drill-export", id, "--to", file.to_str().unwrap()];
    let digest = first["digest"].as_str().unwrap();
    staging.walproof.run(export).success().stdout_contains(digest);
    staging.walproof.run(export).fails_with(8).stderr_contains("exists");
    assert_eq!(sha256sum(&file), digest, "what is printed, and what the next report names");
    let verify = ["drill-verify", file.to_str().unwrap(), "--public-key", trusted];
    let apart = stranger.walproof.with_env("WALPROOF_CONFIG", "/nonexistent");
    apart.run(verify).success().stdout_contains("genuine").stdout_contains(id);
    assert_openssl_agrees(&staging, &file);
    // As an editor leaves it.
    let edited = staging.scratch().file("edited.dsse", [&std::fs::read(&file).unwrap()[..], b"\n"].concat());
    let verify_edited = ["drill-verify", edited.to_str().unwrap(), "--public-key", trusted, "--json"];
    assert_eq!(apart.run(verify_edited).success().json()["digest"], digest);
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    apart.run(verify).fails_with(5);
}

fn sha256sum(file: &Path) -> String {
    let output = std::process::Command::new("sha256sum").arg(file).output().expect("coreutils");
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// The signature, checked without walproof: DSSE's encoding by its specification, Ed25519 by OpenSSL.
#[track_caller]
fn assert_openssl_agrees(staging: &Staging, file: &Path) {
    use base64::Engine;
    let decode =
        |text: &Value| base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap()).unwrap();
    let envelope: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let kind = envelope["payloadType"].as_str().unwrap();
    let payload = decode(&envelope["payload"]);
    let mut signed = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    signed.extend(&payload);
    let signed = staging.scratch().file("signed", signed);
    let signature = staging.scratch().file("signature", decode(&envelope["signatures"][0]["sig"]));
    let openssl = std::process::Command::new("openssl")
        .args(["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey"])
        .arg(&staging.public_key)
        .arg("-in")
        .arg(signed)
        .arg("-sigfile")
        .arg(signature)
        .output()
        .expect("apt-get install openssl");
    assert!(openssl.status.success(), "{openssl:?}");
    let statement: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
}

#[test]
fn failing_and_endless_questions_are_told_apart() {
    let archived = started();
    let query = |name: &str, sql: &str| {
        format!("[[drill.query]]\nname = \"{name}\"\ndatabase = \"postgres\"\nsql = \"{sql}\"\n")
    };
    let toml = [
        query("true", "select count(*) > 0 from t"),
        query("false", "select false"),
        query("broken", "select x from nowhere"),
        query("null", "select null::boolean"),
        query("number", "select 1"),
        query("writes", "insert into t values (-1) returning true"),
        query("endless", "select pg_sleep(1000) is null"),
        query("super", "select current_setting('is_superuser') = 'off' and session_user = current_user"),
    ]
    .concat();
    let staging = Staging::with(&archived, &format!("{toml}[archive]\nheartbeat_interval = \"0s\""));
    let report = staging.drill(1, ["--query-timeout", "2s", "--target-timeline", "1"]);
    assert_check(&report, "query: true", "pass");
    assert_check(&report, "query: super", "pass");
    assert_check(&report, "query: false", "fail");
    assert!(assert_check(&report, "query: broken", "fail").contains("nowhere"));
    assert!(assert_check(&report, "query: null", "fail").contains("null"));
    assert!(assert_check(&report, "query: number", "fail").contains("int4"));
    let writes = assert_check(&report, "query: writes", "fail");
    assert!(writes.contains("permission denied") || writes.contains("read-only"), "{writes}");
    assert!(assert_check(&report, "query: endless", "could_not_verify").contains("2 s"));
    let reasons = report["reasons"].to_string();
    assert!(reasons.contains("query: false") && reasons.contains("query: endless"), "{reasons}");
}

#[test]
fn rto_beyond_its_objective_fails() {
    let archived = started();
    // The drill itself may take less than a second.
    let toml = "[objectives]\nrto = \"1s\"\n[archive]\nheartbeat_interval = \"0s\"\n[[drill.query]]\nname = \"slow\"\n\
        database = \"postgres\"\nsql = \"select pg_sleep(1) is not null\"";
    let report = Staging::with(&archived, toml).drill(1, ["--target-immediate"]);
    assert!(assert_check(&report, "RTO objective", "fail").contains("promised"));
}

#[test]
fn an_endless_question_alone_is_inconclusive() {
    let archived = started();
    let toml = "[[drill.query]]\nname = \"x\"\ndatabase = \"postgres\"\nsql = \"select pg_sleep(99) is null\"\n\
        [archive]\nheartbeat_interval = \"0s\"";
    let report = Staging::with(&archived, toml).drill(10, ["--query-timeout", "1s", "--target-immediate"]);
    assert_eq!(report["verdict"], "inconclusive");
}

#[test]
fn without_a_server_of_that_version_or_a_key_nothing_begins() {
    let archived = started();
    let staging = Staging::of(&archived);
    let without = archived.configured("");
    without.run(["drill"]).fails_with(2).stderr_contains("drill-keygen");
    assert!(archived.repo().keys("watch/reports").is_empty() && staging.left().is_empty());
}

#[test]
fn a_report_signed_by_another_and_a_newest_one_removed_with_its_head_are_named() {
    let archived = started();
    let toml = "[drill]\namcheck = false\n[archive]\nheartbeat_interval = \"0s\"";
    let staging = Staging::with(&archived, toml);
    staging.drill(0, ["--target-immediate"]);
    let repo = archived.repo();
    // Somebody who has the repository, and its key, drills a copy of it.
    let copy = archived.scratch.join("copy");
    let copied = std::process::Command::new("cp").arg("-a").arg(repo.dir().unwrap()).arg(&copy).status();
    assert!(copied.unwrap().success());
    let forger = Walproof::builder(Repo::local_at(copy)).key_of(&archived.walproof);
    let key = archived.scratch.join("forger.key");
    archived.walproof.run(["drill-keygen", "--to", key.to_str().unwrap()]).success();
    let forger =
        forger.toml(toml).toml(&format!("[drill]\nsigning_key_file = \"{}\"", key.display())).build();
    let forger = forger.with_env("PATH", crate::support::drill::path(&archived));
    forger.run(["drill", "--target-immediate"]);
    staging.drill(0, ["--target-immediate"]);
    let ours = repo.keys("watch/reports/");
    let theirs = forger.repo().keys("watch/reports/");
    let newest = ours.iter().rfind(|key| !key.ends_with("/head")).unwrap();
    let newest_of_theirs = theirs.iter().rfind(|key| !key.ends_with("/head")).unwrap();
    assert_ne!(newest, newest_of_theirs);
    let kept = repo.read(newest);
    repo.delete(newest);
    repo.write(newest_of_theirs, &forger.repo().read(newest_of_theirs));
    let listed = staging.walproof.run(["drill-list"]);
    listed.fails_with(1).stdout_contains("report 2: the envelope was signed with another key");
    // Beside ours it is named as well.
    repo.write(newest, &kept);
    staging.walproof.run(["drill-list"]).fails_with(1).stdout_contains("signed with another key");
    repo.delete(newest_of_theirs);
    staging.walproof.run(["drill-list"]).success();

    let head = ours.iter().find(|key| key.ends_with("/head")).unwrap();
    repo.delete(newest);
    repo.delete(head);
    staging.walproof.run(["drill-list"]).fails_with(1).stdout_contains("report 2 was removed");
    let report = staging.try_drill(["--target-immediate"]);
    assert_eq!(report.json()["sequence"], 3, "a number is never used twice: {report}");
    staging.walproof.run(["drill-list"]).fails_with(1).stdout_contains("report 2 was removed");
}
