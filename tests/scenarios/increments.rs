//! Every backup is a full one that needs no other, and costs only what changed.

use std::fs;
use std::path::Path;

use crate::support::archived::{PATIENCE, attach_silent, wait_open};
use crate::support::dump::{amcheck, assert_same_dump, dump_all};
use crate::support::postgres::StopMode;
use crate::support::site::files_below;
use crate::support::{Archived, Repo};
use serde_json::Value;

fn id(backup: &Value) -> String {
    backup["id"].as_str().unwrap().to_owned()
}

fn number(backup: &Value, field: &str) -> u64 {
    backup[field].as_u64().unwrap_or_else(|| panic!("{field} of {backup}"))
}

/// A backup at rest: what it was compared with, its dump, and the pages of the stopped server.
struct Taken {
    id: String,
    dump: String,
}

/// Take a backup of a database at rest, after `sql`.
#[track_caller]
fn take(archived: &Archived, sql: &str) -> (Taken, Value) {
    archived.cluster.psql(sql);
    archived.cluster.psql("checkpoint");
    let backup = archived.backup();
    (Taken { id: id(&backup), dump: dump_all(&archived.cluster) }, backup)
}

/// Restore the state at the end of a backup; it must be what was there, page by page sound.
#[track_caller]
fn assert_restores(archived: &Archived, taken: &Taken, name: &str) {
    let to = archived.target(name);
    let args = ["--backup", &taken.id, "--target-immediate", "--target-action", "promote"];
    archived.try_restore(&to, args).success();
    let mut restored = attach_silent(&to);
    restored.start();
    wait_open(&restored);
    assert_same_dump(&taken.dump, &dump_all(&restored));
    amcheck(&restored);
    restored.stop(StopMode::Fast);
    restored.binaries().run("pg_checksums", [Path::new("--check"), Path::new("-D"), &to]).success();
    drop(restored);
    fs::remove_dir_all(&to).unwrap();
}

#[test]
fn increments_restore_alone_whatever_is_deleted() {
    let archived = Archived::start(Repo::local());
    archived.cluster.pgbench(["-i", "-q", "-s", "3"]);
    let (first, full) = take(&archived, "create table t as select g as n from generate_series(1, 20000) g");
    assert_eq!((&full["base"], number(&full, "reused_bytes")), (&Value::Null, 0));

    let mut all = vec![first];
    for (number_of, sql) in [
        "update t set n = n + 1 where n % 1000 = 0",
        "delete from t where n % 2 = 0; create index on t (n)",
        "vacuum t",
        "vacuum full t; alter table t add column more text default 'x'",
        "update pgbench_accounts set abalance = abalance + 1 where aid % 50 = 0",
        "truncate pgbench_history; drop index t_n_idx; create table u as select * from pgbench_tellers",
    ]
    .into_iter()
    .enumerate()
    {
        if number_of % 2 == 1 {
            archived.cluster.pgbench(["-t", "50", "-c", "2", "-n"]);
        }
        let before = all[all.len() - 1].id.clone();
        let (taken, backup) = take(&archived, sql);
        assert_eq!(backup["base"], before.as_str());
        let [size, new, reused] =
            ["size_bytes", "new_bytes", "reused_bytes"].map(|field| number(&backup, field));
        assert!(4 * reused > size, "{backup}");
        assert!(new < number(&full, "new_bytes"), "{backup}");
        all.push(taken);
    }
    for (place, taken) in all.iter().enumerate() {
        assert_restores(&archived, taken, &format!("each{place}"));
    }
    archived.walproof.run(["verify", "--content", "--again"]).success();

    // Any of them may go: the others stay whole.
    let victims = [0, 3, 5];
    for victim in victims {
        archived.repo().delete(&archived.repo().key(&format!("/watch/backups/{}", all[victim].id)));
    }
    // What only they used goes, too: it is old enough only for a window that ended long ago.
    let packs = archived.repo().keys("/packs/").len();
    archived.walproof.run(["expire"]).success();
    println!("{packs} packs, then {}", archived.repo().keys("/packs/").len());
    for (place, taken) in all.iter().enumerate().filter(|(place, _)| !victims.contains(place)) {
        assert_restores(&archived, taken, &format!("left{place}"));
    }
    archived.walproof.run(["verify", "--content", "--again"]).success();
}

#[test]
fn increments_that_policy_leaves_restore_alone_and_packs_that_are_mostly_dead_are_rewritten() {
    let archived = Archived::start(Repo::local());
    archived.cluster.pgbench(["-i", "-q", "-s", "3"]);
    let short = archived.configured("[retention]\nwindow = \"1s\"");
    let changes = [
        "create table t as select g as n from generate_series(1, 20000) g",
        "update t set n = n + 1 where n % 1000 = 0",
        "delete from t where n % 3 = 0",
        "update pgbench_accounts set abalance = abalance + 1 where aid % 50 = 0",
        "vacuum full t",
        "create index on t (n)",
    ];
    let all: Vec<Taken> = changes.iter().map(|sql| take(&archived, sql).0).collect();
    let kept = [1, 3, 5];
    for place in &kept[..2] {
        archived.walproof.run(["backup-hold", &all[*place].id]).success();
    }
    std::thread::sleep(std::time::Duration::from_secs(2));
    let left = |repo: &Repo| repo.keys("/packs/").len();
    let before = left(archived.repo());
    short.run(["expire"]).success().stdout_contains("backups that stay use them");
    let ids: Vec<String> = archived.backups().iter().map(id).collect();
    assert_eq!(ids, kept.map(|place| all[place].id.clone()));
    println!("{before} packs, then {}", left(archived.repo()));
    // The first backup is gone, and what the others use of it stays.
    assert!(!archived.repo().keys(&format!("/packs/{}", all[0].id)).is_empty());
    for place in kept {
        assert_restores(&archived, &all[place], &format!("kept{place}"));
    }
    short.run(["verify", "--content", "--again"]).success();

    // Almost nothing stays as it was: the next backup leaves the old packs mostly dead, and the one after it rewrites the
    // rest of them.
    let sql =
        "drop table t; update pgbench_accounts set abalance = abalance + 7; vacuum full pgbench_accounts";
    take(&archived, sql);
    let (last, backup) = take(&archived, "select 1");
    assert!(number(&backup, "rewritten_bytes") > 0, "{backup}");
    for place in &kept[..2] {
        archived.walproof.run(["backup-unhold", &all[*place].id]).success();
    }
    archived.forget_restores();
    std::thread::sleep(std::time::Duration::from_secs(2));
    short.run(["expire"]).success();
    assert_eq!(archived.backups().iter().map(id).collect::<Vec<_>>(), std::slice::from_ref(&last.id));
    assert_restores(&archived, &last, "last");
    short.run(["verify", "--content", "--again"]).success();
}

#[test]
fn a_restored_directory_is_that_of_the_stopped_server_page_by_page() {
    let mut archived = Archived::start(Repo::local());
    archived.cluster.pgbench(["-i", "-q", "-s", "3"]);
    archived.backup();
    for round in 0..3 {
        archived.cluster.pgbench(["-t", "100", "-c", "2", "-n"]);
        archived.cluster.psql("vacuum; checkpoint");
        archived.cluster.stop(StopMode::Fast).start();
        // Nothing writes from here on but the backup itself.
        archived.cluster.psql("checkpoint");
        let backup = archived.backup();
        assert!(number(&backup, "reused_bytes") > 0);
        archived.cluster.stop(StopMode::Fast);
        let to = archived.target(&format!("pages{round}"));
        archived.try_restore(&to, ["--backup", &id(&backup), "--target-immediate"]).success();
        let mut compared = 0;
        for path in files_below(&to.join("base")) {
            let path = path.strip_prefix(&to).unwrap();
            let [was, is] = [archived.cluster.data_dir(), &to].map(|root| fs::read(root.join(path)).unwrap());
            assert!(was == is, "{}", path.display());
            compared += 1;
        }
        assert!(compared > 500, "{compared}");
        fs::remove_dir_all(&to).unwrap();
        archived.cluster.start();
    }
}

#[test]
fn a_full_backup_reuses_nothing_and_the_next_one_builds_on_it() {
    let archived = Archived::start(Repo::local());
    archived.cluster.pgbench(["-i", "-q", "-s", "1"]);
    let first = archived.backup();
    let again = archived.backup();
    assert_eq!(again["base"], first["id"]);
    assert!(10 * number(&again, "new_bytes") < number(&first, "new_bytes"), "{again}");
    let full = archived.walproof.json(["backup-push", "--full"]);
    assert_eq!((&full["base"], number(&full, "reused_bytes")), (&Value::Null, 0));
    let output = archived.walproof.run(["backup-push"]);
    output.success().stdout_contains("reused").stdout_contains("rewritten");
    let shown = archived.walproof.json(["backup-show", &id(&archived.backups()[3])]);
    assert_eq!(shown["base"], full["id"]);
    archived.walproof.run(["backup-show", &id(&shown)]).success().stdout_contains("compared with");
}

#[test]
fn what_is_missing_or_cut_is_not_reused_and_what_is_wrong_is_found() {
    let archived = Archived::start(Repo::local());
    archived.cluster.pgbench(["-i", "-q", "-s", "2"]);
    let repo = archived.repo();
    archived.backup();
    let largest = || {
        repo.objects().into_iter().filter(|(key, _)| key.contains("/packs/")).max_by_key(|(_, size)| *size)
    };
    for harm in ["delete", "cut"] {
        let (pack, size) = largest().unwrap();
        match harm {
            "delete" => repo.delete(&pack),
            _ => repo.truncate(&pack, usize::try_from(size).unwrap() / 2),
        }
        let output = archived.walproof.run(["backup-push"]);
        output.success().stderr_contains("missing or damaged");
        let (taken, backup) = take(&archived, "select 1");
        assert!(number(&backup, "reused_bytes") > 0, "{backup}");
        assert_restores(&archived, &taken, harm);
    }
    // Of the right length, and wrong: the next backup cannot know, a restore does not let it pass.
    let (pack, size) = largest().unwrap();
    repo.flip_bit(&pack, usize::try_from(size).unwrap() / 3);
    let backup = archived.backup();
    let to = archived.target("flipped");
    archived.try_restore(&to, ["--backup", &id(&backup), "--target-immediate"]).fails_with(5);
    assert!(!to.join("global/pg_control").exists());
    archived
        .walproof
        .run(["verify", "--content"])
        .fails_with(1)
        .stdout_contains(&pack[pack.find("packs/").unwrap()..]);
    // A full one mends it.
    let full = archived.walproof.json(["backup-push", "--full"]);
    let taken = Taken { id: id(&full), dump: dump_all(&archived.cluster) };
    assert_restores(&archived, &taken, "mended");
}

#[test]
fn r15_an_interrupted_backup_costs_only_what_it_had_not_stored() {
    let archived = Archived::start(Repo::local());
    for table in 0..6 {
        archived.cluster.psql(&format!(
            "create table t{table} with (autovacuum_enabled = off) as select gen_random_uuid() as a, gen_random_uuid() as b from generate_series(1, 150000)"
        ));
    }
    // So that nothing changes meanwhile, hint bits included.
    archived.cluster.psql("vacuum freeze");
    archived.cluster.psql("checkpoint");
    let slow = archived.configured("[backup]\nmax_rate = \"40MB\"\nconcurrency = 1");
    let mut backup = slow.with_env("WALPROOF_TEST_PART_BYTES", "1000000").spawn(["backup-push"]);
    backup.wait_for_stderr("backup started", PATIENCE);
    // Each table is a part, and stored when the packs that it lies in are.
    let packs = || archived.repo().keys("/packs/").iter().filter(|key| !key.contains('#')).count();
    assert!(crate::support::holds_within(3 * PATIENCE, || packs() >= 3));
    backup.kill9();
    assert_eq!(archived.backups().len(), 0);
    let stored: u64 = archived
        .repo()
        .objects()
        .into_iter()
        .filter(|(key, _)| key.contains("/packs/") && !key.contains('#'))
        .map(|(_, size)| size)
        .sum();

    let (taken, next) = take(&archived, "select 1");
    assert_eq!(next["base"], Value::Null);
    let (new, all) = (number(&next, "new_bytes"), number(&next, "stored_bytes"));
    assert!(new < all && all - new > stored / 3, "{stored} were stored: {next}");
    archived.walproof.run(["expire"]).success();
    assert_restores(&archived, &taken, "restored");
    archived.walproof.run(["verify", "--content"]).success();
}
