//! Segments that are fetched ahead of recovery: faster, and never less proven.

use crate::support::s3::{Fault, S3Server, Verb};
use crate::support::site::{Site, files_below};
use crate::support::small_disk::SmallDisk;
use crate::support::{Repo, Scratch, Walproof, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// A recovery whose spool lies in a directory of its own.
struct Recovery {
    server: S3Server,
    site: Site,
    cache: Scratch,
    names: Vec<String>,
}

impl Recovery {
    /// Segments 1 to `last` are archived, in S3.
    fn of_segments(last: u64) -> Self {
        let server = S3Server::start();
        Self::with(Repo::s3(&server), server, last)
    }

    fn with(repo: Repo, server: S3Server, last: u64) -> Self {
        let cache = Scratch::new();
        let configure = |builder: crate::support::walproof_builder::WalproofBuilder| {
            builder.toml("[archive]\ntimeout = \"2s\"")
        };
        let mut site = Site::with(repo, configure);
        let names = site.archive_all(1..=last);
        site.walproof = site.walproof.with_env("CACHE_DIRECTORY", cache.path());
        Self { server, site, cache, names }
    }

    fn name(&self, segment: usize) -> &str {
        &self.names[segment - 1]
    }

    fn comes_back(&self, segment: usize) {
        self.site.comes_back(self.name(segment));
    }

    /// The file of a segment that lies ready.
    fn spooled(&self, segment: usize) -> Option<PathBuf> {
        self.spooled_under(self.name(segment))
    }

    fn spooled_under(&self, name: &str) -> Option<PathBuf> {
        let named = |path: &PathBuf| path.to_string_lossy().contains(&format!("/ready-{name}-"));
        files_below(self.cache.path()).into_iter().find(named)
    }

    #[track_caller]
    fn wait_until_spooled(&self, segment: usize) -> PathBuf {
        let what = format!("segment {segment} lies ready");
        wait_until(&what, SOON, || self.spooled(segment).is_some());
        self.spooled(segment).unwrap()
    }

    /// The prefetcher's process.
    fn prefetcher(&self) -> Option<Pid> {
        let cache = self.cache.path().to_string_lossy().into_owned();
        let mut pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            (line.contains("wal-prefetch") && line.contains(&cache)).then_some(pid)
        });
        pids.next().and_then(Pid::from_raw)
    }
}

#[test]
fn what_was_fetched_ahead_is_served_when_the_store_is_gone() {
    let mut recovery = Recovery::of_segments(4);
    recovery.comes_back(1);
    recovery.wait_until_spooled(3);
    recovery.comes_back(2);
    recovery.wait_until_spooled(4);
    recovery.server.stop();
    recovery.comes_back(3);
    recovery.comes_back(4);
    // The end of the spool is not the end of the archive.
    let output = recovery.site.fetch("000000010000000000000005");
    output.complains_with(204);
    // Nor is a segment before the spool: recovery may start again.
    recovery.site.fetch(recovery.name(1)).complains_with(204);
}

#[test]
fn a_hit_costs_no_request_before_the_answer() {
    let recovery = Recovery::of_segments(3);
    recovery.comes_back(1);
    recovery.wait_until_spooled(2);
    recovery.wait_until_spooled(3);
    let faults = recovery.server.faults();
    // What follows in the background is slow; the fetch itself asks for nothing.
    faults.forget().add(Fault::delay(Duration::from_secs(1)));
    recovery.comes_back(2);
    let gets = faults.requests().iter().filter(|request| request.key.contains(recovery.name(2))).count();
    assert_eq!(gets, 0, "{:?}", faults.requests());
}

#[test]
fn segments_of_a_local_repository_are_opened_ahead_too_and_taken_by_renaming() {
    let recovery = Recovery::with(Repo::local(), S3Server::start(), 3);
    recovery.comes_back(1);
    let spooled = recovery.wait_until_spooled(2);
    let inode = |path: &std::path::Path| fs::metadata(path).unwrap().ino();
    let (was, target) = (inode(&spooled), recovery.site.fetched(recovery.name(2)));
    recovery.comes_back(2);
    assert_eq!(inode(&target), was);
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn fetching_ahead_stops_at_a_gap_and_passed_segments_are_forgotten() {
    let mut recovery = Recovery::of_segments(3);
    recovery.names.push(recovery.site.archive_all([5]).remove(0));
    recovery.comes_back(1);
    recovery.wait_until_spooled(2);
    recovery.wait_until_spooled(3);
    recovery.comes_back(3);
    wait_until("segment 2 is forgotten", SOON, || recovery.spooled(2).is_none());
    assert!(recovery.spooled(4).is_none(), "segment 4 is missing, 5 is none of recovery's business yet");
    let output = recovery.site.fetch("000000010000000000000004");
    output.fails_with(1);
}

#[test]
fn fetching_ahead_goes_over_to_the_timeline_that_recovery_follows() {
    let recovery = Recovery::of_segments(4);
    let site = &recovery.site;
    // The second timeline begins within segment 3; recovery looks for that segment there first.
    site.archive_text("00000002.history", "1\t0/300100\tno recovery target specified\n");
    let [three, four] = [3, 4].map(|number| {
        let file = site.data.wal(number).random(number + 10).timeline(2);
        site.archive(&if number == 3 { file.page_timeline(1) } else { file })
    });
    recovery.comes_back(1);
    recovery.wait_until_spooled(2);
    let ready = |name: &str| {
        wait_until(&format!("{name} lies ready"), SOON, || recovery.spooled_under(name).is_some());
    };
    ready(&three);
    recovery.comes_back(2);
    ready(&four);
    assert!(recovery.spooled(3).is_none() && recovery.spooled(4).is_none());
    site.comes_back(&three);
    site.comes_back(&four);
    // One that stays on the old timeline gets that.
    recovery.comes_back(3);
    recovery.comes_back(4);
}

/// Does something to the file of a segment that lies ready.
type Tamper<'a> = &'a dyn Fn(&PathBuf, usize);

#[test]
fn r25_a_tampered_spool_is_ignored_and_the_right_bytes_come_from_the_store() {
    let recovery = Recovery::of_segments(9);
    let original = |segment: usize| recovery.site.original(recovery.name(segment));
    let tamper: [(&str, Tamper<'_>); 8] = [
        ("a bit", &|file, segment| {
            let mut bytes = original(segment);
            bytes[5000] ^= 1;
            fs::write(file, bytes).unwrap();
        }),
        ("a bit, and its time put back", &|file, segment| {
            let modified = fs::metadata(file).unwrap().modified().unwrap();
            let mut bytes = original(segment);
            bytes[1 << 19] ^= 1;
            fs::write(file, bytes).unwrap();
            fs::File::options().write(true).open(file).unwrap().set_modified(modified).unwrap();
        }),
        ("another segment", &|file, segment| fs::write(file, original(segment + 1)).unwrap()),
        ("an empty file", &|file, _| fs::write(file, "").unwrap()),
        ("a longer file", &|file, segment| {
            fs::write(file, [original(segment), vec![0; 8192]].concat()).unwrap();
        }),
        ("a name", &|file, segment| {
            // Right content, and nobody vouches for it.
            let (name, proof) = file.to_str().unwrap().rsplit_once('-').unwrap();
            let forged = format!("{name}-{}", "0".repeat(proof.len()));
            fs::write(&forged, original(segment)).unwrap();
            fs::remove_file(file).unwrap();
        }),
        ("a directory", &|file, _| {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
        }),
        ("the identity", &|file, _| fs::write(file.with_file_name("identity"), "forged").unwrap()),
    ];
    recovery.comes_back(1);
    for (segment, (what, tamper)) in (2..).zip(tamper) {
        let file = recovery.wait_until_spooled(segment);
        tamper(&file, segment);
        println!("tampered: {what}");
        recovery.comes_back(segment);
    }
}

#[test]
fn r6_a_prefetcher_that_is_killed_or_hangs_costs_nothing_but_time() {
    let recovery = Recovery::of_segments(6);
    recovery.comes_back(1);
    recovery.wait_until_spooled(3);
    let first = recovery.prefetcher().unwrap();
    kill_process(first, Signal::STOP).unwrap();
    recovery.comes_back(2);
    kill_process(first, Signal::KILL).unwrap();
    recovery.comes_back(3);
    // Another one has begun, and begins with an empty spool.
    recovery.wait_until_spooled(4);
    let leftovers = |path: &PathBuf| path.to_string_lossy().contains(recovery.name(2));
    assert!(!files_below(recovery.cache.path()).iter().any(leftovers));
    let second = recovery.prefetcher().unwrap();
    assert_ne!(first, second);
    kill_process(second, Signal::KILL).unwrap();
    for segment in 4..=6 {
        recovery.comes_back(segment);
    }
    wait_until("the prefetcher ends by itself", Duration::from_mins(1), || recovery.prefetcher().is_none());
    assert!((1..=6).all(|segment| recovery.spooled(segment).is_none()), "it leaves nothing");
}

#[test]
fn a_spool_without_room_is_no_obstacle() {
    let Some(disk) = SmallDisk::mount(10) else { return };
    let mut recovery = Recovery::of_segments(4);
    recovery.site.walproof = recovery.site.walproof.with_env("CACHE_DIRECTORY", disk.path());
    for segment in 1..=4 {
        recovery.comes_back(segment);
    }
}

#[test]
fn r25_a_repository_that_was_made_anew_has_nothing_in_the_spool() {
    let recovery = Recovery::of_segments(3);
    recovery.comes_back(1);
    recovery.wait_until_spooled(2);
    // The same cluster, key and place; another secret, and other content.
    for key in recovery.site.repo().keys("") {
        recovery.site.repo().delete(&key);
    }
    wait_until("the spool is empty", SOON, || recovery.spooled(2).is_none());
    recovery.site.walproof.run(["init"]).success();
    let anew = recovery.site.data.wal(2).random(99);
    assert_eq!(recovery.site.archive(&anew), recovery.name(2));
    recovery.comes_back(2);
}

#[test]
fn r2_what_lies_ready_goes_when_another_content_of_it_is_archived() {
    let recovery = Recovery::of_segments(4);
    recovery.comes_back(1);
    recovery.wait_until_spooled(2);
    recovery.wait_until_spooled(3);
    let other = recovery.site.data.wal(2).random(99);
    recovery.site.archive_elsewhere(&other);
    wait_until("segment 2 is taken from the spool", SOON, || recovery.spooled(2).is_none());
    assert!(recovery.prefetcher().is_some(), "it has not ended: it has seen the conflict");
    recovery.site.fetch(recovery.name(2)).complains_with(203);
}

#[test]
fn r25_a_spool_that_others_may_write_is_not_used() {
    let recovery = Recovery::of_segments(3);
    recovery.comes_back(1);
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
    recovery.comes_back(1);
    wait_until("it was tried", SOON, || recovery.server.faults().struck() > 0);
    recovery.server.faults().clear();
    recovery.comes_back(2);
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
