//! Base backups beside a running server: what is in them, and when there is none.

use crate::support::archived::PATIENCE;
use crate::support::dump::{amcheck, assert_same_dump, dump_all};
use crate::support::postgres::{Cluster, StopMode};
use crate::support::s3::S3Target;
use crate::support::scratch::{create_dirs_owned, write_owned};
use crate::support::{Archived, Repo, Walproof, wait_until};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The fields of a backup in JSON, as the contract has them.
const FIELDS: [&str; 20] = [
    "base",
    "changed_bytes",
    "finished_at",
    "from_standby",
    "harm",
    "held",
    "id",
    "new_bytes",
    "page_errors",
    "pg_version",
    "reused_bytes",
    "rewritten_bytes",
    "size_bytes",
    "start_lsn",
    "started_at",
    "stop_lsn",
    "stored_bytes",
    "system_identifier",
    "timeline",
    "unread_bytes",
];

/// What an empty `backup-list` shows.
const NONE: [serde_json::Value; 0] = [];

/// pgbench tables and an index in two tablespaces, an unlogged table, a large object.
#[track_caller]
fn furnish(archived: &Archived) -> [PathBuf; 2] {
    let places = ["fast disk", "slow=disk"].map(|name| archived.scratch.dir(name));
    for (name, place) in ["fast", "slow"].iter().zip(&places) {
        archived.cluster.psql(&format!("create tablespace {name} location '{}'", place.display()));
    }
    archived.cluster.pgbench(["-i", "-q", "-s", "2", "--tablespace=fast", "--index-tablespace=slow"]);
    archived.cluster.psql(
        "create unlogged table cache as select n from generate_series(1, 20000) n;
         create index on cache (n);
         create table documents (id int primary key, content oid) tablespace slow;
         insert into documents values (1, lo_from_bytea(0, decode(repeat('deadbeef', 100000), 'hex')));
         create role reader; grant select on documents to reader",
    );
    places
}

/// A new database with tables, while the backup runs.
#[track_caller]
fn make_a_database(cluster: &Cluster) {
    cluster.psql("create database meanwhile tablespace fast");
    cluster.psql_in(
        "meanwhile",
        "create table born as select n, md5(n::text) from generate_series(1, 20000) n;
         create index on born (n); create unlogged table gone as select 1 as n",
    );
}

/// The load has stopped; all that it committed is archived.
#[track_caller]
fn quiesce(archived: &Archived) {
    let busy = "select count(*) from pg_stat_activity where application_name = 'pgbench'";
    archived.cluster.wait_until(busy, "0", PATIENCE);
    archived.archive_all();
}

/// The flagship: everything that a busy database does meanwhile is there afterwards.
#[track_caller]
fn a_busy_database_is_restored(segment_size_mb: u32, repo: Repo) {
    let archived = Archived::start_as(Cluster::builder().segment_size_mb(segment_size_mb), repo);
    let places = furnish(&archived);
    let load = archived.cluster.spawn_pgbench(["-n", "-c", "2", "-R", "150", "-T", "120"]);
    let mut backup = archived.slow_backup("20MB");
    make_a_database(&archived.cluster);
    assert!(backup.ended().is_none(), "too fast: nothing happened during the backup");
    backup.wait(PATIENCE).success();
    archived.cluster.psql("insert into documents values (2, lo_from_bytea(0, 'after the backup'))");
    load.kill9();
    quiesce(&archived);
    let source = dump_all(&archived.cluster);
    assert!(source.contains("CREATE DATABASE meanwhile") && source.contains("deadbeef"));

    let moved = ["new fast", "new slow"].map(|name| archived.target(name));
    let escaped = |path: &Path| path.to_str().unwrap().replace('=', "\\=");
    let map = |index: usize| format!("--tablespace={}={}", escaped(&places[index]), escaped(&moved[index]));
    let mut restored = archived.restore("restored", [map(0), map(1)]);
    restored.start();
    restored.wait_until("select pg_is_in_recovery()", "f", PATIENCE);

    let mut copy = dump_all(&restored);
    for (old, new) in places.iter().zip(&moved) {
        copy = copy.replace(new.to_str().unwrap(), old.to_str().unwrap());
    }
    assert_same_dump(&source, &copy);
    amcheck(&restored);
    assert_eq!(restored.psql("select count(*) from cache"), "0", "an unlogged table comes back empty");
    restored.psql("insert into cache values (1); alter table cache set logged");
    restored.psql_in("meanwhile", "select count(*) from gone");
    assert!(moved.iter().all(|place| place.join(version_directory(place)).is_dir()));
}

/// The only entry of a tablespace that one cluster uses.
fn version_directory(place: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(place).unwrap();
    entries.next().unwrap().unwrap().path()
}

#[test]
fn r11_r12_a_busy_database_comes_back_whole_from_a_directory() {
    a_busy_database_is_restored(1, Repo::local());
}

#[test]
fn r11_r12_a_busy_database_comes_back_whole_from_s3() {
    a_busy_database_is_restored(16, Repo::s3(&S3Target::from_env()));
}

#[test]
fn r12_relations_vanish_shrink_and_grow_during_the_copy() {
    let archived = Archived::start(Repo::local());
    let cluster = &archived.cluster;
    let each =
        |statement: &str| format!("select format('{statement}', n) from generate_series(1, 60) n\n\\gexec\n");
    cluster.psql(&each("create table t%s as select g, repeat(''x'', 200) from generate_series(1, 500) g"));
    let mut backup = archived.slow_backup("10MB");
    cluster.psql(
        "select 'drop table t' || n from generate_series(1, 20) n\n\\gexec\n
         select 'truncate t' || n from generate_series(21, 30) n\n\\gexec\n
         select format('delete from t%s where g > 10', n) from generate_series(31, 40) n\n\\gexec\n
         vacuum; checkpoint;
         select format('insert into t%s select g, ''new'' from generate_series(1, 3000) g', n) from generate_series(41, 50) n\n\\gexec\n
         select format('create table new%s as select * from t60', n) from generate_series(1, 10) n\n\\gexec\n"
    );
    assert!(backup.ended().is_none(), "too fast: nothing happened during the backup");
    backup.wait(PATIENCE).success();
    archived.archive_all();
    let source = dump_all(cluster);
    let restored = archived.restore_newest("restored");
    assert_same_dump(&source, &dump_all(&restored));
    amcheck(&restored);
}

#[test]
fn backups_are_listed_and_shown_with_the_fields_of_the_contract() {
    let archived = Archived::start(Repo::local());
    assert_eq!(archived.backups(), NONE);
    archived.walproof.run(["backup-list"]).success().stdout_contains("no backup yet");

    let first = archived.backup();
    archived.cluster.psql("create table t as select generate_series(1, 10000)");
    let second = archived.backup();
    let listed = archived.backups();
    assert_eq!(listed, [first.clone(), second.clone()], "oldest first");
    for backup in &listed {
        let fields: Vec<&str> = backup.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, FIELDS);
        assert_eq!(backup["system_identifier"], archived.cluster.system_identifier().to_string());
        assert_eq!(
            (&backup["timeline"], &backup["held"], &backup["page_errors"]),
            (&1.into(), &false.into(), &0.into())
        );
        assert!(
            backup["pg_version"]
                .as_str()
                .unwrap()
                .starts_with(&archived.cluster.binaries().major().to_string())
        );
        let bytes = |field: &str| backup[field].as_u64().unwrap();
        assert!(bytes("size_bytes") > bytes("stored_bytes") && bytes("stored_bytes") > 1_000_000, "{backup}");
        assert!(bytes("new_bytes") <= bytes("size_bytes"), "{backup}");
        let order =
            "select $1::timestamptz".replace("$1", &format!("'{}'", backup["started_at"].as_str().unwrap()));
        archived.cluster.psql(&order);
        assert!(lsn(backup, "start_lsn") < lsn(backup, "stop_lsn"), "{backup}");
    }
    assert!(lsn(&first, "stop_lsn") < lsn(&second, "start_lsn"));

    let id = second["id"].as_str().unwrap();
    let shown = archived.walproof.json(["backup-show", id]);
    for field in FIELDS {
        assert_eq!(shown[field], second[field], "{field}");
    }
    archived
        .walproof
        .run(["backup-show", id])
        .success()
        .stdout_contains(id)
        .stdout_contains("page checksums");
    archived.walproof.run(["backup-show", "20200101T000000Z-00000000"]).stderr_contains("20200101T000000Z");
    archived.walproof.run(["backup-list"]).success().stdout_contains(id);
}

/// An LSN as a number, so that it can be compared.
#[track_caller]
fn lsn(backup: &serde_json::Value, field: &str) -> u64 {
    let (high, low) = backup[field].as_str().and_then(|text| text.split_once('/')).unwrap();
    let number = |digits| u64::from_str_radix(digits, 16).unwrap();
    number(high) << 32 | number(low)
}

#[test]
fn the_data_directory_may_be_named_if_it_is_the_configured_one() {
    let archived = Archived::start(Repo::local());
    let data_dir = archived.cluster.data_dir().to_str().unwrap();
    archived
        .walproof
        .run(["backup-push", "/tmp"])
        .fails_with(2)
        .stderr_contains("/tmp is not cluster.data_dir");
    archived.walproof.run(["backup-push", "/nowhere"]).fails_with(2);
    archived.walproof.run(["backup-push", data_dir]).success();
    assert_eq!(archived.backups().len(), 1);
}

/// No backup is listed and not a byte of one was stored.
#[track_caller]
fn assert_nothing_copied(archived: &Archived) {
    assert_eq!(archived.backups(), NONE);
    assert_eq!(archived.repo().keys("/packs/"), [""; 0]);
}

#[test]
fn r10_a_server_that_does_not_archive_is_refused_before_the_copy() {
    let mut archived = Archived::start(Repo::local());
    archived.cluster.set("archive_mode", "off");
    archived.cluster.restart();
    let refused = archived.walproof.run(["backup-push"]);
    refused.fails_with(6).stderr_contains("does not archive WAL").stderr_contains("archive_mode = on");
    assert_nothing_copied(&archived);

    archived.cluster.set("archive_mode", "on").set("archive_command", "");
    archived.cluster.restart();
    archived.walproof.run(["backup-push"]).fails_with(6).stderr_contains("does not archive WAL");

    archived.cluster.set("archive_command", "false").reload();
    let impatient = archived.configured("[archive]\ntimeout = \"2s\"");
    let refused = impatient.run(["backup-push"]);
    refused.fails_with(6).stderr_contains("WAL archiving does not work: segment 0000000100000000");
    refused.stderr_contains("is not in the repository after 2 s").stderr_contains("archive_command");
    assert_nothing_copied(&archived);
    assert_eq!(archived.repo().keys("/leases/"), [""; 0], "a refused backup holds no lease");

    archived.cluster.set("archive_command", &archived.walproof.archive_command()).reload();
    archived.backup();
}

#[test]
fn r10_another_clusters_directory_or_a_server_that_is_down_is_refused() {
    let mut archived = Archived::start(Repo::local());
    let other = Cluster::builder().create();
    let conninfo = archived.cluster.conninfo();
    let with_data_dir = |dir: &Path| {
        let builder = Walproof::builder(archived.repo().clone()).data_dir(dir).conninfo(&conninfo);
        builder.key_of(&archived.walproof).build()
    };
    let refused = with_data_dir(other.data_dir()).run(["backup-push"]);
    refused.fails_with(6).stderr_contains(&other.system_identifier().to_string());
    refused.stderr_contains(&archived.cluster.system_identifier().to_string());

    // A copy has the same system identifier.
    let copy = archived.restore_from_a_first_backup("copy");
    let refused = with_data_dir(&copy).run(["backup-push"]);
    refused.fails_with(6).stderr_contains(copy.to_str().unwrap());
    refused.stderr_contains(archived.cluster.data_dir().to_str().unwrap());

    archived.cluster.stop(StopMode::Fast);
    archived.walproof.run(["backup-push"]).fails_with(6).stderr_contains("connect to");
    assert_eq!(archived.backups().len(), 1);
}

impl Archived {
    #[track_caller]
    fn restore_from_a_first_backup(&self, name: &str) -> PathBuf {
        self.backup();
        self.try_restore(&self.target(name), [""; 0]).success();
        self.target(name)
    }
}

#[test]
fn r13_a_corrupt_page_is_told_and_the_backup_kept() {
    let archived = Archived::start(Repo::local());
    let cluster = &archived.cluster;
    cluster.psql("create table t as select n, repeat('x', 100) from generate_series(1, 1000) n");
    cluster.psql("vacuum freeze t; checkpoint");
    let path = cluster.psql("select pg_relation_filepath('t')");
    let file = std::fs::File::options().write(true).open(cluster.data_dir().join(&path)).unwrap();
    file.write_all_at(b"cosmic rays", 2 * 8192 + 5000).unwrap();

    let told = archived.walproof.run(["backup-push"]);
    told.fails_with(5).stderr_contains(&format!("{path} block 2")).stderr_contains("is kept");
    let [backup] = archived.backups().try_into().unwrap();
    assert_eq!(backup["page_errors"], 1);
    let shown = archived.walproof.run(["backup-show", backup["id"].as_str().unwrap()]);
    shown.success().stdout_contains(&format!("PAGE ERROR: {path} block 2"));

    // What can be saved is saved: all other pages.
    archived.archive_all();
    let restored = archived.restore_newest("restored");
    assert!(
        restored.try_psql("select count(*) from t").is_err_and(|why| why.contains("invalid page in block 2"))
    );
    restored.psql("set zero_damaged_pages = on; select count(*) > 900 from t");
}

#[test]
fn r14_there_is_no_backup_while_its_wal_is_missing() {
    let archived = Archived::start(Repo::local());
    let mut backup = archived.slow_backup("15MB");
    archived.cluster.set("archive_command", "false").reload();
    backup.wait_for_stderr("waiting until its WAL is in the repository", PATIENCE);
    std::thread::sleep(Duration::from_millis(500));
    assert!(backup.ended().is_none(), "it waits: {}", backup.stderr());
    assert_eq!(archived.backups(), NONE);
    assert_eq!(archived.repo().keys("/backups/"), [""; 0]);
    backup.kill9();
    assert_eq!(archived.backups(), NONE);
    archived
        .try_restore(&archived.target("nothing"), [""; 0])
        .fails_with(8)
        .stderr_contains("there is no backup");

    archived.cluster.set("archive_command", &archived.walproof.archive_command()).reload();
    archived.backup();
    assert_eq!(archived.backups().len(), 1);
}

#[test]
fn r14_there_is_no_backup_whose_own_wal_has_two_contents() {
    let archived = Archived::start(Repo::local());
    let backup = archived.slow_backup("15MB");
    let name = archived.cluster.switch_wal();
    archived.cluster.wait_archived(&name, PATIENCE);
    archived.store_twice(&name);
    backup.wait(PATIENCE).fails_with(3).stderr_contains(&name);
    assert_eq!(archived.backups(), NONE);
    assert_eq!(archived.repo().keys("/backups/"), [""; 0]);
}

#[test]
fn a_second_backup_waits_for_nobody_and_a_killed_one_blocks_nobody() {
    let archived = Archived::start(Repo::local());
    let first = archived.slow_backup("3MB");
    let pid = first.pid().to_string();
    let refused = archived.walproof.run(["backup-push"]);
    refused.fails_with(7).stderr_contains("another backup is under way").stderr_contains(&pid);
    first.kill9();
    archived.backup();
    assert_eq!(archived.backups().len(), 1);
    assert_eq!(archived.repo().keys("/leases/"), [""; 0], "the dead one's lease is gone, too");
    let gone = "select count(*) from pg_stat_activity where application_name = 'walproof backup-push'";
    archived.cluster.wait_until(gone, "0", PATIENCE);
}

#[test]
fn a_backup_whose_session_is_killed_is_void() {
    let archived = Archived::start(Repo::local());
    let backup = archived.slow_backup("2MB");
    archived.cluster.psql(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'walproof backup-push'",
    );
    let void = backup.wait(PATIENCE);
    void.fails_with(6).stderr_contains("the connection that holds the backup is lost");
    void.stderr_contains("terminating connection due to administrator command");
    assert_eq!(archived.backups(), NONE);
    wait_until("the lease is released", PATIENCE, || archived.repo().keys("/leases/").is_empty());
    archived.backup();
}

/// `path` with a byte behind it that is not UTF-8.
fn odd(path: &Path) -> PathBuf {
    OsStr::from_bytes(&[path.as_os_str().as_bytes(), b"\xe9"].concat()).into()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o7777
}

#[test]
fn r33_names_that_are_not_utf8_come_back() {
    let mut archived = Archived::start(Repo::local());
    let data = archived.cluster.data_dir().to_owned();
    let named = odd(&data.join("named"));
    create_dirs_owned(&named);
    write_owned(&odd(&named.join("file")), b"content", 0o600);
    let place = odd(&archived.scratch.dir("place"));
    fs::rename(archived.scratch.join("place"), &place).unwrap();
    let text = place.to_string_lossy().replace('\u{fffd}', "\\xe9");
    archived.cluster.psql("create database raw template template0 encoding 'SQL_ASCII' locale 'C'");
    archived.cluster.psql_in("raw", &format!("create tablespace odd location E'{text}'"));
    archived.cluster.psql_in("raw", "create table t tablespace odd as select generate_series(1, 1000) n");

    let backup = archived.backup();
    let shown = archived.walproof.json(["backup-show", backup["id"].as_str().unwrap()]);
    assert_eq!(shown["tablespaces"][0]["location"], text);
    archived.archive_all();
    // The restored one goes where this one was.
    archived.cluster.stop(StopMode::Fast);
    fs::remove_dir_all(version_directory(&place)).unwrap();
    let restored = archived.restore_newest("restored");
    assert_eq!(restored.psql_in("raw", "select count(*) from t"), "1000");
    let named = odd(&restored.data_dir().join("named"));
    assert_eq!(fs::read(odd(&named.join("file"))).unwrap(), b"content");
}

#[test]
fn r33_read_only_files_and_directories_come_back() {
    let archived = Archived::start(Repo::local());
    let locked = archived.cluster.data_dir().join("locked");
    create_dirs_owned(&locked.join("inner"));
    // Longer than what is fetched at a time, so that it is opened more than once.
    let long = crate::support::Random::from_seed("r33").bytes(9_000_000);
    for file in ["long", "inner/long"] {
        write_owned(&locked.join(file), &long, 0o400);
    }
    write_owned(&locked.join("empty"), b"", 0o400);
    for directory in [locked.join("inner"), locked] {
        fs::set_permissions(directory, PermissionsExt::from_mode(0o500)).unwrap();
    }
    archived.backup();
    archived.archive_all();
    let restored = archived.restore_newest("restored");
    let locked = restored.data_dir().join("locked");
    assert_eq!([&locked, &locked.join("inner")].map(|path| mode(path)), [0o500; 2]);
    for (file, content) in [("long", &long[..]), ("inner/long", &long), ("empty", b"")] {
        assert!(fs::read(locked.join(file)).unwrap() == content, "{file}");
        assert_eq!(mode(&locked.join(file)), 0o400, "{file}");
    }
}

/// The same without a directory: what was in the way alone.
#[test]
fn r33_a_read_only_file_longer_than_a_range_comes_back() {
    let archived = Archived::start(Repo::local());
    let long = crate::support::Random::from_seed("r33").bytes(9_000_000);
    write_owned(&archived.cluster.data_dir().join("long"), &long, 0o400);
    archived.backup();
    archived.archive_all();
    let restored = archived.restore("restored", [""; 0]);
    assert!(fs::read(restored.data_dir().join("long")).unwrap() == long);
}

#[test]
fn r33_settings_that_are_not_utf8_come_back() {
    let archived = Archived::start(Repo::local());
    archived.cluster.psql("create database western template template0 encoding 'LATIN1' locale 'C'");
    archived.cluster.psql_in("western", r"alter system set log_line_prefix = E'caf\xe9 %m '");
    let settings = |data_dir: &Path| fs::read(data_dir.join("postgresql.auto.conf")).unwrap();
    let holds = |text: &[u8]| text.windows(5).any(|window| window == b"caf\xe9 ");
    assert!(holds(&settings(archived.cluster.data_dir())));
    archived.backup();
    archived.archive_all();
    let restored = archived.restore_newest("restored");
    assert!(holds(&settings(restored.data_dir())));
}

#[test]
fn a_repository_made_anew_during_a_backup_gets_no_manifest() {
    let archived = Archived::start(Repo::local());
    let backup = archived.slow_backup("8MB");
    for key in archived.repo().keys("") {
        archived.repo().delete(&key);
    }
    archived.walproof.run(["init"]).success();
    backup.wait(PATIENCE).fails_with(4).stderr_contains("another repository is there");
    assert_eq!(archived.repo().keys("/backups/"), [""; 0]);
    archived.backup();
}

#[test]
fn many_damaged_pages_hold_a_backup_up_no_longer_than_one() {
    let archived = Archived::start(Repo::local());
    let cluster = &archived.cluster;
    cluster.psql("create table t as select n, repeat('x', 1000) from generate_series(1, 3000) n");
    cluster.psql("vacuum freeze t; checkpoint");
    let path = cluster.psql("select pg_relation_filepath('t')");
    let file = fs::File::options().write(true).open(cluster.data_dir().join(&path)).unwrap();
    let pages = file.metadata().unwrap().len() / 8192;
    assert!(pages > 400, "{pages}");
    for page in 0..pages {
        file.write_all_at(b"cosmic rays", page * 8192 + 5000).unwrap();
    }
    let begun = std::time::Instant::now();
    let told = archived.walproof.run(["backup-push"]);
    told.fails_with(5).stderr_contains(&format!("the checksums of {pages} pages failed"));
    // 34 s if each were waited for.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}
