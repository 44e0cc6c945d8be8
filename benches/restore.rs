//! A restore from S3 beside writing the same bytes with `dd`, turn by turn: `TMPDIR=/var/tmp cargo bench --bench restore`.
//! The S3 server runs in this process, on the loopback interface, with its objects in files. A disk may be twice as fast in
//! one second as in the next: what counts is the ratio within a round, and each of the two comes first in every other one.
//!
//! It exits with 1 if the target is missed.
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
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use support::postgres::Cluster;
use support::s3::S3Server;
use support::{Archived, Repo};

const ROUNDS: usize = 15;
/// Of pgbench: about 600 MB.
const SCALE: &str = "40";
/// Of the time of `dd`.
const TARGET: f64 = 1.2;

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
    let source = archived.target("source");
    let restore = || {
        let took = time_of(archived.walproof.command(["restore", "--to", restored.to_str().unwrap()]));
        if !source.exists() {
            concatenate(&restored, &source);
        }
        fs::remove_dir_all(&restored).unwrap();
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
    ExitCode::from(u8::from(ratio > TARGET))
}

/// All that was restored, as one file.
fn concatenate(from: &Path, to: &Path) {
    let command = "find \"$0\" -type f -print0 | sort -z | xargs -0 cat >\"$1\"";
    let status = Command::new("sh").args(["-c", command]).args([from, to]).status().unwrap();
    assert!(status.success());
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
