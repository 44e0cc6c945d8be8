//! `backup-push` on a standby: its pages, its primary's WAL.

use crate::support::archived::PATIENCE;
use crate::support::postgres::{Cluster, StopMode};
use crate::support::walproof_builder::WalproofBuilder;
use crate::support::{Archived, Repo, Walproof, wait_until};

const ROWS: &str = "select string_agg(n::text, ' ' order by n) from t";

/// A primary that archives, and a standby that has what it has.
fn pair() -> (Archived, Cluster) {
    let archived = Archived::start(Repo::local());
    archived.cluster.pgbench(["-i", "-q", "-s", "2"]);
    archived.cluster.psql("create table t (n int); insert into t values (1)");
    let mut standby = Cluster::standby_of(&archived.cluster);
    standby.start();
    archived.cluster.psql("insert into t values (2)");
    wait_until("the standby has followed", PATIENCE, || standby.psql(ROWS) == "1 2");
    (archived, standby)
}

fn on_standby(
    archived: &Archived,
    standby: &Cluster,
    configure: impl FnOnce(WalproofBuilder) -> WalproofBuilder,
) -> Walproof {
    let builder = Walproof::builder(archived.repo().clone()).cluster(standby).key_of(&archived.walproof);
    configure(builder).build()
}

fn with_primary(archived: &Archived) -> String {
    let conninfo = archived.cluster.conninfo();
    format!("[cluster]\nprimary_conninfo = \"{conninfo}\"")
}

#[test]
fn a_backup_of_a_standby_restores_with_its_primarys_wal() {
    let (archived, standby) = pair();
    let walproof = on_standby(&archived, &standby, |builder| builder.toml(&with_primary(&archived)));
    let backup = walproof.json(["backup-push"]);
    assert_eq!((&backup["timeline"], &backup["page_errors"]), (&1.into(), &0.into()));
    archived.cluster.psql("insert into t values (3)");
    archived.archive_all();
    drop(standby);
    let shown = archived.walproof.json(["backup-show", backup["id"].as_str().unwrap()]);
    assert_eq!(shown["from_standby"], true, "{shown:#}");
    assert_eq!(archived.restore_newest("newest").psql(ROWS), "1 2 3");
    // Consistent by itself: neither more nor less than the standby had.
    let mut at_once = archived.restore("at_once", ["--target-immediate", "--target-action", "promote"]);
    at_once.start();
    crate::support::archived::wait_open(&at_once);
    assert_eq!(at_once.psql(ROWS), "1 2");
    assert_eq!(at_once.psql("select count(*) from pgbench_accounts"), "200000");
}

#[test]
fn r14_without_the_primarys_wal_there_is_no_backup_of_a_standby() {
    for broken in ["", "[cluster]\nprimary_conninfo = \"host=/nonexistent user=postgres\""] {
        let (archived, standby) = pair();
        let walproof = on_standby(&archived, &standby, |builder| builder.toml(broken));
        let mut backup = walproof.spawn(["backup-push"]);
        backup.wait_for_stderr("primary", PATIENCE);
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert!(archived.backups().is_empty(), "its WAL is not archived");
        archived.cluster.psql("insert into t values (9)");
        archived.cluster.switch_wal();
        backup.wait(PATIENCE).success();
        assert_eq!(archived.backups().len(), 1);
    }
}

#[test]
fn r14_a_promotion_ends_the_backup_of_a_standby() {
    let (mut archived, standby) = pair();
    let slow = format!("{}\n[backup]\nmax_rate = \"4MB\"\nconcurrency = 1", with_primary(&archived));
    let walproof = on_standby(&archived, &standby, |builder| builder.toml(&slow));
    let mut backup = walproof.spawn(["backup-push"]);
    backup.wait_for_stderr("backup started", PATIENCE);
    archived.cluster.stop(StopMode::Fast);
    standby.promote();
    backup.wait(PATIENCE * 2).fails_with(6).stderr_contains("promoted");
    assert!(archived.backups().is_empty());
}

#[test]
fn a_promoted_standby_reuses_the_newest_backup_of_its_own_past() {
    let (mut archived, standby) = pair();
    let common = archived.backup();
    archived.cluster.psql("insert into t values (3)");
    archived.archive_all();
    wait_until("the standby has followed", PATIENCE, || standby.psql(ROWS) == "1 2 3");
    let walproof = on_standby(&archived, &standby, |builder| builder);
    standby.set("archive_command", &walproof.archive_command());
    standby.promote();
    // The old primary goes on for a while, and what it backs up is not the past of the new one.
    archived.cluster.psql("update pgbench_accounts set abalance = 99");
    let left = archived.backup();
    assert_eq!((&left["timeline"], &left["base"]), (&1.into(), &common["id"]));
    archived.cluster.stop(StopMode::Fast);
    standby.reload();
    standby.psql("insert into t values (4)");
    let promoted = walproof.json(["backup-push"]);
    assert_eq!((&promoted["timeline"], &promoted["base"]), (&2.into(), &common["id"]));
    assert!(promoted["reused_bytes"].as_u64() > Some(0), "{promoted}");
    let to = archived.target("promoted");
    let id = promoted["id"].as_str().unwrap();
    let args = [
        "restore",
        "--to",
        to.to_str().unwrap(),
        "--backup",
        id,
        "--target-immediate",
        "--target-action",
        "promote",
    ];
    walproof.run(args).success();
    let mut restored = crate::support::archived::attach_silent(&to);
    restored.start();
    crate::support::archived::wait_open(&restored);
    assert_eq!(restored.psql(ROWS), "1 2 3 4");
    assert_eq!(restored.psql("select sum(abalance) from pgbench_accounts"), "0");
}
