//! What a daemon survives: a store that is down, slow or flaky, kills at any moment, a server that comes and goes.

use std::fs::Permissions;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use crate::support::archived::{Archived, PATIENCE, wait_open};
use crate::support::postgres::Cluster;
use crate::support::s3::{Fault, S3Server, Verb};
use crate::support::server::Server;
use crate::support::small_disk::SmallDisk;
use crate::support::{Daemon, Random, Repo, Walproof};

const SETTINGS: &str =
    "[archive]\ntail_interval = \"1s\"\nheartbeat_interval = \"3s\"\ntimeout = \"5s\"\nconcurrency = 4";

fn archived(repo: Repo) -> Archived {
    Archived::start_with(Cluster::builder().segment_size_mb(1), repo, SETTINGS)
}

fn write(archived: &Archived, segments: u32) -> Vec<String> {
    (0..segments).map(|_| archived.cluster.switch_wal()).collect()
}

/// Every finished segment is stored once, and everything flushed is stored.
fn all_is_stored(archived: &Archived, daemon: &Daemon, names: &[String]) {
    daemon.wait_within(Duration::from_mins(2), "all is stored", |status| {
        status["rpo_seconds"] == 0.0 && status["ready"] == 0
    });
    for name in names {
        assert_eq!(archived.repo().keys(&format!("/{name}-")).len(), 1, "{name}");
    }
    let list = archived.walproof.json(["wal-list"]);
    assert_eq!(list["gaps"].as_array().unwrap().len(), 0, "{list}");
}

#[test]
fn a_store_that_is_down_delays_and_loses_nothing() {
    let mut server = S3Server::start();
    let archived = archived(Repo::s3(&server));
    let daemon = Daemon::start_whole(&archived.walproof);
    daemon.wait_all_stored();
    server.stop();
    let names = write(&archived, 30);
    let status = daemon.wait("the RPO grows", |status| status["rpo_seconds"].as_f64() > Some(12.0));
    assert_eq!(status["store_up"], false, "{status:#}");
    server.restart();
    server.faults().forget();
    all_is_stored(&archived, &daemon, &names);
    // Nothing twice, but for the segment that PostgreSQL's own call may be storing at the moment when the daemon is.
    let put = |name: &str| {
        let part = format!("/{name}-");
        let requests = server.faults().requests();
        requests.iter().filter(|r| r.verb == Verb::Put && r.key.contains(&part)).count()
    };
    let twice: Vec<_> = names.iter().filter(|name| put(name) > 1).collect();
    assert!(twice.len() <= 1 && twice.iter().all(|name| put(name) == 2), "put several times: {twice:?}");
    let log = daemon.log();
    let said = log.lines().filter(|line| line.contains("the store cannot be used")).count();
    assert!(
        (1..=4).contains(&said),
        "for all tasks one line when it starts, one a minute, one when it ends: {log}"
    );
}

#[test]
fn every_tenth_request_failing_is_survived() {
    let server = S3Server::start();
    let archived = archived(Repo::s3(&server));
    server.faults().add(Fault::status(503).every(10)).add(Fault::reset().every(7));
    let daemon = Daemon::start(&archived.walproof);
    let names = write(&archived, 25);
    all_is_stored(&archived, &daemon, &names);
    assert!(server.faults().struck() > 5);
}

#[test]
fn a_store_that_takes_a_second_for_each_request_is_survived() {
    let server = S3Server::start();
    let archived = archived(Repo::s3(&server));
    let daemon = Daemon::start_whole(&archived.walproof);
    server.faults().latency(Duration::from_secs(1));
    let names = write(&archived, 8);
    sleep(Duration::from_secs(3));
    let rpo = daemon.metric("walproof_rpo_seconds").expect("a primary claims an RPO");
    assert!(rpo < 20.0, "{rpo}");
    server.faults().latency(Duration::ZERO);
    all_is_stored(&archived, &daemon, &names);
}

#[test]
fn a_daemon_that_is_killed_at_any_moment_goes_on_where_it_was() {
    let server = S3Server::start();
    let archived = archived(Repo::s3(&server));
    let mut random = Random::from_seed("kill daemon");
    let mut names = Vec::new();
    for _ in 0..12 {
        let daemon = Daemon::start(&archived.walproof);
        names.extend(write(&archived, 3));
        sleep(Duration::from_millis(random.below(400)));
        daemon.kill9();
    }
    let daemon = Daemon::start_whole(&archived.walproof);
    all_is_stored(&archived, &daemon, &names);
    let tails: Vec<String> = archived.repo().keys("/tail/");
    assert!(tails.len() <= 4, "tails of earlier lives are swept: {tails:?}");
}

#[test]
fn a_server_that_crashes_restarts_or_is_not_there_yet_is_waited_for() {
    let mut cluster = Cluster::builder().segment_size_mb(1).create();
    let walproof = Walproof::builder(Repo::local()).cluster(&cluster).toml(SETTINGS).build();
    walproof.run(["init"]).success();
    cluster.configure_archiving(&walproof);
    let daemon = Daemon::start(&walproof);
    daemon.wait("it says that the server is down", |status| status["role"] == "down");
    cluster.start();
    cluster.psql("create table t as select 1 as n");
    daemon.wait("it found the server", |status| status["role"] == "primary" && status["rpo_seconds"] == 0.0);
    for _ in 0..3 {
        cluster.kill9();
        cluster.start();
        cluster.psql("insert into t values (2)");
        let last = cluster.switch_wal();
        cluster.wait_archived(&last, PATIENCE);
        daemon.wait_all_stored();
    }
    cluster.restart();
    cluster.psql("insert into t values (3)");
    daemon.wait_all_stored();
    assert!(!daemon.log().contains("has changed on disk"), "{}", daemon.log());
}

#[test]
fn before_the_store_is_there_the_daemon_waits_and_wal_push_is_not_held_up() {
    let mut server = S3Server::start();
    let archived = archived(Repo::s3(&server));
    server.stop();
    let daemon = Daemon::start(&archived.walproof);
    let status = daemon.wait("it says why", |status| !status["problems"].as_array().unwrap().is_empty());
    assert!(status["rpo_seconds"].is_null(), "nothing is known, nothing is claimed");
    let name = archived.cluster.switch_wal();
    archived.walproof.push(&name).fails_with(4);
    server.restart();
    all_is_stored(&archived, &daemon, &[name]);
}

#[test]
fn r2_a_conflict_is_told_to_postgresql_and_shown() {
    let archived = archived(Repo::local());
    let daemon = Daemon::start_whole(&archived.walproof);
    archived.cluster.set("archive_command", "false").reload();
    let name = archived.cluster.switch_wal();
    daemon.wait_all_stored();
    // Somebody else has archived other bytes under the name that comes next.
    let next = archived.cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())");
    let key = archived.repo().key(&format!("/{name}-"));
    let other = key.replace(&name, &next);
    archived.repo().copy(&key, &other);
    assert_eq!(archived.cluster.switch_wal(), next);
    daemon.wait("it shows the conflict", |status| {
        status["problems"].to_string().contains("different contents")
    });
    daemon.wait("it sees that the command fails", |status| {
        status["archiver_failure"].as_str().is_some_and(|failure| failure.starts_with(&name))
    });
    archived.walproof.push(&next).fails_with(3).stderr_contains("hint: do two primaries archive");
    // The operator has settled it: nobody asks for the file any more.
    let mark = |state: &str| archived.cluster.pg_wal().join(format!("archive_status/{next}.{state}"));
    std::fs::rename(mark("ready"), mark("done")).unwrap();
    daemon.wait("it gives the file up", |status| {
        !status["problems"].to_string().contains("cannot be archived")
    });
}

#[test]
fn a_repository_whose_disk_is_unmounted_is_missed_and_nothing_is_written_beside_it() {
    let archived = archived(Repo::local());
    let daemon = Daemon::start_whole(&archived.walproof);
    daemon.wait_all_stored();
    let directory = archived.repo().dir().unwrap().to_owned();
    let away = directory.with_extension("away");
    // What is left is the empty directory that the disk was mounted on.
    std::fs::rename(&directory, &away).unwrap();
    crate::support::scratch::create_dirs_owned(&directory);
    let name = archived.cluster.switch_wal();
    archived.walproof.push(&name).fails_with(4);
    daemon.wait("the RPO grows", |status| status["rpo_seconds"].as_f64() > Some(2.0));
    let written: Vec<_> = std::fs::read_dir(&directory).unwrap().collect();
    assert!(written.is_empty(), "{written:?}");
    std::fs::remove_dir(&directory).unwrap();
    std::fs::rename(&away, &directory).unwrap();
    all_is_stored(&archived, &daemon, &[name]);
}

#[test]
fn a_full_disk_under_the_repository_is_waited_out() {
    let Some(disk) = SmallDisk::mount(3) else { return };
    let archived = archived(Repo::local_at(disk.path()));
    let daemon = Daemon::start_whole(&archived.walproof);
    let fill = "select pg_logical_emit_message(true, 'x', string_agg(md5(random()::text), '')) from generate_series(1, 40000)";
    let mut names = Vec::new();
    for _ in 0..6 {
        archived.cluster.psql(fill);
        names.push(archived.cluster.switch_wal());
    }
    let status = daemon
        .wait("it says why", |status| status["problems"].to_string().contains("No space left on device"));
    assert!(status["rpo_seconds"].as_f64() > Some(0.0));
    disk.grow(200);
    all_is_stored(&archived, &daemon, &names);
}

#[test]
fn a_restore_in_place_is_followed_by_the_daemon_that_runs_beside_it() {
    let mut archived = archived(Repo::local());
    archived.cluster.psql("create table t as select 1 as n");
    archived.backup();
    let daemon = Daemon::start_whole(&archived.walproof);
    archived.cluster.psql("insert into t values (2)");
    daemon.wait_all_stored();
    archived.cluster.destroy_data_dir();
    let data_dir = archived.cluster.data_dir().to_owned();
    archived.try_restore(&data_dir, [""; 0]).success();
    archived.cluster.start();
    wait_open(&archived.cluster);
    assert_eq!(archived.cluster.psql("select max(n) from t"), "2");
    daemon.wait("it follows to the new timeline", |status| {
        status["timeline"] == 2 && status["rpo_seconds"] == 0.0
    });
    let name = archived.cluster.switch_wal();
    archived.cluster.wait_archived(&name, PATIENCE);
    let pushed = archived.walproof.json(["wal-push", &format!("pg_wal/{name}")]);
    assert_eq!(pushed["by_daemon"], true);
    all_is_stored(&archived, &daemon, &[name]);
}

#[test]
fn a_repository_that_disappears_from_a_disk_is_a_store_that_is_down() {
    let archived = archived(Repo::local());
    let daemon = Daemon::start_whole(&archived.walproof);
    daemon.wait_all_stored();
    assert_eq!(daemon.metric("walproof_store_up"), Some(1.0));
    let dir = archived.repo().dir().unwrap();
    let away = dir.with_extension("away");
    std::fs::rename(dir, &away).unwrap();
    let is_up = |up: f64| daemon.metric("walproof_store_up") == Some(up);
    crate::support::wait_until("the store is down", PATIENCE, || is_up(0.0));
    std::fs::rename(&away, dir).unwrap();
    crate::support::wait_until("the store is up again", PATIENCE, || is_up(1.0));
}

/// A socket in front of the cluster's, over which everything goes until a message of the client has `last` in it: that one,
/// and what follows, never reaches the server.
fn silent_from(archived: &Archived, last: &'static str) -> PathBuf {
    let dir = archived.target("in-front");
    std::fs::create_dir(&dir).unwrap();
    let socket = |dir: &Path| dir.join(format!(".s.PGSQL.{}", Server::PORT));
    let listener = UnixListener::bind(socket(&dir)).unwrap();
    std::fs::set_permissions(socket(&dir), Permissions::from_mode(0o777)).unwrap();
    let server = socket(archived.cluster.socket_dir());
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = UnixStream::connect(&server).unwrap();
            let (answers, asks) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || forward(answers, client, None));
            std::thread::spawn(move || forward(asks, server, Some(last)));
        }
    });
    dir
}

fn forward(mut from: UnixStream, mut to: UnixStream, last: Option<&str>) {
    let mut buffer = [0; 1 << 13];
    let mut silent = false;
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        silent |= last.is_some_and(|last| String::from_utf8_lossy(&buffer[..len]).contains(last));
        if !silent && to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn r10_a_server_that_falls_silent_while_it_is_asked_who_it_is_is_not_called_another() {
    let archived = archived(Repo::local());
    let front = silent_from(&archived, "pg_read_file(text)");
    let conninfo = archived.cluster.conninfo().replace(
        &format!("host={}", archived.cluster.socket_dir().display()),
        &format!("host={}", front.display()),
    );
    let walproof = Walproof::builder(archived.repo().clone())
        .cluster(&archived.cluster)
        .conninfo(&conninfo)
        .key_of(&archived.walproof)
        .toml(SETTINGS)
        .build();
    let daemon = Daemon::start(&walproof);
    let codes = |status: &serde_json::Value| {
        let problems = status["problems"].as_array().unwrap().iter();
        problems.map(|problem| problem["code"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let is_seen = |status: &serde_json::Value| {
        codes(status).iter().any(|code| ["server_down", "wrong_server"].contains(&code.as_str()))
    };
    let status = daemon.wait("it gives up", is_seen);
    assert!(codes(&status).contains(&"server_down".to_owned()), "{status:#}");
    assert!(daemon.log().contains("the server does not answer within 5 s"), "{}", daemon.log());
}

#[test]
fn a_setting_that_a_reload_changes_is_seen_without_a_new_connection() {
    let archived = archived(Repo::local());
    let daemon = Daemon::start_whole(&archived.walproof);
    let calls_us = |status: &serde_json::Value, expected: bool| status["calls_us"] == expected;
    daemon.wait("archive_command calls us", |status| calls_us(status, true));
    let command = archived.cluster.psql("show archive_command");
    archived.cluster.psql("alter system set archive_command = '/bin/false'");
    archived.cluster.psql("select pg_reload_conf()");
    daemon.wait("it no longer does", |status| calls_us(status, false));
    archived.cluster.psql(&format!("alter system set archive_command = '{command}'"));
    archived.cluster.psql("select pg_reload_conf()");
    daemon.wait("it does again", |status| calls_us(status, true));
}

#[test]
fn r5_a_listing_that_takes_longer_than_any_request_may_still_gives_an_rpo() {
    const OBJECTS: u32 = 5000;
    let server = S3Server::start();
    let archived = archived(Repo::s3(&server));
    archived.backup();
    // Packs that no manifest names, as interrupted backups leave them: five pages of a listing before the first WAL,
    // which together take longer than the deadline of a request.
    let pack = archived.repo().keys("/packs/").remove(0);
    let (directory, _) = pack.rsplit_once('/').unwrap();
    let (packs, _) = directory.rsplit_once('/').unwrap();
    for number in 0..OBJECTS {
        archived.repo().write(&format!("{packs}/20260101T000000Z-00000001/{number:08x}"), b"");
    }
    server.faults().add(Fault::delay(Duration::from_millis(1200)).on(Verb::List));
    let names = write(&archived, 2);
    let daemon = Daemon::start_whole(&archived.walproof);
    all_is_stored(&archived, &daemon, &names);
    let status = daemon.wait("an RPO is shown", |status| status["rpo_seconds"] == 0.0);
    assert!(status["window"][1].is_string(), "{status:#}");
}
