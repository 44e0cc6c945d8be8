//! A restore from S3 beside writing the same bytes with `dd`, turn by turn: `TMPDIR=/var/tmp cargo bench --bench restore`.
//! The S3 server runs in this process, on the loopback interface, with its objects in files. A disk may be twice as fast in
//! one second as in the next: what counts is the ratio within a round, and each of the two comes first in every other one.
//! Then a delta restore beside a fresh one, and a fresh one beside pgBackRest's restore of the same cluster from the same
//! server, which it reaches through TLS, as it has to.
//!
//! It exits with 1 if a target is missed. Needs pgbackrest, socat and openssl.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on fails"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use support::account::Account;
use support::postgres::Cluster;
use support::process::Running;
use support::s3::S3Server;
use support::walproof_builder::free_port;
use support::{Archived, Repo, process};

const ROUNDS: usize = 15;
/// Of pgbench: about 600 MB.
const SCALE: &str = "40";
/// Of the time of `dd`.
const TARGET: f64 = 1.2;
/// Of the time of pgBackRest.
const TARGET_BESIDE: f64 = 0.06;
const ROUNDS_BESIDE: usize = 3;
/// Of the time of a fresh restore, where one page in a hundred differs.
const TARGET_OF_DELTA: f64 = 0.4;
const ROUNDS_OF_DELTA: usize = 7;

fn main() -> ExitCode {
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("only `cargo bench` measures");
        return ExitCode::SUCCESS;
    }
    let server = S3Server::start();
    let mut archived = Archived::start_as(Cluster::builder(), Repo::s3(&server));
    archived.cluster.pgbench(["-i", "-q", "-s", SCALE]);
    archived.backup();
    archived.archive_all();
    archived.cluster.stop(support::postgres::StopMode::Fast);

    let (restored, copy) = (archived.target("restored"), archived.target("copy"));
    let (source, past) = (archived.target("source"), archived.scratch.dir("past"));
    let set_aside = |tree: &Path| {
        let number = fs::read_dir(&past).unwrap().count();
        call("set_aside", &[tree, &past.join(number.to_string())]);
    };
    let restore = || {
        let took = time_of(archived.walproof.command(["restore", "--to", restored.to_str().unwrap()]));
        if !source.exists() {
            concatenate(&restored, &source);
        }
        set_aside(&restored);
        took
    };
    let write = || {
        let mut dd = Command::new("dd");
        let operands = [format!("if={}", source.display()), format!("of={}", copy.display())];
        dd.args(operands).args(["bs=1M", "conv=fsync"]);
        let took = time_of(dd);
        fs::remove_file(&copy).unwrap();
        took
    };
    let (mut ratios, mut seconds, mut seconds_of_dd) = (Vec::new(), Vec::new(), Vec::new());
    // The first round fills the page cache and is not counted.
    for round in 0..=ROUNDS {
        let (restored, written) = if round % 2 == 0 {
            (restore(), write())
        } else {
            let written = write();
            (restore(), written)
        };
        println!("round {round}: restore {restored:.2} s, dd {written:.2} s");
        if round > 0 {
            ratios.push(restored / written);
            seconds.push(restored);
            seconds_of_dd.push(written);
        }
    }
    let (ratio, bytes) = (median(ratios), source.metadata().unwrap().len() / 1_000_000);
    let (seconds, seconds_of_dd) = (median(seconds), median(seconds_of_dd));
    println!("{bytes} MB from S3, durable: {seconds:.2} s, dd conv=fsync {seconds_of_dd:.2} s");
    println!("{ratio:.2}x of it, target <= {TARGET}x");

    let delta = || {
        let old = archived.target("delta");
        if !old.exists() {
            time_of(archived.walproof.command(["restore", "--to", old.to_str().unwrap()]));
        }
        call("change_pages", &[&old]);
        time_of(archived.walproof.command(["restore", "--delta", "--to", old.to_str().unwrap()]))
    };
    let ratios = (1..=ROUNDS_OF_DELTA).map(|round| {
        let (changed, fresh) = (delta(), restore());
        println!("round {round}: restore --delta where one page in a hundred differs {changed:.2} s, fresh {fresh:.2} s");
        changed / fresh
    });
    let delta = median(ratios.collect());
    println!("{delta:.2}x of it, target <= {TARGET_OF_DELTA}x");

    let beside = archived.target("beside");
    let ratios = [("as it comes", ""), ("bundled, two processes", "repo1-bundle=y\nprocess-max=2\n")].map(
        |(how, options)| {
            let peer = PgBackRest::set_up(&archived, &server, options);
            let times = (1..=ROUNDS_BESIDE).map(|round| {
                let theirs = peer.restore(&beside);
                set_aside(&beside);
                let ours = restore();
                println!("round {round}: restore {ours:.2} s, pgBackRest, {how}, {theirs:.2} s");
                ours / theirs
            });
            median(times.collect())
        },
    );
    println!(
        "{:.3}x of pgBackRest as it comes, target <= {TARGET_BESIDE}x; {:.2}x of it at its best",
        ratios[0], ratios[1]
    );
    ExitCode::from(u8::from(ratio > TARGET || delta > TARGET_OF_DELTA || ratios[0] > TARGET_BESIDE))
}

/// The same cluster in a repository of its own on the same server, encrypted.
struct PgBackRest {
    configuration: PathBuf,
    /// Takes its TLS off.
    _proxy: Running,
}

impl PgBackRest {
    fn set_up(archived: &Archived, server: &S3Server, options: &str) -> Self {
        let place = archived.target("pgbackrest");
        let _ = fs::remove_dir_all(&place);
        fs::create_dir(&place).unwrap();
        Account::get().own(&place);
        let (key, certificate) = (place.join("key"), place.join("certificate"));
        let mut openssl = process::command("openssl");
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ]);
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        process::run(openssl, b"", process::TIMEOUT).success();
        let location = server.location();
        let port = free_port();
        let mut socat = process::command("socat");
        socat.arg(format!(
            "OPENSSL-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,verify=0,cert={},key={}",
            certificate.display(),
            key.display()
        ));
        socat.arg(format!("TCP:{}", location.endpoint.trim_start_matches("http://")));
        let proxy = Running::start(socat, b"");
        let configuration = place.join("pgbackrest.conf");
        let text = format!(
            "[global]\nrepo1-type=s3\nrepo1-path=/pgbackrest-{}\nrepo1-s3-bucket={}\nrepo1-s3-region={}\n\
             repo1-s3-endpoint=127.0.0.1\nrepo1-storage-port={port}\nrepo1-storage-verify-tls=n\n\
             repo1-s3-uri-style=path\nrepo1-s3-key={}\nrepo1-s3-key-secret={}\nrepo1-cipher-type=aes-256-cbc\n\
             repo1-cipher-pass=bench\ncompress-type=zst\ncompress-level=3\n{options}\
             log-level-file=off\nlog-level-console=error\nlock-path={}\n[main]\npg1-path={}\n",
            if options.is_empty() { "plain" } else { "bundled" },
            location.bucket,
            location.region,
            location.access_key,
            location.secret_key,
            place.display(),
            archived.cluster.data_dir().display()
        );
        fs::write(&configuration, text).unwrap();
        let peer = Self { configuration, _proxy: proxy };
        for arguments in [["stanza-create", "--no-online"], ["backup", "--no-online"]] {
            process::run(peer.command(arguments), b"", process::TIMEOUT).success();
        }
        peer
    }

    fn command<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = process::command("pgbackrest");
        command.arg("--config").arg(&self.configuration).arg("--stanza=main").args(arguments);
        command
    }

    fn restore(&self, to: &Path) -> f64 {
        fs::create_dir(to).unwrap();
        Account::get().own(to);
        time_of(self.command(["restore", &format!("--pg1-path={}", to.display())]))
    }
}

/// All that was restored, as one file.
fn concatenate(from: &Path, to: &Path) {
    let command = "find \"$0\" -type f -print0 | sort -z | xargs -0 cat >\"$1\"";
    let status = Command::new("sh").args(["-c", command]).args([from, to]).status().unwrap();
    assert!(status.success());
}

/// Call a function of the script that compares local repositories.
fn call(function: &str, arguments: &[&Path]) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/compare.sh");
    let command = r#"set -e; as() { "$@"; }; . "$0"; "$@""#;
    let status =
        Command::new("bash").args(["-c", command, script, function]).args(arguments).status().unwrap();
    assert!(status.success(), "{function}");
}

/// From spawn to exit, in seconds; before it nothing waits to be written.
fn time_of(mut command: Command) -> f64 {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    rustix::fs::sync();
    let begin = Instant::now();
    let status = command.status().unwrap();
    let took = begin.elapsed().as_secs_f64();
    assert!(status.success(), "{command:?}: {status}");
    took
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
