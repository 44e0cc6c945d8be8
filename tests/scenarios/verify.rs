//! `verify`: what it says of a sound repository, what it takes for no problem, and how runs go on where others ended. Each
//! kind of object harmed in each way is in `damage`.

use std::collections::BTreeSet;

use crate::support::{Archived, Daemon, Repo};

/// What `verify` says with these arguments, and its exit code.
fn verify(archived: &Archived, arguments: &[&str]) -> (serde_json::Value, i32) {
    let output = archived.walproof.run([&["verify", "--json"], arguments].concat());
    (output.json(), output.code())
}

fn objects(found: &serde_json::Value) -> BTreeSet<String> {
    let problems = found["problems"].as_array().unwrap();
    problems.iter().map(|problem| problem["object"].as_str().unwrap().to_owned()).collect()
}

/// The ids of the backups that can be restored, as `verify` sees it.
fn restorable(found: &serde_json::Value) -> BTreeSet<String> {
    let backups = found["restorable"]["backups"].as_array().unwrap();
    let good = backups.iter().filter(|backup| backup["restorable"] == true);
    good.map(|backup| backup["id"].as_str().unwrap().to_owned()).collect()
}

fn days_are_whole(found: &serde_json::Value) -> bool {
    found["restorable"]["days"].as_array().unwrap().iter().all(|day| day["restorable"] == true)
}

struct Ground {
    archived: Archived,
    ids: Vec<String>,
}

impl Ground {
    /// Two backups, the first of which is held, and WAL behind them.
    fn new() -> Self {
        let archived = Archived::start(Repo::local());
        archived.cluster.psql("create table t as select generate_series(1, 20000) n");
        let mut ids = Vec::new();
        for n in 0..2 {
            archived.cluster.psql(&format!("insert into t values ({n})"));
            ids.push(archived.backup()["id"].as_str().unwrap().to_owned());
        }
        for n in 0..3 {
            archived.cluster.psql(&format!("insert into t values ({n})"));
            archived.archive_all();
        }
        archived.walproof.run(["backup-hold", &ids[0], "--reason", "audit"]).success();
        Self { archived, ids }
    }

    fn repo(&self) -> &Repo {
        self.archived.repo()
    }

    /// The segment two before the newest: behind both backups, with others behind it.
    fn segment(&self) -> String {
        let mut keys = self.repo().keys("/wal/");
        keys.retain(|key| !key.contains(".backup"));
        keys[keys.len() - 2].clone()
    }

    /// Expect exactly these problems; `None`: as many as there are.
    #[track_caller]
    fn expect(&self, what: &str, victims: &[&str], level: &[&str]) -> serde_json::Value {
        let (found, code) = verify(
            &self.archived,
            &[&["--restorable"][..], level, if level.is_empty() { &[][..] } else { &["--again"][..] }]
                .concat(),
        );
        let named = objects(&found);
        let known: BTreeSet<&str> = victims
            .iter()
            .copied()
            .filter(|victim| named.iter().any(|name| victim.contains(name.as_str())))
            .collect();
        let strange: Vec<&String> = named
            .iter()
            .filter(|name| !victims.iter().any(|victim| victim.contains(name.as_str())))
            .collect();
        assert!(known.len() == victims.len() && strange.is_empty(), "{what}: {victims:?}: {found:#}");
        assert_eq!(code, i32::from(!victims.is_empty()), "{what}: {found:#}");
        found
    }
}

#[test]
fn a_sound_repository_has_no_problem() {
    let ground = Ground::new();
    let found = ground.expect("sound", &[], &[]);
    assert_eq!((&found["level"], days_are_whole(&found)), (&"listing".into(), true), "{found:#}");
    let found = ground.expect("sound", &[], &["--content"]);
    assert_eq!(restorable(&found), ground.ids.iter().cloned().collect(), "{found:#}");
    assert_eq!((days_are_whole(&found), found["remarks"].as_array().unwrap().len()), (true, 0), "{found:#}");
    let foreign = ground.repo().key("identity").replace("identity", "README");
    ground.repo().write(&foreign, b"mine");
    let found = ground.expect("foreign", &[], &[]);
    assert!(found["remarks"][0]["object"].as_str().unwrap().ends_with("README"), "{found:#}");
    ground.repo().delete(&foreign);
    ground.archived.walproof.run(["verify"]).success().stdout_contains("no problems");
    let slow = ground.archived.walproof.run(["verify", "--content", "--max-rate", "50MB"]);
    slow.success().stdout_contains("by earlier runs: no problems").stdout_contains("was opened, or put, at");
}

#[test]
fn what_an_interrupted_backup_left_is_a_remark_and_its_lease_protects_it() {
    let ground = Ground::new();
    let backup = ground.archived.slow_backup("1MB");
    let found = ground.expect("while a backup runs", &[], &[]);
    assert_eq!(found["remarks"].as_array().unwrap().len(), 0, "{found:#}");
    backup.kill9();
    let manifest = ground.repo().key(&format!("/watch/backups/{}", ground.ids[1]));
    ground.repo().delete(&manifest);
    let found = ground.expect("its manifest is gone", &[], &[]);
    let remarks = found["remarks"].as_array().unwrap();
    let named =
        |part: &str| remarks.iter().any(|remark| remark["object"] == format!("{part}/{}", ground.ids[1]));
    assert!(named("packs") && named("tables"), "{found:#}");
}

#[test]
fn a_killed_run_goes_on_where_it_was_and_a_budget_is_spread_over_runs() {
    let ground = Ground::new();
    let slow = ground.archived.walproof.spawn(["verify", "--content", "--max-rate", "200kB"]);
    let began = std::time::Instant::now();
    while ground.repo().keys("/verify/seen-").is_empty() {
        assert!(began.elapsed().as_secs() < 60);
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    slow.kill9();
    let (found, code) = verify(&ground.archived, &["--content"]);
    assert!(
        code == 0 && found["remembered"].as_u64() > Some(0) && found["opened"].as_u64() > Some(0),
        "{found:#}"
    );
    assert_eq!(ground.repo().keys("/verify/seen-").len(), 1);
    let (found, _) = verify(&ground.archived, &["--content"]);
    let remembered = found["remembered"].as_u64().unwrap();
    let packs_and_wal = ground.repo().keys("/packs/").len() + ground.repo().keys("/wal/").len();
    assert!(remembered >= packs_and_wal as u64, "{found:#}");

    // What was put again is opened again, harmed or not.
    let victim = ground.segment();
    ground.repo().flip_bit(&victim, 200);
    let (found, code) = verify(&ground.archived, &["--content"]);
    assert_eq!((code, objects(&found).len()), (1, 1), "{found:#}");
    let (found, _) = verify(&ground.archived, &["--content"]);
    assert_eq!(objects(&found).len(), 1, "damage is not remembered as sound: {found:#}");
    let status = ground.archived.walproof.run(["status", "--json"]).json();
    let problems = status["problems"].as_array().unwrap();
    let told = problems.iter().find(|problem| problem["code"] == "verify_failed").expect("it is a problem");
    assert!(told["text"].as_str().unwrap().contains("lost: the instants after it"), "{told:#}");
    let level = &status["verifications"][0];
    assert_eq!((&level["level"], &level["problems"]), (&"content".into(), &1.into()), "{status:#}");
    assert!(!level["last_success_at"].is_null());
    ground.repo().flip_bit(&victim, 200);

    let (found, _) = verify(&ground.archived, &["--content", "--again", "--max-bytes", "1"]);
    // One object, with its neighbours if it is WAL.
    let left = found["left"].as_u64().unwrap();
    assert!((remembered - 3..remembered).contains(&left) && found["remembered"] == 0, "{found:#}");
    assert!(found["oldest_opened_at"].is_string() && found["overdue"] == 0, "{found:#}");
}

#[test]
fn the_daemon_shows_at_once_what_a_verification_on_its_host_found() {
    let archived = Archived::start(Repo::local());
    archived.backup();
    let daemon = Daemon::start_whole(&archived.walproof);
    daemon.wait("it looked", |status| status["verifications_read"] == true);
    archived.walproof.run(["verify"]).success();
    let soon = std::time::Duration::from_secs(10);
    daemon.wait_within(soon, "the result", |status| status["verifications"][0]["level"] == "listing");
}
