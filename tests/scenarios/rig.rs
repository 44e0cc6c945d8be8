//! That the test rig itself works: what it starts answers, what it fabricates is what PostgreSQL reads, and
//! the faults that it injects are seen by a client.

#![allow(clippy::unwrap_used, reason = "in a test, a failed step is a failed test")]

use crate::support::fabricate::{self, ControlFile, FakeDataDir, MIB, SYSTEM_IDENTIFIER, VERSIONS, WalFile};
use crate::support::postgres::{Binaries, Cluster, StopMode};
use crate::support::process::{self, Running};
use crate::support::s3::{Fault, Faults, S3Server, S3Target, Verb};
use crate::support::{Random, Repo, Scratch};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};
use std::time::{Duration, UNIX_EPOCH};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_cluster_starts_answers_and_survives_kill_9() {
    let mut cluster =
        Cluster::builder().segment_size_mb(1).checksums(false).setting("work_mem", "5MB").start();
    assert_eq!(cluster.psql("show wal_segment_size; show data_checksums; show work_mem"), "1MB\noff\n5MB");
    assert!(cluster.try_psql("select 1/0").is_err_and(|why| why.contains("division by zero")));

    cluster.psql("create table t as select 1 as n; checkpoint; insert into t values (2)");
    cluster.kill9();
    assert!(!cluster.is_running());
    cluster.start();
    assert_eq!(cluster.psql("select sum(n) from t"), "3");
    assert!(cluster.log().contains("redo starts at"), "{}", cluster.log());

    cluster.stop(StopMode::Fast);
    assert!(cluster.try_psql("select 1").is_err());
    cluster.restart();
    cluster.pgbench(["-i", "-q", "-s", "1"]);
    cluster.wait_until("select count(*) from pgbench_accounts", "100000", SOON);
}

#[test]
fn an_archive_command_is_called_and_waited_for() {
    let archive = Scratch::new();
    let mut cluster = Cluster::builder().segment_size_mb(1).create();
    cluster
        .set("archive_mode", "on")
        .set("archive_command", &format!("cp %p {}/%f", archive.path().display()));
    cluster.start();
    let name = cluster.switch_wal();
    cluster.wait_archived(&name, SOON);
    assert!(archive.join(&name).exists());
}

#[test]
fn a_standby_follows_and_is_promoted_and_its_copy_can_be_attached() {
    let primary = Cluster::start_new();
    let mut standby = Cluster::standby_of(&primary);
    standby.start();
    primary.psql("create table t as select 7 as n");
    standby.wait_until("select n from t", "7", SOON);
    drop(primary);
    standby.promote();
    assert_eq!(standby.psql("insert into t values (8); select pg_is_in_recovery()"), "f");

    standby.stop(StopMode::Fast);
    let mut copy = Cluster::attach(standby.data_dir());
    copy.override_setting("archive_mode", "off").start();
    assert_eq!(copy.psql("select sum(n) from t"), "15");
    assert_ne!(copy.conninfo(), standby.conninfo());
    assert_eq!(copy.system_identifier(), standby.system_identifier());
}

#[test]
fn a_server_that_ends_by_itself_is_noticed() {
    let mut cluster = Cluster::builder().create();
    cluster.set("recovery_target", "immediate").set("restore_command", "exit 201");
    std::fs::write(cluster.data_dir().join("recovery.signal"), "").unwrap();
    let status = cluster.start_until_exit(SOON);
    assert!(!status.success(), "{}", cluster.log());
}

#[test]
fn a_command_that_hangs_is_killed_and_named() {
    let mut sleep = process::command("sh");
    sleep.args(["-c", "echo started >&2; sleep 1000"]);
    let run = std::panic::AssertUnwindSafe(|| process::run(sleep, b"", Duration::from_millis(500)));
    let caught = std::panic::catch_unwind(run);
    let message = *caught.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("sleep 1000") && message.contains("started"), "{message}");

    let mut cat = process::command("sh");
    cat.args(["-c", "echo up >&2; cat; env; exit 3"]);
    let output = process::run(cat, b"in\n", SOON);
    output.fails_with(3).stdout_contains("in\n").stderr_contains("up").says_nowhere("CARGO");

    let mut endless = process::command("sh");
    endless.args(["-c", "echo ready >&2; sleep 1000 & wait"]);
    let mut endless = Running::start(endless, b"");
    endless.wait_for_stderr("ready", SOON);
    assert_eq!(endless.kill9().code(), 137);
}

#[test]
fn pg_controldata_accepts_fabricated_control_files() {
    let binaries = Binaries::find();
    let data =
        FakeDataDir::with(ControlFile::new(binaries.major()).segment_size(MIB).timeline(3).redo(0x0200_0028));
    let mut show = binaries.command("pg_controldata");
    show.arg("-D").arg(data.path());
    let output = process::run(show, b"", SOON);
    output.success().says_nowhere("WARNING");
    let redo = if binaries.major() >= 19 { "0/02000028" } else { "0/2000028" };
    for (name, value) in [
        ("Database system identifier:", SYSTEM_IDENTIFIER.to_string()),
        ("Database cluster state:", "in production".into()),
        ("Latest checkpoint's REDO location:", redo.into()),
        ("Latest checkpoint's TimeLineID:", "3".into()),
        ("Bytes per WAL segment:", MIB.to_string()),
        ("Data page checksum version:", "1".into()),
        ("max_connections setting:", "100".into()),
        ("Maximum data alignment:", "8".into()),
        ("Size of a large-object chunk:", "2048".into()),
    ] {
        let line = output.stdout().lines().find(|line| line.starts_with(name)).map(str::to_owned);
        let line = line.unwrap_or_else(|| panic!("no {name} {output}"));
        assert_eq!(line[name.len()..].trim(), value, "{name}");
    }
    data.file("global/pg_control", data.control().torn());
    let mut show = binaries.command("pg_controldata");
    show.arg("-D").arg(data.path());
    // A warning since 18, before that a part of the output.
    let output = process::run(show, b"", SOON);
    assert!(output.stdout().contains("CRC") || output.stderr().contains("CRC"), "{output}");
}

#[test]
fn pg_waldump_reads_fabricated_segments() {
    let binaries = Binaries::find();
    let data = FakeDataDir::with(ControlFile::new(binaries.major()).segment_size(MIB));
    let commit = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    let first = data.wal(5).random(1).commit(2, commit);
    let second = first.clone().next().random(2).pages(3);
    for file in [&first, &second] {
        assert_eq!(file.bytes().len(), MIB as usize);
        data.add_wal(file);
    }
    assert_eq!(
        (first.name().as_str(), fabricate::lsn(first.start())),
        ("000000010000000000000005", "0/500000".into())
    );

    let dump = |names: &[&str]| {
        let mut dump = binaries.command("pg_waldump");
        dump.arg("-p").arg(data.pg_wal()).args(names);
        process::run(dump, b"", SOON)
    };
    let output = dump(&[&first.name(), &second.name()]);
    let text = output.success().stdout();
    assert_eq!(text.matches("NOOP").count(), 128 + 3, "{output}");
    assert_eq!(text.matches("SWITCH").count(), 2, "{output}");
    output.stdout_contains("COMMIT 2026-09-21");

    data.add_wal(&first.clone().stale_from(10));
    assert!(dump(&[&first.name()]).stdout().matches("NOOP").count() == 10);
    data.add_wal(&first.clone().magic(0xD0FF));
    dump(&[&first.name()]).fails_with(1);
}

#[test]
fn fabricated_names_and_bytes_are_what_they_say() {
    let name = |segment, size| WalFile::new(15, SYSTEM_IDENTIFIER, 2, segment, size).name();
    assert_eq!(name(255, 16 * MIB), "0000000200000000000000FF");
    assert_eq!(name(256, 16 * MIB), "000000020000000100000000");
    assert_eq!(name(4096, MIB), "000000020000000100000000");

    let plain = WalFile::default();
    assert_eq!(plain.bytes(), plain.bytes());
    assert_ne!(plain.clone().random(1).bytes(), plain.clone().random(2).bytes());
    assert!(plain.clone().zeroed().bytes().iter().all(|&byte| byte == 0));
    assert!(plain.clone().pages(2).bytes()[2 * 8192..].iter().all(|&byte| byte == 0));
    assert_eq!(fabricate::history(&[(1, 0x0500_0000)]), "1\t0/5000000\tno recovery target specified\n");
    for version in VERSIONS {
        assert_eq!(ControlFile::new(version.major).bytes().len(), 8192);
    }
}

fn client(server: &S3Server) -> AmazonS3 {
    let location = server.location();
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let options = ClientOptions::new().with_allow_http(true).with_timeout(Duration::from_secs(2));
    let builder = AmazonS3Builder::new().with_endpoint(location.endpoint).with_bucket_name(location.bucket);
    let builder = builder.with_access_key_id(location.access_key).with_secret_access_key(location.secret_key);
    builder.with_region(location.region).with_retry(retry).with_client_options(options).build().unwrap()
}

async fn list(client: &AmazonS3, prefix: &str) -> object_store::Result<Vec<String>> {
    let listed = client.list_with_delimiter(Some(&Key::from(prefix))).await?;
    Ok(listed.objects.into_iter().map(|object| object.location.to_string()).collect())
}

#[tokio::test]
async fn the_s3_server_stores_lists_and_refuses_strangers() {
    let server = S3Server::start();
    let client = client(&server);
    let key = Key::from("pg/a/one");
    client.put(&key, "hello".into()).await.unwrap();
    assert_eq!(client.get(&key).await.unwrap().bytes().await.unwrap(), "hello");
    assert_eq!(list(&client, "pg/a").await.unwrap(), ["pg/a/one"]);

    let repo = Repo::s3(&server);
    assert_eq!(repo.objects(), [("a/one".to_owned(), 5)]);
    repo.flip_bit("a/one", 0);
    repo.rename("a/one", "b/two");
    repo.write("b/three", b"3");
    assert_eq!(client.get(&Key::from("pg/b/two")).await.unwrap().bytes().await.unwrap(), "iello");
    assert_eq!(list(&client, "pg/b").await.unwrap(), ["pg/b/three", "pg/b/two"]);
    repo.delete("b/two");
    assert!(matches!(client.get(&Key::from("pg/b/two")).await, Err(object_store::Error::NotFound { .. })));
    assert_eq!((server.faults().count(Verb::Put), server.faults().count(Verb::List)), (1, 2));

    let location = server.location();
    let stranger = AmazonS3Builder::new().with_endpoint(location.endpoint).with_bucket_name(location.bucket);
    let stranger = stranger.with_access_key_id(location.access_key).with_secret_access_key("wrong");
    let stranger = stranger.with_allow_http(true).build().unwrap();
    assert!(stranger.get(&key).await.is_err());
    assert_eq!(server.faults().requests().last().unwrap().status, Some(403));
}

fn statuses(faults: &Faults) -> Vec<Option<u16>> {
    faults.requests().iter().map(|request| request.status).collect()
}

#[tokio::test]
async fn faults_strike_as_told() {
    let server = S3Server::start();
    let (client, faults) = (client(&server), server.faults().clone());
    let (key, content) = (Key::from("pg/wal/one"), Random::from_seed("faults").bytes(1_000_000));
    let put = || client.put(&key, content.clone().into());
    let get = || async { client.get(&key).await?.bytes().await };
    let strike = |fault| faults.clear().forget().add(fault).struck();

    strike(Fault::status(503).on(Verb::Put).key("wal/").nth(2));
    assert!(put().await.is_ok() && put().await.is_err() && put().await.is_ok());
    assert_eq!(statuses(&faults), [Some(200), Some(503), Some(200)]);

    strike(Fault::status(403).on(Verb::Get).every(2).times(1));
    assert!(get().await.is_ok() && get().await.is_err() && get().await.is_ok() && get().await.is_ok());

    strike(Fault::reset().on(Verb::List));
    assert!(list(&client, "pg/wal").await.is_err());
    assert_eq!((statuses(&faults), faults.struck()), (vec![None], 1));

    strike(Fault::flip_bit().on(Verb::Get));
    assert_ne!(get().await.unwrap(), content);

    strike(Fault::hang().on(Verb::Get));
    assert!(get().await.is_err());

    strike(Fault::delay(Duration::from_millis(300)));
    let begun = std::time::Instant::now();
    assert_eq!(get().await.unwrap(), content);
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn half_a_body_breaks_the_answer_in_its_middle() {
    let server = S3Server::start();
    let (client, repo) = (client(&server), Repo::s3(&server));
    repo.write("big", &vec![7; 1_000_000]);
    server.faults().add(Fault::half_body().on(Verb::Get));
    let answer = client.get(&Key::from("pg/big")).await.unwrap();
    assert_eq!(answer.meta.size, 1_000_000);
    assert!(answer.bytes().await.is_err());
    assert_eq!(server.faults().requests()[0].status, None);
}

#[tokio::test]
async fn an_answer_may_be_lost_after_the_commit() {
    let server = S3Server::start();
    let (client, repo) = (client(&server), Repo::s3(&server));
    for (name, fault) in [("lost", Fault::commit_then_reset()), ("denied", Fault::commit_then_503())] {
        server.faults().clear().add(fault.on(Verb::Put));
        assert!(client.put(&Key::from(format!("pg/{name}")), name.into()).await.is_err());
        assert_eq!(repo.read(name), name.as_bytes());
    }
    server.faults().clear().add(Fault::reset().on(Verb::Put));
    assert!(client.put(&Key::from("pg/never"), "x".into()).await.is_err());
    assert_eq!(repo.keys(""), ["denied", "lost"]);
}

#[test]
fn the_s3_server_can_go_away_and_come_back() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut server = S3Server::start();
    let client = client(&server);
    let put = || runtime.block_on(client.put(&Key::from("pg/x"), "x".into()));
    put().unwrap();
    server.stop();
    assert!(put().is_err());
    server.restart();
    put().unwrap();
    assert_eq!(Repo::s3(&server).objects(), [("x".to_owned(), 1)]);
}

#[test]
fn a_repository_can_be_tampered_with_wherever_it_is() {
    let target = S3Target::from_env();
    let server = S3Server::start();
    let through_its_api = S3Target::External(server.location());
    for repo in [Repo::local(), Repo::s3(&target), Repo::s3(&through_its_api)] {
        repo.write("a/b", b"12345");
        repo.truncate("a/b", 3);
        repo.copy("a/b", "c");
        assert_eq!(repo.objects(), [("a/b".to_owned(), 3), ("c".to_owned(), 3)]);
        assert_eq!((repo.key("a/"), repo.read("c")), ("a/b".to_owned(), b"123".to_vec()));
        repo.delete("a/b");
        assert_eq!(repo.keys("a"), [""; 0]);
    }
}
