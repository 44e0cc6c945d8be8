//! What the daemon costs and achieves, on real PostgreSQL servers and an S3 server with latency in this process:
//! `cargo bench --bench daemon`, `-- --quick` for less of everything, `-- 2 4` for some of the sections only.
//!
//! `WALPROOF_BENCH_OUTAGE` is how many seconds the store is down in section 5. It exits with 1 if a target is missed.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark that cannot go on fails; its numbers are small"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use support::postgres::Cluster;
use support::process::{self, peak_memory, resident_memory};
use support::s3::{Fault, S3Server, Verb};
use support::{Daemon, Repo, Walproof, holds_within};

const LATENCY: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_mins(30);
const MIB: f64 = 1024.0 * 1024.0;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "--bench") {
        println!("only `cargo bench` measures");
        return ExitCode::SUCCESS;
    }
    let quick = args.iter().any(|arg| arg == "--quick");
    let asked: Vec<u32> = args.iter().filter_map(|arg| arg.parse().ok()).collect();
    let mut table = Table { quick, missed: false };
    let sections = [acknowledge, drain_backlogs, idle, load, outage, refusal];
    for (number, section) in (1..).zip(sections) {
        if asked.is_empty() || asked.contains(&number) {
            println!("--- {number}, load average {}", load_average());
            section(&mut table);
        }
    }
    println!("--- the end, load average {}", load_average());
    ExitCode::from(u8::from(table.missed))
}

// --- what is printed

struct Table {
    quick: bool,
    missed: bool,
}

enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Table {
    /// As many as `whole`, or a quarter of them.
    fn of(&self, whole: u32) -> u32 {
        if self.quick { whole / 4 } else { whole }
    }

    fn seconds(&self, whole: u64) -> Duration {
        Duration::from_secs(if self.quick { whole / 2 } else { whole })
    }

    fn judge(&mut self, what: &str, measured: f64, unit: &str, target: &Target) {
        let (sign, limit, ok) = match *target {
            Target::AtMost(limit) => ("<=", limit, measured <= limit),
            Target::AtLeast(limit) => (">=", limit, measured >= limit),
        };
        self.missed |= !ok;
        let (measured, target) = (format!("{measured:.2} {unit}"), format!("{sign} {limit} {unit}"));
        println!("{what:<52} {measured:>16} {target:>14}  {}", if ok { "OK" } else { "MISS" });
    }

    fn tell(what: &str, measured: f64, unit: &str) {
        println!("{what:<52} {:>16}", format!("{measured:.2} {unit}"));
    }
}

fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

// --- what is measured with

/// A server whose segments wait in archive_status: PostgreSQL's own archiver fails.
fn unarchived(megabytes: u32) -> Cluster {
    let builder = Cluster::builder().segment_size_mb(megabytes);
    builder.setting("archive_mode", "on").setting("archive_command", "false").start()
}

fn store() -> S3Server {
    let server = S3Server::start();
    server.faults().latency(LATENCY);
    server
}

fn initialised(cluster: &Cluster, server: &S3Server) -> Walproof {
    let walproof = Walproof::for_cluster(cluster, Repo::s3(server));
    walproof.run(["init"]).success();
    walproof
}

/// A server under pgbench that archives through walproof into `server`, with the defaults.
fn archived(server: &S3Server) -> (Cluster, Walproof) {
    let mut cluster = Cluster::builder().setting("archive_timeout", "0").create();
    let walproof = initialised(&cluster, server);
    cluster.configure_archiving(&walproof).start();
    cluster.pgbench(["-i", "-q", "-s", "20"]);
    (cluster, walproof)
}

/// What waits to be archived, oldest first.
fn ready(cluster: &Cluster) -> Vec<String> {
    let entries = std::fs::read_dir(cluster.pg_wal().join("archive_status")).expect("list archive_status");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    let mut names: Vec<String> =
        names.filter_map(|name| Some(name.strip_suffix(".ready")?.to_owned())).collect();
    names.sort();
    names
}

/// Let pgbench write until so many segments wait. After a checkpoint WAL has whole pages, and so grows fast.
fn fill(cluster: &Cluster, segments: u32) -> Vec<String> {
    cluster.pgbench(["-i", "-q", "-s", "20"]);
    while ready(cluster).len() < segments as usize {
        cluster.psql("checkpoint");
        cluster.pgbench(["-n", "-c", "4", "-t", "1000"]);
    }
    ready(cluster)
}

/// How many whole WAL files were put, whether or not one was put twice.
fn puts(server: &S3Server) -> usize {
    let requests = server.faults().requests();
    let whole = |key: &str| key.contains("/wal/");
    requests.iter().filter(|r| r.verb == Verb::Put && r.status == Some(200) && whole(&r.key)).count()
}

fn quiet(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// From spawn to exit, in seconds.
fn time_of(command: Command) -> f64 {
    let mut command = quiet(command);
    let begin = Instant::now();
    let status = command.status().expect("start a command");
    let took = begin.elapsed().as_secs_f64();
    assert!(status.success(), "{command:?}: {status}");
    took
}

fn push(walproof: &Walproof, name: &str) -> Command {
    walproof.command(["wal-push", &format!("pg_wal/{name}")])
}

/// Seconds of CPU that a process has used; the kernel counts in hundredths on every platform we support.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("ticks")).sum::<f64>() / 100.0
}

fn resident(pid: u32) -> f64 {
    resident_memory(pid) as f64 / MIB
}

/// What a daemon's log complains of.
fn complaints(daemon: &Daemon) {
    let log = daemon.log();
    let lines = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
    for line in lines.take(5) {
        println!("  log: {line}");
    }
}

/// The end of a section: ended as systemd does it, a daemon that is recorded writes what it ran.
fn end(daemon: Daemon) {
    complaints(&daemon);
    daemon.terminate().success();
}

fn percentile(sorted: &[f64], of_100: usize) -> f64 {
    sorted[(sorted.len() * of_100 / 100).min(sorted.len() - 1)]
}

fn sorted(times: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    times
}

// --- 1

/// `wal-push` of what the daemon has shipped already.
fn acknowledge(table: &mut Table) {
    let (server, cluster) = (store(), unarchived(16));
    let walproof = initialised(&cluster, &server);
    let names = fill(&cluster, 8);
    let daemon = Daemon::start_whole(&walproof);
    for name in &names {
        walproof.push(name).success();
    }
    daemon.wait_all_stored();
    let before = server.faults().total();
    let calls = table.of(300) as usize;
    let idle = sorted((0..calls).map(|_| time_of(process::command("/bin/true"))));
    let times = sorted(names.iter().cycle().take(calls).map(|name| time_of(push(&walproof, name))));
    let requests = server.faults().total() - before;
    let milliseconds = |times: &[f64], of_100| percentile(times, of_100) * 1000.0;
    Table::tell("/bin/true: median", milliseconds(&idle, 50), "ms");
    table.judge("wal-push, shipped already: median", milliseconds(&times, 50), "ms", &Target::AtMost(3.0));
    Table::tell("wal-push, shipped already: p99", milliseconds(&times, 99), "ms");
    Table::tell("requests to the store meanwhile, heartbeat included", requests as f64, "");

    // Through a small process: a child of ours is as large as we are until it becomes another program.
    let memory = |program: &std::ffi::OsStr, name: &String| {
        let push = push(&walproof, name);
        let mut time = process::command("/usr/bin/time");
        time.args(["-f", "%M"]).arg(program).args(push.get_args());
        time.current_dir(push.get_current_dir().expect("the data directory"));
        let output = process::run(time, b"", process::TIMEOUT);
        let text = output.success().stderr();
        text.trim().parse::<f64>().expect("kilobytes")
    };
    let built = push(&walproof, &names[0]).get_program().to_owned();
    let most = names.iter().map(|name| memory(&built, name)).fold(0.0, f64::max);
    table.judge("wal-push, shipped already: peak memory", most, "kB", &Target::AtMost(5000.0));
    // How much of a file one page fault maps depends on how it lies in the page cache: another for each copy.
    let copies = names.iter().map(|name| {
        // Beside it, because the scratch directory may lie in memory.
        let copy = std::path::Path::new(&built).with_file_name(format!("walproof-{name}"));
        std::fs::copy(&built, &copy).expect("a copy of the program");
        let memory = memory(copy.as_os_str(), name);
        std::fs::remove_file(&copy).expect("the copy");
        memory
    });
    let most = copies.fold(0.0, f64::max);
    table.judge("the same, of 8 installed copies the largest", most, "kB", &Target::AtMost(5000.0));
    complaints(&daemon);
}

// --- 2

fn drain_backlogs(table: &mut Table) {
    let (small, large, single) = (table.of(300), table.of(40), table.of(60));
    let faster = drain_backlog(1, small, single);
    table.judge("1 MiB: as fast as one at a time", faster, "times", &Target::AtLeast(3.0));
    let faster = drain_backlog(16, large, single.min(large) / 2);
    Table::tell("16 MiB: as fast as one at a time", faster, "times");
}

/// A backlog of real WAL, by `single` calls of `wal-push` and by a daemon; how much faster the daemon is.
fn drain_backlog(megabytes: u32, segments: u32, single: u32) -> f64 {
    let cluster = unarchived(megabytes);
    let names = fill(&cluster, segments);
    let each = {
        let server = store();
        let alone = initialised(&cluster, &server);
        let pushed = names.iter().take(single as usize);
        pushed.map(|name| time_of(push(&alone, name))).sum::<f64>() / f64::from(single)
    };
    let server = store();
    let walproof = initialised(&cluster, &server);
    let begin = Instant::now();
    let daemon = Daemon::start(&walproof);
    assert!(holds_within(LONG, || puts(&server) >= names.len()), "{}", daemon.log());
    let took = begin.elapsed().as_secs_f64();
    let count = names.len() as f64;
    let say = |what: &str| format!("{megabytes} MiB: {what}");
    Table::tell(&say("backlog"), count, "segments");
    Table::tell(&say("one wal-push, no daemon"), each * 1000.0, "ms");
    Table::tell(&say("the backlog one at a time (scaled)"), each * count, "s");
    Table::tell(&say("the backlog by the daemon"), took, "s");
    Table::tell(&say("CPU of the daemon for it"), cpu(daemon.pid()), "s");
    Table::tell(&say("peak memory of the daemon"), peak_memory(daemon.pid()) as f64 / MIB, "MiB");
    complaints(&daemon);
    each * count / took
}

// --- 3

fn idle(table: &mut Table) {
    let server = store();
    let (_cluster, walproof) = archived(&server);
    let daemon = Daemon::start_whole(&walproof);
    daemon.wait_all_stored();
    sleep(Duration::from_secs(2));
    let (begin, before) = (Instant::now(), cpu(daemon.pid()));
    sleep(table.seconds(20));
    let used = (cpu(daemon.pid()) - before) / begin.elapsed().as_secs_f64() * 100.0;
    table.judge("idle: CPU of one core", used, "%", &Target::AtMost(1.0));
    table.judge("idle: memory now", resident(daemon.pid()), "MiB", &Target::AtMost(32.0));
    end(daemon);
}

// --- 4

fn load(table: &mut Table) {
    let server = store();
    let (cluster, walproof) = archived(&server);
    let daemon = Daemon::start_whole(&walproof);
    daemon.wait_all_stored();
    let (begin, cpu_before, puts_before) = (Instant::now(), cpu(daemon.pid()), puts(&server));
    let (rpo, waiting) = pgbench_for(&cluster, &daemon, table.seconds(20), || {
        for path in ["/", "/healthz"] {
            daemon.get(path);
        }
    });
    let used = (cpu(daemon.pid()) - cpu_before) / begin.elapsed().as_secs_f64() * 100.0;
    let shipped = puts(&server) - puts_before;
    let calm = seconds_until_safe(&daemon);
    let memory = peak_memory(daemon.pid()) as f64 / MIB;
    table.judge("load: peak memory", memory, "MiB", &Target::AtMost(128.0));
    Table::tell("load: CPU of one core", used, "%");
    Table::tell("load: highest walproof_rpo_seconds", rpo, "s");
    Table::tell("load: segments shipped meanwhile", shipped as f64, "");
    Table::tell("load: segments waiting at its end", waiting as f64, "");
    Table::tell("load: until RPO is 0 after it", calm, "s");
    Table::tell("load: memory then", resident(daemon.pid()), "MiB");
    end(daemon);
}

/// pgbench at full speed, with checkpoints for more WAL; the highest RPO meanwhile, sampled each second, and what waits
/// at the end.
fn pgbench_for(
    cluster: &Cluster,
    daemon: &Daemon,
    time: Duration,
    mut each_second: impl FnMut(),
) -> (f64, usize) {
    let seconds = time.as_secs().to_string();
    let mut pgbench = cluster.spawn_pgbench(["-n", "-c", "4", "-j", "2", "-T", &seconds]);
    let mut highest = 0_f64;
    while pgbench.ended().is_none() {
        highest = highest.max(daemon.metric("walproof_rpo_seconds").unwrap_or(f64::INFINITY));
        each_second();
        cluster.psql("checkpoint");
        sleep(Duration::from_secs(1));
    }
    let output = pgbench.wait(LONG);
    let text = output.success().stdout();
    let rate = text.lines().find(|line| line.starts_with("tps")).unwrap_or_default();
    println!("  pgbench -c 4: {rate}");
    (highest, ready(cluster).len())
}

fn seconds_until_safe(daemon: &Daemon) -> f64 {
    let begin = Instant::now();
    daemon.wait_within(LONG, "all is stored", |status| status["rpo_seconds"] == 0.0);
    begin.elapsed().as_secs_f64()
}

// --- 5

fn outage(table: &mut Table) {
    let asked = std::env::var("WALPROOF_BENCH_OUTAGE").ok().and_then(|seconds| seconds.parse().ok());
    let time = asked.map_or(table.seconds(60), Duration::from_secs);
    let mut server = store();
    let (cluster, walproof) = archived(&server);
    let daemon = Daemon::start_whole(&walproof);
    daemon.wait_all_stored();
    server.stop();
    let (begin, cpu_before) = (Instant::now(), cpu(daemon.pid()));
    let mut memory = Vec::new();
    let (rpo, waiting) = pgbench_for(&cluster, &daemon, time, || memory.push(resident(daemon.pid())));
    let down = begin.elapsed().as_secs_f64();
    let used = (cpu(daemon.pid()) - cpu_before) / down * 100.0;
    let most_down = memory.iter().copied().fold(0.0, f64::max);
    let known = daemon.status()["ready"].as_f64().unwrap_or_default();

    server.restart();
    server.faults().latency(LATENCY);
    let back = Instant::now();
    let mut first = None;
    let puts_before = puts(&server);
    let drained = holds_within(LONG, || {
        if first.is_none() && puts(&server) > puts_before {
            first = Some(back.elapsed().as_secs_f64());
        }
        ready(&cluster).is_empty()
    });
    assert!(drained, "{}", daemon.log());
    let emptied = back.elapsed().as_secs_f64();
    let calm = emptied + seconds_until_safe(&daemon);

    Table::tell("outage: the store was down for", down, "s");
    Table::tell("outage: segments waiting at its end", waiting as f64, "");
    Table::tell("outage: of which the daemon knows", known, "");
    Table::tell("outage: highest walproof_rpo_seconds", rpo, "s");
    Table::tell("outage: CPU of one core while the store is down", used, "%");
    Table::tell("outage: memory while the store is down, at most", most_down, "MiB");
    Table::tell("outage: until the first segment is stored after it", first.unwrap_or(f64::NAN), "s");
    Table::tell("outage: until PostgreSQL has no .ready left", emptied, "s");
    Table::tell("outage: until RPO is 0", calm, "s");
    let peak = peak_memory(daemon.pid()) as f64 / MIB;
    table.judge("outage: peak memory", peak, "MiB", &Target::AtMost(128.0));
    Table::tell("outage: memory now", resident(daemon.pid()), "MiB");
    stored_once(table, &walproof, &server);
    end(daemon);
}

/// Every segment from the first to the last is stored, under one key, and was put once.
fn stored_once(table: &mut Table, walproof: &Walproof, server: &S3Server) {
    let keys = walproof.repo().keys("/wal/");
    let names: std::collections::BTreeSet<&str> = keys
        .iter()
        .filter_map(|key| key.rsplit('/').next()?.split('-').next())
        .filter(|name| name.len() == 24)
        .collect();
    let list = walproof.json(["wal-list"]);
    let gaps = list["gaps"].as_array().map_or(f64::NAN, |gaps| gaps.len() as f64);
    table.judge("outage: gaps in the archive", gaps, "", &Target::AtMost(0.0));
    let twice = keys.len() - names.len();
    table.judge("outage: segments stored twice", twice as f64, "", &Target::AtMost(0.0));
    let again = puts(server).saturating_sub(names.len());
    Table::tell("outage: further successful PUTs of segments", again as f64, "");
}

// --- 6

/// A store that answers at once, and refuses: an expired key, while segments pile up.
fn refusal(table: &mut Table) {
    let (server, cluster) = (store(), unarchived(16));
    let walproof = initialised(&cluster, &server);
    let daemon = Daemon::start_whole(&walproof);
    server.faults().add(Fault::status(403));
    let waiting = fill(&cluster, table.of(100)).len();
    sleep(Duration::from_secs(2));
    let (begin, before) = (Instant::now(), cpu(daemon.pid()));
    sleep(table.seconds(20));
    let used = (cpu(daemon.pid()) - before) / begin.elapsed().as_secs_f64() * 100.0;
    let peak = peak_memory(daemon.pid()) as f64 / MIB;
    Table::tell("refusal: segments that wait", waiting as f64, "");
    Table::tell("refusal: CPU of one core", used, "%");
    table.judge("refusal: peak memory", peak, "MiB", &Target::AtMost(128.0));
    complaints(&daemon);
}
