//! Recovery to a point: two timelines share a repository, and every target gives exactly its rows.

use crate::support::archived::{PATIENCE, archive_all, attach_silent, wait_open, wait_paused};
use crate::support::postgres::{Cluster, StopMode};
use crate::support::site::Site;
use crate::support::{Archived, Repo, Walproof};
use std::path::Path;

/// What happened on one timeline while four numbers were inserted.
#[derive(Debug)]
struct Events {
    /// A time after the first insert and before the second.
    between: String,
    /// The third insert: its transaction and the time of its commit.
    xid: String,
    commit_time: String,
    /// Where the commit of the fourth insert begins.
    commit_lsn: String,
    /// A restore point after the fourth.
    point: &'static str,
}

/// Two timelines; the second one forks off after the first insert on the first one.
///
/// 1: backup 1, then 1 2 3 4 and a restore point, 5
/// 2: (1), 21 22 23 24 and a restore point, backup 2, 25
#[derive(Debug)]
struct Timelines {
    first: Archived,
    /// Kept running until the end, as in production.
    _second: Cluster,
    events: [Events; 2],
    backups: [String; 2],
}

impl Timelines {
    #[track_caller]
    fn make() -> Self {
        let builder = Cluster::builder().segment_size_mb(1).setting("track_commit_timestamp", "on");
        let first = Archived::start_as(builder, Repo::local());
        first.cluster.psql("create table t (n int)");
        let backup_1 = id(&first.backup());
        let events_1 = Events::cause(&first.cluster, [1, 2, 3, 4], "first");
        insert(&first.cluster, 5);
        first.archive_all();

        let to = first.target("second");
        let fork = ["--target-time", &events_1.between, "--target-action", "promote"];
        first.try_restore(&to, fork).success();
        let (second, walproof) = Self::start_second(&first, &to);
        let events_2 = Events::cause(&second, [21, 22, 23, 24], "second");
        let backup_2 = id(&walproof.json(["backup-push"]));
        insert(&second, 25);
        archive_all(&second);
        Self { first, _second: second, events: [events_1, events_2], backups: [backup_1, backup_2] }
    }

    /// The promoted cluster goes on archiving into the same repository.
    #[track_caller]
    fn start_second(first: &Archived, data_dir: &Path) -> (Cluster, Walproof) {
        let mut second = Cluster::attach(data_dir);
        let walproof =
            Walproof::builder(first.repo().clone()).cluster(&second).key_of(&first.walproof).build();
        second.override_setting("archive_command", &walproof.archive_command()).start();
        wait_open(&second);
        (second, walproof)
    }

    /// Restore, wait until the target is reached, and give the rows.
    #[track_caller]
    fn rows_at(&self, args: &str) -> String {
        let args: Vec<&str> = args.split_whitespace().collect();
        let mut restored = self.first.restore(&format!("at{}", args.concat()), &args);
        restored.start();
        let to_the_end = args.iter().all(|arg| !arg.starts_with("--target") || *arg == "--target-timeline");
        if to_the_end {
            wait_open(&restored);
        } else {
            wait_paused(&restored);
        }
        rows(&restored)
    }
}

impl Events {
    #[track_caller]
    fn cause(cluster: &Cluster, [one, two, three, four]: [u32; 4], point: &'static str) -> Self {
        insert(cluster, one);
        let between = time(cluster, "clock_timestamp()");
        insert(cluster, two);
        let xid = cluster
            .psql(&format!("begin; insert into t values ({three}); select pg_current_xact_id(); commit"));
        let commit_time = time(cluster, &format!("pg_xact_commit_timestamp('{xid}')"));
        let commit_lsn = cluster.psql(&format!(
            "begin; insert into t values ({four}); select pg_current_wal_insert_lsn(); commit"
        ));
        cluster.psql(&format!("select pg_create_restore_point('{point}')"));
        Self { between, xid, commit_time, commit_lsn, point }
    }
}

#[track_caller]
fn insert(cluster: &Cluster, number: u32) {
    cluster.psql(&format!("insert into t values ({number})"));
}

#[track_caller]
fn rows(cluster: &Cluster) -> String {
    cluster.psql("select string_agg(n::text, ' ' order by n) from t")
}

/// RFC 3339 with all six digits.
#[track_caller]
fn time(cluster: &Cluster, expression: &str) -> String {
    cluster.psql(&format!(r#"select to_char({expression}, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#))
}

#[track_caller]
fn id(backup: &serde_json::Value) -> String {
    backup["id"].as_str().unwrap_or_else(|| panic!("no id in {backup}")).to_owned()
}

/// The targets of one timeline and the numbers that each must show; `before` was there when it began.
fn targets(events: &Events, before: &str, [one, two, three, four]: [u32; 4]) -> Vec<(String, String)> {
    let Events { between, xid, commit_time, commit_lsn, point } = events;
    let cases = [
        (format!("--target-time {between}"), format!("{one}")),
        (format!("--target-time {commit_time}"), format!("{one} {two} {three}")),
        (format!("--target-time {commit_time} --target-exclusive"), format!("{one} {two}")),
        (format!("--target-xid {xid}"), format!("{one} {two} {three}")),
        (format!("--target-xid {xid} --target-exclusive"), format!("{one} {two}")),
        (format!("--target-lsn {commit_lsn}"), format!("{one} {two} {three} {four}")),
        (format!("--target-lsn {commit_lsn} --target-exclusive"), format!("{one} {two} {three}")),
        (format!("--target-name {point}"), format!("{one} {two} {three} {four}")),
    ];
    cases.into_iter().map(|(args, rows)| (args, format!("{before}{rows}"))).collect()
}

#[test]
fn every_target_on_either_timeline_shows_exactly_its_rows() {
    let timelines = Timelines::make();
    let [events_1, events_2] = &timelines.events;
    let [backup_1, _] = &timelines.backups;
    let older = targets(events_1, "", [1, 2, 3, 4]);
    let mut cases: Vec<_> =
        older.into_iter().map(|(args, rows)| (format!("--target-timeline 1 {args}"), rows)).collect();
    cases.extend(targets(events_2, "1 ", [21, 22, 23, 24]));
    cases.extend(
        [
            ("--target-timeline 1", "1 2 3 4 5"),
            ("--target-immediate", "1 21 22 23 24"),
            ("", "1 21 22 23 24 25"),
        ]
        .map(|(args, rows)| (args.to_owned(), rows.to_owned())),
    );
    cases.push((format!("--target-immediate --backup {backup_1}"), String::new()));
    cases.push((format!("--backup {backup_1}"), "1 21 22 23 24 25".into()));

    // Two at a time: most of it is waiting for servers.
    let timelines = &timelines;
    std::thread::scope(|scope| {
        for half in cases.chunks(cases.len().div_ceil(2)) {
            scope.spawn(move || {
                for (args, expected) in half {
                    assert_eq!(timelines.rows_at(args), *expected, "restore {args}");
                }
            });
        }
    });
}

#[test]
fn r16_what_cannot_be_reached_is_refused_before_the_disk_is_touched() {
    let timelines = Timelines::make();
    let [events_1, events_2] = &timelines.events;
    let [backup_1, backup_2] = &timelines.backups;
    let to = timelines.first.target("refused");
    for (args, why) in [
        ("--target-time 2020-01-01T00:00:00Z".to_owned(), "outside the recovery window"),
        ("--target-time 2100-01-01T00:00:00Z".to_owned(), "outside the recovery window"),
        ("--target-lsn 0/28".to_owned(), "outside the recovery window"),
        ("--target-lsn FF/0".to_owned(), "outside the recovery window"),
        ("--target-xid 4000000".to_owned(), "outside the recovery window"),
        ("--target-name never".to_owned(), "outside the recovery window"),
        // It was set, but on the timeline that was left.
        (format!("--target-name {}", events_1.point), "outside the recovery window"),
        (format!("--target-timeline 1 --target-name {}", events_2.point), "outside the recovery window"),
        (format!("--target-timeline 1 --target-time {}", events_2.between), "outside the recovery window"),
        ("--target-timeline 7".to_owned(), "the history of timeline 7 is not in the repository"),
        ("--backup 20200101T000000Z-00000000".to_owned(), "there is no backup"),
        // Another timeline was written then.
        (
            format!("--backup {backup_2} --target-time {}", events_1.between),
            "which timeline 2 does not continue",
        ),
        (format!("--backup {backup_2} --target-timeline 1"), "does not lead to timeline 1"),
        (format!("--backup {backup_1} --target-lsn FF/0"), "outside the recovery window"),
    ] {
        let refused = timelines.first.try_restore(&to, args.split_whitespace());
        refused.fails_with(8).stderr_contains(why).stderr_contains("hint");
        assert!(!to.exists(), "restore {args} made {}", to.display());
    }
    for args in
        ["--target-immediate --target-exclusive", "--target-xid 5 --target-lsn 0/5", "--target-time soon"]
    {
        timelines.first.try_restore(&to, args.split_whitespace()).fails_with(2);
        assert!(!to.exists(), "restore {args} made {}", to.display());
    }
    let range = timelines.first.try_restore(&to, ["--target-lsn", "FF/0"]);
    range.stderr_contains("reachable on timeline 2: from ");
}

/// One timeline, the numbers 1 and 2, and a restore point between them.
#[track_caller]
fn with_a_restore_point() -> Archived {
    let archived = Archived::start(Repo::local());
    archived.cluster.psql("create table t (n int)");
    archived.backup();
    insert(&archived.cluster, 1);
    archived.cluster.psql("select pg_create_restore_point('one')");
    insert(&archived.cluster, 2);
    archived.archive_all();
    archived
}

/// PostgreSQL stops at the first one that it replays, and then says that it comes before the consistent recovery point.
#[test]
fn r16_a_restore_point_whose_name_came_up_while_a_backup_was_taken_is_restored_from_another_one() {
    let archived = with_a_restore_point();
    let slow = archived.configured("[backup]\nmax_rate = \"8MB\"\nconcurrency = 1");
    let mut backup = slow.spawn(["backup-push", "--full"]);
    backup.wait_for_stderr("backup started", PATIENCE);
    archived.cluster.psql("select pg_create_restore_point('one')");
    backup.wait(PATIENCE).success();
    insert(&archived.cluster, 3);
    archived.cluster.psql("select pg_create_restore_point('one')");
    archived.archive_all();
    let listed = archived.backups();
    let later = listed[1]["id"].as_str().unwrap();
    let to = archived.target("later");
    archived.try_restore(&to, ["--target-name", "one", "--backup", later]).fails_with(8);
    let mut restored = archived.restore("earlier", ["--target-name", "one"]);
    restored.start();
    wait_paused(&restored);
    assert_eq!(rows(&restored), "1");
}

#[test]
fn the_server_pauses_at_the_target_until_it_is_told_to_resume() {
    let archived = with_a_restore_point();
    let mut restored = archived.restore("paused", ["--target-name", "one"]);
    restored.start();
    wait_paused(&restored);
    assert_eq!(rows(&restored), "1");
    assert!(restored.try_psql("insert into t values (3)").is_err_and(|why| why.contains("read-only")));

    restored.psql("select pg_wal_replay_resume()");
    wait_open(&restored);
    insert(&restored, 3);
    assert_eq!(rows(&restored), "1 3");
    assert_eq!(restored.psql("select timeline_id from pg_control_checkpoint()"), "2");

    // Recovery is over: its settings do nothing at the next start.
    restored.restart();
    assert_eq!(rows(&restored), "1 3");
}

#[test]
fn the_server_promotes_or_shuts_down_at_the_target_as_asked() {
    let archived = with_a_restore_point();
    let mut promoted = archived.restore("promoted", ["--target-name", "one", "--target-action", "promote"]);
    promoted.start();
    wait_open(&promoted);
    insert(&promoted, 3);
    assert_eq!(rows(&promoted), "1 3");
    promoted.stop(StopMode::Fast);

    let mut shut = archived.restore("shut", ["--target-name", "one", "--target-action", "shutdown"]);
    shut.start_until_exit(PATIENCE);
    assert!(shut.log().contains("shutdown at recovery target"), "{}", shut.log());
    drop(shut);
    let mut again = attach_silent(&archived.target("shut"));
    again.override_setting("recovery_target_action", "promote").start();
    wait_open(&again);
    assert_eq!(rows(&again), "1");
}

/// PostgreSQL stops at the first record that begins at the target or behind it: without one, recovery would fail. What
/// pg_switch_wal prints lies behind the last record.
#[test]
fn r16_an_lsn_behind_the_beginning_of_the_last_record_is_refused() {
    let archived = Archived::start(Repo::local());
    archived.backup();
    archived.cluster.psql("create table t as select 1 as n");
    let switched = archived.cluster.psql("select pg_switch_wal()");
    let name = archived.cluster.psql(&format!("select pg_walfile_name('{switched}'::pg_lsn - 1)"));
    archived.cluster.wait_archived(&name, PATIENCE);
    let to = archived.target("refused");
    let refused = archived.try_restore(&to, ["--target-lsn", &switched]);
    refused.fails_with(8).stderr_contains("outside the recovery window");
    assert!(!to.exists());
    // What it names instead can be had.
    let text = refused.stderr();
    let last = text.split(" to ").nth(1).unwrap().split_whitespace().next().unwrap();
    let mut restored = archived.restore("last", ["--target-lsn", last, "--target-action", "promote"]);
    restored.start();
    wait_open(&restored);
    assert_eq!(restored.psql("select n from t"), "1");
    let behind = archived.cluster.psql(&format!("select '{last}'::pg_lsn + 1"));
    archived.try_restore(&to, ["--target-lsn", &behind]).fails_with(8);
}

#[test]
fn r16_a_refusal_names_no_span_with_a_hole_in_it() {
    let archived = Archived::start(Repo::local());
    archived.cluster.psql("create table t (n int)");
    archived.backup();
    insert(&archived.cluster, 1);
    archived.archive_all();
    insert(&archived.cluster, 2);
    let lost = archived.cluster.switch_wal();
    archived.cluster.wait_archived(&lost, PATIENCE);
    insert(&archived.cluster, 3);
    let between = archived
        .cluster
        .psql(r#"select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#);
    insert(&archived.cluster, 4);
    archived.archive_all();
    archived.repo().delete(&archived.repo().key(&format!("/{lost}-")));
    archived.backup();
    insert(&archived.cluster, 5);
    archived.archive_all();
    let refused = archived.try_restore(&archived.target("refused"), ["--target-time", &between]);
    refused.fails_with(8).stderr_contains("outside the recovery window").stderr_contains(", or after ");
}

/// As PostgreSQL's own 028_pitr_timelines.pl: a recovery that follows timeline 2 and stops before 2 began writes a
/// history whose switch points do not ascend. Archiving must go on, and a restore must follow it.
#[test]
fn r4_a_history_whose_switch_points_do_not_ascend_is_archived_and_followed() {
    let archived = Archived::start(Repo::local());
    let promoted_at = |name: &str, point: &str, target_timeline: &str| {
        let to = archived.target(name);
        let args = ["--target-name", point, "--target-action", "promote", "--target-timeline", "1"];
        archived.try_restore(&to, args).success();
        let mut cluster = Cluster::attach(&to);
        let builder = Walproof::builder(archived.repo().clone()).cluster(&cluster);
        let walproof = builder.key_of(&archived.walproof).build();
        cluster.override_setting("archive_command", &walproof.archive_command());
        cluster.override_setting("recovery_target_timeline", target_timeline).start();
        wait_open(&cluster);
        (cluster, walproof)
    };
    let point = |name: &str| archived.cluster.psql(&format!("select pg_create_restore_point('{name}')"));
    archived.cluster.psql("create table t (n int)");
    archived.backup();
    insert(&archived.cluster, 1);
    point("early");
    insert(&archived.cluster, 2);
    archived.archive_all();
    insert(&archived.cluster, 3);
    point("late");
    insert(&archived.cluster, 4);
    archived.archive_all();

    let (failover, _its) = promoted_at("second", "late", "1");
    insert(&failover, 21);
    archive_all(&failover);
    let (back, _its) = promoted_at("third", "early", "2");
    assert_eq!(rows(&back), "1");
    let history = std::fs::read_to_string(back.data_dir().join("pg_wal/00000003.history")).unwrap();
    let switches: Vec<String> =
        history.lines().filter_map(|line| line.split('\t').nth(1)).map(str::to_owned).collect();
    let [first, second] = switches.try_into().unwrap();
    assert_eq!(back.psql(&format!("select '{second}'::pg_lsn < '{first}'::pg_lsn")), "t", "{history}");

    insert(&back, 31);
    archive_all(&back);
    let stored = archived.walproof.run(["wal-list", "--json"]).success().json();
    assert!(stored["timelines"].as_array().unwrap().iter().any(|of| of["timeline"] == 3), "{stored}");
    let to = archived.target("newest");
    archived.try_restore(&to, ["--target-timeline", "3"]).success();
    let mut restored = attach_silent(&to);
    restored.start();
    wait_open(&restored);
    assert_eq!(rows(&restored), "1 31");
}

#[test]
fn r4_a_history_whose_reason_is_not_utf8_is_archived_and_comes_back() {
    let site = Site::new(Repo::local());
    site.archive_text("00000002.history", b"1\t0/3000000\tat restore point \"caf\xe9\"\n");
    site.comes_back("00000002.history");
}
