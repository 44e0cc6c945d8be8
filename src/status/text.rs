//! `walproof status`: the snapshot for a terminal of 80 columns, and as JSON.

use serde_json::{Value, json};

use super::words::{self, Reading};
use crate::postgres::{Lsn, PgTime};
use crate::present::{utc, when, when_known};
use crate::problem::Severity;
use crate::snapshot::Snapshot;

/// Columns of a line; a word that is longer stays whole, so that it can be copied.
const WIDTH: usize = 80;
/// Columns of the names.
const NAMES: usize = 18;

/// The snapshot in words, ending with a line feed.
pub fn render(snapshot: &Snapshot) -> String {
    let state = words::state(snapshot).as_str().to_uppercase();
    let mut lines = Vec::new();
    wrap(&mut lines, "", 0, &format!("{}: {state}: {}", snapshot.cluster, words::reason(snapshot)));
    for problem in &snapshot.problems {
        let kind = if problem.severity == Severity::Critical { "FAIL  " } else { "WARN  " };
        wrap(&mut lines, kind, kind.len(), &problem.text);
        if let Some(hint) = &problem.hint {
            wrap(&mut lines, "      hint: ", 12, hint);
        }
    }
    lines.push(String::new());
    let picture = super::picture::rows(snapshot, WIDTH - NAMES);
    for (name, value) in
        promises(snapshot).into_iter().chain(picture).chain(wal(snapshot)).chain(place(snapshot))
    {
        wrap(&mut lines, &format!("{name:<NAMES$}"), NAMES, &value);
    }
    lines.push(String::new());
    lines.join("\n")
}

fn promises(snapshot: &Snapshot) -> Vec<(&'static str, String)> {
    let both = |reading: &Reading| format!("{} ({})", reading.value, reading.note);
    let mut rows =
        vec![("RPO now", both(&words::rpo(snapshot))), ("recovery window", both(&words::window(snapshot)))];
    if let Some((start, end)) = snapshot.window.window {
        rows.push(("  from", when(start, snapshot.taken_at)));
        rows.push(("  to", when(end, snapshot.taken_at)));
    }
    rows.push(("restore takes", both(&words::rto(snapshot))));
    rows.push(("last backup", both(&words::last_backup(snapshot))));
    if let Some(last) = snapshot.backups.finished.last() {
        rows.push(("  id", last.id.clone()));
    }
    rows.extend(words::early_backup(snapshot).map(|early| ("  early backup", early)));
    let drills = super::drills::lines(&snapshot.drills, snapshot.taken_at);
    let names = std::iter::once("last drill").chain(std::iter::repeat("  before"));
    rows.extend(names.zip(drills));
    let verified = super::verifications::last(&snapshot.verifications.verifications, snapshot.taken_at);
    rows.push(("last verify", verified));
    rows.push(("backups", snapshot.backups.finished.len().to_string()));
    rows
}

fn wal(snapshot: &Snapshot) -> Vec<(&'static str, String)> {
    let now = snapshot.taken_at;
    let lsn = |lsn: Option<Lsn>| lsn.map_or_else(|| words::UNKNOWN.to_owned(), |lsn| lsn.to_string());
    vec![
        ("WAL on disk", lsn(snapshot.wal.flushed)),
        ("WAL stored", lsn(snapshot.wal.stored)),
        ("WAL archived", lsn(snapshot.wal.archived)),
        ("tail", words::tail(snapshot)),
        ("waiting", words::waiting(snapshot)),
        ("gaps", words::gaps(snapshot)),
        ("last archived", when_known(snapshot.wal.last_push, now, words::UNKNOWN)),
    ]
}

fn place(snapshot: &Snapshot) -> Vec<(&'static str, String)> {
    vec![
        ("server", words::server(snapshot)),
        ("system identifier", snapshot.server.system_identifier.clone()),
        ("repository", snapshot.store.repository.clone()),
        ("store", words::store(snapshot).to_owned()),
        ("repository size", words::repository_size(snapshot)),
        ("daemon", daemon(snapshot)),
        ("as of", utc(snapshot.taken_at)),
    ]
}

fn daemon(snapshot: &Snapshot) -> String {
    snapshot.teller.daemon_since.map_or_else(
        || "does not run: no tail is stored, and nothing is watched".to_owned(),
        |since| format!("running since {}", when(since, snapshot.taken_at)),
    )
}

/// Append `first` and the text, broken at spaces; further lines are indented. Control characters, which may come from
/// a server or a store, do not reach the terminal.
fn wrap(lines: &mut Vec<String>, first: &str, indent: usize, text: &str) {
    let mut current = first.to_owned();
    let mut fresh = true;
    for word in text.split_whitespace() {
        let word: String = word.chars().filter(|letter| !letter.is_control()).collect();
        if !fresh && current.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(std::mem::replace(&mut current, " ".repeat(indent)));
            fresh = true;
        }
        if !fresh {
            current.push(' ');
        }
        current.push_str(&word);
        fresh = false;
    }
    lines.push(current.trim_end().to_owned());
}

/// The snapshot as scripts read it.
pub fn json(snapshot: &Snapshot) -> Value {
    let span = |(start, end): (PgTime, PgTime)| json!({ "start": start, "end": end });
    let gaps: Vec<Value> = snapshot.window.window_gaps.iter().copied().map(span).collect();
    let window =
        snapshot.window.window.map(|(start, end)| json!({ "start": start, "end": end, "gaps": gaps }));
    let tail = snapshot
        .wal
        .tail
        .as_ref()
        .map(|tail| json!({ "segment": tail.segment, "end_lsn": tail.end, "stored_at": tail.at }));
    let time = |at: Option<PgTime>| json!(at);
    // Only a daemon asks the server, and looks at its disk.
    let daemon = snapshot.teller.daemon_since;
    let mut document = json!({
        "cluster": snapshot.cluster,
        "system_identifier": snapshot.server.system_identifier,
        "branches": snapshot.window.branches,
        "window": window,
        "rpo_seconds": snapshot.estimates.rpo_seconds,
        "rto_estimate_seconds": snapshot.estimates.rto_estimate_seconds,
        "last_backup": snapshot.backups.finished.last(),
        "rto_after_backup_seconds": snapshot.estimates.rto_after_backup_seconds,
        "last_drill": snapshot.drills.drills.last(),
        "drills": snapshot.drills.drills,
        "drill_overdue_seconds": snapshot.drills.drill_overdue_seconds,
        "verifications": snapshot.verifications.verifications,
        "problems": snapshot.problems,
        "healthy": snapshot.is_healthy(),
        "taken_at": snapshot.taken_at,
        "daemon": daemon.is_some(),
        "daemon_since": time(daemon),
        "role": daemon.map(|_| snapshot.server.role),
        "pg_version": Some(&snapshot.server.pg_version).filter(|version| !version.is_empty()),
        "timeline": snapshot.server.timeline,
        "repository": snapshot.store.repository,
        "store_up": snapshot.store.store_up,
        "repository_bytes": snapshot.store.repository_bytes,
        "deleted_bytes": snapshot.retention.old_bytes(),
        "expiry": snapshot.retention.expiry,
        "holds": snapshot.retention.holds,
        "expires_next": snapshot.retention.expires_next,
        "objectives": {
            "rpo_seconds": snapshot.promises.rpo_objective.as_secs_f64(),
            "rto_seconds": snapshot.promises.rto_objective.as_secs_f64(),
        },
        "retention_window_seconds": snapshot.promises.retention_window.as_secs_f64(),
        "flushed_lsn": snapshot.wal.flushed,
        "stored_lsn": snapshot.wal.stored,
        "archived_lsn": snapshot.wal.archived,
        "lag_bytes": snapshot.lag_bytes(),
        "ready": daemon.map(|_| snapshot.wal.ready),
        "oldest_ready": time(snapshot.wal.oldest_ready),
        "gap_segments": snapshot.wal.gap_segments,
        "last_push": time(snapshot.wal.last_push),
        "tail": tail,
        "backups": snapshot.backups.finished.len(),
        "early_backup": snapshot.backups.early_backup,
        "backup_failed_at": time(snapshot.backups.backup_failed_at),
    });
    // The macro takes no more.
    document["backup_failure"] = json!(snapshot.backups.backup_failure);
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::samples;

    #[test]
    fn a_terminal_of_80_columns_is_enough() {
        for snapshot in [samples::busy(), samples::store_down(), samples::brand_new(), samples::standby()] {
            let text = render(&snapshot);
            for line in text.lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
                assert_eq!(line, line.trim_end());
            }
            assert!(text.ends_with("UTC\n"), "{text}");
        }
    }

    #[test]
    fn the_state_comes_first_and_says_why() {
        let first = |snapshot: &Snapshot| render(snapshot).lines().next().unwrap().to_owned();
        assert_eq!(first(&samples::busy()), "roadwave: HEALTHY: everything that was promised holds");
        assert!(
            first(&samples::store_down())
                .starts_with("roadwave: FAILING: 2 failures, 1 warning; a restore can go")
        );
        let text = render(&samples::store_down());
        assert!(
            text.contains("\nWARN  94 files wait") && text.contains("\n      hint: has pg_wal"),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_known_is_said() {
        let mut snapshot = samples::brand_new();
        snapshot.teller.daemon_since = None;
        let text = render(&snapshot);
        for line in [
            "\nRPO now           everything (no backup yet: nothing can be restored)\n",
            "\nWAL on disk       not known yet\n",
            "\nwaiting           not known yet\n",
            "\nstore             not asked yet\n",
            "\ndaemon            does not run:",
        ] {
            assert!(text.contains(line), "{line:?} is missing in {text}");
        }
        let value = json(&snapshot);
        assert_eq!((&value["ready"], &value["role"]), (&Value::Null, &Value::Null), "nobody looked");
        assert_eq!(json(&samples::busy())["ready"], 0);
        assert!(
            render(&samples::standby()).contains("\nRPO now           not claimed here (this server is a")
        );
    }

    #[test]
    fn nothing_that_was_received_steers_the_terminal() {
        let mut snapshot = samples::store_down();
        snapshot.problems[0].text = "\u{1b}]0;owned\u{7} \u{1b}[2J\nOK".to_owned();
        let text = render(&snapshot);
        assert!(!text.chars().any(|letter| letter.is_control() && letter != '\n'), "{text:?}");
    }

    #[test]
    fn json_has_the_shape_of_the_contract() {
        let value = json(&samples::busy());
        assert_eq!(value["cluster"], "roadwave");
        assert_eq!(value["system_identifier"], "7432109876543210987");
        assert_eq!(value["window"]["end"], "2026-11-22T06:41:03.000000Z");
        assert_eq!(value["rpo_seconds"], 3.4);
        assert_eq!(value["rto_estimate_seconds"], 1560.0);
        assert_eq!(value["last_backup"]["id"], "20261122T023004Z-8f3a1c");
        assert!(value["last_drill"].is_null());
        assert_eq!(value["problems"], json!([]));
        assert_eq!(value["flushed_lsn"], "A2F/8E504AE0");
        let broken = json(&samples::store_down());
        assert!(broken["problems"][1]["text"].as_str().unwrap().starts_with("the store does not answer"));
        let new = json(&samples::brand_new());
        for absent in ["window", "rpo_seconds", "last_backup", "pg_version", "store_up", "tail", "lag_bytes"]
        {
            assert!(new.get(absent).is_some_and(Value::is_null), "{absent}");
        }
    }
}
