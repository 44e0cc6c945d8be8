//! WAL out and in, as PostgreSQL calls it: what is archived comes back, nothing is overwritten, and absence is
//! never guessed.

use crate::support::archived::PATIENCE;
use crate::support::fabricate::{ControlFile, FakeDataDir, MIB, SYSTEM_IDENTIFIER, history};
use crate::support::site::{Site, file_names};
use crate::support::{Random, Repo, Scratch, Walproof, wait_until};
use crate::support::{process, s3::S3Server};
use serde_json::json;
use std::fs;
use std::time::Duration;

const BACKUP_HISTORY: &str = "START WAL LOCATION: 0/500028 (file 000000010000000000000005)\n\
                              STOP WAL LOCATION: 0/500138 (file 000000010000000000000005)\n";

#[test]
fn r4_every_kind_of_wal_file_comes_back_as_it_was() {
    let site = Site::new(Repo::local());
    let segments = site.archive_all([5, 6, 255, 256, 4096]);
    let unfinished = site.data.wal(7).stale_from(20);
    let partial = format!("{}.partial", unfinished.name());
    let backup = "000000010000000000000005.00000028.backup";
    site.archive_text(&partial, unfinished.bytes());
    site.archive_text("00000002.history", history(&[(1, 0x70_0028)]));
    site.archive_text(backup, BACKUP_HISTORY);
    for name in segments.iter().map(String::as_str).chain([&*partial, "00000002.history", backup]) {
        site.comes_back(name);
    }
    assert!(site.repo().keys("history/00000002").len() == 1, "{:?}", site.repo().objects());
    site.fetch_absent(&unfinished.name());
}

#[test]
fn a_finished_segment_may_end_in_zeros_and_the_first_of_a_timeline_began_on_the_old_one() {
    let site = Site::new(Repo::local());
    for file in
        [site.data.wal(5).pages(3), site.data.wal(6).timeline(2).page_timeline(1), site.data.wal(9).pages(1)]
    {
        let name = site.archive(&file);
        site.comes_back(&name);
    }
}

#[test]
fn r2_the_same_bytes_again_are_success_and_other_bytes_a_conflict() {
    let site = Site::new(Repo::local());
    let file = site.data.wal(5);
    let name = site.archive(&file.clone().random(1));
    let first = site.original(&name);
    let stored = site.repo().objects();
    site.walproof.push(&name).success();
    let again = site.walproof.json(["wal-push", &format!("pg_wal/{name}")]);
    assert_eq!((&again["already_there"], &again["raw_bytes"]), (&json!(true), &json!(MIB)));
    assert_eq!(site.repo().objects(), stored);

    let other = site.data.add_wal(&file.random(2));
    let refused = site.walproof.push(&other);
    refused.complains_with(3).stderr_contains(&name).hints("two primaries");
    assert_eq!(site.repo().objects(), stored, "a refused segment leaves no trace");
    site.fetch(&name).success();
    assert_eq!(fs::read(site.fetched(&name)).unwrap(), first);
}

#[test]
fn r2_a_history_with_other_bytes_is_a_conflict_too() {
    let site = Site::new(Repo::local());
    site.archive_text("00000002.history", history(&[(1, 0x70_0028)]));
    site.data.add_to_pg_wal("00000002.history", history(&[(1, 0x70_0030)]));
    site.walproof.push("00000002.history").complains_with(3).hints("two primaries");
}

#[test]
fn r2_partial_segments_may_differ_and_each_is_kept() {
    let site = Site::new(Repo::local());
    let name = format!("{}.partial", site.data.wal(7).name());
    for (seed, stale) in [(1, 20), (1, 30), (2, 30)] {
        site.archive_text(&name, site.data.wal(7).random(seed).stale_from(stale).bytes());
    }
    assert_eq!(site.stored(&name).len(), 3);
    // Recovery never asks for it; who does must know that there are several.
    site.fetch_fails(&name, 203);
    assert_eq!(site.walproof.json(["wal-list"])["conflicts"], json!([]));
}

/// Two primaries hand over different bytes under one name at the same moment, again and again. One may win; it
/// may also be that both are told. What never happens is that both believe to have archived, or that one is told
/// so whose bytes are not there.
#[test]
fn r2_of_two_different_segments_pushed_at_once_one_is_told() {
    let server = S3Server::start();
    let (mut winners, mut told) = (0, 0);
    for repo in [Repo::local(), Repo::s3(&server)] {
        let site = Site::new(repo);
        for number in 1..=8 {
            let (won, lost) = race(&site, number);
            winners += won;
            told += lost;
        }
    }
    println!("{winners} won, {told} were told of a conflict");
}

/// Push two contents of segment `number`: (how many were archived, how many were told of a conflict).
fn race(site: &Site, number: u64) -> (u32, u32) {
    let elsewhere = Scratch::new();
    let (mut winners, mut told) = (0, 0);
    let contents = [1, 2].map(|seed| site.data.wal(number).random(1000 * number + seed));
    let name = site.data.add_wal(&contents[0]);
    let other = contents[1].write_to(elsewhere.path());
    let here = site.walproof.spawn(["wal-push", &format!("pg_wal/{name}")]);
    let there = site.walproof.spawn(["wal-push", other.to_str().unwrap()]);
    let outputs = [here, there].map(|running| running.wait(process::TIMEOUT));
    assert!(outputs.iter().any(|output| output.code() != 0), "both won {name}");
    let objects = site.stored(&name);
    for (output, content) in outputs.iter().zip(&contents) {
        if output.code() == 0 {
            winners += 1;
            assert!(opens_alone(site, &name, &objects, &content.bytes()), "{name} is lost: {output}");
        } else {
            told += 1;
            output.complains_with(3);
        }
    }
    assert!((1..=2).contains(&objects.len()), "{objects:?}");
    // The fetch of the one before may have fetched ahead what came first: that goes when the other is seen.
    let code = if objects.len() == 1 { 0 } else { 203 };
    wait_until("a fetch gives what is stored", PATIENCE, || site.fetch(&name).code() == code);
    (winners, told)
}

/// Whether one of `objects`, were it the only one, is fetched as `content`.
fn opens_alone(site: &Site, name: &str, objects: &[String], content: &[u8]) -> bool {
    let kept: Vec<_> = objects.iter().map(|key| (key, site.repo().read(key))).collect();
    // What a fetch of the one before has fetched ahead says nothing of what is stored now.
    let empty = Scratch::new();
    let walproof = site.walproof.with_env("CACHE_DIRECTORY", empty.path());
    let found = kept.iter().any(|(chosen, _)| {
        kept.iter().filter(|(key, _)| key != chosen).for_each(|(key, _)| site.repo().delete(key));
        site.fetch_with(&walproof, name).success();
        let same = fs::read(site.fetched(name)).unwrap() == content;
        for (key, bytes) in &kept {
            site.repo().write(key, bytes);
        }
        same
    });
    let _ = fs::remove_file(site.fetched(name));
    found
}

#[test]
fn r1_identical_segments_pushed_at_once_are_both_archived() {
    let site = Site::new(Repo::local());
    for number in 1..=6 {
        let name = site.data.add_wal(&site.data.wal(number).random(number));
        let path = format!("pg_wal/{name}");
        let pushes = [0; 3].map(|_| site.walproof.spawn(["wal-push", &path]));
        for push in pushes {
            push.wait(process::TIMEOUT).success();
        }
        assert_eq!(site.stored(&name).len(), 1);
        site.comes_back(&name);
    }
}

#[test]
fn r3_what_is_no_wal_file_of_this_cluster_is_refused() {
    let site = Site::new(Repo::local());
    let wal = || site.data.wal(5).random(1);
    let name = wal().name();
    let mut short = wal().bytes();
    short.truncate(MIB as usize - 8192);
    let mut long = wal().bytes();
    long.extend([0; 8192]);
    let mut torn = wal().bytes();
    torn[8192 * 50..8192 * 51].fill(0xAB);
    for (what, bytes, code, says) in [
        ("of another cluster", wal().system_identifier(42).bytes(), 6, "system identifier 42"),
        ("too short", short, 5, "bytes instead of"),
        ("too long", long, 5, "bytes instead of"),
        ("empty", Vec::new(), 5, "bytes instead of"),
        ("all zeros", wal().zeroed().bytes(), 5, "all zeros"),
        ("recycled", wal().stale_from(0).bytes(), 5, "its name says"),
        ("half recycled", wal().stale_from(64).bytes(), 5, "stale pages"),
        ("damaged", torn, 5, "stale pages"),
        ("of the next name", wal().next().bytes(), 5, "its name says"),
        ("of a later timeline", wal().page_timeline(2).bytes(), 5, "later than its name says"),
        ("of an unknown version", wal().magic(0xD0FF).bytes(), 6, "D0FF"),
        ("of another major", wal().magic(0xD113).bytes(), 6, "PostgreSQL 16"),
        ("no WAL", Random::new(7).bytes(MIB as usize), 5, "does not begin"),
    ] {
        site.data.add_to_pg_wal(&name, bytes);
        println!("a segment that is {what}");
        site.walproof.push(&name).complains_with(code).stderr_contains(says).stderr_contains(&name);
    }
    assert_eq!(site.stored(&name), [""; 0], "nothing of that was stored");
    site.archive(&wal());
}

/// Two clusters on one host, and one configuration: a segment's header tells, a text has none.
#[test]
fn r3_texts_of_another_cluster_are_refused() {
    let site = Site::new(Repo::local());
    let other = FakeDataDir::with(ControlFile::new(15).segment_size(MIB).system_identifier(42));
    let backup = "000000010000000000000005.00000028.backup";
    let copy = Scratch::new();
    for (name, content) in [
        ("00000002.history", history(&[(1, 0x70_0028)]).into_bytes()),
        (backup, BACKUP_HISTORY.as_bytes().to_vec()),
    ] {
        other.add_to_pg_wal(name, &content);
        let theirs = other.pg_wal().join(name);
        let refused = site.walproof.run([std::ffi::OsStr::new("wal-push"), theirs.as_os_str()]);
        refused.complains_with(6).stderr_contains("of the cluster 42").hints("share one configuration");
        // PostgreSQL's way: a path relative to where it runs.
        let mut command = site.walproof.command(["wal-push", &format!("pg_wal/{name}")]);
        command.current_dir(other.path());
        process::run(command, b"", PATIENCE).complains_with(6);
        let stray = copy.file(name, &content);
        site.walproof.run([std::ffi::OsStr::new("wal-push"), stray.as_os_str()]).complains_with(6);
        assert_eq!(site.stored(name), [""; 0]);
        site.archive_text(name, &content);
    }
    // pg_wal elsewhere, behind a link; and this cluster's, under another name of its directory.
    let elsewhere = Scratch::new();
    let moved = elsewhere.join("wal");
    fs::rename(site.data.pg_wal(), &moved).unwrap();
    std::os::unix::fs::symlink(&moved, site.data.pg_wal()).unwrap();
    for name in ["00000002.history", backup] {
        site.walproof.push(name).success();
        site.walproof.run([std::ffi::OsStr::new("wal-push"), moved.join(name).as_os_str()]).success();
    }
}

#[test]
fn r3_texts_that_are_not_what_their_name_says_are_refused() {
    let site = Site::new(Repo::local());
    let backup = "000000010000000000000005.00000028.backup";
    for (name, content) in [
        ("00000002.history", "no history\n".as_bytes()),
        ("00000002.history", b"\xFF\xFE"),
        ("00000002.history", b"5\t0/5000000\tbecause\n"),
        (backup, b"hello"),
    ] {
        site.data.add_to_pg_wal(name, content);
        site.walproof.push(name).complains_with(5);
    }
    assert_eq!(site.repo().keys("history"), [""; 0]);
}

#[test]
fn r27_bad_paths_and_names_are_usage_errors() {
    let site = Site::new(Repo::local());
    for name in ["passwd", "00000001000000000000000g", "0000000100000000000000", "000000010000000000001000"] {
        site.data.add_to_pg_wal(name, site.data.wal(5).bytes());
        site.walproof.push(name).complains_with(2).stderr_contains(name);
    }
    let name = site.data.wal(77).name();
    site.walproof.push(&name).complains_with(2).hints("relative to the data directory");
    fs::create_dir(site.data.pg_wal().join(&name)).unwrap();
    site.walproof.push(&name).complains_with(2).stderr_contains("not a file");
    for path in ["", "/", "..", "pg_wal/"] {
        site.walproof.run(["wal-push", path]).fails_with(2).says_nowhere("panicked");
    }
}

#[test]
fn a_history_without_an_ancestor_is_not_archived() {
    let site = Site::new(Repo::local());
    for text in ["", "# nothing\n"] {
        site.data.add_to_pg_wal("00000009.history", text.as_bytes());
        site.walproof.push("00000009.history").fails_with(5).stderr_contains("names no ancestor");
    }
    assert_eq!(site.repo().keys("history/"), [""; 0]);
}

#[test]
fn r6_only_what_is_not_there_is_absent() {
    let site = Site::new(Repo::local());
    site.fetch_absent("000000010000000000000005");
    site.archive_all([5]);
    site.fetch_absent("000000010000000000000006");
    site.fetch_absent("000000020000000000000005");
    site.fetch_absent("00000002.history");
    for name in ["etc/passwd", "RECOVERYXLOG", "000000010000000000000005x"] {
        site.walproof.fetch(name, &site.out.join("x")).complains_with(202);
    }
    site.nothing_fetched();
}

#[test]
fn r6_of_two_versions_none_is_chosen() {
    let site = Site::new(Repo::local());
    let name = site.archive(&site.data.wal(5).random(1));
    let objects = [site.stored(&name), site.archive_elsewhere(&site.data.wal(5).random(2))].concat();
    assert_eq!(objects.len(), 2);
    site.fetch_fails(&name, 203).hints("two primaries");
    site.walproof.run(["wal-list"]).success().stdout_contains("CONFLICT: different contents");
    assert_eq!(site.walproof.json(["wal-list"])["conflicts"], json!([name]));
}

#[test]
fn r7_a_fetch_replaces_what_is_there_at_once_and_leaves_nothing_else() {
    let site = Site::new(Repo::local());
    let name = &site.archive_all([5])[0];
    let (target, before) = (site.data.pg_wal().join("RECOVERYXLOG"), file_names(&site.data.pg_wal()).len());
    fs::write(&target, "left by a crash").unwrap();
    site.walproof.run(["wal-fetch", name, "pg_wal/RECOVERYXLOG"]).success();
    assert_eq!(fs::read(&target).unwrap(), site.original(name));
    assert_eq!(file_names(&site.data.pg_wal()).len(), before + 1);

    fs::write(&target, "left by a crash").unwrap();
    site.walproof.run(["wal-fetch", "000000010000000000000006", "pg_wal/RECOVERYXLOG"]).fails_with(1);
    assert_eq!(fs::read(&target).unwrap(), b"left by a crash");
    site.walproof.run(["wal-fetch", name, "no/such/dir"]).complains_with(209);
    site.walproof.run(["wal-fetch", name, "pg_wal"]).complains_with(209);
    assert_eq!(file_names(&site.data.pg_wal()).len(), before + 1);
}

#[test]
fn a_fetch_needs_the_data_directory_or_the_identifier() {
    let site = Site::new(Repo::local());
    let name = site.archive_all([5]).remove(0);
    let target = site.fetched(&name);
    let target = target.to_str().unwrap();
    site.unset("data_dir");
    let lost = site.run_altered(["wal-fetch", &name, target], |command| {
        command.current_dir("/");
    });
    lost.complains_with(206).hints("data_dir");
    site.nothing_fetched();
    let identifier = SYSTEM_IDENTIFIER.to_string();
    let given = ["wal-fetch", &name, target, "--system-identifier", &identifier];
    site.run_altered(given, |command| {
        command.current_dir("/");
    })
    .success();
    assert_eq!(fs::read(target).unwrap(), site.original(&name));
    let _ = fs::remove_file(target);
    // The repository of another cluster is not there: that says nothing about the file.
    site.walproof.run(["wal-fetch", &name, target, "--system-identifier", "42"]).complains_with(204);
}

#[test]
fn a_push_needs_no_data_dir_where_postgresql_runs_it() {
    let site = Site::new(Repo::local());
    let name = site.data.add_wal(&site.data.wal(5));
    site.unset("data_dir");
    site.walproof.push(&name).success();
    site.comes_back(&name);
    let path = site.data.pg_wal().join(&name);
    let args = ["wal-push", path.to_str().unwrap()];
    let alter = |command: &mut std::process::Command| {
        command.current_dir("/");
    };
    site.run_altered(args, alter).complains_with(6).hints("data_dir");
}

#[test]
fn r3_a_cluster_with_another_segment_size_is_not_this_one() {
    let site = Site::new(Repo::local());
    let other = FakeDataDir::with(ControlFile::new(15).segment_size(2 * MIB));
    let walproof =
        Walproof::builder(site.repo().clone()).data_dir(other.path()).key_of(&site.walproof).build();
    let name = other.add_wal(&other.wal(5));
    walproof.push(&name).complains_with(6).stderr_contains("segments of");
    walproof.run(["init"]).complains_with(6).stderr_contains("segments of");
    assert_eq!(site.stored(&name), [""; 0]);
}

#[test]
fn wal_list_shows_runs_gaps_and_timelines() {
    let site = Site::new(Repo::local());
    site.walproof.run(["wal-list"]).success().stdout_contains("no WAL is archived yet");
    let empty = site.walproof.json(["wal-list"]);
    assert_eq!(
        (&empty["timelines"], &empty["gaps"], &empty["tail_lsn"]),
        (&json!([]), &json!([]), &json!(null))
    );

    site.archive_all([255, 256, 257, 260]);
    site.archive_text("00000002.history", history(&[(1, 0x1050_0028)]));
    for number in [261, 262] {
        site.archive(&site.data.wal(number).timeline(2));
    }
    let list = site.walproof.json(["wal-list"]);
    let run = |first: &str, last: &str, segments| json!({"first": first, "last": last, "segments": segments});
    let (a, b) = (run(FF, "000000010000000000000101", 3), run(ALONE, ALONE, 1));
    let c = run("000000020000000000000105", "000000020000000000000106", 2);
    let timelines = json!([{"timeline": 1, "runs": [a, b]}, {"timeline": 2, "runs": [c]}]);
    assert_eq!(list["timelines"], timelines);
    let gap = json!({"timeline": 1, "first": "000000010000000000000102", "last": "000000010000000000000103"});
    assert_eq!(list["gaps"], json!([gap]));

    let text = site.walproof.run(["wal-list"]);
    text.success().stdout_contains("GAP on timeline 1: 000000010000000000000102 to 000000010000000000000103");
    let row = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<_> = text.stdout().lines().map(row).collect();
    assert_eq!(rows[0], ["TIMELINE", "FIRST", "LAST", "SEGMENTS"]);
    assert_eq!(rows[1], ["1", FF, "000000010000000000000101", "3"]);
}

const FF: &str = "0000000100000000000000FF";
const ALONE: &str = "000000010000000000000104";

impl Site {
    /// The answer is "absent": exit 1 without a word or a file.
    #[track_caller]
    fn fetch_absent(&self, name: &str) {
        let output = self.fetch(name);
        output.fails_with(1);
        assert!(output.stderr().is_empty() && output.stdout().is_empty(), "{output}");
        assert!(!self.fetched(name).exists());
    }

    /// What another primary archives in the same instant: into the same repository, unseen. Gives the key.
    #[track_caller]
    pub(crate) fn archive_elsewhere(&self, file: &crate::support::fabricate::WalFile) -> Vec<String> {
        let name = file.name();
        let hidden: Vec<_> =
            self.stored(&name).into_iter().map(|key| (self.repo().read(&key), key)).collect();
        for (_, key) in &hidden {
            self.repo().delete(key);
        }
        self.archive(file);
        let new = self.stored(&name);
        for (bytes, key) in &hidden {
            self.repo().write(key, bytes);
        }
        new
    }
}

/// Fetching must not take the time of a whole deadline where the answer is at hand.
#[test]
fn a_fetch_answers_quickly() {
    let site = Site::new(Repo::local());
    let begun = std::time::Instant::now();
    site.fetch_absent("000000010000000000000005");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// A put whose last sync failed leaves an object that is there and not durable. Here a directory that cannot be synced
/// stands for a sync that fails.
#[test]
fn r1_what_is_there_already_is_synced_before_it_is_acknowledged() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new(Repo::local());
    let name = site.archive(&site.data.wal(5).random(1));
    let key = site.stored(&name).remove(0);
    let root = site.repo().dir().unwrap().to_owned();
    let directories: Vec<_> = root.join(key).ancestors().skip(2).map(std::path::Path::to_owned).collect();
    for directory in directories.iter().take_while(|directory| directory.starts_with(&root)) {
        let set = |mode| fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
        set(0o300);
        println!("{}", directory.display());
        site.walproof.push(&name).complains_with(4).stderr_contains("sync");
        let other = site.data.add_wal(&site.data.wal(6).random(2));
        site.walproof.push(&other).fails_with(4);
        set(0o700);
    }
    site.walproof.push(&name).success();
}

#[test]
fn r5_a_daemon_whose_queue_is_full_holds_nobody_up() {
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
    };
    use std::os::unix::fs::PermissionsExt;
    let site = Site::with(Repo::local(), |builder| builder.toml("[archive]\ntimeout = \"6s\""));
    let socket =
        || socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
    let path = site.walproof.socket();
    let address = SocketAddrUnix::new(&path).unwrap();
    let hangs = socket();
    bind(&hangs, &address).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    listen(&hangs, 0).unwrap();
    let mut queued = Vec::new();
    loop {
        let client = socket();
        if connect(&client, &address).is_err() {
            break;
        }
        queued.push(client);
    }
    let begin = std::time::Instant::now();
    let name = site.data.add_wal(&site.data.wal(1).random(1));
    let pushed = site.walproof.json(["wal-push", &format!("pg_wal/{name}")]);
    assert_eq!(pushed["by_daemon"], false);
    assert!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
}

#[test]
fn r5_a_key_command_holds_nobody_up() {
    let site = Site::with(Repo::local(), |builder| builder.toml("[archive]\ntimeout = \"3s\""));
    let key = site.walproof.scratch().join("key");
    let name = site.data.add_wal(&site.data.wal(1).random(1));
    let commanded = |command: &str| {
        let line = format!("key_command = \"{command}\"");
        site.edit_config(|text| {
            let other = |line: &&str| !line.starts_with("key_file") && !line.starts_with("key_command");
            text.lines()
                .filter(other)
                .collect::<Vec<_>>()
                .join("\n")
                .replace("[encryption]", &format!("[encryption]\n{line}"))
        });
        let begin = std::time::Instant::now();
        let output = site.walproof.push(&name);
        assert!(begin.elapsed() < Duration::from_secs(6), "{command}: {:?}", begin.elapsed());
        output
    };
    commanded("sleep 60").complains_with(2).stderr_contains("did not finish within");
    commanded("yes").complains_with(2).stderr_contains("more than 64 KiB");
    commanded(&format!("sleep 60 & cat {}", key.display())).success();
}
