//! R28: what the daemon claims is what a default restore gives. Each of these once was "RPO 0" and a loss.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::archived::{Archived, PATIENCE, wait_open};
use crate::support::postgres::{Cluster, StopMode};
use crate::support::{Daemon, Repo, Walproof};

const TAIL: &str = "[archive]\ntail_interval = \"1s\"\nheartbeat_interval = \"0s\"\n";
/// Two looks at the repository, a minute apart.
const TWO_LOOKS: Duration = Duration::from_secs(130);

fn archived() -> Archived {
    Archived::start_with(Cluster::builder().segment_size_mb(1), Repo::local(), TAIL)
}

fn has(status: &Value, code: &str) -> bool {
    status["problems"].as_array().unwrap().iter().any(|problem| problem["code"] == code)
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

#[test]
fn r29_a_data_directory_put_back_to_an_older_copy_is_seen() {
    let mut archived = archived();
    archived.backup();
    let data_dir = archived.cluster.data_dir().to_owned();
    let older = archived.scratch.join("older");
    archived.cluster.stop(StopMode::Fast);
    copy(&data_dir, &older);
    archived.cluster.start();
    let daemon = Daemon::start_whole(&archived.walproof);
    archived.cluster.psql("create table t as select generate_series(1, 1000) as n");
    archived.archive_all();
    archived.archive_all();
    daemon.wait_all_stored();
    archived.cluster.stop(StopMode::Fast);
    std::fs::remove_dir_all(&data_dir).unwrap();
    copy(&older, &data_dir);
    archived.cluster.start();
    let status =
        daemon.wait("it sees that more is stored than was flushed", |status| has(status, "diverged"));
    assert!(status["rpo_seconds"].is_null(), "{status:#}");
    assert_eq!(daemon.get("/healthz").0, 503);
    assert_eq!(daemon.metric("walproof_problems{code=\"diverged\",severity=\"critical\"}"), Some(1.0));
    let sees = |status: &Value| has(status, "diverged") && status["rpo_seconds"].is_null();
    // Nor does it help to take the server down: it may have written what nobody saw.
    archived.cluster.stop(StopMode::Immediate);
    daemon.wait("the server is down", |status| has(status, "server_down") && sees(status));
    daemon.kill9();
    // The same for a daemon that knows nothing from before, with the server down and up.
    let daemon = Daemon::start(&archived.walproof);
    daemon.wait("a new daemon sees it by the disk", sees);
    archived.cluster.start();
    daemon.wait("and by the server", |status| !has(status, "server_down") && sees(status));
    // Nor is it forgotten once the server has written past what is stored: the names are the same, the bytes are not.
    archived.cluster.psql("create table later (n int)");
    for _ in 0..8 {
        archived.cluster.psql("insert into later select generate_series(1, 1000)");
        archived.cluster.switch_wal();
    }
    let settled = |status: &Value| has(status, "conflict") || has(status, "archiving_failed");
    let status = daemon.wait("what is stored is refused", settled);
    assert!(status["rpo_seconds"] != 0.0, "{status:#}");
    std::thread::sleep(Duration::from_secs(3));
    let status = daemon.status();
    assert!(status["rpo_seconds"] != 0.0, "{status:#}");
}

#[test]
fn r29_two_daemons_on_one_repository_claim_nothing() {
    let mut first = archived();
    first.backup();
    // A copy of the host, that archives as well.
    let data_dir = first.scratch.join("copy");
    first.cluster.stop(StopMode::Fast);
    copy(first.cluster.data_dir(), &data_dir);
    first.cluster.start();
    let mut second = Cluster::attach(&data_dir);
    let walproof =
        Walproof::builder(first.repo().clone()).cluster(&second).key_of(&first.walproof).toml(TAIL).build();
    second.override_setting("archive_command", &walproof.archive_command());
    second.start();
    let one = Daemon::start_whole(&first.walproof);
    first.cluster.psql("create table t as select generate_series(1, 1000) as n");
    one.wait_all_stored();
    let other = Daemon::start_whole(&walproof);
    second.psql("create table u as select generate_series(1, 5000) as n");
    let codes = ["second_writer", "diverged", "conflict"];
    let sees = |status: &Value| codes.iter().any(|code| has(status, code)) && status["rpo_seconds"] != 0.0;
    one.wait_within(TWO_LOOKS, "one of them sees the other", |status| sees(status) || sees(&other.status()));
    second.stop(StopMode::Fast);
}

#[test]
fn r31_a_rehearsal_that_archives_a_higher_timeline_is_seen() {
    let archived = archived();
    archived.cluster.psql("create table t as select 1 as n");
    archived.backup();
    let daemon = Daemon::start_whole(&archived.walproof);
    daemon.wait_all_stored();
    let to = archived.target("rehearsal");
    archived.try_restore(&to, [""; 0]).success();
    // Its settings are the primary's: it archives.
    let mut rehearsal = Cluster::attach(&to);
    rehearsal.start();
    wait_open(&rehearsal);
    rehearsal.psql("insert into t values (2)");
    crate::support::archived::archive_all(&rehearsal);
    rehearsal.stop(StopMode::Fast);
    archived.cluster.psql("insert into t values (3)");
    let status = daemon
        .wait_within(TWO_LOOKS, "it sees the foreign timeline", |status| has(status, "foreign_timeline"));
    let branches = status["branches"].as_array().unwrap();
    let of = |directory: &std::path::Path| {
        let ending = format!(":{}", directory.display());
        branches.iter().filter(|branch| branch["writer"].as_str().unwrap().ends_with(&ending)).count()
    };
    assert_eq!((branches.len(), of(archived.cluster.data_dir()), of(&to)), (2, 1, 1), "{status:#}");
    assert_eq!(daemon.get("/healthz").0, 503);
    // Nor does a restore follow either of them unless told which.
    archived.archive_all();
    let refused = archived.try_restore(&archived.target("refused"), [""; 0]);
    refused.fails_with(8).stderr_contains("--target-timeline 1").stderr_contains("--target-timeline 2");
    refused.stderr_contains(&format!(":{}", to.display()));
    let mut restored = archived.restore("first", ["--target-timeline", "1"]);
    restored.start();
    wait_open(&restored);
    assert_eq!(restored.psql("select string_agg(n::text, ' ' order by n) from t"), "1 3");
}

#[test]
fn r28_a_failover_whose_history_is_another_lifes_claims_nothing() {
    let mut archived = archived();
    archived.backup();
    // Without a restore_command nothing tells it which timelines there are.
    let mut standby = Cluster::standby_of(&archived.cluster);
    standby.set("archive_command", &archived.walproof.archive_command());
    standby.start();
    let to = archived.target("rehearsal");
    archived.try_restore(&to, [""; 0]).success();
    let mut rehearsal = Cluster::attach(&to);
    rehearsal.start();
    wait_open(&rehearsal);
    rehearsal.wait_archived("00000002.history", PATIENCE);
    rehearsal.stop(StopMode::Fast);

    archived.cluster.psql("create table t as select 1 as n");
    archived.cluster.stop(StopMode::Fast);
    standby.promote();
    let walproof = Walproof::builder(archived.repo().clone())
        .cluster(&standby)
        .key_of(&archived.walproof)
        .toml(TAIL)
        .build();
    let daemon = Daemon::start_whole(&walproof);
    daemon.wait("it sees whose name that is", |status| has(status, "conflict"));
    standby.psql("insert into t values (2)");
    let last = standby.switch_wal();
    let stored = || !archived.repo().keys(&format!("/{last}-")).is_empty();
    crate::support::wait_until("the daemon stores what follows all the same", PATIENCE, stored);
    // What is stored under the name of its history leads elsewhere.
    for _ in 0..5 {
        std::thread::sleep(Duration::from_secs(1));
        let status = daemon.status();
        assert!(has(&status, "conflict") && status["rpo_seconds"] != 0.0, "{status:#}");
        assert_eq!(daemon.get("/healthz").0, 503);
    }
    // A backup of this timeline needs nothing that came before.
    walproof.run(["backup-push"]).success();
    standby.psql("insert into t values (3)");
    daemon.wait("a backup closes it", |status| status["rpo_seconds"] == 0.0);
    standby.destroy_data_dir();
    let restored = archived.restore_newest("restored");
    assert_eq!(restored.psql("select string_agg(n::text, ' ' order by n) from t"), "1 2 3");
}

#[test]
fn r10_a_standby_whose_conninfo_leads_to_the_primary_stores_no_tail() {
    let primary = archived();
    let mut standby = Cluster::standby_of(&primary.cluster);
    standby.start();
    let walproof = Walproof::builder(primary.repo().clone())
        .cluster(&standby)
        .conninfo(&primary.cluster.conninfo())
        .key_of(&primary.walproof)
        .toml(TAIL)
        .build();
    let daemon = Daemon::start(&walproof);
    primary.cluster.psql("create table t as select 1 as n");
    let status = daemon.wait("it sees whom it asks", |status| has(status, "wrong_server"));
    assert!(status["rpo_seconds"].is_null(), "{status:#}");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(primary.repo().keys("/tail/"), [""; 0]);
}

#[test]
fn r29_two_contents_under_one_name_end_the_claim() {
    let archived = archived();
    archived.backup();
    archived.archive_all();
    let name = archived.cluster.switch_wal();
    archived.cluster.wait_archived(&name, PATIENCE);
    archived.archive_all();
    archived.store_twice(&name);
    let daemon = Daemon::start(&archived.walproof);
    let status = daemon.wait("it sees the two", |status| has(status, "conflict"));
    assert_ne!(status["rpo_seconds"], 0.0, "what follows cannot be restored: {status:#}");
    assert_eq!(daemon.get("/healthz").0, 503);
    // A backup needs none of it.
    archived.backup();
    daemon.wait("a backup behind them closes it", |status| status["rpo_seconds"] == 0.0);
}

#[test]
fn r29_a_standby_that_follows_its_primary_to_another_timeline_raises_no_alarm() {
    let mut old = archived();
    old.backup();
    let mut first = Cluster::standby_of(&old.cluster);
    first.set("archive_command", &old.walproof.archive_command());
    let walproof =
        Walproof::builder(old.repo().clone()).cluster(&first).key_of(&old.walproof).toml(TAIL).build();
    first.start();
    let daemon = Daemon::start_whole(&walproof);
    daemon.wait("it sees the standby", |status| status["role"] == "standby" && status["timeline"] == 1);
    old.archive_all();
    old.cluster.stop(StopMode::Fast);
    first.promote();
    wait_open(&first);
    first.psql("create table t as select 1 as n");
    let status = daemon.wait("it follows", |status| status["timeline"] == 2 && status["rpo_seconds"] == 0.0);
    for code in ["diverged", "foreign_timeline", "wal_gap", "second_writer"] {
        assert!(!has(&status, code), "{status:#}");
    }
}

/// What the server writes into the unfinished segment, told apart from everything else there.
const MARK: &str = "the record that gets damaged";

/// A cluster whose server crashed: 1 and 2 are committed in the unfinished segment, and the mark lies between them.
#[track_caller]
fn crashed() -> (Archived, Mark) {
    let mut archived = archived();
    archived.backup();
    archived.cluster.psql("create table t as select 1 as n");
    let name = archived.cluster.psql("select pg_walfile_name(pg_current_wal_lsn())");
    archived.cluster.psql(&format!("select pg_logical_emit_message(false, 'x', '{MARK}')"));
    // More than the piece of a tail that is stored again when it grows.
    archived.cluster.psql("select pg_logical_emit_message(false, 'x', repeat('much', 100000))");
    archived.cluster.psql("insert into t values (2)");
    assert_eq!(archived.cluster.psql("select pg_walfile_name(pg_current_wal_lsn())"), name);
    archived.cluster.kill9();
    let path = archived.cluster.pg_wal().join(name);
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(MARK.len()).position(|window| window == MARK.as_bytes()).unwrap();
    (archived, Mark { path, bytes, at })
}

struct Mark {
    path: std::path::PathBuf,
    bytes: Vec<u8>,
    at: usize,
}

impl Mark {
    /// A sector that never reached the disk: the server's own recovery ends before it.
    fn damage(mut self) {
        self.bytes[self.at] ^= 1;
        std::fs::write(&self.path, self.bytes).unwrap();
    }
}

/// Starts the server again, which recovers 1 alone; 3 is committed then, and all that is claimed comes back.
#[track_caller]
fn recovers_and_goes_on(mut archived: Archived, daemon: &Daemon) {
    archived.cluster.start();
    let claimed = |status: &Value| status["role"] == "primary" && status["rpo_seconds"] == 0.0;
    let status = daemon.wait("the server is back", claimed);
    assert!(!has(&status, "diverged") && !has(&status, "conflict"), "{status:#}");
    assert_eq!(archived.cluster.psql("select n from t"), "1");
    archived.cluster.psql("insert into t values (3)");
    std::thread::sleep(Duration::from_secs(2));
    daemon.wait("what came after is stored", |status| status["rpo_seconds"] == 0.0);
    archived.cluster.destroy_data_dir();
    let restored = archived.restore_newest("restored");
    assert_eq!(restored.psql("select string_agg(n::text, ' ' order by n) from t"), "1 3");
}

#[track_caller]
fn wait_left_behind_is_stored(daemon: &Daemon) {
    let stored = |status: &Value| status["role"] == "down" && status["rpo_seconds"] == 0.0;
    daemon.wait("what the crash left is stored", stored);
}

/// How many bytes of the unfinished segment are stored.
#[track_caller]
fn tail_len(archived: &Archived) -> usize {
    let keys = archived.repo().keys("/tail/");
    let ends = keys.iter().map(|key| usize::from_str_radix(key.rsplit_once('-').unwrap().1, 16).unwrap());
    ends.max().unwrap()
}

#[test]
fn r8_of_a_crashed_server_only_what_it_recovers_itself_is_stored() {
    let (archived, mark) = crashed();
    let at = mark.at;
    mark.damage();
    let daemon = Daemon::start(&archived.walproof);
    wait_left_behind_is_stored(&daemon);
    let len = tail_len(&archived);
    assert!(len <= at, "{len} bytes are stored, and the record at {at} is damaged");
    recovers_and_goes_on(archived, &daemon);
}

#[test]
fn r29_a_tail_that_the_server_then_does_not_recover_gives_way() {
    let (archived, mark) = crashed();
    let daemon = Daemon::start(&archived.walproof);
    wait_left_behind_is_stored(&daemon);
    assert!(tail_len(&archived) > mark.at);
    mark.damage();
    recovers_and_goes_on(archived, &daemon);
}

/// What `verify` finds is known to a daemon that runs: nobody has to start it again for the claim to end, nor to return.
#[test]
fn r28_the_claim_ends_when_a_verification_finds_the_newest_wal_damaged() {
    let archived = archived();
    archived.cluster.psql("create table t (n int)");
    archived.backup();
    let daemon = Daemon::start_whole(&archived.walproof);
    archived.cluster.psql("insert into t values (1)");
    archived.archive_all();
    let last =
        archived.cluster.psql(r#"select to_char(now() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#);
    archived.cluster.psql("insert into t values (2)");
    archived.archive_all();
    let reaches = |status: &Value| status["window"][1].as_str().is_some_and(|end| *end >= *last);
    let safe = |status: &Value| status["rpo_seconds"] == 0.0 && reaches(status);
    daemon.wait_within(TWO_LOOKS, "it claims the newest commit", safe);
    assert_eq!(daemon.get("/healthz").0, 200);
    let repo = archived.repo();
    let newest = repo.keys("/wal/").into_iter().rfind(|key| !key.contains(".backup-")).unwrap();
    let content = repo.read(&newest);
    repo.flip_bit(&newest, content.len() / 2);
    assert_eq!(archived.walproof.run(["verify", "--content"]).code(), 1);

    let ended = |status: &Value| has(status, "wal_damaged") && has(status, "verify_failed");
    let status = daemon.wait_within(TWO_LOOKS, "the claim ends", ended);
    assert!(status["rpo_seconds"] != 0.0 && !reaches(&status), "{status:#}");
    assert_eq!(daemon.get("/healthz").0, 503);
    // A restore gives no more than what is claimed now.
    archived.try_restore(&archived.target("refused"), [""; 0]).fails_with(5).stderr_contains("newest WAL");

    repo.write(&newest, &content);
    archived.walproof.run(["verify", "--content"]).success();
    let mended =
        |status: &Value| safe(status) && !has(status, "wal_damaged") && !has(status, "verify_failed");
    daemon.wait_within(TWO_LOOKS, "the claim returns", mended);
    archived.restore_newest("newest");
}

/// A lifecycle rule, or somebody who cleans up. The server is idle: nothing else would make the daemon store it again.
#[test]
fn r28_a_tail_that_was_removed_from_the_repository_is_stored_anew() {
    let mut archived = archived();
    archived.backup();
    archived.cluster.psql("create table t as select 1 as n");
    let daemon = Daemon::start_whole(&archived.walproof);
    daemon.wait_all_stored();
    let removed = archived.repo().keys("/tail/");
    assert!(!removed.is_empty());
    for key in &removed {
        archived.repo().delete(key);
    }
    let is_back = || !archived.repo().keys("/tail/").is_empty();
    crate::support::wait_until("a survey misses it", TWO_LOOKS, is_back);
    daemon.wait_all_stored();
    archived.cluster.destroy_data_dir();
    assert_eq!(archived.restore_newest("restored").psql("select n from t"), "1");
}

/// The repository answers: what is wrong is not there.
#[test]
fn r31_a_look_that_fails_on_this_host_is_not_the_repositorys_fault() {
    let mut archived = archived();
    archived.backup();
    archived.cluster.stop(StopMode::Fast);
    let data_dir = archived.cluster.data_dir().to_owned();
    std::fs::write(data_dir.join("standby.signal"), "").unwrap();
    archived.cluster.start().promote();
    archived.archive_all();
    // Nobody has the history any more.
    archived.repo().delete(&archived.repo().key("/00000002.history-"));
    std::fs::remove_file(archived.cluster.pg_wal().join("00000002.history")).unwrap();
    let daemon = Daemon::start(&archived.walproof);
    let status = daemon.wait("the history is missed", |status| has(status, "history_unreadable"));
    assert!(!has(&status, "repository_unreadable"), "{status:#}");

    archived.cluster.stop(StopMode::Fast);
    let aside = archived.scratch.join("aside");
    std::fs::rename(&data_dir, &aside).unwrap();
    let status = daemon.wait("the directory is missed", |status| has(status, "data_directory"));
    assert!(!has(&status, "repository_unreadable"), "{status:#}");
    std::fs::rename(&aside, &data_dir).unwrap();
}
