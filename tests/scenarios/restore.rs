//! Restoring: which directories it takes, what it leaves when it is stopped, and what it tells the server.

use crate::support::archived::{PATIENCE, attach_silent, wait_open, wait_paused};
use crate::support::s3::{Fault, S3Server, Verb};
use crate::support::small_disk::SmallDisk;
use crate::support::{Archived, Repo, Walproof, wait_until};
use crate::support::{postgres::Cluster, process};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// One table with these rows, and a backup before the last of them.
const ROWS: &str = "select string_agg(n::text, ' ' order by n) from t";

#[track_caller]
fn with_rows(archived: &Archived) {
    archived.cluster.psql("create table t (n int); insert into t values (1)");
    archived.backup();
    archived.cluster.psql("insert into t values (2)");
    archived.archive_all();
}

/// A tablespace with most of the data in it; gives its location.
#[track_caller]
fn with_a_tablespace(archived: &Archived) -> PathBuf {
    let place = archived.scratch.dir("place");
    archived.cluster.psql(&format!("create tablespace place location '{}'", place.display()));
    archived.cluster.pgbench(["-i", "-q", "-s", "1", "--tablespace=place"]);
    with_rows(archived);
    place
}

/// Every path below `dir`, symbolic links not followed, sorted.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            found.push(entry.path());
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn r17_only_an_empty_directory_is_filled() {
    let archived = Archived::start(Repo::local());
    let place = with_a_tablespace(&archived);
    let newest = [""; 0];

    let taken = archived.scratch.dir("taken");
    fs::write(taken.join("precious"), "data").unwrap();
    archived
        .try_restore(&taken, newest)
        .fails_with(8)
        .stderr_contains(&format!("{} is not empty", taken.display()));
    assert_eq!(below(&taken), [taken.join("precious")]);
    // Not even the running cluster's own.
    archived.try_restore(archived.cluster.data_dir(), newest).fails_with(8).stderr_contains("is not empty");

    // Without --tablespace it would go where the source has it.
    let before = below(&place);
    let to = archived.target("refused");
    let named = format!("--tablespace {}=TO", place.display());
    archived.try_restore(&to, newest).fails_with(8).stderr_contains(&named);
    assert_eq!(below(&place), before);
    assert!(!to.exists());
    let mapping = |from: &Path, to: &str| format!("--tablespace={}={to}", from.display());
    let moved = archived.target("a/b/place");
    let inside = to.join("place");
    archived.try_restore(&to, [mapping(&place, inside.to_str().unwrap())]).fails_with(2);
    archived.try_restore(&to, [mapping(&place, "relative")]).fails_with(2).stderr_contains("absolute");
    let wrong = archived.try_restore(&to, [mapping(Path::new("/elsewhere"), moved.to_str().unwrap())]);
    wrong.fails_with(2).stderr_contains("/elsewhere").stderr_contains(place.to_str().unwrap());
    assert!(!to.exists() && !archived.target("a").exists());

    // An empty one, and missing ones with their parents, are fine.
    let to = archived.target("x/y/data");
    archived.try_restore(&to, [mapping(&place, moved.to_str().unwrap())]).success();
    assert_opens(&to, "1 2");
    let empty = archived.scratch.dir("empty");
    archived.try_restore(&empty, [mapping(&place, archived.target("p2").to_str().unwrap())]).success();
}

/// A server starts on `data_dir`, recovers to the end and shows these rows.
#[track_caller]
fn assert_opens(data_dir: &Path, rows: &str) -> Cluster {
    let mut restored = attach_silent(data_dir);
    restored.start();
    wait_open(&restored);
    assert_eq!(restored.psql(ROWS), rows);
    restored
}

#[test]
fn r18_a_killed_restore_cannot_start_and_the_same_command_again_completes_it() {
    let server = S3Server::start();
    let archived = Archived::start(Repo::s3(&server));
    archived.cluster.pgbench(["-i", "-q", "-s", "2"]);
    with_rows(&archived);
    let to = archived.target("restored");
    let restore = ["restore", "--to", to.to_str().unwrap()];

    // The page digests, one request a pack, are read before anything is touched; then pg_control; then all else.
    let packs = archived.repo().keys("packs/").len() as u64;
    for answered in [0, packs, packs + 2] {
        let before = server.faults().struck();
        server.faults().clear().add(Fault::hang().on(Verb::Get).key("packs/").from(answered + 1));
        let running = archived.walproof.spawn(restore);
        wait_until("the restore hangs", PATIENCE, || server.faults().struck() > before);
        let data_there = || below(&to.join("base")).iter().any(|path| path.is_file());
        assert!(answered <= packs || crate::support::holds_within(PATIENCE, data_there));
        if answered == 0 {
            running.kill9();
            assert!(!to.exists());
            continue;
        }

        archived.walproof.run(restore).fails_with(7).stderr_contains("another restore is filling");
        running.kill9();
        assert!(to.is_dir() && !to.join("global/pg_control").exists(), "after {answered} answers");
        let status = Cluster::attach(&to).start_until_exit(PATIENCE);
        assert!(!status.success(), "PostgreSQL started on half a restore");
    }
    server.faults().clear();
    archived.walproof.run(restore).success();
    let restored = assert_opens(&to, "1 2");
    assert_eq!(restored.psql("select count(*) from pgbench_accounts"), "200000");
    assert!(!to.join("global/pg_control.walproof").exists());
    drop(restored);
    archived.walproof.run(restore).fails_with(8).stderr_contains("is not empty");
}

#[test]
fn r19_leftover_recovery_settings_are_neutralised() {
    let archived = Archived::start(Repo::local());
    let (cluster, data_dir) = (&archived.cluster, archived.cluster.data_dir());
    cluster.psql(
        "alter system set recovery_target_time = '2020-01-01 00:00:00+00';
         alter system set restore_command = 'exit 201';
         alter system set recovery_end_command = 'exit 1';
         alter system set recovery_min_apply_delay = '1h';
         alter system set work_mem = '5MB'",
    );
    cluster.set("recovery_target_name", "nowhere").set("restore_command", "exit 202");
    cluster.set("recovery_target_timeline", "9").set("recovery_target_inclusive", "off");
    for signal in ["standby.signal", "recovery.signal"] {
        fs::write(data_dir.join(signal), "").unwrap();
    }
    with_rows(&archived);

    let newest = archived.target("newest");
    archived.try_restore(&newest, [""; 0]).success();
    assert!(newest.join("recovery.signal").is_file() && !newest.join("standby.signal").exists());
    let settings = fs::read_to_string(newest.join("postgresql.auto.conf")).unwrap();
    assert!(!settings.contains("2020") && !settings.contains("exit"), "{settings}");
    let command = settings.lines().find(|line| line.starts_with("restore_command")).unwrap();
    let words: Vec<&str> = command.split(['\'', ' ']).collect();
    assert!(
        words
            .iter()
            .filter(|word| word.contains("walproof"))
            .all(|path| path.starts_with('/') || *path == "walproof"),
        "{command}"
    );
    assert!(command.contains(archived.walproof.config().to_str().unwrap()), "{command}");
    let restored = assert_opens(&newest, "1 2");
    assert_eq!(restored.psql("show work_mem"), "5MB");
    drop(restored);

    let mut restored = archived.restore("immediate", ["--target-immediate"]);
    restored.start();
    wait_paused(&restored);
    assert_eq!(restored.psql(ROWS), "1");
}

/// Restores a cluster made with `initdb_args`, and checks the permissions of everything in it.
#[track_caller]
fn assert_modes(initdb_args: &[&str], directory: u32, file: u32) {
    let builder = Cluster::builder().segment_size_mb(1);
    let builder = initdb_args.iter().fold(builder, |builder, arg| builder.initdb_arg(arg));
    let archived = Archived::start_as(builder, Repo::local());
    with_rows(&archived);
    let to = archived.target("restored");
    // Whatever the operator's umask is, and even if the directory is there.
    fs::set_permissions(archived.scratch.dir("restored"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = process::command("sh");
    let walproof = archived.walproof.command(["restore", "--to", to.to_str().unwrap()]);
    command.args(["-c", "umask 0; exec \"$0\" \"$@\""]).arg(walproof.get_program()).args(walproof.get_args());
    process::run(command, b"", PATIENCE).success();
    for path in below(&to).into_iter().chain([to.clone()]) {
        let meta = fs::symlink_metadata(&path).unwrap();
        let wanted = if meta.is_dir() { directory } else { file };
        assert_eq!(
            format!("{:o}", meta.permissions().mode() & 0o7777),
            format!("{wanted:o}"),
            "{}",
            path.display()
        );
    }
    assert_opens(&to, "1 2");
}

#[test]
fn permissions_are_those_of_the_source_whether_the_group_may_read_or_not() {
    assert_modes(&[], 0o700, 0o600);
    assert_modes(&["--allow-group-access"], 0o750, 0o640);
}

#[test]
fn a_dry_run_shows_the_plan_and_the_old_name_of_restore_does_the_same() {
    let archived = Archived::start(Repo::local());
    with_rows(&archived);
    let [backup] = archived.backups().try_into().unwrap();
    let id = backup["id"].as_str().unwrap();
    let to = archived.target("some/where");
    let plan = archived.try_restore(&to, ["--dry-run", "--target-immediate"]);
    plan.success()
        .stdout_contains(to.to_str().unwrap())
        .stdout_contains(id)
        .stdout_contains("end of the backup");
    plan.says_nowhere("restored and durable");
    let plan = archived.try_restore(&to, ["--dry-run", "--json"]).success().json();
    assert_eq!(
        (&plan["backup"], &plan["restored"], &plan["timeline"]),
        (&id.into(), &false.into(), &1.into())
    );
    assert_eq!(plan["bytes"], backup["size_bytes"]);
    assert!(!archived.target("some").exists());

    let to = to.to_str().unwrap();
    archived.walproof.run(["backup-fetch", to, "20200101T000000Z-00000000"]).fails_with(8);
    archived.walproof.run(["backup-fetch", to, "oldest"]).fails_with(2);
    assert!(!archived.target("some").exists());
    archived.walproof.run(["backup-fetch", to, "LATEST"]).success();
    assert_opens(Path::new(to), "1 2");
    let by_id = archived.target("by id");
    archived.walproof.run(["backup-fetch", by_id.to_str().unwrap(), id]).success();
    assert_opens(&by_id, "1 2");
}

#[test]
fn a_disk_that_is_too_small_or_fills_up_is_named_and_a_larger_one_works() {
    let archived = Archived::start(Repo::local());
    let place = with_a_tablespace(&archived);
    let to = archived.target("restored");
    let large = archived.target("large");
    let into = |target: &Path| format!("--tablespace={}={}", place.display(), target.display());

    // No file may grow beyond 4 MB: the table's does.
    let walproof = archived.walproof.command(["restore", "--to", to.to_str().unwrap(), &into(&large)]);
    let mut limited = process::command("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8000; exec \"$0\" \"$@\""]);
    limited.arg(walproof.get_program()).args(walproof.get_args());
    let full = process::run(limited, b"", PATIENCE);
    full.fails_with(9).stderr_contains("File too large").stderr_contains(to.to_str().unwrap());
    assert!(!to.join("global/pg_control").exists());
    archived.try_restore(&to, [into(&large)]).success();
    assert_opens(&to, "1 2");

    // The above holds where nobody may mount, too.
    let Some(disk) = SmallDisk::mount(10) else { return };
    let (small, to) = (disk.path().join("place"), archived.target("second"));
    let full = archived.try_restore(&to, [into(&small)]);
    full.fails_with(9).stderr_contains("No space left on device").stderr_contains("is the file system full?");
    assert!(!to.join("global/pg_control").exists());
    disk.grow(200);
    archived.try_restore(&to, [into(&small)]).success();
    assert_opens(&to, "1 2");
}

#[test]
fn a_restore_that_cannot_fit_is_refused_before_it_fills_the_disk() {
    let Some(disk) = SmallDisk::mount(10) else { return };
    let archived = Archived::start(Repo::local());
    with_rows(&archived);
    let to = disk.path().join("data");
    let refused = archived.try_restore(&to, [""; 0]);
    refused.fails_with(8).stderr_contains("bytes are needed").stderr_contains("larger file system");
    assert!(!to.exists());
    disk.grow(200);
    archived.try_restore(&to, [""; 0]).success();
    assert_opens(&to, "1 2");
}

/// `initdb` and `init` under the name of a cluster that has backups: the host that restores knows that name only.
#[test]
fn a_database_made_anew_does_not_hide_the_backups_of_the_one_before() {
    let archived = Archived::start(Repo::local());
    archived.backup();
    let anew = Cluster::builder().create();
    let beside = |builder: crate::support::walproof_builder::WalproofBuilder| {
        builder.key_of(&archived.walproof).build()
    };
    beside(Walproof::builder(archived.repo().clone()).cluster(&anew)).run(["init"]).success();
    let elsewhere = beside(Walproof::builder(archived.repo().clone()));
    let listed = elsewhere.run(["backup-list", "--json"]);
    listed.success().stderr_contains("the database was recreated");
    let backups: serde_json::Value = serde_json::from_str(&listed.stdout()).unwrap();
    assert_eq!(backups.as_array().unwrap().len(), 1, "{backups}");
    let to = archived.target("data");
    let restored = elsewhere.run(["restore", "--to", to.to_str().unwrap()]);
    restored.success().stderr_contains(&archived.cluster.system_identifier().to_string());
}

#[test]
fn r13_an_older_clean_backup_goes_before_the_newest_that_holds_damaged_pages() {
    let archived = Archived::start(Repo::local());
    let cluster = &archived.cluster;
    cluster.psql("create table t as select n, repeat('x', 100) from generate_series(1, 1000) n");
    cluster.psql("vacuum freeze t; checkpoint");
    let clean = archived.backup();
    let path = cluster.data_dir().join(cluster.psql("select pg_relation_filepath('t')"));
    let file = fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"cosmic rays", 2 * 8192 + 5000).unwrap();
    archived.walproof.run(["backup-push"]).fails_with(5);
    let [_, damaged] = archived.backups().try_into().unwrap();
    cluster.psql("create table later as select 1 as n");
    archived.archive_all();

    let to = archived.target("newest");
    let text = to.to_str().unwrap();
    let plan = archived.walproof.json(["restore", "--dry-run", "--to", text]);
    assert_eq!(plan["backup"], clean["id"], "{plan}");
    let output = archived.walproof.run(["restore", "--to", text]);
    let newer = format!("backup {} is newer, but left out", damaged["id"].as_str().unwrap());
    output.success().stderr_contains(&newer);
    let mut restored = attach_silent(&to);
    restored.start();
    wait_open(&restored);
    assert_eq!(restored.psql("select (select count(*) from t), n from later"), "1000|1");

    // Where no clean one leads there, it is better than nothing, and that is said.
    let lsn = damaged["stop_lsn"].as_str().unwrap();
    archived.repo().delete(&archived.repo().key(&format!("/backups/{}", clean["id"].as_str().unwrap())));
    let output = archived.try_restore(&archived.target("only"), ["--target-lsn", lsn]);
    output.success().stderr_contains("holds 1 damaged pages");
}
