//! What did not change is not read again; what may have changed is.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use crate::support::archived::wait_open;
use crate::support::dump::{amcheck, assert_same_dump, dump_all};
use crate::support::postgres::StopMode;
use crate::support::{Archived, Repo};
use serde_json::Value;

/// A file must be this old to be believed: ten seconds, and the time between the program's start and the backup's.
const QUIET: Duration = Duration::from_secs(11);
const PAGE: usize = 8192;

fn number(backup: &Value, field: &str) -> u64 {
    backup[field].as_u64().unwrap_or_else(|| panic!("{field} of {backup}"))
}

/// A cluster that nothing writes to, for long enough.
fn quiet() -> Archived {
    let archived = Archived::start(Repo::local());
    archived.cluster.pgbench(["-i", "-q", "-s", "2"]);
    for table in ["old", "new"] {
        archived
            .cluster
            .psql(&format!("create table {table} as select g as n from generate_series(1, 20000) g"));
    }
    archived.cluster.psql("alter system set autovacuum = off");
    archived.cluster.psql("select pg_reload_conf()");
    archived.cluster.psql("vacuum freeze");
    archived.cluster.psql("checkpoint");
    sleep(QUIET);
    archived
}

fn file_of(archived: &Archived, table: &str) -> PathBuf {
    PathBuf::from(archived.cluster.psql(&format!("select pg_relation_filepath('{table}')")))
}

/// Restore the state at the end of `backup`, which must be that of the cluster; gives where it is, stopped.
#[track_caller]
fn assert_restores(archived: &Archived, backup: &Value, name: &str) -> PathBuf {
    let id = backup["id"].as_str().unwrap();
    let args = ["--backup", id, "--target-immediate", "--target-action", "promote"];
    let mut restored = archived.restore(name, args);
    restored.start();
    wait_open(&restored);
    assert_same_dump(&dump_all(&archived.cluster), &dump_all(&restored));
    amcheck(&restored);
    restored.stop(StopMode::Fast);
    let to = archived.target(name);
    restored.binaries().run("pg_checksums", [Path::new("--check"), Path::new("-D"), &to]).success();
    to
}

#[test]
fn what_did_not_change_is_not_read_again_and_what_changed_is() {
    let mut archived = quiet();
    let first = archived.backup();
    assert_eq!(number(&first, "unread_bytes"), 0);
    let second = archived.backup();
    let (size, unread) = (number(&second, "size_bytes"), number(&second, "unread_bytes"));
    assert!(10 * unread > 9 * size, "{second}");
    assert!(number(&second, "reused_bytes") >= unread && second["base"] == first["id"]);
    assert_restores(&archived, &second, "second");

    // Somebody writes other pages of the same size, all of them sound, and puts the time back.
    let [old, new] = ["old", "new"].map(|table| file_of(&archived, table));
    let path = archived.cluster.data_dir().join(&old);
    let (before, other) =
        (fs::read(&path).unwrap(), fs::read(archived.cluster.data_dir().join(new)).unwrap());
    assert!(before.len() == other.len() && before != other);
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, &other).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let put_back = archived.backup();
    assert!(number(&put_back, "unread_bytes") < unread);
    let to = archived.target("put_back");
    let args = ["--backup", put_back["id"].as_str().unwrap(), "--target-immediate"];
    archived.try_restore(&to, args).success();
    assert!(fs::read(to.join(&old)).unwrap() == other);
    fs::write(&path, &before).unwrap();

    archived.cluster.psql("update new set n = n + 1 where n % 1000 = 0; checkpoint");
    let changed = archived.backup();
    assert!(number(&changed, "unread_bytes") < unread && number(&changed, "changed_bytes") >= 20 * 8192);
    assert_restores(&archived, &changed, "changed");

    for unread_by in ["--full", "reread", "restart"] {
        let backup = match unread_by {
            "--full" => archived.walproof.json(["backup-push", "--full"]),
            "reread" => archived.configured("[backup]\nreread = \"0s\"").json(["backup-push"]),
            _ => {
                archived.cluster.restart();
                archived.backup()
            }
        };
        assert_eq!(number(&backup, "unread_bytes"), 0, "{unread_by}");
    }
    let last = archived.walproof.run(["backup-push"]);
    last.success().stdout_contains("of it unread");
    let last = archived.backups().pop().unwrap();
    assert!(number(&last, "unread_bytes") > 0);
    assert_restores(&archived, &last, "last");
    archived.walproof.run(["verify", "--content", "--again"]).success();
}

#[test]
fn r13_a_damaged_page_is_seen_whatever_its_times_say_and_told_of_again() {
    let archived = quiet();
    archived.backup();
    let path = archived.cluster.data_dir().join(file_of(&archived, "old"));
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut page = [0; PAGE];
    file.read_exact_at(&mut page, PAGE as u64).unwrap();
    page[5000] ^= 1;
    file.write_all_at(&page, PAGE as u64).unwrap();
    file.set_modified(modified).unwrap();
    let flagged = |when: &str| {
        archived.walproof.run(["backup-push"]).fails_with(5).stderr_contains("block 1");
        let backup = archived.backups().pop().unwrap();
        assert_eq!(number(&backup, "page_errors"), 1, "{when}: {backup}");
        backup
    };
    flagged("at once");
    sleep(QUIET);
    flagged("when it is old enough to be believed");
    let again = flagged("and the backup before saw the same");
    assert!(number(&again, "unread_bytes") > 0);
    page[5000] ^= 1;
    file.write_all_at(&page, PAGE as u64).unwrap();
    assert_eq!(number(&archived.backup(), "page_errors"), 0);
}
