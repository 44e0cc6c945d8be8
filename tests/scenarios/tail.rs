//! The unfinished segment: what a restore gets of it, once and the same, and never a standby.

use crate::support::{
    Archived, Repo, Scratch, Walproof, archived::wait_open, archived::wait_paused, fabricate::MIB,
    postgres::Cluster, process::Output, s3::Fault, s3::S3Server, s3::Verb, site::Site,
};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::time::Duration;
use walproof::format::{TailGeneration, TailPieceName};
use walproof::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};
use walproof::repository::{Namespace, Repository};
use walproof::seal::KeyRing;
use walproof::store::{Location, Policy, Store};

const PAGE: usize = 8192;

/// The hand of the daemon that uploads tails, and nothing but that.
struct Uploader {
    store: Store,
    repository: Repository,
    repo: Repo,
}

impl Uploader {
    fn of(walproof: &Walproof) -> Self {
        let repo = walproof.repo().clone();
        let identity = repo.key("/identity");
        let keys = KeyRing::parse(&fs::read_to_string(walproof.scratch().join("key")).unwrap()).unwrap();
        // Sealed by the library, carried over by the rig: on every kind of store alike.
        let store = Store::open(&Location::Memory, Policy::default()).unwrap();
        let name = walproof.name().parse().unwrap();
        let namespace = Namespace::new(store.clone(), String::new(), name, keys, 1);
        let system_identifier = identity.split('/').nth(1).unwrap().parse().unwrap();
        let repository = namespace.open_sealed_identity(system_identifier, &repo.read(&identity)).unwrap();
        Self { store, repository, repo }
    }

    /// Put a piece of `segment`'s tail; gives its key.
    fn put(&self, segment: &str, generation: u32, start: usize, bytes: &[u8]) -> String {
        let generation = TailGeneration { count: generation, writer: 7 };
        let (start, end) = (u32::try_from(start).unwrap(), u32::try_from(start + bytes.len()).unwrap());
        let name = TailPieceName { segment: segment.parse().unwrap(), generation, start, end };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            self.repository.put_tail_piece(&name, bytes).await.unwrap();
            let objects = self.store.list("").await.unwrap();
            let ending = format!("{generation}-{start:08x}-{end:08x}");
            let key =
                objects.into_iter().map(|object| object.key).find(|key| key.ends_with(&ending)).unwrap();
            self.repo.write(&key, &self.store.get(&key).await.unwrap());
            self.store.delete(&key).await.unwrap();
            key
        })
    }

    /// Put what `cluster` has flushed of its current segment; gives its name, the bytes, and where they end.
    fn put_tail_of(&self, cluster: &Cluster, timeline: u32) -> (String, Vec<u8>, Lsn) {
        let flushed: Lsn = cluster.psql("select pg_current_wal_flush_lsn()").parse().unwrap();
        let size = SegmentSize::new(MIB).unwrap();
        let segment = SegmentName::containing(TimelineId::new(timeline).unwrap(), flushed, size);
        let mut bytes = fs::read(cluster.pg_wal().join(segment.to_string())).unwrap();
        bytes.truncate(usize::try_from(flushed.offset_from(segment.start(size))).unwrap());
        let newest = self.repo.keys(&format!("/tail/{segment}/")).len();
        self.put(&segment.to_string(), u32::try_from(newest).unwrap(), 0, &bytes);
        (segment.to_string(), bytes, flushed)
    }
}

/// A recovery from fabricated WAL, its pins in a directory of their own.
struct Recovery {
    site: Site,
    uploader: Uploader,
    _cache: Scratch,
    /// The unfinished segment, and what will be in it.
    name: String,
    bytes: Vec<u8>,
}

impl Recovery {
    /// Segment 5 is archived, 6 unfinished.
    fn new(repo: Repo) -> Self {
        let cache = Scratch::new();
        let mut site = Site::with(repo, |builder| builder.toml("[archive]\ntimeout = \"1s\""));
        site.walproof = site.walproof.with_env("CACHE_DIRECTORY", cache.path());
        site.archive_all([5]);
        let file = site.data.wal(6).random(6);
        let (name, bytes) = (file.name(), file.bytes());
        Self { uploader: Uploader::of(&site.walproof), site, _cache: cache, name, bytes }
    }

    fn put(&self, generation: u32, pages: std::ops::Range<usize>) -> String {
        let bytes = &self.bytes[pages.start * PAGE..pages.end * PAGE];
        self.uploader.put(&self.name, generation, pages.start * PAGE, bytes)
    }

    #[track_caller]
    fn fetch(&self) -> Output {
        let target = self.site.fetched(&self.name);
        let _ = fs::remove_file(&target);
        self.site.walproof.run(["wal-fetch", "--tail", &self.name, target.to_str().unwrap()])
    }

    /// The first `pages` pages come, and zeros.
    #[track_caller]
    fn serves(&self, pages: usize) {
        self.fetch().success();
        let mut expected = self.bytes[..pages * PAGE].to_vec();
        expected.resize(self.bytes.len(), 0);
        assert!(fs::read(self.site.fetched(&self.name)).unwrap() == expected, "not {pages} pages");
        fs::remove_file(self.site.fetched(&self.name)).unwrap();
    }

    #[track_caller]
    fn fails_with(&self, code: i32) -> Output {
        let output = self.fetch();
        output.complains_with(code);
        self.site.nothing_fetched();
        output
    }

    /// A new data directory under the old path.
    fn restore_again(&self) {
        let control = self.site.data.path().join("global/pg_control");
        let new = self.site.data.file("global/new", fs::read(&control).unwrap());
        fs::rename(new, control).unwrap();
    }
}

#[test]
fn r16_a_tail_is_served_filled_up_and_only_when_asked_for() {
    let server = S3Server::start();
    for repo in [Repo::local(), Repo::s3(&server)] {
        let recovery = Recovery::new(repo);
        recovery.fetch().fails_with(1);
        recovery.put(0, 0..40);
        recovery.put(0, 40..70);
        recovery.site.fetch(&recovery.name).fails_with(1);
        let standby = ["wal-fetch", "--standby", &recovery.name, "x"];
        recovery.site.walproof.run(standby).fails_with(1);
        recovery.site.walproof.run(["wal-fetch", "--standby", "--tail", &recovery.name, "x"]).fails_with(2);
        recovery.serves(70);
        // Only this segment's, and never for another kind of file.
        for other in ["000000010000000000000007", "000000020000000000000006", "00000002.history"] {
            let target = recovery.site.fetched(other);
            recovery
                .site
                .walproof
                .run(["wal-fetch", "--tail", other, target.to_str().unwrap()])
                .fails_with(1);
        }
        // What a restore left in postgresql.auto.conf does no harm when the cluster becomes a standby.
        recovery.site.data.file("standby.signal", "");
        let left_behind = recovery.site.walproof.run(["wal-fetch", "--tail", &recovery.name, "x"]);
        left_behind.fails_with(1);
        fs::remove_file(recovery.site.data.path().join("standby.signal")).unwrap();
        recovery.site.nothing_fetched();
        let json =
            recovery.site.walproof.json(["wal-fetch", "--tail", &recovery.name, "pg_wal/RECOVERYXLOG"]);
        assert_eq!(json["tail_lsn"], json!("0/68C000"));
    }
}

#[test]
fn one_restore_gets_one_answer_and_the_next_one_the_newest() {
    let server = S3Server::start();
    for repo in [Repo::local(), Repo::s3(&server)] {
        let recovery = Recovery::new(repo);
        let repo = recovery.site.repo();
        let first = recovery.put(0, 0..30);
        recovery.serves(30);
        // The second answer needs no store.
        server.faults().add(Fault::status(503));
        recovery.serves(30);
        server.faults().clear();
        let longer = recovery.put(0, 0..50);
        repo.delete(&first);
        recovery.serves(30);
        let anew = recovery.put(1, 0..40);
        recovery.serves(30);
        recovery.restore_again();
        recovery.serves(40);
        recovery.put(1, 0..60);
        recovery.serves(40);

        recovery.site.archive(&recovery.site.data.wal(6).random(6));
        for key in repo.keys("/tail/") {
            repo.delete(&key);
        }
        assert!(!repo.keys("").contains(&longer) && !repo.keys("").contains(&anew));
        recovery.serves(40);
        recovery.site.comes_back(&recovery.name);
        fs::remove_file(recovery.site.fetched(&recovery.name)).unwrap();
        recovery.restore_again();
        recovery.serves(128);
    }
}

#[test]
fn r6_r25_a_tail_that_cannot_be_read_is_not_absent() {
    let recovery = Recovery::new(Repo::local());
    let key = recovery.put(0, 0..30);
    let repo = recovery.site.repo();
    let good = repo.read(&key);
    for offset in [3, 100, good.len() - 1] {
        repo.flip_bit(&key, offset);
        recovery.fails_with(205);
        repo.write(&key, &good);
    }
    repo.truncate(&key, good.len() / 2);
    recovery.fails_with(205);
    // Renamed: it says that it is longer, and it is another object.
    repo.write(&key, &good);
    repo.rename(&key, &key.replace("0003c000", "0004c000"));
    recovery.fails_with(205);
}

#[test]
fn r6_a_store_that_does_not_answer_proves_nothing_about_the_tail() {
    let server = S3Server::start();
    let recovery = Recovery::new(Repo::s3(&server));
    for key in ["/tail", "/wal/", "/identity"] {
        server.faults().add(Fault::status(503).key(key));
        recovery.fails_with(204);
        server.faults().clear();
    }
    recovery.put(0, 0..30);
    server.faults().add(Fault::status(503).on(Verb::Get).key("/tail/"));
    recovery.fails_with(204);
    // Listed, and then not there: the store does not tell the truth.
    server.faults().clear().add(Fault::status(404).on(Verb::Get).key("/tail/"));
    recovery.fails_with(204);
    // The second look for the segment counts, too.
    server.faults().clear();
    for key in recovery.site.repo().keys("/tail/") {
        recovery.site.repo().delete(&key);
    }
    server.faults().add(Fault::status(503).on(Verb::List).key("/wal/").from(2));
    recovery.fails_with(204);
    server.faults().clear();
    recovery.fetch().fails_with(1);
}

#[test]
fn r7_a_tail_of_another_cluster_or_segment_or_a_recycled_file_is_refused() {
    let recovery = Recovery::new(Repo::local());
    let file = || recovery.site.data.wal(6).random(6);
    for (generation, what, bytes, code, says) in [
        (0, "foreign", file().system_identifier(42).bytes(), 206, "system identifier 42"),
        (1, "of the next segment", file().next().bytes(), 205, "its name says"),
        (2, "recycled", file().stale_from(20).bytes(), 205, "is not of this segment"),
        (3, "of a later timeline", file().page_timeline(2).bytes(), 205, "later than its name says"),
        (4, "zeros", vec![0; MIB as usize], 205, "all zeros"),
    ] {
        println!("a tail that is {what}");
        recovery.uploader.put(&recovery.name, generation, 0, &bytes[..30 * PAGE]);
        recovery.fails_with(code).stderr_contains(says).stderr_contains(&recovery.name);
    }
    recovery.put(5, 0..30);
    recovery.serves(30);
}

#[test]
fn wal_list_says_up_to_where_the_tail_reaches() {
    let recovery = Recovery::new(Repo::local());
    let list = || recovery.site.walproof.json(["wal-list"])["tail_lsn"].clone();
    assert_eq!(list(), json!(null));
    recovery.put(0, 0..30);
    assert_eq!(list(), json!("0/63C000"));
    let text = recovery.site.walproof.run(["wal-list"]);
    text.success().stdout_contains("TAIL on timeline 1: 000000010000000000000006 up to 0/63C000");
    recovery.site.archive(&recovery.site.data.wal(6).random(6));
    assert_eq!(list(), json!(null));
    // Behind a gap it continues nothing.
    recovery.uploader.put("000000010000000000000008", 0, 0, &recovery.site.data.wal(8).bytes()[..PAGE]);
    assert_eq!(list(), json!(null));
}

fn rows(cluster: &Cluster) -> String {
    cluster.psql("select string_agg(n::text, ' ' order by n) from t")
}

/// Restored and recovered as `args` say: the rows.
#[track_caller]
fn rows_at(archived: &Archived, name: &str, args: &[&str]) -> String {
    let mut restored = archived.restore(name, args);
    restored.start();
    if args.is_empty() {
        wait_open(&restored);
    } else {
        wait_paused(&restored);
    }
    rows(&restored)
}

/// What `restore --dry-run --json` says.
#[track_caller]
fn plan(archived: &Archived) -> serde_json::Value {
    let to = archived.target("never");
    archived.walproof.json(["restore", "--dry-run", "--to", to.to_str().unwrap()])
}

/// A cluster whose number 1 is in the archive, and 2 and 3 in the unfinished segment, with a time between.
#[track_caller]
fn with_a_tail() -> (Archived, String) {
    let archived = Archived::start(Repo::local());
    archived.cluster.psql("create table t (n int)");
    archived.backup();
    archived.cluster.psql("insert into t values (1)");
    archived.archive_all();
    archived.cluster.psql("insert into t values (2)");
    let between = r#"select to_char(clock_timestamp(), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#;
    let between = archived.cluster.psql(&format!("set timezone = 'UTC'; {between}"));
    archived.cluster.psql("insert into t values (3); select pg_create_restore_point('three')");
    (archived, between)
}

/// What is restored to `time` and promoted, and archives through the program whose configuration is beside it.
#[track_caller]
fn promoted(archived: &Archived, time: &str) -> (Cluster, Walproof) {
    let to = archived.target("second");
    archived.try_restore(&to, ["--target-time", time, "--target-action", "promote"]).success();
    let mut second = Cluster::attach(&to);
    let repo = archived.repo().clone();
    let walproof = Walproof::builder(repo).cluster(&second).key_of(&archived.walproof).build();
    second.override_setting("archive_command", &walproof.archive_command()).start();
    wait_open(&second);
    (second, walproof)
}

#[test]
fn a_lost_host_comes_back_with_its_tail_to_the_newest_state_or_a_time_in_it() {
    let (mut archived, between) = with_a_tail();
    let uploader = Uploader::of(&archived.walproof);
    let xid = archived.cluster.psql("begin; insert into t values (4); select pg_current_xact_id(); commit");
    let (name, bytes, flushed) = uploader.put_tail_of(&archived.cluster, 1);
    // What comes later is in a generation that is put when the first restore has begun.
    archived.cluster.psql("insert into t values (5)");
    let (_, newer, newer_flushed) = uploader.put_tail_of(&archived.cluster, 1);
    let newest = archived.repo().keys("/tail/").pop().unwrap();
    let held = archived.repo().read(&newest);
    archived.repo().delete(&newest);
    archived.cluster.destroy_data_dir();

    let planned = plan(&archived);
    assert_eq!(planned["tail_lsn"], json!(flushed.to_string()), "{planned}");
    assert_eq!(archived.walproof.json(["wal-list"])["tail_lsn"], json!(flushed.to_string()));
    for (args, expected) in [
        (vec!["--target-time", &*between], "1 2"),
        (vec!["--target-name", "three"], "1 2 3"),
        (vec!["--target-xid", &*xid, "--target-exclusive"], "1 2 3"),
        (vec!["--target-xid", &*xid], "1 2 3 4"),
    ] {
        assert_eq!(rows_at(&archived, &args.concat(), &args), expected, "restore {args:?}");
    }
    let to = archived.target("far");
    archived.try_restore(&to, ["--target-lsn", &newer_flushed.to_string()]).fails_with(8);

    let restored = archived.restore_newest("newest");
    assert_eq!(rows(&restored), "1 2 3 4");
    // The server has rewritten its control file many times: it is the same restore.
    archived.repo().write(&newest, &held);
    assert!(served(&archived.walproof, restored.data_dir(), &name).starts_with(&bytes));
    assert_ne!(served(&archived.walproof, restored.data_dir(), &name)[..newer.len()], newer);
    assert_eq!(rows(&archived.restore_newest("newer")), "1 2 3 4 5");
}

/// What recovery in `data_dir` gets as `name`.
#[track_caller]
fn served(walproof: &Walproof, data_dir: &Path, name: &str) -> Vec<u8> {
    let out = Scratch::new();
    let target = out.join("segment");
    let mut command = walproof.command(["wal-fetch", "--tail", name, target.to_str().unwrap()]);
    command.current_dir(data_dir);
    crate::support::process::run(command, b"", Duration::from_mins(1)).success();
    fs::read(target).unwrap()
}

#[test]
fn a_damaged_tail_is_no_quiet_end() {
    let (mut archived, _) = with_a_tail();
    Uploader::of(&archived.walproof).put_tail_of(&archived.cluster, 1);
    archived.cluster.destroy_data_dir();
    archived.repo().flip_bit(&archived.repo().key("/tail/"), 200);
    let to = archived.target("refused");
    archived.try_restore(&to, [""; 0]).fails_with(5).stderr_contains("tail").stderr_contains("--target-lsn");
    assert!(!to.exists());
    // Told to begin all the same, recovery stops where it cannot go on, instead of opening too early.
    let mut restored = archived.restore("stopped", ["--target-immediate"]);
    restored.override_setting("recovery_target", "");
    let status = restored.start_until_exit(Duration::from_mins(1));
    assert!(!status.success() && restored.log().contains("could not restore file"), "{}", restored.log());
}

#[test]
fn a_tail_of_the_second_timeline_is_its_own() {
    let (mut archived, between) = with_a_tail();
    let uploader = Uploader::of(&archived.walproof);
    uploader.put_tail_of(&archived.cluster, 1);
    archived.cluster.destroy_data_dir();

    let (mut second, _its) = promoted(&archived, &between);
    second.wait_archived("00000002.history", Duration::from_mins(1));
    second.psql("insert into t values (21)");
    let (name, _, flushed) = uploader.put_tail_of(&second, 2);
    assert!(name.starts_with("00000002"));
    second.destroy_data_dir();

    assert_eq!(plan(&archived)["tail_lsn"], json!(flushed.to_string()));
    assert_eq!(archived.walproof.json(["wal-list"])["tail_lsn"], json!(flushed.to_string()));
    assert_eq!(rows_at(&archived, "two", &[]), "1 2 21");
    let mut first = archived.restore("one", ["--target-timeline", "1"]);
    first.start();
    wait_open(&first);
    assert_eq!(rows(&first), "1 2 3");
}

#[test]
fn r16_what_the_old_timeline_wrote_behind_the_switch_is_not_served_to_the_new_one() {
    let (mut archived, between) = with_a_tail();
    Uploader::of(&archived.walproof).put_tail_of(&archived.cluster, 1);
    archived.cluster.destroy_data_dir();
    assert_ends_where_the_next_timeline_began(&archived, &between);
}

/// A server that is promoted and then lost, before it archives more than where its timeline began, leaves a state that can be
/// restored: up to there.
#[track_caller]
fn assert_ends_where_the_next_timeline_began(archived: &Archived, between: &str) {
    let (mut second, _its) = promoted(archived, between);
    second.wait_archived("00000002.history", Duration::from_mins(1));
    second.destroy_data_dir();
    assert_eq!(archived.repo().keys("/000000020000"), [""; 0]);

    let mut restored = archived.restore("third", ["--target-timeline", "2"]);
    restored.start();
    wait_open(&restored);
    assert_eq!(rows(&restored), "1 2");
}

/// PostgreSQL looks for where a timeline begins, not for where the older one was left: given the older one's segments, it
/// replays them to their end.
#[test]
fn r16_nor_is_what_the_old_timeline_archived_behind_the_switch() {
    let (mut archived, between) = with_a_tail();
    archived.archive_all();
    archived.cluster.psql("insert into t values (4)");
    archived.archive_all();
    archived.cluster.destroy_data_dir();
    assert_ends_where_the_next_timeline_began(&archived, &between);
    let mut first = archived.restore("first", ["--target-timeline", "1"]);
    first.start();
    wait_open(&first);
    assert_eq!(rows(&first), "1 2 3 4");
}

#[test]
fn a_long_tail_goes_out_in_bounded_pieces_and_the_first_one_last() {
    const MOST: usize = 8 << 20;
    let server = S3Server::start();
    let mut cluster = Cluster::builder().segment_size_mb(64).create();
    let toml = "[archive]\ntail_interval = \"1s\"\nheartbeat_interval = \"0s\"";
    let walproof = Walproof::builder(Repo::s3(&server)).cluster(&cluster).toml(toml).build();
    walproof.run(["init"]).success();
    cluster.configure_archiving(&walproof).start();
    let megabytes = |count: u32| {
        cluster.psql(&format!(
            "select pg_logical_emit_message(true, 'x', repeat(md5(n::text), 32768)) from generate_series(1, {count}) n"
        ));
    };
    // Starts a segment, so that all fits into it.
    cluster.switch_wal();
    megabytes(20);
    server.faults().forget();
    let daemon = crate::support::Daemon::start_whole(&walproof);
    daemon.wait_all_stored();
    let pieces = || -> Vec<(usize, usize)> {
        let puts = server.faults().requests().into_iter().filter(|request| request.verb == Verb::Put);
        let piece = |key: String| {
            let mut numbers = key.rsplit('-').map(|text| usize::from_str_radix(text, 16));
            let end = numbers.next()?.ok()?;
            Some((numbers.next()?.ok()?, end))
        };
        puts.filter(|put| put.key.contains("/tail/")).filter_map(|put| piece(put.key)).collect()
    };
    let first = pieces();
    assert!(first.len() > 2 && first.iter().all(|(start, end)| end - start <= MOST), "{first:?}");
    let begun = first.iter().position(|(start, _)| *start == 0).unwrap();
    assert!(begun >= 2, "the first piece makes the tail whole: {first:?}");
    megabytes(10);
    daemon.wait_all_stored();
    assert!(pieces().iter().all(|(start, end)| end - start <= MOST), "{:?}", pieces());

    let flushed: Lsn = cluster.psql("select pg_current_wal_flush_lsn()").parse().unwrap();
    let tail = walproof.json(["wal-list"])["tail_lsn"].as_str().unwrap().parse::<Lsn>().unwrap();
    assert!(tail >= flushed, "{tail} is before {flushed}");
    let size = SegmentSize::new(64 * MIB).unwrap();
    let segment = SegmentName::containing(TimelineId::new(1).unwrap(), flushed, size);
    let target = walproof.scratch().join("fetched");
    walproof.run(["wal-fetch", "--tail", &segment.to_string(), target.to_str().unwrap()]).success();
    let there = fs::read(cluster.pg_wal().join(segment.to_string())).unwrap();
    let len = usize::try_from(flushed.offset_from(segment.start(size))).unwrap();
    assert!(fs::read(target).unwrap()[..len] == there[..len]);
}
