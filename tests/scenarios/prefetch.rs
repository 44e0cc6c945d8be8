//! Segments that are fetched ahead of recovery: faster, and never less proven.

use crate::support::s3::{Fault, S3Server, Verb};
use crate::support::site::{Site, files_below};
use crate::support::{Repo, Scratch, Walproof, wait_until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// A recovery from S3 whose spool lies in a directory of its own.
struct Recovery {
    server: S3Server,
    site: Site,
    cache: Scratch,
    names: Vec<String>,
}

impl Recovery {
    /// Segments 1 to `last` are archived.
    fn of_segments(last: u64) -> Self {
        let (server, cache) = (S3Server::start(), Scratch::new());
        let configure = |builder: crate::support::walproof_builder::WalproofBuilder| {
            builder.toml("[archive]\ntimeout = \"2s\"")
        };
        let mut site = Site::with(Repo::s3(&server), configure);
        let names = site.archive_all(1..=last);
        site.walproof = site.walproof.with_env("CACHE_DIRECTORY", cache.path());
        Self { server, site, cache, names }
    }

    fn name(&self, segment: usize) -> &str {
        &self.names[segment - 1]
    }

    /// The spooled file of a segment.
    fn spooled(&self, segment: usize) -> Option<PathBuf> {
        let named = |path: &PathBuf| path.to_string_lossy().contains(&format!("/{}-", self.name(segment)));
        files_below(self.cache.path()).into_iter().find(named)
    }

    #[track_caller]
    fn wait_until_spooled(&self, segment: usize) -> PathBuf {
        let what = format!("segment {segment} is fetched ahead");
        wait_until(&what, SOON, || self.spooled(segment).is_some());
        self.spooled(segment).unwrap()
    }

    /// Fetching ahead has ended: nothing writes to the spool any more.
    #[track_caller]
    fn settle(&self) {
        let spool = self.spooled(self.names.len()).and_then(|file| file.parent().map(PathBuf::from)).unwrap();
        let lock = fs::File::open(spool.join("lock")).unwrap();
        wait_until("fetching ahead has ended", SOON, || lock.try_lock().is_ok());
    }
}

#[test]
fn what_was_fetched_ahead_is_served_when_the_store_is_gone() {
    let mut recovery = Recovery::of_segments(4);
    recovery.site.comes_back(recovery.name(1));
    recovery.wait_until_spooled(4);
    recovery.settle();
    recovery.server.stop();
    for segment in 2..=4 {
        recovery.site.comes_back(recovery.name(segment));
    }
    // The end of the spool is not the end of the archive.
    let output = recovery.site.fetch("000000010000000000000005");
    output.complains_with(204);
    // Nor is a segment before the spool: recovery may start again.
    recovery.site.fetch(recovery.name(1)).complains_with(204);
}

#[test]
fn a_hit_costs_no_request_before_the_answer() {
    let recovery = Recovery::of_segments(3);
    recovery.site.comes_back(recovery.name(1));
    recovery.wait_until_spooled(3);
    recovery.settle();
    let faults = recovery.server.faults();
    // What follows in the background is slow; the fetch itself asks for nothing.
    faults.forget().add(Fault::delay(Duration::from_secs(1)));
    recovery.site.comes_back(recovery.name(2));
    let gets = faults.requests().iter().filter(|request| request.key.contains(recovery.name(2))).count();
    assert_eq!(gets, 0, "{:?}", faults.requests());
}

#[test]
fn fetching_ahead_stops_at_a_gap_and_passed_segments_are_forgotten() {
    let mut recovery = Recovery::of_segments(3);
    recovery.names.push(recovery.site.archive_all([5]).remove(0));
    recovery.site.comes_back(recovery.name(1));
    recovery.wait_until_spooled(3);
    recovery.site.comes_back(recovery.name(3));
    wait_until("segment 2 is forgotten", SOON, || recovery.spooled(2).is_none());
    assert!(recovery.spooled(4).is_none(), "segment 4 is missing, 5 is none of recovery's business yet");
    let output = recovery.site.fetch("000000010000000000000004");
    output.fails_with(1);
}

#[test]
fn r25_a_tampered_spool_is_ignored_and_the_right_bytes_come_from_the_store() {
    let mut recovery = Recovery::of_segments(6);
    recovery.site.comes_back(recovery.name(1));
    recovery.wait_until_spooled(6);
    recovery.settle();
    let [two, three, four, five, six] = [2, 3, 4, 5, 6].map(|segment| recovery.spooled(segment).unwrap());
    let mut flipped = fs::read(&two).unwrap();
    flipped[5000] ^= 1;
    fs::write(&two, flipped).unwrap();
    fs::write(&three, fs::read(&six).unwrap()).unwrap();
    fs::write(&four, "").unwrap();
    fs::write(&five, recovery.site.original(recovery.name(5))).unwrap();
    for segment in 2..=6 {
        recovery.site.comes_back(recovery.name(segment));
    }
    fs::write(six.with_file_name("identity"), "forged").unwrap();
    recovery.site.comes_back(recovery.name(6));
    // The spool has mended its identity and is of use again.
    recovery.settle();
    recovery.server.stop();
    recovery.site.comes_back(recovery.name(6));
}

#[test]
fn r25_a_spool_that_others_may_write_is_not_used() {
    let recovery = Recovery::of_segments(3);
    recovery.site.comes_back(recovery.name(1));
    let two = recovery.wait_until_spooled(2);
    fs::set_permissions(two.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
    let output = recovery.site.fetch(recovery.name(2));
    output.success().stderr_contains("no prefetch");
    assert_eq!(
        fs::read(recovery.site.fetched(recovery.name(2))).unwrap(),
        recovery.site.original(recovery.name(2))
    );
}

#[test]
fn a_failure_to_fetch_ahead_is_nobodys_business() {
    let recovery = Recovery::of_segments(3);
    let other = Fault::status(503).on(Verb::Get).key(recovery.name(2));
    recovery.server.faults().add(other.times(100));
    recovery.site.comes_back(recovery.name(1));
    wait_until("it was tried", SOON, || recovery.server.faults().struck() > 0);
    recovery.server.faults().clear();
    recovery.site.comes_back(recovery.name(2));
}

#[test]
fn r6_a_standby_is_told_failures_that_do_not_stop_it() {
    let recovery = Recovery::of_segments(1);
    let walproof = &recovery.site.walproof;
    let fetch = |walproof: &Walproof, name: &str| {
        let target = recovery.site.fetched(name);
        walproof.run(["wal-fetch", "--standby", name, target.to_str().unwrap()])
    };
    fetch(walproof, recovery.name(1)).success();
    fetch(walproof, "000000010000000000000009").fails_with(1);
    fetch(walproof, "no-name").complains_with(2);
    recovery.server.faults().add(Fault::status(403));
    fetch(walproof, recovery.name(1)).complains_with(4);
    fetch(walproof, "000000010000000000000009").complains_with(4);
    let stranger =
        Walproof::builder(recovery.site.repo().clone()).data_dir(recovery.site.data.path()).build();
    recovery.server.faults().clear();
    fetch(&stranger, recovery.name(1)).complains_with(5);
}
