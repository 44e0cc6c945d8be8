//! Increments while the database is written to, and what becomes of packs that are mostly dead.

use std::fs;
use std::path::Path;

use crate::support::archived::wait_open;
use crate::support::dump::amcheck;
use crate::support::postgres::StopMode;
use crate::support::{Archived, Repo};
use serde_json::Value;

/// What pgbench keeps equal in every transaction.
const BALANCED: &str =
    "select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches)
    and (select sum(abalance) from pgbench_accounts) = (select sum(tbalance) from pgbench_tellers)
    and (select sum(abalance) from pgbench_accounts) = (select coalesce(sum(delta), 0) from pgbench_history)";
/// What only this test writes to.
const OURS: &str = "select string_agg(format('%s %s', relname, relfilenode), ' ' order by relname)
    from pg_class where relname like 'storm%'";
const ROUNDS: usize = 30;

fn number(backup: &Value, field: &str) -> u64 {
    backup[field].as_u64().unwrap_or_else(|| panic!("{field} of {backup}"))
}

/// One of the storms.
fn storm(archived: &Archived, round: usize) {
    let sql = match round % 7 {
        0 => format!("create table storm{round} as select g as n from generate_series(1, 5000) g"),
        1 => "vacuum".to_owned(),
        2 => format!("create index storm_index{round} on storm{} (n)", round - 2),
        3 => "vacuum full pgbench_tellers".to_owned(),
        4 => format!("drop table storm{}", round - 4),
        5 => "cluster pgbench_branches using pgbench_branches_pkey".to_owned(),
        _ => format!("alter table pgbench_accounts add column storm{round} text; checkpoint"),
    };
    archived.cluster.psql(&sql);
}

#[test]
fn increments_under_load_restore_and_are_consistent() {
    let archived = Archived::start(Repo::local());
    archived.cluster.pgbench(["-i", "-q", "-s", "2"]);
    let first = archived.backup();
    let load = archived.cluster.spawn_pgbench(["-c", "2", "-T", "900", "-n", "-R", "60"]);
    let mut all = Vec::new();
    for round in 0..ROUNDS {
        storm(&archived, round);
        let ours = archived.cluster.psql(OURS);
        let backup = archived.backup();
        assert!(number(&backup, "reused_bytes") > 0 && backup["page_errors"] == 0, "{backup}");
        assert!(2 * number(&backup, "new_bytes") < number(&first, "new_bytes"), "{backup}");
        all.push((backup["id"].as_str().unwrap().to_owned(), ours));
    }
    load.kill9();
    let written = archived.cluster.psql("select count(*) > 100 from pgbench_history");
    assert_eq!(written, "t", "pgbench has written meanwhile");
    archived.archive_all();
    for (id, ours) in &all {
        let mut restored =
            archived.restore(id, ["--backup", id, "--target-immediate", "--target-action", "promote"]);
        restored.start();
        wait_open(&restored);
        assert_eq!(restored.psql(BALANCED), "t", "{id}");
        assert_eq!(restored.psql(OURS), *ours, "{id}");
        amcheck(&restored);
        restored.stop(StopMode::Fast);
        let to = archived.target(id);
        restored.binaries().run("pg_checksums", [Path::new("--check"), Path::new("-D"), &to]).success();
        drop(restored);
        fs::remove_dir_all(&to).unwrap();
    }
}

#[test]
fn of_a_pack_that_is_mostly_dead_the_rest_is_written_again() {
    let archived = Archived::start(Repo::local());
    let walproof = archived.configured("[backup]\nconcurrency = 1");
    // Nothing compresses it, so that it fills packs with a little of other files.
    archived.cluster.psql(
        "create table dead as select gen_random_uuid() as a, gen_random_uuid() as b from generate_series(1, 350000)",
    );
    archived.cluster.psql("vacuum freeze");
    let push = || {
        archived.cluster.psql("checkpoint");
        walproof.json(["backup-push"])
    };
    let first = push();
    let second = push();
    assert_eq!((number(&first, "reused_bytes"), number(&second, "rewritten_bytes")), (0, 0));
    archived.cluster.psql("drop table dead");
    // The base used all of it, the next one's base little.
    let third = push();
    assert_eq!(number(&third, "rewritten_bytes"), 0, "{third}");
    let fourth = push();
    assert!(number(&fourth, "rewritten_bytes") > 0, "{fourth}");
    assert!(5 * number(&fourth, "new_bytes") < number(&first, "new_bytes"), "{fourth}");
    let fifth = push();
    assert_eq!(number(&fifth, "rewritten_bytes"), 0, "{fifth}");
    walproof.run(["verify", "--content"]).success();
    let to = archived.target("restored");
    archived.try_restore(&to, ["--backup", fifth["id"].as_str().unwrap(), "--target-immediate"]).success();
}
