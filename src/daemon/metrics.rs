//! Metrics: what is known and what was counted, as Prometheus reads it. What is not known has no line.

use super::counters::{Counters, VERBS};
use super::exposition::{Format, Page, Series};
use super::snapshot::{BackupLine, Snapshot};
use crate::postgres::{Lsn, PgTime};

/// The text of a scrape. Touches nothing but its arguments.
pub(super) fn encode(snapshot: &Snapshot, counters: &Counters, format: Format) -> String {
    let mut page = Page::new(&snapshot.cluster, format);
    about(&mut page, snapshot);
    wal(&mut page, snapshot);
    pushes(&mut page, counters);
    backups(&mut page, snapshot);
    window(&mut page, snapshot);
    store(&mut page, snapshot, counters);
    page.text()
}

fn about(page: &mut Page, snapshot: &Snapshot) {
    let build = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("revision", option_env!("WALPROOF_REVISION").unwrap_or("unknown")),
    ];
    page.family("build_info", "The walproof that runs, always 1", Series::gauge().with(build, 1_u64));
    let timeline = snapshot.timeline.map(|timeline| timeline.to_string()).unwrap_or_default();
    let cluster = [
        ("system_identifier", snapshot.system_identifier.as_str()),
        ("pg_version", snapshot.pg_version.as_str()),
        ("timeline", timeline.as_str()),
        ("role", snapshot.role.as_str()),
    ];
    page.family(
        "cluster_info",
        "The cluster and what its server is, always 1",
        Series::gauge().with(cluster, 1_u64),
    );
    page.gauge(
        "rpo_seconds",
        "Age of the oldest flushed WAL that is not stored, 0 when all of it is",
        snapshot.rpo_seconds,
    );
    page.gauge(
        "rpo_objective_seconds",
        "The RPO that was promised",
        Some(snapshot.rpo_objective.as_secs_f64()),
    );
    page.gauge(
        "rto_objective_seconds",
        "The RTO that was promised",
        Some(snapshot.rto_objective.as_secs_f64()),
    );
    page.gauge(
        "rto_estimate_seconds",
        "What a restore of the newest state would take now, from measured rates",
        snapshot.rto_estimate_seconds,
    );
}

fn wal(page: &mut Page, snapshot: &Snapshot) {
    page.gauge(
        "wal_flushed_lsn_bytes",
        "WAL is on the server's disk up to here",
        snapshot.flushed.map(Lsn::get),
    );
    page.gauge(
        "wal_archived_lsn_bytes",
        "WAL is in the repository as whole segments up to here without a gap",
        snapshot.archived.map(Lsn::get),
    );
    page.gauge(
        "wal_lag_bytes",
        "Flushed WAL that is not in the repository, tail included",
        snapshot.lag_bytes(),
    );
    page.gauge("wal_ready_segments", "Files that wait to be archived", Some(snapshot.ready));
    page.gauge(
        "wal_oldest_ready_timestamp_seconds",
        "Since when the oldest file waits to be archived",
        snapshot.oldest_ready.map(seconds),
    );
    page.gauge(
        "wal_gap_segments",
        "Segments that are missing on the way from the newest backup to now",
        was_listed(snapshot).then_some(snapshot.gap_segments),
    );
    page.gauge(
        "wal_last_push_timestamp_seconds",
        "When a file was last archived by the daemon",
        snapshot.last_push.map(seconds),
    );
}

fn pushes(page: &mut Page, counters: &Counters) {
    let results = Series::counter()
        .with([("result", "pushed")], counters.pushed.get())
        .with([("result", "already_there")], counters.already_there.get())
        .with([("result", "failed")], counters.push_failed.get());
    page.family("wal_pushed_segments_total", "Files that were to be archived, by what came of it", results);
    let bytes = Series::counter()
        .with([("stage", "raw")], counters.raw_bytes.get())
        .with([("stage", "stored")], counters.stored_bytes.get());
    page.family("wal_pushed_bytes_total", "Bytes of archived files, and of what is stored for them", bytes);
    page.family(
        "wal_push_duration_seconds",
        "How long archiving one file took",
        Series::histogram().with([], counters.push_durations.get()),
    );
    let tails = Series::counter()
        .with([("result", "ok")], counters.tail_uploads.get())
        .with([("result", "failed")], counters.tail_failures.get());
    page.family("tail_uploads_total", "Pieces of the unfinished segment that were to be stored", tails);
}

fn backups(page: &mut Page, snapshot: &Snapshot) {
    let known = was_listed(snapshot).then_some(snapshot.backups.len() as u64);
    page.gauge("backups", "Finished backups in the repository", known);
    page.gauge(
        "backup_last_failure_timestamp_seconds",
        "When a backup last failed on this host",
        snapshot.backup_failed_at.map(seconds),
    );
    if let Some(newest) = snapshot.backups.last() {
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
        snapshot.window.map(|(start, _)| seconds(start)),
    );
    page.gauge(
        "recovery_window_end_timestamp_seconds",
        "The latest instant that can be restored to, by the server's clock",
        snapshot.window.map(|(_, end)| seconds(end)),
    );
    page.gauge(
        "retention_window_seconds",
        "How far back every instant shall stay restorable",
        Some(snapshot.retention_window.as_secs_f64()),
    );
}

fn store(page: &mut Page, snapshot: &Snapshot, counters: &Counters) {
    let bytes = snapshot.repository_bytes.map_or_else(Series::gauge, |bytes| {
        Series::gauge()
            .with([("kind", "pack")], bytes.pack)
            .with([("kind", "wal")], bytes.wal)
            .with([("kind", "tail")], bytes.tail)
            .with([("kind", "other")], bytes.other)
    });
    page.family("repository_bytes", "Bytes in the repository, by what they are for", bytes);
    page.gauge(
        "store_up",
        "Whether the last request to the store succeeded",
        snapshot.store_up.map(u64::from),
    );
    let (mut requests, mut durations) = (Series::counter(), Series::histogram());
    for (verb, counted) in VERBS.iter().zip(&counters.store) {
        let labels = |result: &'static str| [("verb", *verb), ("result", result)];
        requests = requests.with(labels("ok"), counted.ok.get()).with(labels("failed"), counted.failed.get());
        durations = durations.with([("verb", *verb)], counted.durations.get());
    }
    page.family("store_requests_total", "Requests to the store, each try counted", requests);
    page.family(
        "store_request_duration_seconds",
        "How long each try of a request to the store took",
        durations,
    );
}

/// Whether the repository was listed since the start: until then "no backups" and "no gaps" would be guesses.
const fn was_listed(snapshot: &Snapshot) -> bool {
    snapshot.repository_bytes.is_some() || !snapshot.backups.is_empty()
}

/// Since the Unix epoch.
#[expect(clippy::cast_precision_loss, reason = "microseconds of centuries fit")]
fn seconds(time: PgTime) -> f64 {
    time.unix_micros() as f64 / 1e6
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;
    use crate::daemon::{RepositoryBytes, Role};

    fn at(seconds: i64) -> PgTime {
        PgTime::from_unix_micros(seconds * 1_000_000)
    }

    /// Of a daemon that has just started.
    pub(in crate::daemon) fn unknown() -> Snapshot {
        Snapshot {
            taken_at: at(1_760_000_000),
            daemon_since: None,
            cluster: "main".to_owned(),
            system_identifier: "7000000000000000001".to_owned(),
            pg_version: String::new(),
            timeline: None,
            role: Role::Down,
            repository: "s3://b".to_owned(),
            rpo_seconds: None,
            rpo_objective: Duration::from_mins(15),
            rto_objective: Duration::from_hours(1),
            rto_estimate_seconds: None,
            flushed: None,
            stored: None,
            archived: None,
            ready: 0,
            oldest_ready: None,
            gap_segments: 0,
            last_push: None,
            tail: None,
            backups: Vec::new(),
            backup_failed_at: None,
            window: None,
            retention_window: Duration::from_hours(7 * 24),
            repository_bytes: None,
            store_up: None,
            recent: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn filled() -> Snapshot {
        let backup = |id: &str, started_at, finished_at| BackupLine {
            id: id.to_owned(),
            started_at,
            finished_at,
            size_bytes: 5_000_000_000,
            stored_bytes: 2_000_000_000,
            new_bytes: 1_000_000,
            page_errors: 0,
        };
        Snapshot {
            pg_version: "15.18".to_owned(),
            timeline: Some(3),
            role: Role::Primary,
            rpo_seconds: Some(2.5),
            rto_estimate_seconds: Some(600.0),
            flushed: Some(Lsn::new(0x5_0000_1000)),
            stored: Some(Lsn::new(0x5_0000_0400)),
            archived: Some(Lsn::new(0x5_0000_0000)),
            ready: 2,
            oldest_ready: Some(at(1_760_000_001)),
            gap_segments: 1,
            last_push: Some(PgTime::from_unix_micros(1_760_000_002_250_000)),
            backups: vec![
                backup("old", at(1_759_000_000), at(1_759_000_100)),
                backup("new", at(1_759_900_000), at(1_759_900_060)),
            ],
            backup_failed_at: Some(at(1_759_800_000)),
            window: Some((at(1_759_000_100), at(1_760_000_000))),
            repository_bytes: Some(RepositoryBytes { pack: 1, wal: 2, tail: 3, other: 4 }),
            store_up: Some(true),
            ..unknown()
        }
    }

    fn counted() -> Counters {
        let counters = Counters::default();
        counters.pushed.add(7);
        counters.already_there.add(1);
        counters.push_failed.add(2);
        counters.raw_bytes.add(7 << 24);
        counters.stored_bytes.add(7 << 20);
        counters.push_durations.observe(Duration::from_millis(30));
        counters.push_durations.observe(Duration::from_secs(90));
        counters.tail_uploads.add(9);
        counters.store[0].ok.add(16);
        counters.store[0].failed.add(4);
        counters.store[0].durations.observe(Duration::from_millis(250));
        counters
    }

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
                &["kind=\"pack\"} 1", "kind=\"wal\"} 2", "kind=\"tail\"} 3", "kind=\"other\"} 4"],
            ),
            ("store_up", &["1"]),
        ];
        for format in [Format::Classic, Format::OpenMetrics] {
            let text = encode(&filled(), &counted(), format);
            for (name, of_name) in expected {
                assert_eq!(lines(&text, name), *of_name, "{name}");
            }
            let revision = option_env!("WALPROOF_REVISION").unwrap_or("unknown");
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
        let text = encode(&unknown(), &Counters::default(), Format::Classic);
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
            let text = encode(&snapshot, &counted(), Format::Classic);
            promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            let output = promtool.wait_with_output().unwrap();
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
        }
    }
}
