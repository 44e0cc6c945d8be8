//! The ground of the damage matrix: a repository with an object of every kind, hands that harm one of them, and the check
//! of one cell.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::support::archived::{PATIENCE, archive_all, attach_silent, wait_open};
use crate::support::drill::Staging;
use crate::support::postgres::{Cluster, StopMode};
use crate::support::scratch::write_owned;
use crate::support::{Archived, Daemon, Repo, Walproof, holds_within};

const HARMS: [&str; 5] = ["delete", "truncate", "flip", "swap", "duplicate"];
/// Nothing of the four is lost.
pub(crate) const ALL: &str = "AB<>";

type Objects = BTreeMap<String, (Vec<u8>, SystemTime)>;

/// A repository with an object of every kind.
///
/// Timeline 1: backup A, which is held, rows 1 2 3. Timeline 2: row 4, backup B, rows 5 6, and 7 in the tail alone.
pub(crate) struct Ground {
    pub(crate) archived: Archived,
    pub(crate) ids: [String; 2],
    /// An instant behind backup A and before backup B: row 2 is there, 3 is not.
    between: String,
    /// Every object as it was, with when it was put.
    sound: Objects,
}

/// One kind of object.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) victim: String,
    /// What it is swapped with: another of its kind, where there is one.
    pub(crate) partner: String,
    /// The key of its copy.
    pub(crate) copy: String,
    /// For each of [`HARMS`]: what `verify` names (v: the victim, p: its partner, c: the copy, else a part of a name), and
    /// what survives.
    pub(crate) cells: [(&'static str, &'static str); 5],
}

fn id(backup: &Value) -> String {
    backup["id"].as_str().unwrap().to_owned()
}

fn insert(cluster: &Cluster, row: u32) {
    cluster.psql(&format!("insert into t values ({row})"));
}

fn now(cluster: &Cluster) -> String {
    std::thread::sleep(Duration::from_millis(20));
    cluster.psql(r#"select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#)
}

impl Ground {
    pub(crate) fn new() -> Self {
        let mut archived = Archived::start(Repo::local());
        let first = &archived.cluster;
        first.psql("create table t (n int)");
        let a = id(&archived.backup());
        archived.walproof.run(["backup-hold", &a, "--reason", "audit"]).success();
        insert(first, 1);
        archived.archive_all();
        insert(first, 2);
        archived.archive_all();
        let between = now(first);
        insert(first, 3);
        archived.archive_all();
        // What a standby that is promoted makes of the segment in which that happens.
        let newest = first.psql("select pg_walfile_name(pg_current_wal_lsn())");
        let partial = format!("{newest}.partial");
        let pg_wal = first.pg_wal();
        write_owned(&pg_wal.join(&partial), &fs::read(pg_wal.join(&newest)).unwrap(), 0o600);
        archived.walproof.push(&partial).success();
        archived.cluster.stop(StopMode::Fast);

        let to = archived.target("second");
        archived.try_restore(&to, ["--target-action", "promote"]).success();
        let mut second = Cluster::attach(&to);
        let program = |toml: &str| {
            let builder = Walproof::builder(archived.repo().clone()).cluster(&second);
            builder.key_of(&archived.walproof).toml(toml).build()
        };
        let walproof = program("[archive]\ntail_interval = \"1s\"");
        let slow = program("[backup]\nmax_rate = \"1MB\"\nconcurrency = 1");
        second.override_setting("archive_command", &walproof.archive_command()).start();
        wait_open(&second);
        insert(&second, 4);
        second.psql("create table u as select generate_series(1, 20000) n");
        let b = id(&walproof.json(["backup-push"]));
        for row in [5, 6] {
            insert(&second, row);
            archive_all(&second);
        }
        let mut ground = Self { archived, ids: [a, b], between, sound: Objects::new() };
        ground.leave_small_things();
        let mut killed = slow.spawn(["backup-push"]);
        killed.wait_for_stderr("backup started", PATIENCE);
        killed.kill9();
        insert(&second, 7);
        let daemon = Daemon::start_whole(&walproof);
        daemon.wait_all_stored();
        daemon.kill9();
        second.kill9();
        ground.sound = ground.objects();
        ground
    }

    /// Reports of drills, what retention and verifications did, and what a store test leaves when it is killed.
    fn leave_small_things(&self) {
        let staging = Staging::of(&self.archived);
        for _ in 0..3 {
            staging.drill(0, ["--target-immediate"]);
        }
        self.archived.walproof.run(["expire"]).success();
        let segment = self.segments()[1].clone();
        for _ in 0..2 {
            self.repo().flip_bit(&segment, 200);
            self.archived.walproof.run(["verify", "--content", "--again"]);
        }
        self.archived.walproof.run(["verify"]).success();
        let root = self.repo().key("/identity").replace("identity", "");
        self.repo().write(&format!("{root}probes/0123456789abcdef"), b"probe");
    }

    pub(crate) fn repo(&self) -> &Repo {
        self.archived.repo()
    }

    fn path(&self, key: &str) -> PathBuf {
        self.repo().dir().unwrap().join(key)
    }

    /// The keys of all segments: timeline 1, then 2.
    pub(crate) fn segments(&self) -> Vec<String> {
        let mut keys = self.repo().keys("/wal/");
        keys.retain(|key| !key.contains(".backup-") && !key.contains(".partial-"));
        keys
    }

    fn objects(&self) -> Objects {
        let object = |key: String| {
            let put = fs::metadata(self.path(&key)).unwrap().modified().unwrap();
            let content = self.repo().read(&key);
            (key, (content, put))
        };
        self.repo().keys("").into_iter().map(object).collect()
    }

    /// As damage on a disk is: the time of the put stays.
    fn put(&self, key: &str, content: &[u8], put: SystemTime) {
        self.repo().write(key, content);
        File::options().write(true).open(self.path(key)).unwrap().set_modified(put).unwrap();
    }

    /// All is as it was.
    fn mend(&self) {
        let now = self.objects();
        for key in now.keys().filter(|key| !self.sound.contains_key(*key)) {
            self.repo().delete(key);
        }
        for (key, sound) in self.sound.iter().filter(|(key, sound)| now.get(*key) != Some(sound)) {
            self.put(key, &sound.0, sound.1);
        }
    }

    fn harm(&self, kind: &Kind, harm: &str) {
        let (content, put) = &self.sound[&kind.victim];
        let mut bytes = content.clone();
        match harm {
            "delete" => return self.repo().delete(&kind.victim),
            "truncate" => bytes.truncate(content.len() / 2),
            "flip" => bytes[content.len() / 2] ^= 1,
            "swap" => {
                bytes.clone_from(&self.sound[&kind.partner].0);
                self.put(&kind.partner, content, self.sound[&kind.partner].1);
            }
            _ => return self.put(&kind.copy, content, *put),
        }
        self.put(&kind.victim, &bytes, *put);
    }

    /// What `verify --content --restorable` says, and its exit code.
    pub(crate) fn verify(&self) -> (Value, i32) {
        let output = self.archived.walproof.run(["verify", "--content", "--again", "--restorable", "--json"]);
        (output.json(), output.code())
    }

    // --- what really can be restored

    /// The arguments of a restore to each of what may survive, and the rows that it gives.
    fn targets(&self) -> [(char, Vec<&str>, &str); 4] {
        let [a, b] = &self.ids;
        [
            ('A', vec!["--backup", a, "--target-immediate"], ""),
            ('B', vec!["--backup", b, "--target-immediate"], "1 2 3 4"),
            ('<', vec!["--target-time", &self.between], "1 2"),
            ('>', vec![], "1 2 3 4 5 6 7"),
        ]
    }

    /// Whether a restore gives this target and says that nothing is missing; `start`: as a server shows it.
    fn gives(&self, target: &(char, Vec<&str>, &str), start: bool) -> bool {
        let to = self.archived.target("restored");
        let _ = fs::remove_dir_all(&to);
        let dry: &[&str] = if start { &[] } else { &["--dry-run"] };
        let mut output = self.archived.try_restore(&to, [&target.1, dry].concat());
        if ['A', 'B'].contains(&target.0)
            && output.code() == 8
            && output.stderr().contains("decide with --target-timeline 1")
        {
            output = self.archived.try_restore(&to, [&target.1, dry, &["--target-timeline", "1"]].concat());
        }
        let complete = output.code() == 0 && !output.stderr().contains("is missing:");
        if !start || !complete {
            return complete;
        }
        let mut restored = attach_silent(&to);
        let question = match target.0 {
            '>' => "select not pg_is_in_recovery()",
            _ => "select pg_get_wal_replay_pause_state() = 'paused'",
        };
        let there = |restored: &mut Cluster| {
            restored.is_running() && restored.try_psql(question).is_ok_and(|answer| answer == "t")
        };
        let reached = restored.try_start().is_ok()
            && holds_within(PATIENCE, || !restored.is_running() || there(&mut restored));
        reached
            && restored.try_psql("select coalesce(string_agg(n::text, ' ' order by n), '') from t").as_deref()
                == Ok(target.2)
    }

    // --- the matrix

    /// Everything in one cell, in words, that is not as expected.
    fn check(&self, kind: &Kind, harm: &str, (named, survives): (&str, &str)) -> Vec<String> {
        let mut wrong = Vec::new();
        self.harm(kind, harm);
        let (found, code) = self.verify();
        let relative = |key: &str| key.splitn(3, '/').nth(2).unwrap().to_owned();
        let expected: BTreeSet<String> = named
            .split_whitespace()
            .map(|name| match name {
                "v" => relative(&kind.victim),
                "p" => relative(&kind.partner),
                "c" => relative(&kind.copy),
                "n" => wal_name(&kind.victim),
                other => other.replace("timeline:", "timeline ").replace("{B}", &self.ids[1]),
            })
            .collect();
        let problems = found["problems"].as_array().unwrap();
        let objects: BTreeSet<String> = problems.iter().map(|problem| text(&problem["object"])).collect();
        if objects != expected {
            wrong.push(format!("named {objects:?}, not {expected:?}"));
        }
        let lives = |what: char| survives.contains(what);
        let states = found["restorable"]["backups"].as_array().unwrap();
        for (id, what) in self.ids.iter().zip(['A', 'B']) {
            let state = states.iter().any(|state| state["id"] == **id && state["restorable"] == true);
            if state != lives(what) {
                wrong.push(format!("backup {what} is called {state}: {states:?}"));
            }
        }
        let days = found["restorable"]["days"].as_array().unwrap();
        let whole = days.iter().all(|day| day["restorable"] == true);
        if whole != (lives('<') && lives('>')) {
            wrong.push(format!("the days are called {whole}: {days:?}"));
        }
        if code != i32::from(!expected.is_empty() || !whole) {
            wrong.push(format!("exit {code}"));
        }
        // A server shows it where bytes changed; elsewhere nothing but what is planned differs.
        let start = harm == "flip";
        for target in self.targets() {
            let starts = start && lives(target.0) && (survives != ALL || target.0 == '>');
            if self.gives(&target, starts) != lives(target.0) {
                wrong.push(format!("a restore to {} after it: {}", target.0, !lives(target.0)));
            }
        }
        // The restore itself decides, where nobody verified before.
        if survives != ALL && start {
            for harm in self.repo().keys("/verify/harm") {
                self.repo().delete(&harm);
            }
            let of_wal = kind.victim.contains("/wal/");
            // Recovery reads ahead, and until damage is known it would trip over some that lies behind its target.
            let decides = |target: &&(char, Vec<&str>, &str)| match target.0 {
                _ if of_wal => !lives(target.0),
                what => ['A', 'B'].contains(&what),
            };
            for target in self.targets().iter().filter(decides) {
                if self.gives(target, true) != lives(target.0) {
                    wrong.push(format!("a restore to {} before it: {}", target.0, !lives(target.0)));
                }
            }
        }
        self.mend();
        wrong.iter().map(|what| format!("{harm} {}: {what}", kind.name)).collect()
    }

    #[track_caller]
    pub(crate) fn check_all(&self, kinds: &[Kind]) {
        let mut wrong = Vec::new();
        for kind in kinds {
            for (harm, cell) in HARMS.into_iter().zip(kind.cells) {
                let found = self.check(kind, harm, cell);
                println!(
                    "{:<24} {harm:<10} {:<20} {:<5} {}",
                    kind.name,
                    cell.0,
                    cell.1,
                    if found.is_empty() { "" } else { "WRONG" }
                );
                wrong.extend(found);
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// The name of a WAL file, of its key.
pub(crate) fn wal_name(key: &str) -> String {
    let (name, _) = key.rsplit('/').next().unwrap().rsplit_once('-').unwrap();
    name.to_owned()
}

/// The key of another content under the name of a WAL file.
pub(crate) fn other_digest(key: &str) -> String {
    format!("{}-{}", key.rsplit_once('-').unwrap().0, "0".repeat(32))
}
