//! R29: a server that was put back to an earlier state, on the same timeline and within one segment: what it once flushed is
//! in a tail only.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::archived::Archived;
use crate::support::postgres::{Cluster, StopMode};
use crate::support::{Daemon, Repo};

const TAIL: &str = "[archive]\ntail_interval = \"1s\"\nheartbeat_interval = \"0s\"\n";

fn has(status: &Value, code: &str) -> bool {
    status["problems"].as_array().unwrap().iter().any(|problem| problem["code"] == code)
}

fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// It stays so for a few ticks of the tail, and says so everywhere.
#[track_caller]
fn stays_diverged(daemon: &Daemon) {
    for _ in 0..5 {
        let status = daemon.status();
        assert!(has(&status, "diverged") && status["rpo_seconds"].is_null(), "{status:#}");
        assert_eq!(daemon.get("/healthz").0, 503);
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[track_caller]
fn rows(cluster: &Cluster) -> String {
    cluster.psql("select string_agg(n::text, ' ' order by n) from t")
}

/// The bytes are committed and large: whoever writes them is far ahead of whoever does not.
fn much(bytes: u32) -> String {
    format!("select pg_logical_emit_message(true, 'x', repeat('m', {bytes}))")
}

#[test]
fn r29_what_only_the_tail_of_the_life_before_holds_is_kept_until_a_backup_settles_it() {
    let mut archived = Archived::start_with(Cluster::builder().segment_size_mb(1), Repo::local(), TAIL);
    archived.cluster.psql("create table t as select 1 as n");
    archived.backup();
    // A server that stops finishes its segment: both lives begin in the same one.
    archived.cluster.stop(StopMode::Fast);
    let (data_dir, older) = (archived.cluster.data_dir().to_owned(), archived.target("older"));
    copy(&data_dir, &older);
    archived.cluster.start();
    let daemon = Daemon::start_whole(&archived.walproof);
    archived.cluster.psql("insert into t values (2)");
    archived.cluster.psql(&much(200_000));
    let segment = archived.cluster.psql("select pg_walfile_name(pg_current_wal_lsn())");
    daemon.wait_all_stored();
    archived.cluster.stop(StopMode::Immediate);
    std::fs::remove_dir_all(&data_dir).unwrap();
    copy(&older, &data_dir);
    archived.cluster.start();

    // The one copy of what was committed is where it was, and a restore gives it.
    daemon.wait("it sees that more is stored than was flushed", |status| has(status, "diverged"));
    stays_diverged(&daemon);
    let first_life = archived.repo().keys("/tail/");
    assert!(!first_life.is_empty());
    assert_eq!(rows(&archived.restore_newest("first-life")), "1 2");

    // The server goes on, past what is stored: the position says nothing any more, the bytes do.
    archived.cluster.psql("insert into t values (3)");
    archived.cluster.psql(&much(400_000));
    assert_eq!(archived.cluster.psql("select pg_walfile_name(pg_current_wal_lsn())"), segment);
    let is_kept = || {
        let keys = archived.repo().keys("/tail/");
        first_life.iter().all(|key| keys.contains(key))
    };
    let grown = || archived.repo().keys("/tail/").len() > first_life.len();
    crate::support::wait_until("its tail is stored beside the other", Duration::from_mins(1), grown);
    stays_diverged(&daemon);
    assert!(is_kept(), "{:#?}", archived.repo().keys("/tail/"));
    archived.archive_all();
    stays_diverged(&daemon);
    assert!(is_kept(), "{:#?}", archived.repo().keys("/tail/"));
    // Nor does an expiry take it away.
    archived.walproof.run(["expire"]).success();
    assert!(is_kept(), "{:#?}", archived.repo().keys("/tail/"));
    // Nor does a daemon that knows nothing from before take it for its own.
    daemon.kill9();
    let daemon = Daemon::start_whole(&archived.walproof);
    stays_diverged(&daemon);
    assert!(is_kept(), "{:#?}", archived.repo().keys("/tail/"));

    archived.backup();
    let settled = |status: &Value| status["rpo_seconds"] == 0.0 && !has(status, "diverged");
    daemon.wait_within(Duration::from_mins(2), "a backup settles it", settled);
    let swept = || !archived.repo().keys("/tail/").iter().any(|key| key.contains(&segment));
    crate::support::wait_until("what is settled is swept", Duration::from_mins(2), swept);
    archived.cluster.destroy_data_dir();
    assert_eq!(rows(&archived.restore_newest("second-life")), "1 3");
}
