//! A restore killed at a system call, and begun again: the result is that of one that was never killed (R18).
//!
//! Some calls of each kind are tried, and all with `WALPROOF_TEST_EVERY_CALL=1`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use super::delta::{Tree, assert_same, tree};
use crate::support::account::Account;
use crate::support::archived::{attach_silent, wait_open};
use crate::support::kill_at::{Ended, kill_at};
use crate::support::{Archived, Random, Repo};

const PLACES: [&str; 2] = ["kept", "emptied"];

/// A small cluster with two tablespaces, its backup, a fresh restore of it, and what another one became.
struct Ground {
    archived: Archived,
    fresh: [Tree; 3],
    spoiled: [Tree; 3],
}

impl Ground {
    fn new() -> Self {
        let archived = Archived::start(Repo::local());
        archived.cluster.psql("update pg_database set datistemplate = false where datname like 'template_'");
        for name in ["template0", "template1"] {
            archived.cluster.psql(&format!("drop database {name}"));
        }
        for name in PLACES {
            let place = archived.scratch.dir(&format!("was-{name}"));
            archived.cluster.psql(&format!("create tablespace {name} location '{}'", place.display()));
            archived
                .cluster
                .psql(&format!("create table {name} tablespace {name} as select generate_series(1, 5000) n"));
        }
        archived.backup();
        archived.archive_all();
        let mut ground = Self { archived, fresh: Default::default(), spoiled: Default::default() };
        ground.archived.walproof.run(ground.arguments(&[])).success();
        ground.fresh = ground.trees();
        spoil(&ground.paths());
        ground.spoiled = ground.trees();
        for path in ground.paths() {
            fs::rename(&path, path.with_extension("spoiled")).unwrap();
        }
        ground
    }

    /// The data directory, and where the tablespaces go.
    fn paths(&self) -> [PathBuf; 3] {
        ["data", "kept", "emptied"].map(|name| self.archived.target(name))
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let [data, ..] = self.paths();
        let mut arguments =
            vec!["restore".to_owned(), format!("--to={}", data.display()), "--archive-mode=off".to_owned()];
        arguments.extend(PLACES.iter().map(|name| {
            let (was, is) = (self.archived.target(&format!("was-{name}")), self.archived.target(name));
            format!("--tablespace={}={}", was.display(), is.display())
        }));
        arguments.extend(more.iter().map(ToString::to_string));
        arguments
    }

    fn trees(&self) -> [Tree; 3] {
        self.paths().map(|path| tree(&path))
    }

    fn remove(&self) {
        for path in self.paths().iter().filter(|path| path.exists()) {
            fs::remove_dir_all(path).unwrap();
        }
    }

    fn put_back(&self) {
        self.remove();
        for path in self.paths() {
            let copied = Command::new("cp").arg("-a").arg(path.with_extension("spoiled")).arg(&path).status();
            assert!(copied.unwrap().success());
        }
    }

    /// What is there is unfinished, and no server starts in it, or it is whole: as it was, or as restored.
    #[track_caller]
    fn assert_not_half_done(&self, when: &str) {
        let [data, ..] = self.paths();
        if !data.join("global/pg_control").exists() {
            return;
        }
        let mut found = self.trees();
        for tree in &mut found {
            tree.retain(|path, _| !path.to_string_lossy().contains("walproof"));
        }
        assert!(
            found == self.spoiled || found == self.fresh,
            "{when}: pg_control is in a directory that is half done"
        );
    }

    #[track_caller]
    fn assert_as_fresh(&self, when: &str) {
        for (path, fresh) in self.paths().iter().zip(&self.fresh) {
            assert_same(&tree(path), fresh, when);
        }
    }

    /// Kill the command `arguments` at the calls that `choose` names of so many, and begin it again until it is done;
    /// it is killed once more on the way.
    fn try_calls(&self, arguments: &[String], before: impl Fn()) {
        let line = self.archived.walproof.command(arguments);
        let control = self.paths()[0].join("global/pg_control");
        before();
        let Ended::Exited { code: 0, calls } = kill_at(&line, u64::MAX) else {
            panic!("{arguments:?} fails")
        };
        self.assert_as_fresh("never killed");
        let mut random = Random::from_seed("kill at calls");
        let mut twice = 0;
        let numbers = chosen(calls, &mut random);
        for &number in &numbers {
            let number = kill(&line, number, &before, &mut random);
            let when = format!("killed at call {number} of {calls}");
            self.assert_not_half_done(&when);
            // One that was killed after its last step is whole, and without --delta is left alone.
            let goes_on = || arguments.iter().any(|word| word == "--delta") || !control.exists();
            if goes_on() {
                let second = 1 + random.below(calls);
                let when = format!("{when}, and then at {second}");
                if kill_at(&line, second) == Ended::Killed {
                    twice += 1;
                    self.assert_not_half_done(&when);
                }
            }
            if goes_on() {
                let done = self.archived.walproof.run(arguments);
                assert_eq!(done.code(), 0, "{when}: {done}");
            }
            self.assert_as_fresh(&when);
        }
        println!("{calls} calls, killed at {}, and {twice} times once more", numbers.len());
        assert!(numbers.len() >= 20);
    }
}

/// Kill the command at the call `number`, and say which it was: threads share the work anew in every run, so that
/// one may take some calls fewer than another, and is done before the call comes. Then it is one of its last.
fn kill(line: &Command, mut number: u64, before: impl Fn(), random: &mut Random) -> u64 {
    loop {
        before();
        match kill_at(line, number) {
            Ended::Killed => return number,
            Ended::Exited { code, calls } => {
                assert_eq!(code, 0, "{line:?}, which nobody killed");
                number = calls - random.below(24);
            }
        }
    }
}

/// All calls, or some of those with which a restore begins and ends, and a few between.
fn chosen(calls: u64, random: &mut Random) -> Vec<u64> {
    if std::env::var_os("WALPROOF_TEST_EVERY_CALL").is_some() {
        return (1..=calls).collect();
    }
    let spread = (0..8).map(|step| 16 + step * calls.saturating_sub(40) / 8);
    let last = calls - 24 - random.below(2)..=calls;
    (1..16).step_by(3).chain(spread).chain(last.step_by(2)).collect()
}

/// What may have become of a restored directory.
fn spoil([data, kept, emptied]: &[PathBuf; 3]) {
    for root in [&data.join("base"), kept] {
        for (path, _) in tree(root) {
            super::delta::spoil_pages(&root.join(path), 3);
        }
    }
    let database = fs::read_dir(data.join("base")).unwrap().next().unwrap().unwrap().path();
    let file = |name: &str| database.join(name);
    fs::remove_file(file("1259")).unwrap();
    fs::write(file("2619"), "short").unwrap();
    fs::remove_file(file("1247")).unwrap();
    fs::create_dir(file("1247")).unwrap();
    fs::remove_file(file("1249")).unwrap();
    symlink("/nonexistent", file("1249")).unwrap();
    fs::hard_link(file("1255"), data.join("base/second-name")).unwrap();
    fs::set_permissions(file("2604"), fs::Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(data.join("pg_subtrans"), fs::Permissions::from_mode(0o500)).unwrap();
    fs::remove_dir(data.join("pg_twophase")).unwrap();
    for path in ["base/99999/deep/x", "standby.signal"] {
        fs::create_dir_all(data.join(path).parent().unwrap()).unwrap();
        fs::write(data.join(path), "x").unwrap();
    }
    for entry in fs::read_dir(emptied).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    for path in [data, kept, emptied] {
        Account::get().own_all(path);
    }
}

#[test]
fn r18_a_delta_restore_killed_at_a_call_goes_on() {
    let ground = Ground::new();
    ground.try_calls(&ground.arguments(&["--delta"]), || ground.put_back());
    for (name, path) in PLACES.iter().zip(&ground.paths()[1..]) {
        let links = fs::read_dir(ground.archived.target("data/pg_tblspc")).unwrap();
        let leads = links.map(|link| fs::read_link(link.unwrap().path()).unwrap()).any(|to| to == *path);
        assert!(leads, "no link to the place of {name}");
    }
    let mut server = attach_silent(&ground.archived.target("data"));
    server.start();
    wait_open(&server);
    assert_eq!(server.psql("select (select sum(n) from kept) = (select sum(n) from emptied)"), "t");
}

#[test]
fn r18_a_restore_killed_at_a_call_goes_on() {
    let ground = Ground::new();
    ground.try_calls(&ground.arguments(&[]), || ground.remove());
}

#[test]
fn r18_a_restore_that_lacked_its_last_step_is_completed_and_another_state_is_refused() {
    let ground = Ground::new();
    let [data, ..] = ground.paths();
    let before_the_last_step = || {
        ground.remove();
        ground.archived.walproof.run(ground.arguments(&[])).success();
        fs::rename(data.join("global/pg_control"), data.join("global/pg_control.walproof")).unwrap();
    };
    before_the_last_step();
    let other = ground.archived.walproof.run(ground.arguments(&["--target-immediate"]));
    other.fails_with(8).stderr_contains("is now complete").stderr_contains("--delta");
    ground.assert_as_fresh("after another was asked for");
    before_the_last_step();
    ground.archived.walproof.run(ground.arguments(&["--target-immediate", "--delta"])).success();
    let settings = fs::read_to_string(data.join("postgresql.auto.conf")).unwrap();
    assert!(settings.contains("recovery_target = 'immediate'"), "{settings}");
}
