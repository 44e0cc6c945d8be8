//! Metrics: what is known and what was counted, as Prometheus reads it. What is not known has no line.

use std::collections::BTreeSet;

use super::drills;
use super::{verifications, words};
use crate::postgres::{Lsn, PgTime};
use crate::present::{Counts, Format, Page, Series, VERBS};
use crate::snapshot::{BackupLine, Snapshot};

/// The text of a scrape, or of a file for node_exporter's textfile collector. Without a daemon nothing was counted.
pub fn render(snapshot: &Snapshot, format: Format) -> String {
    let mut page = Page::new(&snapshot.cluster, format);
    about(&mut page, snapshot);
    wal(&mut page, snapshot);
    if let Some(counts) = &snapshot.counts {
        pushes(&mut page, counts);
    }
    backups(&mut page, snapshot);
    window(&mut page, snapshot);
    drills::render(&mut page, &snapshot.drills);
    verifications::render(&mut page, &snapshot.verifications.verifications);
    store(&mut page, snapshot);
    if let Some(counts) = &snapshot.counts {
        requests(&mut page, counts);
    }
    problems(&mut page, snapshot);
    page.text()
}

fn about(page: &mut Page, snapshot: &Snapshot) {
    let build = [("version", env!("CARGO_PKG_VERSION")), ("revision", env!("WALPROOF_REVISION"))];
    page.family("build_info", "The walproof that is running, always 1", Series::gauge().with(build, 1_u64));
    let timeline = snapshot.server.timeline.map(|timeline| timeline.to_string()).unwrap_or_default();
    let cluster = [
        ("system_identifier", snapshot.server.system_identifier.as_str()),
        ("pg_version", snapshot.server.pg_version.as_str()),
        ("timeline", timeline.as_str()),
        ("role", snapshot.server.role.as_str()),
    ];
    page.family(
        "cluster_info",
        "The cluster and what its server is, always 1",
        Series::gauge().with(cluster, 1_u64),
    );
    page.gauge(
        "rpo_seconds",
        "Age of the oldest flushed WAL that is not stored, 0 when all of it is",
        snapshot.estimates.rpo_seconds,
    );
    page.gauge(
        "rpo_objective_seconds",
        "The RPO that was promised",
        Some(snapshot.promises.rpo_objective.as_secs_f64()),
    );
    page.gauge(
        "rto_objective_seconds",
        "The RTO that was promised",
        Some(snapshot.promises.rto_objective.as_secs_f64()),
    );
    page.gauge(
        "rto_estimate_seconds",
        "What a restore of the newest state would take now, from measured rates",
        snapshot.estimates.rto_estimate_seconds,
    );
}

fn wal(page: &mut Page, snapshot: &Snapshot) {
    page.gauge(
        "wal_flushed_lsn_bytes",
        "WAL is on the server's disk up to here",
        snapshot.wal.flushed.map(Lsn::get),
    );
    page.gauge(
        "wal_archived_lsn_bytes",
        "WAL is in the repository as whole segments up to here without a gap",
        snapshot.wal.archived.map(Lsn::get),
    );
    page.gauge(
        "wal_lag_bytes",
        "Flushed WAL that is not in the repository, tail included",
        snapshot.lag_bytes(),
    );
    page.gauge("wal_disk_free_bytes", "Free bytes where the server writes WAL", snapshot.wal.disk_free);
    page.gauge("wal_ready_segments", "Files that wait to be archived", Some(snapshot.wal.ready));
    page.gauge(
        "wal_oldest_ready_timestamp_seconds",
        "Since when the oldest file has been waiting to be archived",
        snapshot.wal.oldest_ready.map(seconds),
    );
    page.gauge(
        "wal_gap_segments",
        "Segments that are missing on the way from the newest backup to now",
        words::was_listed(snapshot).then_some(snapshot.wal.gap_segments),
    );
    page.gauge(
        "wal_last_push_timestamp_seconds",
        "When a file was last archived by the daemon",
        snapshot.wal.last_push.map(seconds),
    );
}

fn pushes(page: &mut Page, counters: &Counts) {
    let results = Series::counter()
        .with([("result", "pushed")], counters.pushed)
        .with([("result", "already_there")], counters.already_there)
        .with([("result", "failed")], counters.push_failed);
    page.family("wal_pushed_segments_total", "Files that were to be archived, by outcome", results);
    let bytes = Series::counter()
        .with([("stage", "raw")], counters.raw_bytes)
        .with([("stage", "stored")], counters.stored_bytes);
    page.family("wal_pushed_bytes_total", "Bytes of archived files, and of what is stored for them", bytes);
    page.family(
        "wal_push_duration_seconds",
        "How long archiving one file took",
        Series::histogram().with([], counters.push_durations),
    );
    let tails = Series::counter()
        .with([("result", "ok")], counters.tail_uploads)
        .with([("result", "failed")], counters.tail_failures);
    page.family("tail_uploads_total", "Pieces of the unfinished segment that were to be stored", tails);
}

fn backups(page: &mut Page, snapshot: &Snapshot) {
    let known = words::was_listed(snapshot).then_some(snapshot.backups.finished.len() as u64);
    page.gauge("backups", "Finished backups in the repository", known);
    page.gauge(
        "backup_last_failure_timestamp_seconds",
        "When a backup last failed",
        snapshot.backups.backup_failed_at.map(seconds),
    );
    if let Some(newest) = snapshot.backups.finished.last() {
        last_backup(page, newest);
    }
}

fn last_backup(page: &mut Page, newest: &BackupLine) {
    page.gauge(
        "backup_last_success_timestamp_seconds",
        "When the newest backup ended, by the server's clock",
        Some(seconds(newest.finished_at)),
    );
    page.gauge(
        "backup_last_duration_seconds",
        "How long the newest backup took",
        Some(newest.finished_at.seconds_since(newest.started_at)),
    );
    let sizes = Series::gauge()
        .with([("kind", "logical")], newest.size_bytes)
        .with([("kind", "stored")], newest.stored_bytes)
        .with([("kind", "new")], newest.new_bytes);
    page.family(
        "backup_last_size_bytes",
        "The newest backup: its data, all that is stored of it, and what it added",
        sizes,
    );
    page.gauge(
        "backup_page_errors",
        "Pages of the newest backup that failed their checksum",
        Some(newest.page_errors),
    );
}

fn window(page: &mut Page, snapshot: &Snapshot) {
    page.gauge(
        "recovery_window_start_timestamp_seconds",
        "The earliest instant that can be restored to, by the server's clock",
        snapshot.window.window.map(|(start, _)| seconds(start)),
    );
    page.gauge(
        "recovery_window_end_timestamp_seconds",
        "The latest instant that can be restored to, by the server's clock",
        snapshot.window.window.map(|(_, end)| seconds(end)),
    );
    page.gauge(
        "retention_window_seconds",
        "How far back every instant must stay restorable",
        Some(snapshot.promises.retention_window.as_secs_f64()),
    );
    let Some(expiry) = &snapshot.retention.expiry else { return };
    page.gauge(
        "retention_last_success_timestamp_seconds",
        "When everything that had expired was last deleted",
        expiry.completed_at.map(|at| seconds(at.into())),
    );
    let deleted = Series::counter().with([], expiry.deleted_objects);
    page.family("retention_deleted_objects_total", "Objects that retention has deleted", deleted);
}

fn store(page: &mut Page, snapshot: &Snapshot) {
    let bytes = snapshot.store.repository_bytes.map_or_else(Series::gauge, |bytes| {
        Series::gauge()
            .with([("kind", "pack")], bytes.pack)
            .with([("kind", "wal")], bytes.wal)
            .with([("kind", "tail")], bytes.tail)
            .with([("kind", "other")], bytes.other)
            .with([("kind", "deleted")], snapshot.retention.old_bytes())
    });
    page.family("repository_bytes", "Bytes paid for, by use; deleted: old versions", bytes);
    page.gauge(
        "store_up",
        "Whether the last request to the store succeeded",
        snapshot.store.store_up.map(u64::from),
    );
}

fn requests(page: &mut Page, counters: &Counts) {
    let (mut requests, mut durations) = (Series::counter(), Series::histogram());
    for (verb, counted) in VERBS.iter().zip(&counters.store) {
        let labels = |result: &'static str| [("verb", *verb), ("result", result)];
        requests = requests.with(labels("ok"), counted.ok).with(labels("failed"), counted.failed);
        durations = durations.with([("verb", *verb)], counted.durations);
    }
    page.family("store_requests_total", "Requests to the store, each try counted", requests);
    page.family(
        "store_request_duration_seconds",
        "How long each try of a request to the store took",
        durations,
    );
}

/// Each code once, at its worst.
fn problems(page: &mut Page, snapshot: &Snapshot) {
    let mut told = BTreeSet::new();
    let worst = snapshot.problems.iter().filter(|problem| told.insert(problem.code));
    let series = worst.fold(Series::gauge(), |series, problem| {
        series.with([("code", problem.code.as_str()), ("severity", problem.severity.as_str())], 1_u64)
    });
    page.family("problems", "What needs attention now, by the codes in the README", series);
}

/// Since the Unix epoch.
#[expect(clippy::cast_precision_loss, reason = "microseconds of centuries fit")]
fn seconds(time: PgTime) -> f64 {
    time.unix_micros() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::status::samples::{counted, filled, unknown};
    use crate::status::{Code, Problem, Severity};

    /// Lines of one name without `walproof_` and the cluster.
    fn lines(text: &str, name: &str) -> Vec<String> {
        let start = format!("walproof_{name}{{");
        let found =
            text.lines().filter_map(|line| line.strip_prefix(&start)?.strip_prefix("cluster=\"main\""));
        found.map(|rest| rest.trim_start_matches([',', '}']).trim_start().to_owned()).collect()
    }

    #[test]
    fn what_is_known_has_exactly_these_lines() {
        let expected: &[(&str, &[&str])] = &[
            (
                "cluster_info",
                &[
                    "system_identifier=\"7000000000000000001\",pg_version=\"15.18\",timeline=\"3\",role=\"primary\"} 1",
                ],
            ),
            ("rpo_seconds", &["2.5"]),
            ("rpo_objective_seconds", &["900.0"]),
            ("rto_objective_seconds", &["3600.0"]),
            ("rto_estimate_seconds", &["600.0"]),
            ("wal_flushed_lsn_bytes", &["21474840576"]),
            ("wal_archived_lsn_bytes", &["21474836480"]),
            ("wal_lag_bytes", &["3072"]),
            ("wal_disk_free_bytes", &["5000000000"]),
            ("wal_ready_segments", &["2"]),
            ("wal_oldest_ready_timestamp_seconds", &["1760000001.0"]),
            ("wal_gap_segments", &["1"]),
            ("wal_last_push_timestamp_seconds", &["1760000002.25"]),
            (
                "wal_pushed_segments_total",
                &["result=\"pushed\"} 7", "result=\"already_there\"} 1", "result=\"failed\"} 2"],
            ),
            ("wal_pushed_bytes_total", &["stage=\"raw\"} 117440512", "stage=\"stored\"} 7340032"]),
            ("wal_push_duration_seconds_sum", &["90.03"]),
            ("wal_push_duration_seconds_count", &["2"]),
            ("tail_uploads_total", &["result=\"ok\"} 9", "result=\"failed\"} 0"]),
            ("backups", &["2"]),
            ("backup_last_failure_timestamp_seconds", &["1759800000.0"]),
            ("backup_last_success_timestamp_seconds", &["1759900060.0"]),
            ("backup_last_duration_seconds", &["60.0"]),
            (
                "backup_last_size_bytes",
                &["kind=\"logical\"} 5000000000", "kind=\"stored\"} 2000000000", "kind=\"new\"} 1000000"],
            ),
            ("backup_page_errors", &["0"]),
            ("recovery_window_start_timestamp_seconds", &["1759000100.0"]),
            ("recovery_window_end_timestamp_seconds", &["1760000000.0"]),
            ("retention_window_seconds", &["604800.0"]),
            (
                "repository_bytes",
                &[
                    "kind=\"pack\"} 1",
                    "kind=\"wal\"} 2",
                    "kind=\"tail\"} 3",
                    "kind=\"other\"} 4",
                    "kind=\"deleted\"} 500",
                ],
            ),
            ("retention_last_success_timestamp_seconds", &["1759990000.0"]),
            ("retention_deleted_objects_total", &["77"]),
            ("store_up", &["1"]),
        ];
        for format in [Format::Classic, Format::OpenMetrics] {
            let text = render(&Snapshot { counts: Some(counted()), ..filled() }, format);
            for (name, of_name) in expected {
                assert_eq!(lines(&text, name), *of_name, "{name}");
            }
            let revision = env!("WALPROOF_REVISION");
            let build = format!("version=\"{}\",revision=\"{revision}\"}} 1", env!("CARGO_PKG_VERSION"));
            assert_eq!(lines(&text, "build_info"), [build]);
            let buckets = lines(&text, "wal_push_duration_seconds_bucket");
            assert_eq!(buckets.len(), 13);
            assert_eq!([&buckets[2], &buckets[3]], ["le=\"0.025\"} 0", "le=\"0.05\"} 1"]);
            assert_eq!([&buckets[11], &buckets[12]], ["le=\"60.0\"} 1", "le=\"+Inf\"} 2"]);
            let requests = lines(&text, "store_requests_total");
            assert_eq!(requests.len(), 10);
            let put = ["verb=\"put\",result=\"ok\"} 16", "verb=\"put\",result=\"failed\"} 4"];
            assert_eq!([&requests[0], &requests[1]], put);
            assert_eq!(lines(&text, "store_request_duration_seconds_sum")[0], "verb=\"put\"} 0.25");
        }
    }

    #[test]
    fn what_is_not_known_has_no_line() {
        let text = render(&Snapshot { counts: Some(Counts::default()), ..unknown() }, Format::Classic);
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE walproof_")?.split_once(' '));
        let names: Vec<&str> = types.map(|(name, _)| name).collect();
        let expected = [
            "build_info",
            "cluster_info",
            "rpo_objective_seconds",
            "rto_objective_seconds",
            "wal_ready_segments",
            "wal_pushed_segments_total",
            "wal_pushed_bytes_total",
            "wal_push_duration_seconds",
            "tail_uploads_total",
            "retention_window_seconds",
            "store_requests_total",
            "store_request_duration_seconds",
        ];
        assert_eq!(names, expected);
        assert!(!text.contains("NaN"));
    }

    #[test]
    fn promtool_has_nothing_to_say() {
        for snapshot in [unknown(), filled()] {
            let mut promtool = Command::new("promtool")
                .args(["check", "metrics"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("install the package prometheus");
            let snapshot = Snapshot { counts: Some(counted()), ..snapshot };
            let text = render(&snapshot, Format::Classic);
            promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            let output = promtool.wait_with_output().unwrap();
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
        }
    }

    #[test]
    fn a_code_has_one_line_at_its_worst() {
        let problem = |code, severity| Problem { code, severity, text: "x".to_owned(), hint: None };
        let mut snapshot = unknown();
        snapshot.problems = vec![
            problem(Code::ArchivingFailed, Severity::Critical),
            problem(Code::ArchivingFailed, Severity::Warning),
            problem(Code::BackupOld, Severity::Warning),
        ];
        let expected = [
            "code=\"archiving_failed\",severity=\"critical\"} 1",
            "code=\"backup_old\",severity=\"warning\"} 1",
        ];
        assert_eq!(lines(&render(&snapshot, Format::Classic), "problems"), expected);
    }
}
