//! What an operator meets: `check`, failures as JSON, pages and completions, the wrong user.

use crate::support::archived::{Archived, PATIENCE};
use crate::support::postgres::Cluster;
use crate::support::process::{self, Output};
use crate::support::site::{Site, file_names};
use crate::support::{Daemon, Repo, Scratch, Walproof, program};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

/// The line of `check` with this name.
#[track_caller]
fn line<'a>(text: &'a str, name: &str) -> &'a str {
    let named = |line: &&str| line.get(6..).is_some_and(|rest| rest.starts_with(name));
    text.lines().find(named).unwrap_or_else(|| panic!("no line {name} in\n{text}"))
}

#[track_caller]
fn check(walproof: &Walproof, code: i32) -> String {
    let output = walproof.run(["check"]);
    assert_eq!(output.code(), code, "{output}");
    output.stdout()
}

impl Archived {
    /// Let PostgreSQL archive through a script of this text, whose name says nothing.
    #[track_caller]
    fn archive_through(&self, text: &str) {
        let script = self.scratch.file("archive.sh", format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        self.cluster.set("archive_command", &format!("{} %p", script.display())).reload();
    }
}

#[test]
fn check_lets_a_wrapper_prove_that_it_archives() {
    let archived = Archived::start(Repo::local());
    let push = archived.walproof.archive_command().replace("%p", "\"$1\"");
    archived.archive_through(&format!("exec {push}"));
    let text = check(&archived.walproof, 0);
    assert!(line(&text, "archive_command").starts_with("OK  "), "{text}");
    let proof = line(&text, "archiving");
    assert!(proof.starts_with("OK  ") && proof.contains("arrived in the repository"), "{text}");
    // The second time the file that was archived last is proof enough: none is finished for it.
    let segment = || archived.cluster.psql("select pg_walfile_name(pg_current_wal_lsn())");
    let before = segment();
    check(&archived.walproof, 0);
    assert_eq!(segment(), before);

    let impatient = archived.configured("[archive]\ntimeout = \"2s\"");
    archived.archive_through("exit 0");
    let text = check(&impatient, 1);
    let proof = line(&text, "archiving");
    assert!(proof.starts_with("FAIL") && proof.contains("after 2 s"), "{text}");
}

#[test]
fn check_does_not_take_the_daemons_deeds_for_the_commands() {
    let archived = Archived::start(Repo::local());
    let daemon = Daemon::start_whole(&archived.walproof);
    archived.archive_through("exit 0");
    let text = check(&archived.walproof, 0);
    let proof = line(&text, "archiving");
    assert!(proof.starts_with("WARN") && proof.contains("arrived in the repository"), "{text}");
    drop(daemon);
    archived.cluster.psql("create table t as select 1 as n");
    archived.cluster.wait_archived(&archived.cluster.switch_wal(), PATIENCE);
    let text = check(&archived.configured("[archive]\ntimeout = \"2s\""), 1);
    assert!(line(&text, "archiving").starts_with("FAIL"), "{text}");
}

#[test]
fn check_looks_for_the_program_that_archives() {
    let archived = Archived::start(Repo::local());
    archived.cluster.set("archive_command", "/nowhere/bin/walproof wal-push %p").reload();
    let text = check(&archived.walproof, 1);
    let program = line(&text, "archive_command");
    assert!(program.starts_with("FAIL") && program.contains("no program /nowhere/bin/walproof"), "{text}");
}

#[test]
fn check_says_where_it_cannot_tell() {
    let archived = Archived::start(Repo::local());
    archived.archive_through("exit 0");
    let mut standby = Cluster::standby_of(&archived.cluster);
    standby.start();
    let builder = Walproof::builder(archived.repo().clone()).cluster(&standby).key_of(&archived.walproof);
    let text = check(&builder.build(), 0);
    let proof = line(&text, "archiving");
    assert!(proof.starts_with("WARN") && proof.contains("a standby cannot finish a segment"), "{text}");

    archived.cluster.psql(
        "create role watcher login in role pg_read_all_settings;
         revoke execute on function pg_switch_wal() from public",
    );
    let conninfo = archived.cluster.conninfo().replace("user=postgres", "user=watcher");
    let builder = Walproof::builder(archived.repo().clone()).data_dir(archived.cluster.data_dir());
    let watcher = builder.conninfo(&conninfo).key_of(&archived.walproof).build();
    let text = watcher.run(["check"]).stdout();
    let proof = line(&text, "archiving");
    assert!(proof.starts_with("WARN") && proof.contains("may not execute pg_switch_wal"), "{text}");
    assert!(line(&text, "same server").starts_with("OK  "), "{text}");
}

#[test]
fn check_expects_no_database_where_backups_are_only_restored() {
    let archived = Archived::start(Repo::local());
    archived.backup();
    let staging = || Walproof::builder(archived.repo().clone()).key_of(&archived.walproof);
    let scratch = Scratch::new();
    let empty = scratch.dir("empty");
    for walproof in [
        staging().build(),
        // The configuration of the database's host, as it is.
        staging().data_dir(Path::new("/nowhere/main")).conninfo("host=/nowhere user=postgres").build(),
        staging().data_dir(&empty).conninfo("host=/nowhere user=postgres").build(),
    ] {
        let text = check(&walproof, 0);
        assert!(!text.contains("FAIL") && !text.contains("WARN"), "{text}");
        assert!(line(&text, "database").contains("not on this host"), "{text}");
        assert!(line(&text, "backups").starts_with("OK    backups"), "{text}");
    }
    // Where a daemon runs, a data directory that is not there is one that is not mounted.
    let unmounted =
        staging().data_dir(Path::new("/nowhere/main")).conninfo("host=/nowhere user=postgres").build();
    let daemon = Daemon::start(&unmounted);
    let text = check(&unmounted, 1);
    assert!(line(&text, "database").starts_with("FAIL"), "{text}");
    drop(daemon);
    // A database's host is one also while its server is down.
    let mut archived = archived;
    archived.cluster.kill9();
    assert!(line(&check(&archived.walproof, 1), "server").starts_with("FAIL"));
}

#[test]
fn check_looks_at_the_backups() {
    let archived = Archived::start(Repo::local());
    assert!(line(&check(&archived.walproof, 0), "backups").starts_with("WARN  backups           none yet"));
    let id = archived.backup()["id"].as_str().unwrap().to_owned();
    let text = check(&archived.walproof, 0);
    assert!(line(&text, "backups").contains(&id), "{text}");

    // What another user made, such as root.
    let objects = archived.repo().dir().unwrap();
    let manifest = objects.join(archived.repo().key("watch/backups/"));
    let packs = objects.join(&archived.repo().keys("/packs/")[0]);
    for closed in [manifest.as_path(), packs.parent().unwrap()] {
        let mode = fs::metadata(closed).unwrap().permissions();
        fs::set_permissions(closed, fs::Permissions::from_mode(0o000)).unwrap();
        let text = check(&archived.walproof, 1);
        let backups = line(&text, "backups");
        assert!(backups.starts_with("FAIL") && backups.contains("ermission"), "{text}");
        fs::set_permissions(closed, mode).unwrap();
    }

    archived.repo().flip_bit(&archived.repo().key("watch/backups/"), 100);
    let text = check(&archived.walproof, 1);
    assert!(line(&text, "backups").starts_with("FAIL") && text.contains(&id), "{text}");
    archived.backup();
    let text = check(&archived.walproof, 1);
    assert!(
        line(&text, "backups").starts_with("FAIL"),
        "an older one: `status` calls it critical, too: {text}"
    );
    assert_eq!(text.matches("FAIL").count(), 1, "once is enough: {text}");
}

/// R31: what `verify` found, and what the daemon knows.
#[test]
fn check_is_not_content_with_what_a_restore_would_trip_over() {
    let archived = Archived::start(Repo::local());
    let id = archived.backup()["id"].as_str().unwrap().to_owned();
    assert!(archived.backups()[0]["harm"].is_null());
    archived.repo().flip_bit(&archived.repo().keys("/packs/")[0], 300);
    archived.walproof.run(["verify", "--content"]).fails_with(1);
    let expect = |who: &str| {
        let text = check(&archived.walproof, 1);
        let backups = line(&text, "backups");
        let named =
            backups.starts_with("FAIL") && backups.contains(&format!("backup {id} cannot be restored"));
        assert!(named && text.contains("FAIL  problem           verify_failed: "), "{who}: {text}");
    };
    expect("the repository tells");
    let daemon = Daemon::start_whole(&archived.walproof);
    daemon.wait("it knows", |status| status.to_string().contains("verify_failed"));
    expect("the daemon tells");
    assert!(archived.backups()[0]["harm"].as_str().unwrap().contains("cannot be restored"));
    let listed = archived.walproof.run(["backup-list"]);
    listed.success().stdout_contains(&format!("\nHARMED: backup {id} cannot be restored: "));
    archived.walproof.run(["backup-show", &id]).success().stdout_contains("HARMED: ");
}

/// A standby whose conninfo leads to the primary (a virtual IP address): same identifier, version and path.
#[test]
fn r10_the_server_that_answers_is_the_process_in_the_data_directory() {
    let mut archived = Archived::start(Repo::local());
    assert!(line(&check(&archived.walproof, 0), "same server").starts_with("OK  "));
    let mut standby = Cluster::standby_of(&archived.cluster);
    let path = archived.cluster.data_dir().to_owned();
    let away = path.with_extension("away");
    // The primary works on in its directory, which has another name now.
    fs::rename(&path, &away).unwrap();
    fs::rename(standby.data_dir(), &path).unwrap();
    let refused = archived.walproof.run(["backup-push"]);
    refused.fails_with(6).stderr_contains("a server answers, but none runs in");

    let mut here = Cluster::attach(&path);
    here.start();
    let refused = archived.walproof.run(["backup-push"]);
    refused.fails_with(6).stderr_contains("is not the process in").stderr_contains("virtual IP address");
    let text = check(&archived.walproof, 1);
    assert!(line(&text, "same server").starts_with("FAIL"), "{text}");
    let ours = Walproof::builder(archived.repo().clone()).cluster(&here).key_of(&archived.walproof).build();
    // All but what the refused backups left.
    let text = check(&ours, 1);
    assert!(line(&text, "same server").starts_with("OK  "), "{text}");
    assert!(line(&text, "problem").contains("backup_failed"), "{text}");
    here.kill9();
    archived.cluster.kill9();
    standby.kill9();
}

/// The same as whoever runs the tests, which is root in most places.
fn as_ourselves<const N: usize>(walproof: &Walproof, args: [&str; N]) -> Output {
    let mut command = Command::new(program::walproof());
    command.args(args).arg("--config").arg(walproof.config()).current_dir("/").env("LC_ALL", "C");
    process::run(command, b"", PATIENCE)
}

#[test]
fn root_leaves_nothing_in_a_repository_that_its_owner_could_not_use() {
    let archived = Archived::start(Repo::local());
    let is_root = rustix::process::geteuid().is_root();
    let backup = as_ourselves(&archived.walproof, ["backup-push", "-q"]);
    let init = as_ourselves(&archived.walproof, ["init"]);
    if is_root {
        backup.complains_with(2).stderr_contains("belongs to user").hints("sudo -u");
        init.complains_with(2).hints("sudo -u");
        // Looking does no harm.
        as_ourselves(&archived.walproof, ["backup-list"]).success();
        let text = as_ourselves(&archived.walproof, ["check"]).stdout();
        assert!(line(&text, "store test").starts_with("FAIL"), "{text}");
    } else {
        backup.success();
        init.success();
    }
    let dir = archived.repo().dir().unwrap();
    let owner = fs::metadata(dir).unwrap().uid();
    for path in crate::support::site::files_below(dir) {
        assert_eq!(fs::metadata(&path).unwrap().uid(), owner, "{}", path.display());
    }
    archived.backup();
}

#[test]
fn init_as_root_makes_no_directory_that_the_server_could_not_use() {
    let scratch = Scratch::new();
    let site = Site::uninitialised(Repo::local_at(scratch.join("new")), |builder| builder);
    let init = as_ourselves(&site.walproof, ["init"]);
    if rustix::process::geteuid().is_root() {
        init.complains_with(2).hints("sudo install -d -m 700 -o ");
        assert!(!scratch.join("new").exists());
        site.walproof.run(["init"]).success();
    } else {
        init.success();
    }
}

#[test]
fn init_says_how_to_make_a_directory_that_it_may_not_make() {
    let site = Site::uninitialised(Repo::local_at("/nowhere-for-backups"), |builder| builder);
    let refused = site.walproof.run(["init"]);
    refused.complains_with(9).hints("sudo install -d -m 700 -o ").hints("/nowhere-for-backups");
}

#[test]
fn r26_failures_are_documents_too_with_json() {
    let site = Site::new(Repo::local());
    let absent = site.data.wal(9).name();
    for (args, code, kind) in [
        (vec!["backup-show", "20261122T130000Z-00000001"], 8, "impossible"),
        (vec!["wal-push", "no-name"], 2, "usage"),
        (vec!["wal-fetch", &absent, "x"], 1, "not_found"),
        (vec!["wal-fetch", "no-name", "x"], 202, "usage"),
        (vec!["backup-push"], 2, "usage"),
        (vec!["wal-list", "--frobnicate"], 2, "usage"),
        (vec!["restore", "--to", "/nowhere/data"], 8, "impossible"),
    ] {
        let output = site.walproof.run(args.iter().copied().chain(["--json"]));
        let document = output.fails_with(code).json();
        let error = &document["error"];
        assert_eq!(error["kind"], kind, "{output}");
        assert_eq!(error["exit_code"], code, "{output}");
        let message = error["message"].as_str().unwrap();
        assert!(!message.is_empty() && (code == 1 || output.stderr().contains(message)), "{output}");
        assert!(error["hint"].is_string() || error["hint"].is_null(), "{output}");
    }
}

fn run_bare(args: &[&str]) -> Output {
    let mut command = process::command(program::walproof());
    command.args(args);
    process::run(command, b"", process::TIMEOUT)
}

#[test]
fn help_tells_what_there_is_and_nothing_else() {
    let help = run_bare(&["--help"]);
    help.success().stdout_contains("\nGlobal options:\n").stdout_contains("(check, verify, drill,");
    run_bare(&["drill", "--help"]).success().stdout_contains("--target-time").says_nowhere("--target-action");
    run_bare(&["restore", "--help"]).success().stdout_contains("--target-action");
    let with_config = |value: &str, args: &[&str]| {
        let mut command = process::command(program::walproof());
        command.args(args).env("WALPROOF_CONFIG", value);
        process::run(command, b"", process::TIMEOUT)
    };
    let bare = with_config("/etc/walproof/other.toml", &[]);
    assert!((bare.stdout() + &bare.stderr()).contains("Commands:\n"), "{bare}");
    bare.fails_with(2).says_nowhere("wal-prefetch");
    with_config("/nowhere/other.toml", &["status"]).complains_with(2).stderr_contains("/nowhere/other.toml");
    with_config("", &["status"]).says_nowhere("a value is required").says_nowhere("'--config");
    with_config("", &["explain"]).success();
}

#[test]
fn what_is_not_there_yet_is_hinted_at() {
    let scratch = Scratch::new();
    let site = Site::uninitialised(Repo::local_at(scratch.join("new")), |builder| {
        builder.toml(&format!("[drill]\nsigning_key_file = \"{}\"", scratch.join("drill.key").display()))
    });
    site.walproof.run(["check"]).fails_with(1).stdout_contains("walproof init");
    site.walproof.run(["backup-list"]).complains_with(4).hints("walproof init");
    site.walproof.run(["drill"]).complains_with(2).hints("drill-keygen --to");
}

/// The commands that `help` lists.
fn commands() -> BTreeSet<String> {
    let help = run_bare(&["--help"]).stdout();
    let (_, listed) = help.split_once("Commands:\n").unwrap();
    let listed = listed.lines().take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    names
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn every_manual_page_that_is_named_exists() {
    let scratch = Scratch::new();
    let to = scratch.dir("man");
    let commands = commands();
    assert!(commands.contains("backup-push") && !commands.contains("wal-prefetch"), "{commands:?}");
    run_bare(&["man", "--to", to.to_str().unwrap()]).success();
    let pages: BTreeSet<String> =
        file_names(&to).into_iter().map(|name| name.into_string().unwrap()).collect();
    let mut expected: BTreeSet<String> = commands.iter().map(|name| format!("walproof-{name}.1")).collect();
    expected.insert("walproof.1".to_owned());
    assert_eq!(pages, expected);

    let main = fs::read_to_string(to.join("walproof.1")).unwrap();
    let main = main.replace("\\-", "-");
    for word in main.split_whitespace().filter(|word| word.starts_with("walproof-") && word.contains("(1)")) {
        let name = word.split("(1)").next().unwrap();
        assert!(pages.contains(&format!("{name}.1")), "{word} is named and does not exist");
    }
    for name in &commands {
        assert!(main.contains(&format!("walproof-{name}(1)")), "{name}: {main}");
        let page = run_bare(&["man", name]).success().stdout().replace("\\-", "-");
        assert!(page.contains(&format!(".TH walproof-{name} 1")), "{page}");
        assert!(
            page.contains(&format!("walproof {name}")) || page.contains(&format!("walproof-{name}")),
            "{page}"
        );
    }
    run_bare(&["man", "no-such"]).complains_with(2).stderr_contains("no-such");
    run_bare(&["man", "init", "--to", "/nowhere"]).complains_with(2);
}

/// What bash offers after these words and a TAB, in a directory with a file `a-file` and a directory `a-dir`; and what
/// it is told of them: `plusdirs` adds directories, `filenames` says that they are names of files.
fn offered(dir: &Path, script: &Path, words: &[&str]) -> Vec<String> {
    let mut bash = process::command("bash");
    let line = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let ask = format!(
        ". {}; cd {}; compopt() {{ echo \"compopt $2\"; }}; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
         _walproof walproof \"${{COMP_WORDS[$COMP_CWORD]}}\" \"${{COMP_WORDS[$COMP_CWORD - 1]}}\"; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display(),
        dir.display()
    );
    bash.args(["--norc", "-c", &ask]);
    let text = process::run(bash, b"", PATIENCE).success().stdout();
    let mut offered: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    offered.sort();
    offered
}

#[test]
fn completions_offer_what_fits() {
    let scratch = Scratch::new();
    let dir = scratch.dir("here");
    fs::create_dir(dir.join("a-dir")).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.join("a-file"), "").unwrap();
    let script = scratch.file("completions", run_bare(&["completions", "bash"]).success().stdout());
    let offered = |words: &[&str]| offered(&dir, &script, words);
    assert_eq!(offered(&["walproof", "restore", "--to", "a-"]), ["compopt plusdirs"]);
    assert_eq!(offered(&["walproof", "man", "--to", "a-"]), ["compopt plusdirs"]);
    assert_eq!(offered(&["walproof", "check", "--config", "a-"]), ["a-dir", "a-file", "compopt filenames"]);
    let no_file = ["a-", "compopt nospace"];
    assert_eq!(offered(&["walproof", "restore", "--backup", "a-"]), no_file, "an id is not a file");
    assert_eq!(offered(&["walproof", "restore", "--target-time", "a-"]), no_file);
    let commands: Vec<String> = offered(&["walproof", "wal-"]);
    assert_eq!(commands, ["wal-fetch", "wal-list", "wal-push"]);
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        run_bare(&["completions", shell]).success().says_nowhere("wal-prefetch");
    }
}

#[test]
fn fish_and_zsh_take_the_completions() {
    let scratch = Scratch::new();
    let dir = scratch.dir("here");
    fs::create_dir(dir.join("a-dir")).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.join("a-file"), "").unwrap();
    let script = scratch.file("walproof.fish", run_bare(&["completions", "fish"]).success().stdout());
    let offered = |line: &str| -> Vec<String> {
        let ask = format!("source {}; cd {}; complete -C '{line}'", script.display(), dir.display());
        let mut fish = process::command("fish");
        fish.args(["--no-config", "-c", &ask]).env("HOME", dir.as_os_str());
        let text = process::run(fish, b"", PATIENCE).success().stdout();
        text.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    };
    assert_eq!(offered("walproof wal-"), ["wal-fetch", "wal-list", "wal-push"]);
    assert_eq!(offered("walproof restore --to a-"), ["a-dir/"]);
    assert_eq!(offered("walproof restore --backup a-"), [""; 0], "an id is not a file");
    assert_eq!(offered("walproof drill-report --format "), ["html", "json", "text"]);

    let script = scratch.file("_walproof", run_bare(&["completions", "zsh"]).success().stdout());
    let mut zsh = process::command("zsh");
    let ask = format!(
        "fpath=({} $fpath); autoload -Uz compinit && compinit -D -u && autoload +X -U _walproof && print $_comps[walproof]",
        script.parent().unwrap().display()
    );
    zsh.args(["-f", "-c", &ask]);
    assert_eq!(process::run(zsh, b"", PATIENCE).success().stdout().trim(), "_walproof");
}
