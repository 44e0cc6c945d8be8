//! R28: two servers that parted wrote to one timeline. Their segments follow each other by name, their records do not.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::archived::{self, Archived, PATIENCE, wait_open};
use crate::support::postgres::{Cluster, StopMode};
use crate::support::process::Running;
use crate::support::{Daemon, Repo, Walproof, wait_until};

const TAIL: &str = "[archive]\ntail_interval = \"1s\"\nheartbeat_interval = \"0s\"\n";

/// A repository in which timeline 2 begins as a rehearsal wrote it, and goes on as the standby did that was promoted later.
struct TwoLives {
    archived: Archived,
    /// The one that was promoted.
    server: Cluster,
    walproof: Walproof,
    daemon: Daemon,
    /// The last segment of the rehearsal, and the first that the server could store.
    border: [String; 2],
}

impl TwoLives {
    #[track_caller]
    fn make() -> Self {
        let mut archived = Archived::start_with(Cluster::builder().segment_size_mb(1), Repo::local(), TAIL);
        archived.cluster.psql("create table t as select 1 as n");
        archived.backup();
        // Without a restore_command nothing tells it which timelines there are.
        let mut server = Cluster::standby_of(&archived.cluster);
        server.set("archive_command", &archived.walproof.archive_command());
        server.start();
        archived.archive_all();
        let to = archived.target("rehearsal");
        archived.try_restore(&to, [""; 0]).success();
        // Its settings are the primary's: it archives.
        let mut rehearsal = Cluster::attach(&to);
        rehearsal.start();
        wait_open(&rehearsal);
        rehearsal.psql("insert into t values (0)");
        let last = rehearsal.switch_wal();
        rehearsal.wait_archived(&last, PATIENCE);
        rehearsal.stop(StopMode::Fast);

        // A server that stops finishes its segment: the other one switches where the rehearsal has ended.
        let next = following(&last);
        archived.cluster.psql("insert into t values (2)");
        while archived.cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())")[8..] < last[8..] {
            archived.cluster.psql("insert into t values (3)");
            archived.cluster.switch_wal();
        }
        archived.cluster.psql("insert into t values (4)");
        archived.cluster.stop(StopMode::Fast);
        server.promote();
        let walproof = Walproof::builder(archived.repo().clone())
            .cluster(&server)
            .key_of(&archived.walproof)
            .toml(TAIL)
            .build();
        let daemon = Daemon::start_whole(&walproof);
        server.psql("insert into t values (5)");
        let mut first = String::new();
        while first.get(8..).is_none_or(|first| *first < next[8..]) {
            server.psql("insert into t values (6)");
            first = server.switch_wal();
        }
        server.switch_wal();
        let stored = |name: &str| !archived.repo().keys(&format!("/{name}-")).is_empty();
        wait_until("the daemon stores what follows all the same", PATIENCE, || stored(&first));
        assert!(stored("00000002.history") && stored(&last), "{:#?}", archived.repo().keys("/wal/"));
        Self { archived, server, walproof, daemon, border: [last, first] }
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

/// The name of the next segment, of 1 MB.
fn following(name: &str) -> String {
    let number = u64::from_str_radix(&name[16..], 16).unwrap() + 1;
    format!("{}{number:08X}", &name[..16])
}

/// What the query gives on a cluster that was restored and has recovered.
#[track_caller]
fn rows(mut restored: Cluster) -> String {
    restored.start();
    wait_open(&restored);
    restored.psql("select string_agg(n::text, ' ' order by n) from t")
}

/// What a restore must not lead to: rows that nobody was told would be missing.
#[test]
fn r28_a_restore_does_not_join_what_two_servers_wrote() {
    let mut lives = TwoLives::make();
    let [last, first] = &lives.border;
    let parted = format!("{first} does not go on where {last} ends");

    // By default the branches are named, and either of them by itself says where it ends.
    let refused = lives.archived.try_restore(&lives.archived.target("refused"), [""; 0]);
    refused.fails_with(8).stderr_contains("--target-timeline 1").stderr_contains("--target-timeline 2");
    let refused = lives.archived.try_restore(&lives.archived.target("refused"), ["--target-timeline", "2"]);
    refused.fails_with(5).stderr_contains(&parted);
    for directory in [&lives.archived.target("rehearsal"), lives.server.data_dir()] {
        refused.stderr_contains(&format!(":{}", directory.display()));
    }
    let primary = lives.archived.restore("primary", ["--target-timeline", "1"]);
    assert_eq!(rows(primary), "1 2 4");

    // By listing alone, and by content: the border is what is wrong, and not one of the two files.
    for how in [&["verify"][..], &["verify", "--content"]] {
        let found = lives.walproof.run(how);
        assert_eq!(found.code(), 1, "{}", found.stdout());
        found.stdout_contains(&parted).stdout_contains("1 problem");
    }
    let status = lives.daemon.wait("it claims nothing", |status| status["rpo_seconds"] != 0.0);
    assert_eq!(lives.daemon.get("/healthz").0, 503, "{status:#}");

    // A backup of the server needs nothing of it.
    lives.walproof.run(["backup-push"]).success();
    lives.server.psql("insert into t values (7)");
    lives.daemon.wait("a backup closes it", |status| status["rpo_seconds"] == 0.0);
    lives.server.destroy_data_dir();
    assert_eq!(rows(lives.archived.restore("newest", [""; 0])), "1 2 4 5 6 7");
}

/// Crash the server within a record that crosses segments, until it once had to say that such a record was lost.
#[track_caller]
fn lose_a_record_in_a_crash(cluster: &mut Cluster) {
    for round in 1..30 {
        let mut psql = cluster.binaries().command("psql");
        psql.args(["-X", "-d", &cluster.conninfo(), "-c"]);
        psql.arg(
            "select pg_logical_emit_message(false, 'x', repeat('x', 5000000)) from generate_series(1, 100)",
        );
        let writes = Running::start(psql, b"");
        std::thread::sleep(Duration::from_millis(200 + 10 * round));
        cluster.kill9();
        drop(writes);
        cluster.start();
        cluster.psql("insert into t values (3)");
        if says_that_a_record_was_lost(cluster) {
            return;
        }
    }
    panic!("no crash fell within a record");
}

/// Whether a page in pg_wal has XLP_FIRST_IS_OVERWRITE_CONTRECORD.
fn says_that_a_record_was_lost(cluster: &Cluster) -> bool {
    let files = std::fs::read_dir(cluster.pg_wal()).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).any(|path| {
        // One that is recycled now was another one's before.
        let Ok(bytes) = std::fs::read(path) else { return false };
        bytes.chunks(8192).any(|page| page.len() == 8192 && page[1] == 0xD1 && page[2] & 8 != 0)
    })
}

#[test]
fn r28_what_one_server_wrote_is_joined_whatever_lies_at_the_borders() {
    let mut archived = Archived::start_with(Cluster::builder().segment_size_mb(1), Repo::local(), TAIL);
    archived.cluster.psql("create table t as select 1 as n");
    archived.backup();
    // Records longer than segments, and segments that end early.
    for _ in 0..3 {
        archived.cluster.psql("select pg_logical_emit_message(false, 'x', repeat('much', 1000000))");
        archived.archive_all();
    }
    archived.cluster.psql("insert into t values (2)");
    lose_a_record_in_a_crash(&mut archived.cluster);
    archived.archive_all();
    archived.cluster.psql("delete from t where n = 3; insert into t values (4)");
    archived.cluster.stop(StopMode::Fast);
    // A restored copy takes over, in the middle of a segment and at the end of one.
    for (name, row) in [("first", 5), ("second", 6)] {
        let to = archived.target(name);
        archived.try_restore(&to, [""; 0]).success();
        let mut successor = Cluster::attach(&to);
        successor.start();
        wait_open(&successor);
        successor.psql(&format!("insert into t values ({row})"));
        archived::archive_all(&successor);
        successor.psql("select pg_logical_emit_message(false, 'x', repeat('much', 1000000))");
        archived::archive_all(&successor);
        successor.stop(StopMode::Fast);
    }
    for how in [&["verify"][..], &["verify", "--content"]] {
        archived.walproof.run(how).success();
    }
    assert_eq!(rows(archived.restore("newest", [""; 0])), "1 2 4 5 6");
    let keys = archived.repo().keys("/wal/");
    assert!(keys.iter().any(|key| key.contains("/00000003")), "{keys:#?}");
}

/// A backup, then the data directory of before it; the backup's WAL is lost, and archived under its names is what the server
/// writes now.
#[test]
fn r28_a_backup_does_not_begin_in_wal_that_another_life_of_the_server_wrote() {
    let mut archived = Archived::start_with(Cluster::builder().segment_size_mb(1), Repo::local(), TAIL);
    archived.cluster.psql("create table t as select 1 as n");
    archived.cluster.stop(StopMode::Fast);
    let (data_dir, older) = (archived.cluster.data_dir().to_owned(), archived.target("older"));
    copy(&data_dir, &older);
    archived.cluster.start();
    archived.cluster.psql("insert into t select 2 from generate_series(1, 1000)");
    let backup = archived.backup();
    let (id, stop) = (backup["id"].as_str().unwrap(), backup["stop_lsn"].as_str().unwrap());
    archived.cluster.stop(StopMode::Fast);
    std::fs::remove_dir_all(&data_dir).unwrap();
    copy(&older, &data_dir);
    for key in archived.repo().keys("/wal/") {
        archived.repo().delete(&key);
    }
    archived.cluster.start();
    archived.cluster.psql("insert into t select 3 from generate_series(1, 3000)");
    let behind = format!("select pg_current_wal_insert_lsn() < '{stop}'");
    while archived.cluster.psql(&behind) == "t" {
        archived.cluster.psql("insert into t select 3 from generate_series(1, 3000)");
    }
    archived.archive_all();
    archived.archive_all();

    let replaced = "is stored, but not as it was when the backup was made";
    let refused = archived.try_restore(&archived.target("refused"), [""; 0]);
    refused.fails_with(8).stderr_contains(id).stderr_contains(replaced);
    archived.walproof.run(["verify"]).stdout_contains(id).stdout_contains(replaced);
    archived.walproof.run(["verify", "--restorable"]).stdout_contains(id).stdout_contains(replaced);
    // A daemon that knows nothing from before claims nothing, and names it.
    let daemon = Daemon::start_whole(&archived.walproof);
    let status =
        daemon.wait("it names the backup", |status| status["problems"].to_string().contains(replaced));
    assert!(status["rpo_seconds"].is_null(), "{status:#}");
    assert!(status["problems"].to_string().contains(id), "{status:#}");
    assert_eq!(status["last_backup"], serde_json::Value::Null, "{status:#}");

    // A new one needs nothing of it, and reuses what both have.
    archived.backup();
    archived.cluster.psql("insert into t values (4)");
    daemon.wait("a backup closes it", |status| status["rpo_seconds"] == 0.0);
    archived.cluster.destroy_data_dir();
    assert_eq!(rows(archived.restore("newest", [""; 0])).matches('2').count(), 0);
}

/// The names are there, and what is stored under them is another server's.
#[test]
fn r14_a_backup_does_not_take_the_wal_of_another_server_for_its_own() {
    let mut archived = Archived::start(Repo::local());
    archived.cluster.psql("create table t as select 1 as n");
    archived.backup();
    archived.cluster.stop(StopMode::Fast);
    let data_dir = archived.target("copy");
    copy(archived.cluster.data_dir(), &data_dir);
    let mut copy = Cluster::attach(&data_dir);
    copy.start();
    for _ in 0..8 {
        copy.psql("insert into t values (0)");
        let last = copy.switch_wal();
        copy.wait_archived(&last, PATIENCE);
    }
    copy.stop(StopMode::Fast);

    archived.cluster.start();
    let refused = archived.walproof.run(["backup-push"]);
    refused.fails_with(3).stderr_contains("different contents");
    assert_eq!(archived.backups().len(), 1);
}
