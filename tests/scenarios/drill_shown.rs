//! What drills found, shown: as problems with codes, in words, on the page, in metrics.

use crate::support::archived::PATIENCE;
use crate::support::daemon::value_of;
use crate::support::drill::{DRILL_TIME, Staging};
use crate::support::{Archived, Daemon, Repo, Walproof};
use serde_json::Value;

const QUIET: &str = "[archive]\nheartbeat_interval = \"0s\"\n";

#[track_caller]
fn started() -> Archived {
    let archived = Archived::start(Repo::local());
    archived
        .cluster
        .psql("create table t (n int primary key); insert into t select generate_series(1, 1000)");
    archived.backup();
    archived.cluster.psql("insert into t values (2000)");
    archived.archive_all();
    archived
}

fn query(sql: &str) -> String {
    format!(
        "{QUIET}[drill]\namcheck = false\n[[drill.query]]\nname = \"rows\"\ndatabase = \"postgres\"\nsql = \"{sql}\"\n"
    )
}

#[track_caller]
fn status(walproof: &Walproof) -> Value {
    let output = walproof.run(["status", "--json"]);
    assert!([0, 1].contains(&output.code()), "{output}");
    output.json()
}

/// The codes about drills and the time of a restore, with their severity.
#[track_caller]
fn codes(status: &Value) -> Vec<String> {
    let problems = status["problems"].as_array().unwrap();
    let of = |problem: &Value| {
        format!("{} {}", problem["severity"].as_str().unwrap(), problem["code"].as_str().unwrap())
    };
    problems.iter().map(of).filter(|told| told.contains("drill_") || told.contains("rto_")).collect()
}

#[track_caller]
fn problem<'a>(status: &'a Value, code: &str) -> (&'a str, &'a str) {
    let problems = status["problems"].as_array().unwrap();
    let found = problems.iter().find(|problem| problem["code"] == code);
    let found = found.unwrap_or_else(|| panic!("no {code}: {status:#}"));
    (found["text"].as_str().unwrap(), found["hint"].as_str().unwrap())
}

#[test]
fn a_drill_that_failed_is_a_problem_until_another_passes() {
    let archived = started();
    let passing = Staging::with(&archived, &query("select count(*) > 0 from t"));
    assert!(codes(&status(&passing.walproof)).is_empty(), "no drill yet is said, and is no problem");
    passing.walproof.run(["status"]).stdout_contains("none yet: that a restore works is not proven");

    let failing = passing.reconfigured(&archived, &query("select count(*) = 0 from t"));
    let failed = failing.drill(1, ["--target-timeline", "1"]);
    let known = status(&passing.walproof);
    assert_eq!(codes(&known), ["critical drill_failed"]);
    let (text, hint) = problem(&known, "drill_failed");
    assert!(text.contains("query: rows: false, as walproof_drill_"), "{text}");
    assert!(hint.contains(&format!("drill-report {}", failed["id"].as_str().unwrap())), "{hint}");
    assert_eq!(known["last_drill"]["verdict"], "fail");
    assert_eq!(known["last_drill"]["phases"], failed["phases"], "the same shape in all places");
    println!("{}", passing.walproof.run(["status"]).stdout());

    // What could not be verified says nothing about what failed.
    let endless = passing.reconfigured(&archived, &query("select pg_sleep(99) is null"));
    endless.drill(10, ["--query-timeout", "1s", "--target-immediate"]);
    let known = status(&passing.walproof);
    assert_eq!(codes(&known), ["critical drill_failed", "warning drill_inconclusive"]);
    assert!(problem(&known, "drill_inconclusive").0.contains("no answer within 1 s"));
    println!("{}", passing.walproof.run(["status"]).stdout());

    // The daemon tells the same, on another host and without the public key.
    let quiet = archived.configured(QUIET);
    let daemon = Daemon::start_whole(&quiet);
    let of_daemon =
        daemon.wait("it knows the drills", |status| !status["drills"].as_array().unwrap().is_empty());
    assert_eq!(codes(&of_daemon), ["critical drill_failed", "warning drill_inconclusive"]);
    let (_, page) = daemon.get("/");
    assert!(page.contains("Last drills") && page.contains("query: rows: false"), "{page}");
    let (_, metrics) = daemon.get("/metrics");
    for (name, value) in [
        ("walproof_problems{code=\"drill_failed\",severity=\"critical\"}", 1.0),
        ("walproof_problems{code=\"drill_inconclusive\",severity=\"warning\"}", 1.0),
        ("walproof_drill_verdict{verdict=\"inconclusive\"}", 1.0),
        ("walproof_drill_verdict{verdict=\"fail\"}", 0.0),
        ("walproof_drill_success", 0.0),
        ("walproof_drills_total{result=\"fail\"}", 1.0),
    ] {
        assert_eq!(value_of(&metrics, name), Some(value), "{name}: {metrics}");
    }
    assert_eq!(daemon.get("/healthz").0, 503);
    daemon.terminate();

    passing.drill(0, ["--target-timeline", "1"]);
    let known = status(&passing.walproof);
    assert_eq!(codes(&known), [""; 0]);
    let daemon = Daemon::start_whole(&quiet);
    let of_daemon = daemon.wait("it estimates", |status| !status["rto_estimate_seconds"].is_null());
    assert_eq!(codes(&of_daemon), [""; 0]);
    assert_eq!(daemon.metric("walproof_drill_verdict{verdict=\"pass\"}"), Some(1.0));
    assert!(daemon.get("/").1.contains("stimated by drills; within the objective of 1 h"));
}

#[test]
fn an_overdue_drill_is_a_problem_and_an_inconclusive_one_does_not_count() {
    let archived = started();
    let often = |sql: &str| query(sql).replace("amcheck = false", "amcheck = false\nevery = \"2s\"");
    let staging = Staging::with(&archived, &often("select true"));
    let late = std::time::Duration::from_secs(3);
    // Since the repository was made.
    std::thread::sleep(late);
    let never = status(&staging.walproof);
    assert_eq!(codes(&never), ["warning drill_overdue"]);
    assert!(problem(&never, "drill_overdue").0.starts_with("the first drill is overdue by "));
    staging.drill(0, ["--target-immediate"]);
    std::thread::sleep(late);
    let endless = staging.reconfigured(&archived, &often("select pg_sleep(99) is null"));
    endless.drill(10, ["--query-timeout", "1s", "--target-immediate"]);
    let known = status(&staging.walproof);
    assert_eq!(codes(&known), ["warning drill_inconclusive", "warning drill_overdue"]);
    assert!(problem(&known, "drill_overdue").0.ends_with("one every 2 s was promised"));
    assert!(known["drill_overdue_seconds"].as_f64().unwrap() > 1.0);
    println!("{}", staging.walproof.run(["status"]).stdout());
    staging.walproof.run(["drill-list"]).success().stdout_contains("MISSED");
}

#[test]
fn an_estimate_close_to_its_objective_and_beyond_it_is_a_problem() {
    let archived = started();
    let staging = Staging::with(&archived, &query("select true"));
    staging.drill(0, ["--target-timeline", "1"]);
    let estimate = status(&staging.walproof)["rto_estimate_seconds"].as_f64().unwrap();
    let promised = |seconds: f64| {
        let rto = format!("{:.0}ms", seconds * 1000.0);
        staging.reconfigured(&archived, &format!("{QUIET}[objectives]\nrto = \"{rto}\"")).walproof
    };
    for (objective, expected) in [
        (estimate * 1.3, vec![]),
        (estimate * 1.1, vec!["warning rto_threatened"]),
        (estimate * 0.9, vec!["critical rto_exceeded"]),
    ] {
        let walproof = promised(objective);
        assert_eq!(codes(&status(&walproof)), expected, "{objective} {estimate}");
        println!("{}", walproof.run(["status"]).stdout());
    }
    promised(estimate * 0.9).run(["status"]).fails_with(1).stdout_contains("beyond the objective");
}

#[test]
fn the_daemon_takes_one_backup_when_wal_makes_a_restore_too_long() {
    let archived = started();
    let staging = Staging::with(&archived, &query("select true"));
    staging.drill(0, ["--target-timeline", "1"]);
    let estimate = status(&staging.walproof)["rto_estimate_seconds"].as_f64().unwrap();
    let objective = format!("{:.0}ms", estimate * 1500.0);
    let configured = |on: bool| {
        archived.configured(&format!(
            "{QUIET}[objectives]\nrto = \"{objective}\"\n[backup]\non_rto_threat = {on}"
        ))
    };
    // Until a restore of the WAL behind the backup takes 80 % of that.
    for _ in 0..40 {
        if status(&staging.walproof)["rto_estimate_seconds"].as_f64().unwrap() > estimate * 1.4 {
            break;
        }
        archived.cluster.psql("insert into t select max(n) + 1 from t");
        archived.archive_all();
    }
    let threatened = |status: &Value| codes(status).iter().any(|code| code.contains("rto_"));
    let without = configured(false);
    let daemon = Daemon::start_whole(&without);
    let known = daemon.wait("the threat is seen", threatened);
    let code = codes(&known)[0].rsplit(' ').next().unwrap().to_owned();
    assert!(problem(&known, &code).1.contains("take a backup now"), "{known:#}");
    std::thread::sleep(std::time::Duration::from_secs(15));
    assert_eq!(archived.backups().len(), 1, "only where it is configured");
    daemon.terminate();

    let with = configured(true);
    let daemon = Daemon::start_whole(&with);
    let known = daemon.wait("it took one", |status| status["early_backup"]["outcome"] == "taken");
    assert!(known["early_backup"]["because"].as_str().unwrap().contains("a restore would take"), "{known:#}");
    assert!(daemon.log().contains("a backup is taken ahead of the timer"), "{}", daemon.log());
    daemon.wait("the threat is gone", |status| !threatened(status));
    assert!(daemon.get("/").1.contains("ahead of the timer: taken"));
    let told = with.run(["status"]);
    told.success().stdout_contains("early backup    taken, begun");
    println!("{}", told.stdout());
    // More WAL: once an hour is enough.
    for _ in 0..20 {
        archived.cluster.psql("insert into t select max(n) + 1 from t");
        archived.archive_all();
    }
    std::thread::sleep(std::time::Duration::from_secs(15));
    assert_eq!(archived.backups().len(), 2, "{}", daemon.log());
}

/// A host that is lost when the drill begins takes with it what it would have archived later.
#[test]
fn what_is_archived_while_a_drill_runs_makes_its_rpo_no_better() {
    let archived = started();
    std::thread::sleep(std::time::Duration::from_secs(4));
    let staging = Staging::with(&archived, &query("select true"));
    let mut drill = staging.walproof.spawn(["drill", "--json", "--target-timeline", "1"]);
    drill.wait_for_stderr("recovery window", PATIENCE);
    archived.cluster.psql("insert into t values (3000)");
    archived.archive_all();
    let report = drill.wait(DRILL_TIME);
    report.success();
    let report = report.json();
    let rpo = report["rpo_seconds"].as_f64().unwrap();
    assert!(rpo > 3.9, "{report:#}");
}
