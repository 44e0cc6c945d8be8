//! The test rig: clusters, repositories, faults and fabricated files, so that a test reads as a story.
//!
//! - [`postgres`]: real PostgreSQL servers, private and disposable.
//! - [`walproof`]: the compiled binary, called as PostgreSQL, systemd or an operator would call it.
//! - [`daemon`]: the same program as a daemon.
//! - [`prometheus`]: a real Prometheus that scrapes it.
//! - [`archived`]: both together, and what is restored from them.
//! - [`s3`]: an S3 server inside the test process that can be told to misbehave, or that misbehaves before a real one.
//! - [`repo`]: where a repository lives, and the hands of somebody who tampers with it.
//! - [`fabricate`]: WAL segments, control files and data directories made byte by byte; no server needed.
//!
//! PostgreSQL refuses to run as root and CI runs as root: everything of PostgreSQL and every call of walproof
//! then runs as the user `postgres` (or `nobody`), see [`account`]. A test that cannot run fails and says what
//! to install; nothing here skips.

#![allow(dead_code, unused_imports, reason = "every test binary compiles the rig whole and uses a part")]
#![allow(unreachable_pub, missing_docs, missing_debug_implementations, reason = "no API outside the tests")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a rig that cannot go on fails its test, loudly and on the spot"
)]
#![allow(
    clippy::return_self_not_must_use,
    clippy::missing_panics_doc,
    clippy::cast_possible_truncation,
    reason = "lints for an API, and casts of small numbers"
)]

pub mod account;
pub mod archived;
pub mod cluster;
pub mod cluster_builder;
pub mod control_file;
pub mod daemon;
pub mod data_dir;
pub mod drill;
pub mod dump;
pub mod fabricate;
pub mod faults;
pub mod http;
pub mod kill_at;
pub mod postgres;
pub mod process;
pub mod program;
pub mod prometheus;
pub mod random;
pub mod repo;
pub mod s3;
pub mod s3_behind;
pub mod s3_service;
pub mod s3_target;
pub mod scale;
pub mod scratch;
pub mod server;
pub mod site;
pub mod small_disk;
pub mod wal_file;
pub mod walproof;
pub mod walproof_builder;

pub use archived::Archived;
pub use daemon::Daemon;
pub use random::{Random, seed};
pub use repo::Repo;
pub use scratch::Scratch;
pub use site::Site;
pub use walproof::Walproof;

use std::time::{Duration, Instant};

/// Ask `condition` until it holds; whether it did before `limit` was over.
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Wait until `condition` holds; after `limit` the test fails, saying what it waited for.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, condition: impl FnMut() -> bool) {
    assert!(holds_within(limit, condition), "waited {limit:?} in vain until {what}");
}
