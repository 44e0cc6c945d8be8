//! What a restore hands over: a server that starts, as whom it has to, with what it needs, and that takes nothing from
//! others (R17, R19).

use crate::support::archived::{PATIENCE, attach_silent, wait_open, wait_paused};
use crate::support::postgres::{Cluster, StopMode};
use crate::support::s3::{Fault, S3Server, Verb};
use crate::support::{Archived, Repo, Walproof, wait_until};
use crate::support::{process, program};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const ROWS: &str = "select string_agg(n::text, ' ' order by n) from t";

#[track_caller]
fn with_rows(archived: &Archived) {
    archived.cluster.psql("create table t (n int); insert into t values (1)");
    archived.backup();
    archived.cluster.psql("insert into t values (2)");
    archived.archive_all();
}

fn moved(from: &Path, to: &Path) -> String {
    format!("--tablespace={}={}", from.display(), to.display())
}

#[test]
fn r17_a_restore_begun_again_takes_no_tablespace_that_went_live_elsewhere() {
    let server = S3Server::start();
    let archived = Archived::start(Repo::s3(&server));
    let place = archived.scratch.dir("place");
    archived.cluster.psql(&format!("create tablespace place location '{}'", place.display()));
    archived.cluster.psql("create table big tablespace place as select generate_series(1, 1000) as n");
    with_rows(&archived);
    let (first, second, shared) =
        (archived.target("first"), archived.target("second"), archived.target("shared"));
    let args = [moved(&place, &shared)];

    // Behind the page digests, one request a pack.
    let packs = archived.repo().keys("packs/").len() as u64;
    server.faults().add(Fault::hang().on(Verb::Get).key("packs/").from(packs + 1));
    let mut command = vec!["restore".into(), "--to".into(), first.display().to_string()];
    command.extend(args.clone());
    let running = archived.walproof.spawn(&command);
    wait_until("the restore hangs", PATIENCE, || server.faults().struck() > 0);
    running.kill9();
    server.faults().clear();

    // Somebody gives up on it, and restores elsewhere, with the same place for the tablespace.
    for version in fs::read_dir(&shared).unwrap() {
        fs::remove_dir_all(version.unwrap().path()).unwrap();
    }
    archived.try_restore(&second, &args).success();
    let mut live = attach_silent(&second);
    live.start();
    wait_open(&live);
    let refused = archived.try_restore(&first, &args);
    refused.fails_with(8).stderr_contains("is not empty").stderr_contains("--tablespace");
    live.restart();
    assert_eq!(live.psql("select count(*) from big"), "1000");
    live.stop(StopMode::Fast);
    assert!(
        !fs::read_dir(&shared)
            .unwrap()
            .any(|version| { version.unwrap().path().join("walproof.restore").is_symlink() })
    );
    // Elsewhere it can be completed.
    archived.try_restore(&first, [moved(&place, &archived.target("own"))]).success();
    assert_opens(&first, "1 2");
}

#[track_caller]
fn assert_opens(data_dir: &Path, rows: &str) -> Cluster {
    let mut restored = attach_silent(data_dir);
    restored.start();
    wait_open(&restored);
    assert_eq!(restored.psql(ROWS), rows);
    restored
}

#[test]
fn r17_tablespaces_have_places_of_their_own_and_a_fresh_mount_point_is_empty() {
    let archived = Archived::start(Repo::local());
    let (one, two) = (archived.scratch.dir("one"), archived.scratch.dir("two"));
    for (name, place) in [("one", &one), ("two", &two)] {
        archived.cluster.psql(&format!("create tablespace {name} location '{}'", place.display()));
    }
    with_rows(&archived);
    let (to, new) = (archived.target("restored"), archived.target("new"));
    for (first, second) in [
        (new.clone(), new.clone()),
        (new.clone(), new.join("below")),
        (new.join("x/../below"), new.clone()),
        (to.join("inside"), new.clone()),
    ] {
        let collide = archived.try_restore(&to, [moved(&one, &first), moved(&two, &second)]);
        collide.fails_with(2).stderr_contains("collides with").stderr_contains("hint");
    }
    let twice = archived.try_restore(&to, [moved(&one, &new), moved(&one, &archived.target("other"))]);
    twice.fails_with(2).stderr_contains("twice");
    assert!(!to.exists() && !new.exists());

    archived.scratch.dir("restored");
    archived.scratch.dir("restored/lost+found");
    archived.scratch.dir("new");
    archived.scratch.dir("new/lost+found");
    archived.try_restore(&to, [moved(&one, &new), moved(&two, &archived.target("other"))]).success();
    assert_opens(&to, "1 2");
    assert!(to.join("lost+found").is_dir());
}

/// Replaying CREATE TABLESPACE empties the directory that it names, wherever the restored server runs.
#[test]
fn r19_a_rehearsal_beside_the_live_cluster_takes_none_of_its_tablespaces() {
    let archived = Archived::start(Repo::local());
    with_rows(&archived);
    let place = archived.scratch.dir("place");
    archived.cluster.psql(&format!("create tablespace place location '{}'", place.display()));
    archived.cluster.psql("create table kept tablespace place as select 7 as n");
    archived.archive_all();
    let to = archived.target("rehearsal");
    let refused = archived.try_restore(&to, ["--archive-mode=off"]);
    refused.fails_with(8).stderr_contains(place.to_str().unwrap()).stderr_contains("take a new backup");
    assert!(!to.exists());

    archived.backup();
    let args = ["--archive-mode=off".to_owned(), moved(&place, &archived.target("copy"))];
    archived.try_restore(&to, &args).success();
    let mut rehearsal = Cluster::attach(&to);
    rehearsal.start();
    wait_open(&rehearsal);
    assert_eq!(rehearsal.psql("select n from kept; show archive_mode"), "7\noff");
    assert_eq!(archived.cluster.psql("select n from kept"), "7");
    rehearsal.psql("insert into kept values (8); select pg_switch_wal()");
    assert_eq!(fs::read_dir(rehearsal.pg_wal().join("archive_status")).unwrap().count(), 0);
}

#[test]
fn a_standby_is_restored_and_follows_what_is_archived() {
    let archived = Archived::start(Repo::local());
    with_rows(&archived);
    let to = archived.target("standby");
    archived.try_restore(&to, ["--standby", "--target-immediate"]).fails_with(2);
    let restored = archived.try_restore(&to, ["--standby"]);
    restored.success().stdout_contains("primary_conninfo");
    assert!(to.join("standby.signal").is_file() && !to.join("recovery.signal").exists());
    let mut standby = attach_silent(&to);
    standby.override_setting("wal_retrieve_retry_interval", "200ms").start();
    standby.wait_until(ROWS, "1 2", PATIENCE);
    archived.cluster.psql("insert into t values (3)");
    archived.archive_all();
    standby.wait_until(ROWS, "1 2 3", PATIENCE);
    assert_eq!(standby.psql("select pg_is_in_recovery(); show recovery_target_timeline"), "t\nlatest");
    let command = standby.psql("show restore_command");
    assert!(command.contains("--standby") && !command.contains("--tail"), "{command}");
    standby.promote();
    standby.psql("insert into t values (4)");
}

#[test]
fn json_says_what_really_happens_at_the_target() {
    let archived = Archived::start(Repo::local());
    with_rows(&archived);
    let to = archived.target("nowhere");
    for (args, action) in [
        (&[][..], "\"promote\""),
        (&["--target-immediate"], "\"pause\""),
        (&["--target-immediate", "--target-action=shutdown"], "\"shutdown\""),
        (&["--standby"], "null"),
    ] {
        let plan = archived.try_restore(&to, ["--dry-run", "--json"].iter().chain(args)).success().json();
        assert_eq!(plan["target_action"].to_string(), action, "{args:?}");
        assert_eq!(plan["warnings"], serde_json::json!([]));
    }
    let wrong = archived.try_restore(&to, ["--target-time", "half past two"]);
    wrong.fails_with(2).stderr_contains("'now - 10 min'");
    archived.try_restore(&to, ["--target-time", "now - 10 min"]).fails_with(8);
}

/// What the text after a restore advises about a pause: the table that goes at that instant is locked, all else is there.
#[test]
fn a_pause_before_a_drop_holds_the_lock_that_the_next_steps_speak_of() {
    let archived = Archived::start(Repo::local());
    with_rows(&archived);
    archived.cluster.psql("create table other as select 1 as n");
    let xid = archived.cluster.psql("begin; drop table t; select pg_current_xact_id(); commit");
    archived.archive_all();
    let to = archived.target("paused");
    let restored = archived.try_restore(&to, ["--target-xid", &xid, "--target-exclusive"]);
    restored.success().stdout_contains("SET lock_timeout");
    let mut paused = attach_silent(&to);
    paused.start();
    wait_paused(&paused);
    let locked = paused.try_psql(&format!("set lock_timeout = '1s'; {ROWS}"));
    assert!(locked.is_err_and(|why| why.contains("lock timeout")));
    assert_eq!(paused.psql("set lock_timeout = '1s'; select n from other"), "1");
    paused.psql("select pg_wal_replay_resume()");
    wait_open(&paused);
    assert_eq!(paused.psql(ROWS), "1 2");
}

#[test]
fn r19_parameters_below_the_primarys_are_said_and_would_abort_recovery() {
    let mut archived = Archived::start(Repo::local());
    archived.cluster.override_setting("max_connections", "150").restart();
    with_rows(&archived);
    let to = archived.target("restored");
    let restored = archived.try_restore(&to, [""; 0]);
    restored.success().stdout_contains("max_connections").stdout_contains("the primary had 150");
    let mut server = attach_silent(&to);
    server.start_until_exit(PATIENCE);
    assert!(server.log().contains("insufficient parameter settings"), "{}", server.log());

    archived.cluster.set("max_connections", "160");
    archived.backup();
    archived.archive_all();
    archived.try_restore(&archived.target("second"), [""; 0]).success().says_nowhere("max_connections");
}

/// `walproof restore` as root, in a clean environment.
fn as_root(archived: &Archived, to: &Path, args: &[&str]) -> process::Output {
    let mut command = std::process::Command::new(program::walproof());
    command.env_clear().current_dir("/").args(["restore", "--to"]).arg(to);
    command.args(args).arg("--config").arg(archived.walproof.config());
    process::run(command, b"", process::TIMEOUT)
}

#[test]
fn r19_what_would_keep_the_server_from_starting_is_said_at_restore() {
    let server = S3Server::start();
    let archived = Archived::start(Repo::s3(&server));
    let place = archived.scratch.dir("place");
    archived.cluster.psql(&format!("create tablespace place location '{}'", place.display()));
    with_rows(&archived);
    if rustix::process::geteuid().is_root() {
        restored_by_root(&archived, &place);
    } else {
        eprintln!("not root: that part of the test was left out");
    }

    // Credentials that only this shell has.
    let location = server.location();
    let config = fs::read_to_string(archived.walproof.config()).unwrap();
    let lines: Vec<&str> = config.lines().filter(|line| !line.contains("access_key")).collect();
    fs::write(archived.walproof.config(), lines.join("\n")).unwrap();
    let shell = archived
        .walproof
        .with_env("AWS_ACCESS_KEY_ID", &location.access_key)
        .with_env("AWS_SECRET_ACCESS_KEY", &location.secret_key);
    let to = archived.target("by hand");
    let args = ["restore", "--dry-run", "--to", to.to_str().unwrap()];
    let map = moved(&place, &archived.target("place by hand"));
    let said = shell.run(args.iter().chain([&map.as_str()]));
    said.success().stdout_contains("will not get WAL").stdout_contains("access key id");
}

#[track_caller]
fn restored_by_root(archived: &Archived, place: &Path) {
    let to = archived.target("deep/below/restored");
    let new = archived.target("new/deep/place");
    let map = moved(place, &new);
    let restored = as_root(archived, &to, &[&map]);
    restored.success().stdout_contains("owner").says_nowhere("WARNING");
    let owner = fs::metadata(archived.scratch.path()).unwrap().uid();
    assert_ne!(owner, 0);
    for path in [to.clone(), to.join("global/pg_control"), to.join("recovery.signal"), new] {
        assert_eq!(fs::metadata(&path).unwrap().uid(), owner, "{}", path.display());
    }
    assert_opens(&to, "1 2");

    // Where the directories are root's, nobody can be guessed.
    let roots = tempfile::tempdir().unwrap();
    let other = moved(place, &roots.path().join("place"));
    let said = as_root(archived, &roots.path().join("data"), &["--dry-run", &other]);
    said.success().stdout_contains("chown -R postgres");

    // A key that root can read, and the server cannot.
    let key = archived.walproof.scratch().join("key");
    let owner = fs::metadata(&key).unwrap();
    std::os::unix::fs::chown(&key, Some(0), Some(0)).unwrap();
    let to = archived.target("no key");
    let other = moved(place, &archived.target("no key place"));
    as_root(archived, &to, &["--dry-run", &other]).success().stdout_contains("will not get WAL");
    std::os::unix::fs::chown(&key, Some(owner.uid()), Some(owner.gid())).unwrap();
}

/// A cluster that is backed up into the same repository under the same name.
#[track_caller]
fn another_of_the_name(archived: &Archived) -> (Cluster, Walproof) {
    let mut other = Cluster::builder().segment_size_mb(1).create();
    let walproof =
        Walproof::builder(archived.repo().clone()).cluster(&other).key_of(&archived.walproof).build();
    walproof.run(["init"]).success();
    other.configure_archiving(&walproof).start();
    (other, walproof)
}

#[test]
fn of_two_clusters_of_one_name_the_lost_one_can_be_asked_for() {
    let archived = Archived::start(Repo::local());
    with_rows(&archived);
    let elsewhere = Walproof::builder(archived.repo().clone()).key_of(&archived.walproof).build();
    let identifier = archived.cluster.system_identifier().to_string();
    let to = |name: &str| -> PathBuf { archived.target(name) };
    let restore = |to: &Path, args: &[&str]| {
        elsewhere.run(["restore", "--to", to.to_str().unwrap()].iter().chain(args))
    };

    // One whose key is not at hand is left out, by name.
    let strange = Cluster::builder().create();
    Walproof::builder(archived.repo().clone()).cluster(&strange).build().run(["init"]).success();
    let found = restore(&to("found"), &[]);
    found.success().stderr_contains(&strange.system_identifier().to_string()).stderr_contains("left out");
    assert_opens(&to("found"), "1 2");

    let (other, its) = another_of_the_name(&archived);
    let its_identifier = other.system_identifier().to_string();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    its.json(["backup-push"]);
    let newer = elsewhere.run(["backup-list", "--json"]);
    newer.success().stderr_contains(&its_identifier).stderr_contains(&identifier);
    assert_eq!(
        elsewhere.json(["backup-list", "--system-identifier", &identifier])[0]["system_identifier"],
        identifier
    );

    // Both live on: nobody chooses silently.
    archived.backup();
    for args in [vec!["backup-list"], vec!["wal-list"], vec!["restore", "--to", "/nonexistent/x"]] {
        let refused = elsewhere.run(args);
        refused.fails_with(8).stderr_contains(&identifier).stderr_contains(&its_identifier);
        refused.stderr_contains("--system-identifier");
    }
    restore(&to("lost"), &["--system-identifier", &identifier]).success();
    assert_opens(&to("lost"), "1 2");
    restore(&to("none"), &["--system-identifier", "7"]).fails_with(8).stderr_contains("system identifier 7");
}
