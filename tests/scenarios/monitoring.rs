//! What others watch a daemon with: Prometheus, health checks, heartbeats, systemd and its log.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::archived::{Archived, PATIENCE};
use crate::support::postgres::{Cluster, StopMode};
use crate::support::prometheus::{Prometheus, check_metrics};
use crate::support::s3::{S3Server, Verb};
use crate::support::{Daemon, Repo, Scratch, Walproof, holds_within, wait_until};

const TAIL: &str = "[archive]\ntail_interval = \"1s\"\nheartbeat_interval = \"0s\"\n";
const QUIET: &str = "[archive]\ntail_interval = \"0s\"\nheartbeat_interval = \"0s\"\n";
const NAME: &str = "roadwave";

fn archived(repo: Repo, toml: &str) -> Archived {
    let mut cluster = Cluster::builder().segment_size_mb(1).create();
    let walproof = Walproof::builder(repo).name(NAME).cluster(&cluster).toml(toml).build();
    walproof.run(["init"]).success();
    cluster.configure_archiving(&walproof).start();
    Archived { cluster, walproof, scratch: Scratch::new() }
}

/// Where the server's flushed WAL ends, as Prometheus shows it.
fn flushed(cluster: &Cluster) -> f64 {
    cluster.psql("select pg_current_wal_flush_lsn() - '0/0'").parse().unwrap()
}

// --- Prometheus

#[test]
fn prometheus_sees_what_the_daemon_knows() {
    let server = S3Server::start();
    let archived = archived(Repo::s3(&server), TAIL);
    let cluster = &archived.cluster;
    let clock = || cluster.psql("select extract(epoch from clock_timestamp())").parse::<f64>().unwrap();
    let begin = clock();
    archived.backup();
    let end = clock();
    let daemon = Daemon::start_whole(&archived.walproof);
    let prometheus = Prometheus::start(&archived.walproof);
    wait_until("it has scraped", PATIENCE, || prometheus.value("up") == Some(1.0));
    daemon.wait_all_stored();
    let waits_for = |expression: &str| {
        let mut last = Vec::new();
        let held = holds_within(PATIENCE, || {
            last = prometheus.query(expression);
            !last.is_empty()
        });
        assert!(held, "{expression} gives nothing\n{:#}", daemon.status());
        last
    };
    for expression in [
        "walproof_rpo_seconds == 0",
        "walproof_wal_lag_bytes == 0",
        "walproof_backups == 1",
        "walproof_store_up == 1",
        "walproof_wal_gap_segments == 0",
        "walproof_wal_push_duration_seconds_bucket{le=\"+Inf\"}",
        "walproof_store_request_duration_seconds_bucket{verb=\"list\",le=\"+Inf\"} > 0",
        "walproof_store_requests_total{verb=\"list\",result=\"ok\"} > 0",
    ] {
        waits_for(expression);
    }
    let taken = prometheus.value("walproof_backup_last_success_timestamp_seconds").unwrap();
    assert!(begin <= taken && taken <= end, "{begin} {taken} {end}");

    let info = waits_for("walproof_cluster_info{role=\"primary\",timeline=\"1\"} == 1").remove(0).0;
    assert_eq!(info["system_identifier"], cluster.system_identifier().to_string(), "{info:#}");
    let status = daemon.status();
    assert_eq!(status["system_identifier"].as_str(), info["system_identifier"].as_str());
    assert_eq!(status["rpo_seconds"], 0.0, "{status:#}");

    // The server may write a little behind the switch by itself: then again.
    let archived_to = "walproof_wal_archived_lsn_bytes == walproof_wal_flushed_lsn_bytes";
    let agree = (0..5).any(|_| {
        archived.archive_all();
        holds_within(Duration::from_secs(10), || prometheus.value(archived_to) == Some(flushed(cluster)))
    });
    assert!(agree, "{:?}, the server {}", prometheus.query(archived_to), flushed(cluster));

    let pushed = "walproof_wal_pushed_segments_total{result=\"pushed\"}";
    let before = prometheus.value(pushed).unwrap();
    for _ in 0..3 {
        archived.archive_all();
    }
    waits_for(&format!("{pushed} >= {}", before + 3.0));

    let mine = prometheus.query("{__name__=~\"walproof_.+\"}");
    assert!(mine.len() > 50, "{mine:?}");
    assert!(mine.iter().all(|(labels, _)| labels["cluster"] == NAME), "{mine:?}");
    let targets = prometheus.api("targets");
    assert_eq!(targets["activeTargets"][0]["lastError"], "", "{targets:#}");

    // The Watchdog fires always.
    let alerts = || {
        let is_alert = |rule: &Value| rule["type"] == "alerting" && rule["name"] != "Watchdog";
        prometheus.rules().into_iter().filter(is_alert).collect::<Vec<_>>()
    };
    let rules = |key: &str, value: &str| alerts().iter().all(|rule| rule[key] == value);
    wait_until("the rules were asked", PATIENCE, || rules("health", "ok"));
    assert!(alerts().len() > 20, "{:#?}", prometheus.rules());
    assert!(rules("state", "inactive"), "{:#?}", prometheus.rules());
    daemon.kill9();
    wait_until("the alert for a daemon that is gone", PATIENCE, || {
        prometheus
            .rules()
            .iter()
            .any(|rule| rule["name"] == "WalproofDaemonDown" && rule["state"] == "pending")
    });
    assert_eq!(prometheus.value("up"), Some(0.0));
}

#[test]
fn promtool_finds_no_fault_with_the_metrics() {
    let fresh = archived(Repo::local(), TAIL);
    let mut standby = Cluster::standby_of(&fresh.cluster);
    standby.start();
    let beside = Walproof::builder(fresh.repo().clone())
        .name(NAME)
        .cluster(&standby)
        .key_of(&fresh.walproof)
        .toml(TAIL)
        .build();
    let scrape = |walproof: &Walproof, role: &str, backups: f64| {
        let daemon = Daemon::start_whole(walproof);
        daemon.wait("it sees the server", |status| status["role"] == role);
        let (_, text) = daemon.get("/metrics");
        let judged = check_metrics(&text);
        judged.success();
        assert_eq!(judged.stderr(), "", "{text}");
        assert_eq!(judged.stdout(), "", "{text}");
        assert_eq!(daemon.metric(&format!("walproof_cluster_info{{role=\"{role}\"}}")), Some(1.0), "{text}");
        assert_eq!(daemon.metric("walproof_backups"), Some(backups), "{text}");
        text
    };
    let has = |text: &str, name: &str| text.contains(&format!("\n{name}{{"));
    let success = "walproof_backup_last_success_timestamp_seconds";
    let new = scrape(&fresh.walproof, "primary", 0.0);
    assert!(has(&new, "walproof_rpo_seconds") && !has(&new, success), "{new}");
    fresh.backup();
    let saved = scrape(&fresh.walproof, "primary", 1.0);
    assert!(has(&saved, "walproof_rpo_seconds") && has(&saved, success), "{saved}");
    let standing_by = scrape(&beside, "standby", 1.0);
    assert!(!has(&standing_by, "walproof_rpo_seconds"), "{standing_by}");
}

// --- HTTP

#[test]
fn health_and_the_page_tell_how_it_is() {
    let mut archived = archived(Repo::local(), TAIL);
    archived.backup();
    let daemon = Daemon::start_whole(&archived.walproof);
    daemon.wait_all_stored();
    let health = daemon.ask("GET", "/healthz");
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
    let head = daemon.ask("HEAD", "/healthz");
    assert_eq!((head.status, head.body.as_str(), head.header("content-length")), (200, "", Some("3")));
    for path in ["/metric", "/healthz/", "/../etc/passwd", "/status"] {
        assert_eq!(daemon.ask("GET", path).status, 404, "{path}");
    }
    for path in ["/", "/metrics", "/healthz"] {
        let refused = daemon.ask("POST", path);
        assert_eq!((refused.status, refused.header("allow")), (405, Some("GET,HEAD")), "{path}");
    }

    let page = daemon.ask("GET", "/");
    assert_eq!(page.status, 200);
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(page.header(name), Some(value), "{}", page.head);
    }
    let policy = page.header("content-security-policy").unwrap_or_default();
    assert!(policy.starts_with("default-src 'none';"), "{}", page.head);
    assert!(page.body.contains(NAME) && page.body.contains("RPO"), "{}", page.body);

    archived.cluster.stop(StopMode::Fast);
    daemon.wait("it notices", |status| status["role"] == "down");
    let ill = daemon.ask("GET", "/healthz");
    assert_eq!(ill.status, 503);
    assert!(ill.body.starts_with("server_down: the server cannot be asked: "), "{}", ill.body);
    assert_eq!(daemon.ask("HEAD", "/healthz").status, 503);
    assert_eq!(daemon.ask("GET", "/metrics").status, 200, "Prometheus has to see that");
    archived.cluster.start();
    wait_until("it is well again", PATIENCE, || daemon.ask("GET", "/healthz").status == 200);
}

#[test]
fn a_scrape_asks_the_store_nothing() {
    let server = S3Server::start();
    let archived = archived(Repo::s3(&server), QUIET);
    archived.backup();
    archived.archive_all();
    let daemon = Daemon::start_whole(&archived.walproof);
    sleep(Duration::from_secs(2));
    server.faults().forget();
    let begin = Instant::now();
    for _ in 0..50 {
        assert_eq!(daemon.get("/metrics").0, 200);
        daemon.get("/healthz");
        daemon.get("/");
        daemon.status();
    }
    // The survey looks for new backups once a minute: one list.
    let minutes = usize::try_from(begin.elapsed().as_secs() / 60).unwrap();
    let requests = server.faults().requests();
    assert!(requests.len() <= 1 + minutes, "{requests:?}");
    assert!(requests.iter().all(|request| request.verb == Verb::List), "{requests:?}");
}

// --- heartbeats to somebody else

/// Counts what is asked of it. The first request is refused.
struct Receiver {
    address: String,
    count: Arc<AtomicUsize>,
    wanted: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let count = Arc::new(AtomicUsize::new(0));
        let wanted = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (counter, lines, stopped) = (Arc::clone(&count), Arc::clone(&wanted), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let mut request = [0; 4096];
                let len = stream.read(&mut request).unwrap_or(0);
                let line = String::from_utf8_lossy(&request[..len]).lines().next().unwrap_or("").to_owned();
                let status =
                    if counter.load(Ordering::SeqCst) == 0 { "500 Broken" } else { "204 No Content" };
                let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                lines.lock().unwrap().push(line);
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { address, count, wanted, stop, thread: Some(thread) }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = std::net::TcpStream::connect(&self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn somebody_else_is_pinged_while_all_is_well_and_only_then() {
    const TOKEN: &str = "t0k3n-of-the-heartbeat";
    let receiver = Receiver::start();
    let url = format!("http://{}/ping/{TOKEN}?key={TOKEN}", receiver.address);
    let mut archived = archived(Repo::local(), &format!("{TAIL}[notify]\nheartbeat_url = \"{url}\"\n"));
    let first = Daemon::start_with(&archived.walproof, ["-vv"]);
    first.wait("it knows what is stored", |status| status["rpo_seconds"] == 0.0);
    sleep(Duration::from_secs(5));
    assert_eq!(receiver.count(), 0, "there is no backup");
    let mut logs = vec![first.terminate().stderr()];

    archived.backup();
    let second = Daemon::start_with(&archived.walproof, ["-vv"]);
    wait_until("it is pinged", Duration::from_secs(15), || receiver.count() == 1);
    wait_until("it says that it could not", PATIENCE, || {
        second.log().contains("notify.heartbeat_url cannot be pinged") && second.log().contains("500")
    });
    archived.cluster.stop(StopMode::Fast);
    second.wait("it notices", |status| status["role"] == "down");
    let while_well = receiver.count();
    sleep(Duration::from_secs(33));
    assert_eq!(receiver.count(), while_well, "the server is down");
    archived.cluster.start();
    wait_until("it is pinged again", Duration::from_secs(45), || receiver.count() > while_well);
    logs.push(second.terminate().stderr());
    let wanted = receiver.wanted.lock().unwrap().clone();
    assert!(
        wanted.iter().all(|line| *line == format!("GET /ping/{TOKEN}?key={TOKEN} HTTP/1.1")),
        "{wanted:?}"
    );
    for log in logs {
        assert!(!log.contains(TOKEN), "{log}");
    }
}

#[test]
fn uptime_kuma_is_told_what_is_wrong_and_when_it_is_right_again() {
    let receiver = Receiver::start();
    let url = format!("http://{}/api/push/t0k3n?status=up&msg=OK&ping=", receiver.address);
    let mut archived = archived(Repo::local(), &format!("{TAIL}[notify]\nheartbeat_url = \"{url}\"\n"));
    archived.backup();
    let daemon = Daemon::start(&archived.walproof);
    let told = |begin: &str| {
        let line = format!("GET /api/push/t0k3n?ping=&{begin}");
        receiver.wanted.lock().unwrap().iter().filter(|wanted| wanted.starts_with(&line)).count()
    };
    wait_until("all is well", PATIENCE, || told("status=up&msg=OK HTTP/1.1") == 1);
    archived.cluster.stop(StopMode::Fast);
    daemon.wait("it notices", |status| status["role"] == "down");
    sleep(Duration::from_secs(10));
    assert_eq!(told("status=down"), 0, "a restart is not told");
    wait_until("it is told", Duration::from_mins(1), || told("status=down&msg=server_down%3A+") > 0);
    archived.cluster.start();
    let before = told("status=up&msg=OK");
    wait_until("it is told", PATIENCE, || told("status=up&msg=OK") > before);
}

// --- systemd

#[test]
fn systemd_is_told_even_when_server_and_store_are_down() {
    let mut server = S3Server::start();
    let mut archived = archived(Repo::s3(&server), TAIL);
    archived.cluster.stop(StopMode::Fast);
    server.stop();
    let path = archived.scratch.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let walproof = archived.walproof.with_env("NOTIFY_SOCKET", &path).with_env("WATCHDOG_USEC", "1000000");
    let next = || {
        let mut message = [0; 4096];
        let len = socket.recv(&mut message).expect("systemd is told something");
        String::from_utf8(message[..len].to_vec()).unwrap().trim_end().to_owned()
    };
    let alive_for = |seconds| {
        let (begin, mut last) = (Instant::now(), Instant::now());
        while begin.elapsed() < Duration::from_secs(seconds) {
            let message = next();
            assert!(message.starts_with("WATCHDOG=1\nSTATUS="), "{message}");
            assert!(last.elapsed() < Duration::from_secs(1), "{:?} without a sign of life", last.elapsed());
            last = Instant::now();
        }
    };

    let daemon = Daemon::start(&walproof);
    assert_eq!(next(), "READY=1");
    alive_for(6);
    assert_eq!(daemon.status()["role"], "down");
    server.restart();
    archived.cluster.start();
    // What came meanwhile is read first; the pauses count from here on.
    socket.set_nonblocking(true).unwrap();
    while socket.recv(&mut [0; 4096]).is_ok() {}
    socket.set_nonblocking(false).unwrap();
    alive_for(5);
    daemon.wait("it found both", |status| status["role"] == "primary" && !status["stored"].is_null());
    daemon.terminate().success();
    let mut last = next();
    while last.starts_with("WATCHDOG=1") {
        last = next();
    }
    assert_eq!(last, "STOPPING=1");
}

// --- logs

/// Every line as the object that it has to be.
fn objects(log: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let objects: Vec<Value> = log.lines().map(parse).collect();
    assert!(objects.iter().all(Value::is_object), "{log}");
    objects
}

#[test]
fn an_outage_of_the_store_is_two_lines_of_the_log_and_no_line_tells_a_secret() {
    let mut server = S3Server::start();
    let archived = archived(
        Repo::s3(&server),
        "[archive]\ntail_interval = \"1s\"\nheartbeat_interval = \"0s\"\ntimeout = \"2s\"\n[log]\nformat = \"json\"\n",
    );
    archived.backup();
    let secrets = {
        let key = std::fs::read_to_string(archived.walproof.scratch().join("key")).unwrap();
        let key = key.split_whitespace().last().unwrap().to_owned();
        assert_eq!(key.len(), 64);
        [key, server.location().secret_key]
    };
    let mut logs = Vec::new();
    for arg in ["-v", "-vv"] {
        let daemon = Daemon::start_with(&archived.walproof, [arg]);
        daemon.wait("all is stored", |status| status["rpo_seconds"] == 0.0);
        archived.archive_all();
        server.stop();
        for _ in 0..5 {
            archived.cluster.switch_wal();
        }
        sleep(Duration::from_secs(10));
        server.restart();
        archived.archive_all();
        daemon.wait("all is stored again", |status| status["rpo_seconds"] == 0.0 && status["ready"] == 0);
        archived.walproof.run(["daemon"]).fails_with(7).stderr().lines().for_each(|line| {
            objects(line);
        });
        let log = daemon.terminate().stderr();
        let said = objects(&log);
        let lines =
            |part: &str| said.iter().filter(|line| line["message"].to_string().contains(part)).count();
        let warnings: Vec<_> =
            said.iter().filter(|line| line["level"] == "WARN" || line["level"] == "ERROR").collect();
        assert_eq!(warnings.len(), 1, "{warnings:#?}");
        assert_eq!(warnings[0]["message"], "the store cannot be used");
        assert_eq!(lines("over: the store cannot be used"), 1, "{log}");
        logs.push(log);
    }
    logs.push(archived.cluster.log());
    for log in logs {
        assert!(secrets.iter().all(|secret| !log.contains(secret)), "{log}");
    }
}

// --- clocks

#[test]
fn a_clock_that_jumps_changes_neither_the_rpo_nor_the_tail() {
    let libraries = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let faketime = libraries
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
        .expect("libfaketimeMT is missing: apt-get install faketime (scripts/test does)");
    let archived = archived(Repo::local(), TAIL);
    archived.backup();
    let clock = archived.scratch.file("clock", "+0\n");
    let walproof = archived
        .walproof
        .with_env("LD_PRELOAD", &faketime)
        .with_env("FAKETIME_TIMESTAMP_FILE", &clock)
        .with_env("FAKETIME_NO_CACHE", "1")
        .with_env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let daemon = Daemon::start(&walproof);
    daemon.wait_all_stored();
    let now = || daemon.status()["taken_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    for hours in [-1, 2, -1, 0] {
        // Renamed: libfaketime ends a process that reads half a file.
        let next = archived.scratch.file("next", format!("{:+}\n", hours * 3600));
        std::fs::rename(next, &clock).unwrap();
        wait_until("the daemon's clock has jumped", PATIENCE, || {
            let ahead = now().as_second() - jiff::Timestamp::now().as_second();
            (ahead - hours * 3600).abs() < 60
        });
        for _ in 0..3 {
            archived.cluster.psql("select pg_logical_emit_message(true, 'x', repeat('x', 100000))");
            let reached = flushed(&archived.cluster);
            daemon.wait_within(Duration::from_secs(20), "the tail goes out", |status| {
                let rpo = status["rpo_seconds"].as_f64().expect("a primary claims an RPO");
                assert!((0.0..25.0).contains(&rpo), "{status:#}");
                rpo == 0.0
            });
            assert!(daemon.metric("walproof_wal_flushed_lsn_bytes") >= Some(reached));
        }
        archived.archive_all();
        daemon.wait_all_stored();
        assert_eq!(daemon.get("/healthz").0, 200);
    }
}
