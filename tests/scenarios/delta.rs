//! `restore --delta`: into this cluster's own directory, and the result is what a fresh restore gives.

use crate::support::account::Account;
use crate::support::archived::{PATIENCE, attach_silent, wait_open};
use crate::support::postgres::{Cluster, StopMode};
use crate::support::s3::{Fault, S3Server, Verb};
use crate::support::{Archived, Repo, holds_within};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

const ROWS: &str = "select string_agg(n::text, ' ' order by n) from t";

/// Permissions, and what files hold. Where links lead is left out.
pub(crate) type Tree = BTreeMap<PathBuf, (u32, Option<Vec<u8>>)>;

/// Everything below `dir`.
pub(crate) fn tree(dir: &Path) -> Tree {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = metadata.is_file().then(|| fs::read(&path).unwrap());
            if metadata.is_dir() {
                open.push(path.clone());
            }
            let mode = if metadata.is_symlink() { 0 } else { metadata.permissions().mode() };
            found.insert(path.strip_prefix(dir).unwrap().to_owned(), (mode, content));
        }
    }
    found
}

#[track_caller]
pub(crate) fn assert_same(here: &Tree, there: &Tree, when: &str) {
    let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(here), names(there), "{when}");
    for (path, entry) in here {
        assert!(
            there[path] == *entry,
            "{when}: {} differs: modes {:o} and {:o}",
            path.display(),
            entry.0,
            there[path].0
        );
    }
}

/// A cluster with a tablespace, a backup, and restores of it with the tablespace beside them.
struct Restored {
    archived: Archived,
    place: PathBuf,
}

impl Restored {
    fn new(repo: Repo) -> Self {
        let archived = Archived::start(repo);
        let place = archived.scratch.dir("place");
        archived.cluster.psql(&format!("create tablespace place location '{}'", place.display()));
        archived.cluster.pgbench(["-i", "-q", "-s", "1", "--tablespace=place"]);
        archived.cluster.psql("create table t (n int); insert into t values (1)");
        archived.backup();
        archived.cluster.psql("insert into t values (2)");
        archived.archive_all();
        Self { archived, place }
    }

    fn arguments(&self, name: &str, more: &[&str]) -> Vec<String> {
        let (to, place) = (self.archived.target(name), self.place_of(name));
        let mut arguments = vec![
            "restore".to_owned(),
            "--to".to_owned(),
            to.display().to_string(),
            format!("--tablespace={}={}", self.place.display(), place.display()),
            "--archive-mode=off".to_owned(),
        ];
        arguments.extend(more.iter().map(ToString::to_string));
        arguments
    }

    fn place_of(&self, name: &str) -> PathBuf {
        self.archived.target(&format!("{name}-place"))
    }

    /// A fresh restore.
    #[track_caller]
    fn fresh(&self, name: &str) -> PathBuf {
        self.archived.walproof.run(self.arguments(name, &[])).success();
        self.archived.target(name)
    }

    /// A restored cluster that lived on for a while, and is at rest; with what nobody put there on purpose.
    #[track_caller]
    fn used(&self, name: &str) -> PathBuf {
        let to = self.fresh(name);
        let mut server = attach_silent(&to);
        server.start();
        wait_open(&server);
        server.psql("insert into t select generate_series(10, 20)");
        server.psql("update pgbench_accounts set abalance = 7 where aid % 500 = 0");
        server.psql("create table more as select generate_series(1, 5000)");
        server.psql("drop table pgbench_history");
        server.stop(StopMode::Fast);
        fs::create_dir_all(to.join("base/99999/deep")).unwrap();
        for path in ["base/stray", "base/99999/deep/x", "standby.signal"] {
            fs::write(to.join(path), "x").unwrap();
        }
        for path in ["base/99999", "base/99999/deep", "base/stray", "base/99999/deep/x", "standby.signal"] {
            Account::get().own(&to.join(path));
        }
        fs::set_permissions(to.join("PG_VERSION"), fs::Permissions::from_mode(0o400)).unwrap();
        to
    }

    #[track_caller]
    fn assert_as_fresh(&self, name: &str, fresh: &str) {
        let same = |one: &Path, other: &Path| assert_same(&tree(one), &tree(other), name);
        same(&self.archived.target(name), &self.archived.target(fresh));
        same(&self.place_of(name), &self.place_of(fresh));
    }

    #[track_caller]
    fn assert_opens(&self, name: &str) {
        let mut server = attach_silent(&self.archived.target(name));
        server.start();
        wait_open(&server);
        assert_eq!(server.psql(ROWS), "1 2");
        assert_eq!(server.psql("select sum(abalance) from pgbench_accounts"), "0");
    }
}

#[test]
fn r17_delta_gives_what_a_fresh_restore_gives_and_fetches_what_differs() {
    let restored = Restored::new(Repo::local());
    restored.fresh("fresh");
    restored.used("used");
    // A dry run touches nothing.
    let before = tree(&restored.archived.target("used"));
    restored.archived.walproof.run(restored.arguments("used", &["--delta", "--dry-run"])).success();
    assert!(tree(&restored.archived.target("used")) == before);

    let done = restored.archived.walproof.json(restored.arguments("used", &["--delta"]));
    let (found, all) = (done["bytes_found"].as_u64().unwrap(), done["bytes"].as_u64().unwrap());
    assert!(found > all / 2 && found < all, "{found} of {all}");
    restored.assert_as_fresh("used", "fresh");
    restored.assert_opens("used");

    // Nothing to keep is a restore like any other, and one with targets is one, too.
    restored.archived.walproof.run(restored.arguments("empty", &["--delta"])).success();
    restored.assert_as_fresh("empty", "fresh");
    restored.archived.walproof.run(restored.arguments("exact", &["--target-immediate"])).success();
    restored.used("again");
    restored.archived.walproof.run(restored.arguments("again", &["--delta", "--target-immediate"])).success();
    restored.assert_as_fresh("again", "exact");
}

#[test]
fn r17_delta_refuses_what_is_not_provably_this_cluster_at_rest() {
    let restored = Restored::new(Repo::local());
    let archived = &restored.archived;
    let delta = |to: &Path, more: &[&str]| {
        let to = to.to_str().unwrap();
        archived.try_restore(Path::new(to), ["--delta"].iter().chain(more).copied())
    };
    // A server runs in it.
    delta(archived.cluster.data_dir(), &[]).fails_with(8).stderr_contains("a server runs in");
    assert_eq!(archived.cluster.psql(ROWS), "1 2");

    let other = Cluster::builder().create();
    let before = tree(other.data_dir());
    delta(other.data_dir(), &[]).fails_with(8).stderr_contains("system identifier");
    assert!(tree(other.data_dir()) == before);

    let precious = archived.scratch.dir("precious");
    fs::write(precious.join("data"), "data").unwrap();
    delta(&precious, &[]).fails_with(8).stderr_contains("--delta");
    assert_eq!(tree(&precious).len(), 1);

    // A tablespace's new place is used by nothing of this cluster.
    restored.used("used");
    let foreign = archived.scratch.dir("foreign");
    let version = fs::read_dir(restored.place_of("used")).unwrap().next().unwrap().unwrap().file_name();
    fs::create_dir(foreign.join(&version)).unwrap();
    fs::write(foreign.join(&version).join("data"), "data").unwrap();
    let before = tree(&archived.target("used"));
    let mapping = format!("--tablespace={}={}", restored.place.display(), foreign.display());
    delta(&archived.target("used"), &[&mapping]).fails_with(8).stderr_contains("is not empty");
    assert!(tree(&archived.target("used")) == before && tree(&foreign).len() == 2);
}

#[test]
fn r18_a_killed_delta_restore_cannot_start_and_goes_on_with_delta_only() {
    let server = S3Server::start();
    let restored = Restored::new(Repo::s3(&server));
    restored.fresh("fresh");
    let to = restored.used("used");
    let whole = tree(&to);
    // The page digests, one request a pack, are read before anything is touched.
    let packs = restored.archived.repo().keys("packs/").len() as u64;
    for answered in [0, packs, packs + 1] {
        let before = server.faults().struck();
        server.faults().clear().add(Fault::hang().on(Verb::Get).key("packs/").from(answered + 1));
        let running = restored.archived.walproof.spawn(restored.arguments("used", &["--delta"]));
        let hangs = holds_within(PATIENCE, || server.faults().struck() > before);
        let output = running.kill9();
        assert!(hangs, "after {answered} answers it does not hang: {output}");
        if answered == 0 {
            assert!(tree(&to) == whole, "after no answer");
        } else {
            // Each file is other than in the backup: whatever is fetched, is fetched for this.
            assert!(to.is_dir() && !to.join("global/pg_control").exists(), "after {answered} answers");
        }
        let refused = restored.archived.walproof.run(restored.arguments("used", &[]));
        refused.fails_with(8).stderr_contains("--delta");
    }
    assert!(tree(&to).len() > 500, "most is there");
    server.faults().clear();
    restored.archived.walproof.run(restored.arguments("used", &["--delta"])).success();
    restored.assert_as_fresh("used", "fresh");
    restored.assert_opens("used");
}

/// What is behind the link would be left there, and its place on a smaller disk be filled.
#[test]
fn r17_a_directory_that_an_operator_put_on_another_disk_is_not_taken_away() {
    let restored = Restored::new(Repo::local());
    let to = restored.fresh("used");
    let elsewhere = restored.archived.target("elsewhere");
    fs::rename(to.join("base"), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, to.join("base")).unwrap();
    let (before, behind) = (tree(&to), tree(&elsewhere));
    let refused = restored.archived.walproof.run(restored.arguments("used", &["--delta"]));
    refused.fails_with(8).stderr_contains(&format!("{} is a link", to.join("base").display()));
    assert_same(&tree(&to), &before, "refused");
    assert_same(&tree(&elsewhere), &behind, "refused");
}

/// In one page of so `many` of a larger file.
pub(crate) fn spoil_pages(path: &Path, many: usize) {
    let metadata = fs::symlink_metadata(path).unwrap();
    if metadata.is_file() && metadata.len() > 3 * 8192 {
        let file = fs::File::options().write(true).open(path).unwrap();
        for page in (0..metadata.len() / 8192).step_by(many) {
            file.write_all_at(b"changed", page * 8192 + 4000).unwrap();
        }
    }
}

/// Bytes in one page of ten of each larger file are others, one file is gone, and one is there that should not be.
fn spoil(dir: &Path, place: &Path) {
    for (path, _) in tree(&dir.join("base"))
        .into_iter()
        .map(|(path, entry)| (dir.join("base").join(path), entry))
        .chain(tree(place).into_iter().map(|(path, entry)| (place.join(path), entry)))
    {
        spoil_pages(&path, 10);
    }
    fs::remove_file(dir.join("base/1/1259")).unwrap();
    fs::write(dir.join("base/stray"), "x").unwrap();
    Account::get().own(&dir.join("base/stray"));
}

#[test]
fn r18_a_delta_restore_killed_at_any_moment_goes_on() {
    const KILLS: u32 = 12;
    let restored = Restored::new(Repo::local());
    restored.fresh("fresh");
    let to = restored.fresh("used");
    let delta = restored.arguments("used", &["--delta"]);
    spoil(&to, &restored.place_of("used"));
    let begun = std::time::Instant::now();
    restored.archived.walproof.run(&delta).success();
    let whole = begun.elapsed();
    restored.assert_as_fresh("used", "fresh");
    let mut half_done = 0;
    for kill in 0..KILLS {
        spoil(&to, &restored.place_of("used"));
        let running = restored.archived.walproof.spawn(&delta);
        std::thread::sleep(whole * kill / KILLS);
        running.kill9();
        half_done += u32::from(!to.join("global/pg_control").exists());
        restored.archived.walproof.run(&delta).success();
        restored.assert_as_fresh("used", "fresh");
    }
    assert!(half_done >= 2, "{half_done} of {KILLS} fell into the work");
    restored.assert_opens("used");
}
