//! A daemon runs, and under it the repository, its configuration or the cluster becomes another one: nothing is
//! acknowledged that the one which is meant does not hold.

use crate::support::archived::{Archived, PATIENCE};
use crate::support::fabricate::{ControlFile, MIB};
use crate::support::site::{MAJOR, Site};
use crate::support::{Daemon, Repo, Walproof, wait_until};
use crate::support::{postgres::Cluster, s3::S3Server};
use std::fs;
use std::time::Duration;

const QUICK: &str = "[archive]\ntimeout = \"4s\"\ntail_interval = \"1s\"\nheartbeat_interval = \"0s\"";

/// A site whose daemon finds no server.
fn site(repo: Repo) -> Site {
    Site::with(repo, |builder| {
        builder.toml(QUICK).conninfo("host=/nonexistent user=postgres dbname=postgres")
    })
}

#[test]
fn r1_a_repository_made_anew_under_the_daemon_gets_what_is_acknowledged() {
    let server = S3Server::start();
    let mut cluster = Cluster::builder().segment_size_mb(1).create();
    let walproof = Walproof::builder(Repo::s3(&server)).cluster(&cluster).toml(QUICK).build();
    walproof.run(["init"]).success();
    cluster.configure_archiving(&walproof).start();
    let archived = Archived { cluster, walproof, scratch: crate::support::Scratch::new() };
    let daemon = Daemon::start_whole(&archived.walproof);
    archived.archive_all();

    let repo = archived.repo();
    repo.keys("").iter().for_each(|key| repo.delete(key));
    archived.walproof.run(["init"]).success();
    archived.cluster.psql("create table t as select generate_series(1, 1000) as n");
    let last = archived.cluster.switch_wal();
    archived.cluster.wait_archived(&last, PATIENCE);
    let target = archived.scratch.join("fetched");
    archived.walproof.fetch(&last, &target).success();
    // The daemon finds its way to the new one, tail included.
    wait_until("the daemon has begun anew", PATIENCE, || {
        daemon.log().contains("the repository was recreated")
    });
    archived.backup();
    daemon.wait_all_stored();
    let restored = archived.restore_newest("restored");
    assert_eq!(restored.psql("select count(*) from t"), "1000");
}

/// A cluster that archives into a directory.
fn archived() -> Archived {
    Archived::start_with(Cluster::builder().segment_size_mb(1), Repo::local(), QUICK)
}

#[test]
fn r1_what_postgresql_hands_over_once_the_repository_is_another_goes_there() {
    let archived = archived();
    let daemon = Daemon::start_whole(&archived.walproof);
    archived.archive_all();
    let other = Repo::local();
    let config = fs::read_to_string(archived.walproof.config()).unwrap();
    archived.walproof.scratch().file("walproof.toml", config.replace(&archived.repo().url(), &other.url()));
    archived.walproof.run(["init"]).success();
    let names = [archived.cluster.switch_wal(), archived.cluster.switch_wal()];
    archived.cluster.wait_archived(&names[1], PATIENCE);
    for name in &names {
        assert_eq!(other.keys(&format!("/{name}-")).len(), 1, "{:?}", other.objects());
    }
    daemon.wait("it says that it is out of date", |status| {
        status["problems"].to_string().contains("a different repository than this daemon")
    });
    assert_eq!(daemon.get("/healthz").0, 503);
}

#[test]
fn r1_a_daemon_of_another_configuration_is_not_believed() {
    let site = site(Repo::local());
    let daemon = Daemon::start(&site.walproof);
    let push = |number| {
        let name = site.data.add_wal(&site.data.wal(number).random(number));
        let pushed = site.walproof.json(["wal-push", &format!("pg_wal/{name}")]);
        (name, pushed["by_daemon"].clone())
    };
    wait_until("the daemon archives", PATIENCE, || push(1).1 == true);

    let other = Repo::local();
    let (old_url, new_url) = (site.repo().url(), other.url());
    site.edit_config(|text| text.replace(&old_url, &new_url));
    site.walproof.run(["init"]).success();
    let (name, by_daemon) = push(2);
    assert_eq!(by_daemon, false);
    assert_eq!(other.keys(&format!("/{name}-")).len(), 1, "{:?}", other.objects());
    daemon.wait("it says that it is out of date", |status| {
        status["problems"].to_string().contains("a different repository than this daemon")
    });
    assert!(daemon.log().contains("restart the daemon"), "{}", daemon.log());
    let check = site.walproof.run(["check"]);
    check
        .fails_with(1)
        .stdout_contains(&format!("archives to {old_url}, but this configuration names {new_url}"));

    // The change is taken back, and all is well again.
    site.edit_config(|text| text.replace(&new_url, &old_url));
    assert_eq!(push(3).1, true);
    daemon.wait("that problem is gone", |status| {
        !status["problems"].to_string().contains("a different repository than this daemon")
    });
}

#[test]
fn a_cluster_made_anew_at_the_same_path_is_archived_without_a_restart_of_the_daemon() {
    let site = site(Repo::local());
    let daemon = Daemon::start(&site.walproof);
    wait_until("the daemon archives", PATIENCE, || {
        let name = site.data.add_wal(&site.data.wal(1).random(1));
        site.walproof.json(["wal-push", &format!("pg_wal/{name}")])["by_daemon"] == true
    });

    let control = ControlFile::new(MAJOR).segment_size(MIB).system_identifier(42);
    fs::write(site.data.path().join("global/pg_control"), control.bytes()).unwrap();
    site.walproof.run(["init"]).success();
    let push = |number| {
        let name = site.data.add_wal(&site.data.wal(number).system_identifier(42).random(number));
        let pushed = site.walproof.json(["wal-push", &format!("pg_wal/{name}")]);
        site.comes_back(&name);
        pushed["by_daemon"].clone()
    };
    assert_eq!(push(2), false, "the daemon has not seen it yet");
    wait_until("the daemon has begun anew", PATIENCE, || daemon.log().contains("the cluster was recreated"));
    let mut number = 3;
    wait_until("the daemon archives the new one", Duration::from_secs(20), || {
        number += 1;
        push(number) == true
    });
}

#[test]
fn a_cluster_that_initdb_made_anew_is_covered_without_a_restart_of_the_daemon() {
    let mut archived = archived();
    let daemon = Daemon::start_whole(&archived.walproof);
    archived.archive_all();
    let before = archived.cluster.system_identifier();
    archived.cluster.destroy_data_dir();
    let mut anew = Cluster::builder().segment_size_mb(1).create();
    anew.configure_archiving(&archived.walproof);
    fs::rename(anew.data_dir(), archived.cluster.data_dir()).unwrap();
    assert_ne!(archived.cluster.system_identifier(), before);
    archived.walproof.run(["init"]).success();
    archived.cluster.start();
    archived.cluster.psql("create table t as select 1 as n");
    archived.archive_all();
    archived.backup();
    archived.cluster.psql("insert into t values (2)");
    daemon.wait("the daemon covers the new one", |status| status["rpo_seconds"] == 0.0);
    archived.cluster.destroy_data_dir();
    let restored = archived.restore_newest("restored");
    assert_eq!(restored.psql("select string_agg(n::text, ' ' order by n) from t"), "1 2");
}

#[test]
fn keys_and_credentials_are_rotated_under_the_daemon() {
    let server = S3Server::start();
    let site = site(Repo::s3(&server));
    let scratch = site.walproof.scratch();
    let daemon = Daemon::start(&site.walproof);
    let mut number = 0;
    // The id of the key that the daemon sealed the next segment with.
    let mut sealed_with = || {
        number += 1;
        let name = site.data.add_wal(&site.data.wal(number).random(number));
        wait_until("it is stored", PATIENCE, || site.stored(&name).len() == 1);
        site.repo().read(&site.stored(&name)[0])[16..24].to_vec()
    };
    let old = sealed_with();
    let old_key = fs::read_to_string(scratch.join("key")).unwrap();
    let new_key = site.walproof.run(["keygen"]).success().stdout();
    scratch.file("key", "half a ke");
    wait_until("a bad file is told", PATIENCE, || daemon.log().contains("keeping the keys"));
    assert_eq!(sealed_with(), old);
    scratch.file("key", format!("{new_key}{old_key}"));
    wait_until("the new key is read", PATIENCE, || daemon.log().contains("the keys were replaced"));
    assert_ne!(sealed_with(), old);

    let secret = server.location().secret_key;
    scratch.file("secret_access_key", "revoked");
    let name = site.data.add_wal(&site.data.wal(100).random(100));
    wait_until("it is refused", PATIENCE, || daemon.log().contains("403"));
    assert!(site.stored(&name).is_empty());
    scratch.file("secret_access_key", &secret);
    wait_until("it is stored", PATIENCE, || site.stored(&name).len() == 1);
}
