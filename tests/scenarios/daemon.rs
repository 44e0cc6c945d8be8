//! The daemon: archiving ahead, the socket, the tail, the RPO, standbys and promotion.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::thread::sleep;
use std::time::Duration;

use crate::support::archived::{Archived, PATIENCE, wait_open};
use crate::support::postgres::{Cluster, StopMode};
use crate::support::{Daemon, Repo, Walproof};
use crate::support::{s3::S3Server, site::Site};

/// A cluster, a backup, and a tail every second.
fn archived(repo: Repo) -> Archived {
    archived_as(
        Cluster::builder().segment_size_mb(1),
        repo,
        "tail_interval = \"1s\"\nheartbeat_interval = \"0s\"",
    )
}

fn archived_as(builder: crate::support::postgres::ClusterBuilder, repo: Repo, archive: &str) -> Archived {
    Archived::start_with(builder, repo, &format!("[archive]\n{archive}"))
}

/// A backup, and a commit that is not stored: no tail goes out.
fn with_wal_not_stored() -> (Archived, Daemon) {
    let archived =
        archived_as(Cluster::builder(), Repo::local(), "tail_interval = \"0s\"\nheartbeat_interval = \"0s\"");
    archived.backup();
    let daemon = Daemon::start_whole(&archived.walproof);
    archived.archive_all();
    archived.cluster.psql("create table t as select 1 as n");
    daemon.wait("something is not stored", |status| status["rpo_seconds"].as_f64() > Some(0.0));
    (archived, daemon)
}

/// A standby of `old` that runs, and walproof for it.
fn standby_of(old: &Archived) -> (Cluster, Walproof) {
    let mut standby = Cluster::standby_of(&old.cluster);
    let walproof = Walproof::builder(old.repo().clone())
        .cluster(&standby)
        .key_of(&old.walproof)
        .toml("[archive]\ntail_interval = \"1s\"")
        .build();
    standby.set("archive_command", &walproof.archive_command());
    standby.start();
    (standby, walproof)
}

/// The host is lost with all that is on it, and the newest state restored.
fn lose_and_restore(archived: &mut Archived, daemon: Daemon) -> Cluster {
    daemon.kill9();
    archived.cluster.destroy_data_dir();
    archived.restore_newest("restored")
}

#[test]
fn r1_segments_are_stored_before_postgresql_asks_and_it_is_told_so() {
    let archived = archived(Repo::local());
    let daemon = Daemon::start_whole(&archived.walproof);
    // PostgreSQL's own archiver is kept away: what gets stored, the daemon stored by itself.
    archived.cluster.set("archive_command", "false").reload();
    let names: Vec<String> = (0..5).map(|_| archived.cluster.switch_wal()).collect();
    daemon.wait_all_stored();
    for name in &names {
        assert_eq!(archived.repo().keys(&format!("/{name}-")).len(), 1, "{name} is stored");
    }
    let asked = archived.walproof.json(["wal-push", &format!("pg_wal/{}", names[0])]);
    assert_eq!(asked["by_daemon"], true);
    let command = archived.walproof.archive_command();
    archived.cluster.set("archive_command", &command).reload();
    archived.cluster.wait_archived(&names[4], PATIENCE);
    let status = daemon.wait("nothing waits", |status| status["ready"] == 0);
    assert_eq!(status["role"], "primary");
    let log = daemon.terminate();
    log.success();
    assert!(!log.stderr().contains("WARN"), "{log}");
}

#[test]
fn r1_without_a_daemon_that_can_be_believed_wal_push_does_the_work_itself() {
    let site = Site::new(Repo::local());
    let socket = site.walproof.socket();
    let push = |number| {
        let name = site.data.add_wal(&site.data.wal(number).random(number));
        let pushed = site.walproof.json(["wal-push", &format!("pg_wal/{name}")]);
        assert_eq!(pushed["by_daemon"], false);
        site.comes_back(&name);
    };
    push(1);
    // Left behind by a daemon that was killed.
    drop(UnixListener::bind(&socket).unwrap());
    push(2);
    // Others say something else, or nothing, or hang up.
    for (number, answer) in [(3, Some("ok\n")), (4, Some("stored please\n")), (5, Some("")), (6, None)] {
        std::fs::remove_file(&socket).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let pretender = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            assert!(line.starts_with("walproof/1 push "), "{line}");
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
                None => sleep(Duration::from_secs(6)),
            }
        });
        push(number);
        pretender.join().unwrap();
    }
}

#[test]
fn a_second_daemon_for_the_same_cluster_says_so_and_leaves() {
    let archived = archived(Repo::local());
    let daemon = Daemon::start_whole(&archived.walproof);
    archived.walproof.run(["daemon"]).fails_with(7).stderr_contains("another daemon");
    assert_eq!(daemon.status()["role"], "primary", "the first one is not disturbed");
    daemon.kill9();
    // What it left behind is in nobody's way.
    Daemon::start_whole(&archived.walproof);
}

#[test]
fn what_lies_where_the_socket_should_is_not_removed() {
    let archived = archived(Repo::local());
    let key = archived.walproof.scratch().join("key");
    let config = std::fs::read_to_string(archived.walproof.config()).unwrap();
    let line = config.lines().find(|line| line.starts_with("socket = ")).unwrap();
    let config = config.replace(line, &format!("socket = {key:?}"));
    archived.walproof.scratch().file("walproof.toml", &config);
    archived.walproof.run(["daemon"]).fails_with(2).stderr_contains("not a socket").hints("archive.socket");
    assert!(key.is_file());
}

#[test]
fn r8_the_tail_is_stored_and_a_restore_brings_it_back() {
    let server = S3Server::start();
    for repo in [Repo::local(), Repo::s3(&server)] {
        let mut archived = archived(repo);
        archived.backup();
        let daemon = Daemon::start_whole(&archived.walproof);
        archived.cluster.psql("create table t as select generate_series(1, 100) as n");
        daemon.wait_all_stored();
        archived.cluster.psql("insert into t select generate_series(101, 200)");
        let status = daemon.wait_all_stored();
        assert_eq!(status["tail"]["end"], status["stored"]);
        let restored = lose_and_restore(&mut archived, daemon);
        assert_eq!(restored.psql("select count(*), max(n) from t"), "200|200");
    }
}

#[test]
fn the_tail_of_a_stored_segment_goes_and_few_pieces_stay() {
    let archived = archived(Repo::local());
    let daemon = Daemon::start_whole(&archived.walproof);
    let segments = || {
        let keys = archived.repo().keys("/tail/");
        let mut names: Vec<String> =
            keys.iter().filter_map(|key| Some(key.split('/').nth(3)?.to_owned())).collect();
        names.dedup();
        (names, keys.len())
    };
    for _ in 0..4 {
        archived.cluster.psql("select pg_logical_emit_message(true, 'x', repeat('x', 100000))");
        daemon.wait_all_stored();
    }
    let (names, pieces) = segments();
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(pieces <= 3, "{pieces} pieces for less than a megabyte");
    archived.archive_all();
    daemon.wait_all_stored();
    crate::support::wait_until("the old tail is gone", PATIENCE, || !segments().0.contains(&names[0]));
}

#[test]
fn the_rpo_is_right_when_idle_and_when_the_server_is_down() {
    let mut archived = archived(Repo::local());
    archived.backup();
    let daemon = Daemon::start_whole(&archived.walproof);
    archived.cluster.psql("create table t (n int)");
    daemon.wait_all_stored();
    sleep(Duration::from_secs(3));
    assert_eq!(daemon.status()["rpo_seconds"], 0.0, "idle: nothing would be lost");
    archived.cluster.stop(StopMode::Fast);
    let down = daemon.wait("it notices", |status| status["role"] == "down");
    assert!(!down["problems"].as_array().unwrap().is_empty());
    // A clean stop archives everything.
    daemon.wait("all that is on the disk is stored", |status| status["rpo_seconds"] == 0.0);
    archived.cluster.start();
    archived.cluster.psql("insert into t values (1)");
    daemon.wait("it is back", |status| status["role"] == "primary" && status["rpo_seconds"] == 0.0);
}

#[test]
fn the_rpo_grows_after_a_crash_that_left_wal_behind() {
    let (mut archived, daemon) = with_wal_not_stored();
    archived.cluster.kill9();
    let first = daemon.wait("it notices", |status| status["role"] == "down");
    sleep(Duration::from_secs(2));
    let second = daemon.status();
    let rpo = |status: &serde_json::Value| status["rpo_seconds"].as_f64().unwrap();
    assert!(rpo(&second) >= rpo(&first) + 1.5, "{} then {}", rpo(&first), rpo(&second));
    archived.cluster.start();
    archived.archive_all();
    daemon.wait_all_stored();
}

#[test]
fn what_a_crashed_server_left_on_its_disk_is_stored() {
    let mut archived = archived(Repo::local());
    archived.backup();
    archived.cluster.psql("create table t as select generate_series(1, 100) as n");
    archived.cluster.kill9();
    let daemon = Daemon::start(&archived.walproof);
    let stored = |status: &serde_json::Value| status["role"] == "down" && status["rpo_seconds"] == 0.0;
    daemon.wait("the daemon has found and stored it", stored);
    archived.cluster.start();
    daemon.wait("the daemon has found the server", |status| status["role"] == "primary");
    archived.cluster.psql("insert into t select generate_series(101, 200)");
    // Most times before the daemon's next look, one second apart.
    archived.cluster.kill9();
    daemon.wait("the same under a running daemon", stored);
    let restored = lose_and_restore(&mut archived, daemon);
    assert_eq!(restored.psql("select count(*), max(n) from t"), "200|200");
}

#[test]
fn a_standby_that_is_down_has_left_nothing_to_store() {
    let old = archived(Repo::local());
    let (mut standby, walproof) = standby_of(&old);
    old.cluster.psql("create table t as select 1 as n");
    standby.kill9();
    let daemon = Daemon::start(&walproof);
    daemon.wait("the repository is surveyed", |status| !status["stored"].is_null());
    sleep(Duration::from_secs(3));
    assert!(daemon.status()["rpo_seconds"].is_null(), "{}", daemon.status());
    assert_eq!(old.repo().keys("/tail/"), [""; 0]);
}

#[test]
fn after_a_restart_of_the_daemon_the_rpo_is_not_less_than_it_was() {
    let (archived, daemon) = with_wal_not_stored();
    sleep(Duration::from_secs(3));
    let before = daemon.status()["rpo_seconds"].as_f64().unwrap();
    daemon.kill9();
    let daemon = Daemon::start_whole(&archived.walproof);
    let after = daemon.status()["rpo_seconds"].as_f64().unwrap();
    assert!(before >= 3.0 && after >= before, "{before} s before, {after} s after");
}

#[test]
fn heartbeats_give_an_idle_cluster_a_time_to_be_restored_to() {
    let archived =
        archived_as(Cluster::builder(), Repo::local(), "tail_interval = \"1s\"\nheartbeat_interval = \"1s\"");
    archived.backup();
    let daemon = Daemon::start_whole(&archived.walproof);
    let end = |status: &serde_json::Value| status["window"][1].as_str().map(str::to_owned);
    let first = end(&daemon.wait("there is a window", |status| end(status).is_some()));
    daemon.wait("the window moves on", |status| end(status) > first);
}

#[test]
fn r9_a_promoted_standby_ships_what_the_old_primary_never_did() {
    let mut old = archived(Repo::local());
    // A standby that is slow still finds what it needs.
    old.cluster.set("wal_keep_size", "256MB").reload();
    let (mut standby, walproof) = standby_of(&old);
    old.backup();
    let daemon = Daemon::start_whole(&walproof);
    let status = daemon.wait("it sees the standby", |status| status["role"] == "standby");
    assert!(status["rpo_seconds"].is_null(), "a standby claims no RPO");

    // The old primary cannot archive any more, but its standby has what it writes.
    old.cluster.set("archive_command", "false").reload();
    old.cluster.psql("create table t as select generate_series(1, 1000) as n");
    let unshipped: Vec<String> = (0..3).map(|_| old.cluster.switch_wal()).collect();
    old.cluster.psql("insert into t values (1001)");
    let reached = old.cluster.psql("select pg_current_wal_flush_lsn()");
    standby.wait_until(&format!("select pg_last_wal_replay_lsn() >= '{reached}'"), "t", PATIENCE);
    old.cluster.kill9();
    standby.promote();
    let status = daemon.wait("the new primary is covered", |status| {
        status["role"] == "primary" && status["timeline"] == 2 && status["rpo_seconds"] == 0.0
    });
    assert_eq!(status["gap_segments"], 0);
    for name in &unshipped {
        assert_eq!(old.repo().keys(&format!("/{name}-")).len(), 1, "{name} was shipped by the new primary");
    }
    standby.psql("insert into t values (1002)");
    daemon.wait_all_stored();
    daemon.kill9();
    standby.kill9();
    let to = old.target("restored");
    old.try_restore(&to, [""; 0]).success();
    let mut restored = crate::support::archived::attach_silent(&to);
    restored.start();
    wait_open(&restored);
    assert_eq!(restored.psql("select count(*), max(n) from t"), "1002|1002");
}

#[test]
fn r9_a_hole_that_cannot_be_filled_is_reported_and_a_backup_closes_it() {
    let archived = archived(Repo::local());
    archived.backup();
    let lost = archived.cluster.switch_wal();
    archived.cluster.wait_archived(&lost, PATIENCE);
    for _ in 0..3 {
        archived.archive_all();
    }
    archived.repo().delete(&archived.repo().key(&format!("/{lost}-")));
    let file = archived.cluster.pg_wal().join(&lost);
    archived.cluster.psql("checkpoint");
    let _ = std::fs::remove_file(file);
    let daemon = Daemon::start_whole(&archived.walproof);
    let status = daemon.wait("it finds the hole", |status| status["gap_segments"] == 1);
    assert!(status["problems"].to_string().contains(&lost), "{status:#}");
    assert!(status["rpo_seconds"].as_f64() > Some(0.0), "what comes after a hole is not safe");
    archived.backup();
    daemon.wait_within(Duration::from_secs(100), "the backup closes it", |status| {
        status["gap_segments"] == 0 && status["rpo_seconds"] == 0.0
    });
}

#[test]
fn pg_wal_may_be_a_symbolic_link() {
    let mut archived = archived(Repo::local());
    archived.cluster.stop(StopMode::Fast);
    let elsewhere = archived.scratch.join("pg_wal");
    let pg_wal = archived.cluster.pg_wal();
    // Renamed, so that its owner stays.
    std::fs::rename(&pg_wal, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &pg_wal).unwrap();
    archived.cluster.start();
    let daemon = Daemon::start_whole(&archived.walproof);
    archived.cluster.psql("create table t as select 1 as n");
    archived.archive_all();
    daemon.wait_all_stored();
    assert!(daemon.log().contains("daemon started") && !daemon.log().contains("WARN"), "{}", daemon.log());
}

#[test]
fn five_thousand_ready_files_at_the_start_are_archived() {
    let site = Site::with(Repo::local(), |builder| {
        builder.conninfo("host=/nonexistent user=postgres dbname=postgres").toml("[archive]\nconcurrency = 8")
    });
    let names = site.data.add_sparse_ready(1..=5000);
    let daemon = Daemon::start(&site.walproof);
    let stored = || site.repo().keys("/wal/").iter().filter(|key| !key.contains('#')).count();
    crate::support::wait_until("all are stored", Duration::from_mins(3), || stored() == 5000);
    for name in [&names[0], &names[4999]] {
        site.comes_back(name);
        assert_eq!(site.walproof.json(["wal-push", &format!("pg_wal/{name}")])["by_daemon"], true);
    }
    let memory = crate::support::process::peak_memory(daemon.pid());
    assert!(memory < 128 << 20, "{memory} bytes");
    let log = daemon.log();
    assert!(log.len() < 5_000, "{log}");
}

#[test]
fn status_says_how_safe_the_cluster_is_with_and_without_a_daemon() {
    let archived = archived(Repo::local());
    let alone = archived.walproof.run(["status"]);
    alone.fails_with(1).stdout_contains("there is no backup").stdout_contains("no daemon runs here");
    let daemon = Daemon::start_whole(&archived.walproof);
    let id = archived.backup()["id"].as_str().unwrap().to_owned();
    daemon.wait("it sees the backup", |status| status["backups"].as_array().unwrap().len() == 1);
    daemon.wait_all_stored();
    let status = archived.walproof.json(["status"]);
    assert_eq!(status["cluster"], "roadwave");
    assert_eq!(status["system_identifier"], archived.cluster.system_identifier().to_string());
    assert_eq!(status["rpo_seconds"], 0.0);
    assert_eq!(status["problems"].as_array().unwrap().len(), 0, "{status:#}");
    assert!(status["last_backup"].to_string().contains(&id), "{status:#}");
    assert!(status["window"]["start"].is_string() && status["last_drill"].is_null());
    archived.walproof.run(["check"]).success().stdout_contains("daemon");

    daemon.kill9();
    let alone = archived.walproof.run(["status", "--json"]);
    let value: serde_json::Value = serde_json::from_slice(alone.fails_with(1).stdout_bytes()).unwrap();
    assert_eq!(value["problems"][0]["code"], "daemon_down", "one has served here: {value:#}");
    assert_eq!(value["problems"][0]["severity"], "critical");
    assert!(
        value["rpo_seconds"].is_null() && value["window"]["start"] == status["window"]["start"],
        "{value:#}"
    );
}

#[test]
fn what_is_not_expected_on_a_host_is_not_wrong_there() {
    let archived = archived(Repo::local());
    archived.backup();
    let json = |walproof: &Walproof| -> serde_json::Value {
        serde_json::from_slice(walproof.run(["status", "--json"]).success().stdout_bytes()).unwrap()
    };
    // On the cluster's host, archive_command alone is one way to work: it is said, and is no failure.
    let status = json(&archived.walproof);
    assert!(status["rpo_seconds"].is_null(), "{status:#}");
    assert_eq!(status["problems"].as_array().unwrap().len(), 1, "{status:#}");
    assert_eq!(
        (&status["problems"][0]["code"], &status["problems"][0]["severity"]),
        (&"daemon_down".into(), &"warning".into())
    );
    // A host for rehearsals has neither a cluster nor a daemon.
    let staging = Walproof::builder(archived.repo().clone()).key_of(&archived.walproof).build();
    let status = json(&staging);
    assert_eq!(status["problems"].as_array().unwrap().len(), 0, "{status:#}");
    staging.run(["status"]).success().stdout_contains("HEALTHY: what is stored is in order");
}

#[test]
fn a_backup_that_fails_shows() {
    let builder = Cluster::builder().segment_size_mb(1);
    let archived =
        archived_as(builder, Repo::local(), "tail_interval = \"1s\"\n[backup]\nmax_rate = \"1MB\"");
    let daemon = Daemon::start_whole(&archived.walproof);
    let mut backup = archived.walproof.spawn(["backup-push"]);
    backup.wait_for_stderr("backup started", PATIENCE);
    let terminate = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'walproof backup-push'";
    assert_eq!(archived.cluster.psql(terminate), "t");
    backup.wait(PATIENCE).fails_with(6);
    let failed = daemon.metric("walproof_backup_last_failure_timestamp_seconds");
    assert!(failed > Some(1.7e9), "{failed:?}");
}

/// Until a commit follows a backup nothing between the last one before it and its end can be reached; then all of it can.
#[test]
fn a_backup_leaves_no_gap_in_the_window_once_a_commit_follows() {
    let settings = "[archive]\ntail_interval = \"1s\"\nheartbeat_interval = \"0s\"";
    let archived = Archived::start_with(Cluster::builder().segment_size_mb(1), Repo::local(), settings);
    archived.backup();
    archived.cluster.psql("create table t as select 1 as n");
    let daemon = Daemon::start_whole(&archived.walproof);
    daemon.wait_all_stored();
    archived.backup();
    daemon.wait("it knows the backup", |status| status["backups"].as_array().unwrap().len() == 2);
    archived.cluster.psql("insert into t values (2)");
    let soon = std::time::Duration::from_secs(10);
    daemon.wait_within(soon, "the gap is closed", |status| {
        status["rpo_seconds"] == 0.0 && status["window_gaps"].as_array().unwrap().is_empty()
    });
}
