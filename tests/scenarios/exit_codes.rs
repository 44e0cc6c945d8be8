//! The exit codes that scripts and PostgreSQL rely on, each from a real command; and what comes with them: one
//! clear error, no key, no panic.

use crate::support::postgres::Cluster;
use crate::support::process::{self, Output};
use crate::support::site::Site;
use crate::support::{Repo, Walproof, program, wait_until};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

/// A row: what provokes it, the exit code, and how.
type Row = (&'static str, i32, Box<dyn Fn(&Site) -> Output>);

fn row(what: &'static str, code: i32, provoke: impl Fn(&Site) -> Output + 'static) -> Row {
    (what, code, Box::new(provoke))
}

const SEGMENT: u64 = 5;

fn name(site: &Site) -> String {
    site.data.wal(SEGMENT).name()
}

/// Push segment 6 with this content.
fn push_as(site: &Site, content: &crate::support::fabricate::WalFile) -> Output {
    let six = site.data.wal(6).name();
    site.data.add_to_pg_wal(&six, content.bytes());
    site.walproof.push(&six)
}

fn fetch(site: &Site, options: &[&str], name: &str) -> Output {
    let target = site.fetched(name);
    let args = ["wal-fetch", name, target.to_str().unwrap()];
    site.walproof.run(args.iter().chain(options))
}

/// Run `act` while the repository's directory is away.
fn unmounted(site: &Site, act: impl Fn(&Site) -> Output) -> Output {
    let mount = site.repo().dir().unwrap();
    let away = mount.with_extension("away");
    fs::rename(mount, &away).unwrap();
    let output = act(site);
    fs::rename(&away, mount).unwrap();
    output
}

/// The program as it is, without a configuration of the rig's.
fn run_bare(args: &[&str]) -> Output {
    let mut command = process::command(program::walproof());
    command.args(args);
    process::run(command, b"", process::TIMEOUT)
}

fn with_other_key(site: &Site) -> Walproof {
    Walproof::builder(site.repo().clone()).data_dir(site.data.path()).build()
}

fn with_full_stdout<const N: usize>(site: &Site, args: [&str; N]) -> Output {
    with_full(site, ">", args)
}

/// With stdout (`>`) or stderr (`2>`) on a disk that is full.
fn with_full<const N: usize>(site: &Site, stream: &str, args: [&str; N]) -> Output {
    // process::run gives every command a file; /dev/full behind a shell is what is wanted here.
    let mut shell = process::command("sh");
    let script = format!("exec \"$0\" \"$@\" {stream}/dev/full");
    shell.args(["-c", &script]).arg(program::walproof()).args(args);
    shell.arg("--config").arg(site.walproof.config()).stdin(Stdio::null());
    process::run(shell, b"", process::TIMEOUT)
}

fn rows() -> Vec<Row> {
    let outward = vec![
        row("archiving again", 0, |site| site.walproof.push(&name(site))),
        row("an unknown name", 2, |site| site.walproof.push("no-name")),
        row("no such configuration", 2, |_| {
            let args = ["wal-list", "--config=/nowhere.toml"];
            run_bare(&args)
        }),
        row("other bytes", 3, |site| {
            site.data.add_wal(&site.data.wal(SEGMENT).random(99));
            let output = site.walproof.push(&name(site));
            site.data.add_wal(&site.data.wal(SEGMENT).random(SEGMENT));
            output
        }),
        row("no repository disk", 4, |site| unmounted(site, |site| site.walproof.push(&name(site)))),
        row("zeros", 5, |site| push_as(site, &site.data.wal(6).zeroed())),
        row("another key", 5, |site| with_other_key(site).run(["wal-list"])),
        row("another cluster", 6, |site| push_as(site, &site.data.wal(6).system_identifier(7))),
        row("no PostgreSQL", 6, |site| {
            let conninfo = "host=127.0.0.1 port=1 user=postgres connect_timeout=2";
            let builder = Walproof::builder(site.repo().clone()).data_dir(site.data.path());
            builder.key_of(&site.walproof).conninfo(conninfo).build().run(["backup-push"])
        }),
        row("nothing to restore", 8, |site| {
            site.walproof.run(["restore", "-q", "--to", site.out.join("data").to_str().unwrap()])
        }),
        row("stdout is full: keygen", 9, |site| with_full_stdout(site, ["keygen"])),
        row("stdout is full: wal-list", 9, |site| with_full_stdout(site, ["wal-list", "--json"])),
        row("stdout is full: man", 9, |site| with_full_stdout(site, ["man"])),
        row("stdout is full: completions", 9, |site| with_full_stdout(site, ["completions", "bash"])),
    ];
    let inward = vec![
        row("fetching", 0, |site| fetch(site, &[], &name(site))),
        row("absent", 1, |site| fetch(site, &[], "000000010000000000000009")),
        row("an unknown name to fetch", 202, |site| fetch(site, &[], "no-name")),
        row("no repository disk to fetch from", 204, |site| {
            unmounted(site, |site| fetch(site, &[], &name(site)))
        }),
        row("another key for fetching", 205, |site| {
            with_other_key(site).fetch(&name(site), &site.out.join("x"))
        }),
        row("not in a data directory", 206, |site| {
            // Neither here nor in the configuration.
            let builder = Walproof::builder(site.repo().clone()).key_of(&site.walproof);
            builder.build().fetch(&name(site), &site.out.join("x"))
        }),
        row("nowhere to put it", 209, |site| site.walproof.fetch(&name(site), &site.out.join("no/x"))),
    ];
    outward.into_iter().chain(inward).collect()
}

#[test]
fn every_exit_code_comes_from_a_command() {
    let site = Site::new(Repo::local());
    site.archive_all([SEGMENT]);
    let mut seen = std::collections::BTreeSet::new();
    for (what, code, provoke) in rows() {
        let output = provoke(&site);
        assert_eq!(output.code(), code, "{what}: {output}");
        output.says_nowhere("panicked").says_nowhere(&site.key());
        if code > 1 {
            output.complains_with(code);
        }
        if code == 1 || code > 200 {
            assert!(!site.out.join("x").exists(), "{what}");
        }
        seen.insert(code % 200);
    }
    // 7 needs a server: below.
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 8, 9]);
}

#[test]
fn code_7_a_second_backup_waits_for_nobody() {
    let mut cluster = Cluster::builder().segment_size_mb(1).create();
    let builder = Walproof::builder(Repo::local()).cluster(&cluster).toml("[backup]\nmax_rate = \"1MB\"");
    let walproof = builder.build();
    cluster.set("archive_mode", "on").set("archive_command", &walproof.archive_command());
    cluster.start();
    walproof.run(["init"]).success();
    let first = walproof.spawn(["backup-push"]);
    let leased = || !walproof.repo().keys("/leases/").is_empty();
    wait_until("the first backup holds the lease", Duration::from_secs(30), leased);
    let second = walproof.run(["backup-push", "-q"]);
    second.complains_with(7).stderr_contains("another backup").stderr_contains(&first.pid().to_string());
    first.kill9();
    assert_eq!(walproof.json(["backup-list"]), serde_json::json!([]));
}

/// In a container PostgreSQL may be the first process, and inherits the prefetcher when the call that started it is over: any
/// other code is that of a server process that crashed, and recovery begins anew.
#[test]
fn a_prefetcher_that_fails_looks_like_nothing_that_crashed() {
    let site = Site::new(Repo::local());
    let spool = site.walproof.scratch().join("missing/spool");
    for args in [
        vec!["--system-identifier", "1", "--spool", spool.to_str().unwrap()],
        vec!["--system-identifier", "me"],
        vec!["--config", "/nonexistent"],
    ] {
        let args = [&["wal-prefetch", "000000010000000000000005"], &args[..]].concat();
        site.walproof.run(args).success();
    }
}

#[test]
fn r6_a_wrong_call_of_wal_fetch_must_not_look_like_absence() {
    let site = Site::new(Repo::local());
    for args in [
        vec!["wal-fetch"],
        vec!["wal-fetch", "000000010000000000000005"],
        vec!["wal-fetch", "000000010000000000000005", "x", "y"],
        vec!["wal-fetch", "000000010000000000000005", "x", "--unknown"],
        vec!["wal-fetch", "000000010000000000000005", "x", "--system-identifier", "me"],
        vec!["wal-fetch", "no-name", "x"],
    ] {
        let standby: Vec<_> = args.iter().copied().chain(["--standby"]).collect();
        site.walproof.run(args).fails_with(202).stderr_contains("error: ").says_nowhere("panicked");
        site.walproof.run(standby).fails_with(2).stderr_contains("error: ").says_nowhere("panicked");
    }
    let args = ["wal-fetch", "000000010000000000000005", "x", "--config=/nowhere.toml", "--standby"];
    run_bare(&args[..4]).complains_with(202);
    run_bare(&args).complains_with(2);
}

#[test]
fn r27_wrong_arguments_and_configurations_are_usage_errors() {
    let site = Site::new(Repo::local());
    run_bare(&[]).fails_with(2).stderr_contains("Usage:").says_nowhere("panicked");
    for args in [vec!["--frobnicate"], vec!["wal-pus"], vec!["wal-push"], vec!["restore"], vec!["man", "wal"]]
    {
        run_bare(&args).complains_with(2).hints("");
    }
    let good = fs::read_to_string(site.walproof.config()).unwrap();
    for (text, says) in [
        (String::new(), "cluster"),
        ("[cluster".to_owned(), "line 1"),
        (good.replace("[cluster]", "[cluster]\nnmae = \"x\""), "unknown field `nmae`"),
        (good.replace("file://", "ftp://"), "ftp"),
        (good.replace("key_file", "key_fiel"), "key_fiel"),
        (good.replace("\"roadwave\"", "\"a/b\""), "is not a valid cluster name"),
        (good.replace("[cluster]", "\u{FEFF}[cluster]\u{0}"), "configuration"),
    ] {
        site.edit_config(|_| text);
        site.walproof.run(["wal-list"]).complains_with(2).stderr_contains(says);
        site.walproof.run(["wal-fetch", "000000010000000000000005", "x"]).complains_with(202);
    }
}

#[test]
fn r27_where_stderr_is_full_the_exit_code_still_tells() {
    let site = Site::new(Repo::local());
    with_full(&site, "2>", ["wal-push", "no-name"]).fails_with(2);
    with_full(&site, "2>", ["-vv", "wal-list"]).success();
    with_full(&site, "2>", ["backup-show", "20261122T130000Z-00000001"]).fails_with(8);
    unmounted(&site, |site| with_full(site, "2>", ["wal-list"])).fails_with(4);
}

#[test]
fn r27_paths_that_are_no_text_are_no_reason_to_panic() {
    let site = Site::new(Repo::local());
    site.archive_all([5]);
    let to = std::ffi::OsStr::from_bytes(b"\xff");
    let fetched = site.out.join("x").with_file_name(to);
    let name = name(&site);
    let output = site.run_altered(["wal-fetch", &name], |command| {
        command.arg(&fetched).arg("--json");
    });
    output.success().says_nowhere("panicked");
    assert!(fetched.exists());
}

#[test]
fn r24_a_key_that_others_can_read_or_that_is_none_is_refused_and_not_shown() {
    let site = Site::new(Repo::local());
    let (key, path) = (site.key(), site.walproof.scratch().join("key"));
    for mode in [0o644, 0o640, 0o604] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        site.walproof.run(["wal-list"]).complains_with(2).hints("chmod 600").says_nowhere(&key);
    }
    for text in [
        String::new(),
        format!("{key}\n"),
        format!("walproof-key-1 {}\n", &key[1..]),
        "walproof-key-1 zz".into(),
        format!("walproof-key-1 {}", "0".repeat(64)),
    ] {
        site.walproof.scratch().file("key", &text);
        let output = site.walproof.run(["wal-list"]);
        output.complains_with(2).says_nowhere(&key[1..]);
    }
    fs::remove_file(&path).unwrap();
    site.walproof.run(["wal-list"]).complains_with(2).hints("encryption.key_file");
    fs::create_dir(&path).unwrap();
    site.walproof.run(["wal-list"]).complains_with(2).stderr_contains("is a directory");
}

#[test]
fn r24_no_key_is_ever_said_however_much_is_logged() {
    let site = Site::new(Repo::local());
    let archived = site.archive_all([SEGMENT]).remove(0);
    let key = site.key();
    let path = format!("pg_wal/{archived}");
    let target = site.out.join("x");
    for args in [
        vec!["init", "-vv"],
        vec!["wal-push", "-vv", &path],
        vec!["wal-fetch", "-vv", &archived, target.to_str().unwrap()],
        vec!["wal-list", "-vv"],
        vec!["check", "-vv"],
    ] {
        site.walproof.run(args).says_nowhere(&key).says_nowhere("panicked");
    }
    for (object, _) in site.repo().objects() {
        let content = site.repo().read(&object);
        let found = content.windows(key.len()).any(|window| window == key.as_bytes());
        assert!(!found, "{object} holds the key");
    }
}

#[test]
fn help_version_and_keys_are_success() {
    for args in
        [&["--help"][..], &["--version"], &["wal-fetch", "--help"], &["man"], &["completions", "bash"]]
    {
        let output = run_bare(args);
        output.success();
        assert!(!output.stdout().is_empty() && output.stderr().is_empty(), "{output}");
    }
    let keys = [(); 2].map(|()| run_bare(&["keygen"]).success().stdout());
    assert!(keys[0].starts_with("walproof-key-1 ") && keys[0] != keys[1]);
}

#[test]
fn r24_a_key_goes_into_a_new_file_and_never_over_one() {
    let scratch = crate::support::Scratch::new();
    let path = scratch.join("key");
    let keygen = || run_bare(&["keygen", "--to", path.to_str().unwrap()]);
    keygen().success().stdout_contains("keep a copy").says_nowhere("walproof-key-1");
    let key = fs::read_to_string(&path).unwrap();
    assert!(key.starts_with("walproof-key-1 ") && key.ends_with('\n'));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    keygen().complains_with(8).stderr_contains("exists").says_nowhere(key.trim());
    assert_eq!(fs::read_to_string(&path).unwrap(), key);
    std::os::unix::fs::symlink(scratch.join("elsewhere"), scratch.join("link")).unwrap();
    run_bare(&["keygen", "--to", scratch.join("link").to_str().unwrap()]).complains_with(8);
    run_bare(&["keygen", "--to", "/nonexistent/key"]).complains_with(9);
}

/// An operator calls it from anywhere, and means the configured cluster.
#[test]
fn wal_fetch_by_hand_means_the_configured_cluster() {
    let site = Site::new(Repo::local());
    let name = site.archive_all([SEGMENT]).remove(0);
    let target = site.out.join("by hand");
    let output = site.run_altered(["wal-fetch", &name, target.to_str().unwrap()], |command| {
        command.current_dir("/");
    });
    output.success();
    assert_eq!(fs::read(&target).unwrap(), site.original(&name));
}

#[test]
fn a_log_in_json_is_nothing_but_json() {
    let site = Site::with(Repo::local(), |builder| builder.toml("[log]\nformat = \"json\""));
    let key = site.key();
    let name = site.archive(&site.data.wal(SEGMENT));
    let target = site.out.join("x");
    let absent = site.data.wal(SEGMENT + 1).name();
    for (speaks, args) in [
        (true, vec!["wal-push", "-vv", &name]),
        (false, vec!["wal-fetch", "-vv", &name, target.to_str().unwrap()]),
        (true, vec!["wal-push", "-vv", &absent]),
        (false, vec!["wal-list", "-vv"]),
    ] {
        let output = site.walproof.run(&args);
        output.says_nowhere(&key);
        let lines = output.stderr();
        assert!(!speaks || !lines.is_empty(), "{args:?} logs nothing");
        for line in lines.lines() {
            let object: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{args:?}: {error}: {line}"));
            for field in ["timestamp", "level", "message"] {
                assert!(object[field].is_string(), "{args:?} logs no {field}: {line}");
            }
        }
    }
}
