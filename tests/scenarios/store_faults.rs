//! A store that refuses, stumbles, hangs or lies. Whatever it does: an acknowledged file is there, absence is never
//! claimed, every command ends in time with one clear error, and the same command works once the store is well.

use crate::support::process::Output;
use crate::support::s3::{Fault, S3Server, Verb};
use crate::support::site::Site;
use crate::support::{Repo, Scratch};
use std::time::{Duration, Instant};

const TIMEOUT: &str = "[archive]\ntimeout = \"3s\"";
/// `archive.timeout`, and what a busy machine adds.
const IN_TIME: Duration = Duration::from_secs(3 + 3);

fn site_on(server: &S3Server) -> Site {
    Site::with(Repo::s3(server), |builder| builder.toml(TIMEOUT))
}

/// An archived segment, and one that waits in pg_wal.
fn archived_and_waiting(site: &Site) -> (String, String) {
    let archived = site.archive(&site.data.wal(1).random(1));
    (archived, site.data.add_wal(&site.data.wal(2).random(2)))
}

fn timed(run: impl FnOnce() -> Output) -> (Output, Duration) {
    let begun = Instant::now();
    (run(), begun.elapsed())
}

#[test]
fn a_refusal_is_final_at_once() {
    let server = S3Server::start();
    let site = site_on(&server);
    let (archived, waiting) = archived_and_waiting(&site);
    for fault in [Fault::status(403), Fault::answer(403, "RequestTimeTooSkewed"), Fault::status(400)] {
        server.faults().clear().forget().add(fault);
        site.walproof.push(&waiting).complains_with(4).stderr_contains("the store refuses");
        site.fetch_fails(&archived, 204);
        site.walproof.run(["init"]).complains_with(4);
        site.walproof.run(["wal-list"]).complains_with(4);
        let tries = server.faults().total();
        assert!(tries <= 2 + 2 + 1 + 1, "{tries} requests: refusals are not repeated");
    }
    server.faults().clear().add(Fault::answer(403, "RequestTimeTooSkewed"));
    site.walproof.push(&waiting).hints("clock");
    server.faults().clear();
    site.walproof.push(&waiting).success();
}

#[test]
fn r6_a_404_for_what_must_be_there_is_no_absence() {
    let server = S3Server::start();
    let site = site_on(&server);
    let (archived, waiting) = archived_and_waiting(&site);
    let faults = server.faults();
    for fault in [
        Fault::status(404).on(Verb::Get).key("identity"),
        Fault::status(404).on(Verb::Get).key(&archived),
        Fault::status(404).on(Verb::List),
        Fault::answer(404, "NoSuchBucket"),
        Fault::answer(404, "NoSuchBucket").on(Verb::List),
        Fault::answer(404, "NoSuchBucket").on(Verb::Get),
    ] {
        faults.clear().forget().add(fault.clone());
        println!("{fault:?}");
        site.fetch_fails(&archived, 204);
        // Also when the file is not there: nobody has said so.
        let absent = site.fetch("000000010000000000000009");
        let listed =
            faults.requests().iter().any(|request| request.fault.is_none() && request.verb == Verb::List);
        assert!(absent.code() == 204 || (listed && absent.code() == 1), "{absent}");
        assert!(faults.struck() > 0);
    }
    faults.clear().add(Fault::status(404).on(Verb::Get).key("identity"));
    site.fetch("000000010000000000000009").complains_with(204).hints("init");
    site.walproof.push(&waiting).complains_with(4).hints("init");
    faults.clear().add(Fault::answer(404, "NoSuchBucket"));
    site.walproof.push(&waiting).complains_with(4).hints("name in repository.url");
    site.walproof.run(["init"]).complains_with(4).hints("name in repository.url");
    site.walproof.run(["wal-list"]).complains_with(4);
}

#[test]
fn r1_passing_faults_are_waited_out() {
    let server = S3Server::start();
    let site = site_on(&server);
    let faults = server.faults();
    for (number, fault) in [
        Fault::status(500).times(1),
        Fault::status(503).times(2),
        Fault::status(409).times(1),
        Fault::status(429).times(1),
        Fault::reset().times(2),
        Fault::half_body().on(Verb::Get).times(1),
        Fault::half_body().on(Verb::List).times(1),
        Fault::status(503).on(Verb::Put).times(2),
        Fault::status(409).on(Verb::Put).times(1),
        Fault::commit_then_503().times(1),
        Fault::commit_then_reset().times(1),
        Fault::commit_then_503().on(Verb::Put).times(1),
        Fault::commit_then_reset().on(Verb::Put).times(2),
    ]
    .into_iter()
    .enumerate()
    {
        println!("{fault:?}");
        let name = site.data.add_wal(&site.data.wal(number as u64 + 1).random(7));
        faults.clear().forget().add(fault.clone());
        site.walproof.push(&name).success();
        assert!(faults.struck() > 0);
        assert_eq!(site.stored(&name).len(), 1, "one object, however often it was put");
        faults.clear().add(fault);
        site.comes_back(&name);
    }
}

#[test]
fn r5_faults_that_do_not_pass_end_within_the_deadline() {
    let server = S3Server::start();
    let site = site_on(&server);
    let (archived, waiting) = archived_and_waiting(&site);
    for fault in [Fault::status(503), Fault::reset()] {
        println!("{fault:?}");
        server.faults().clear().forget().add(fault);
        let (push, took) = timed(|| site.walproof.push(&waiting));
        push.complains_with(4);
        assert!(took < IN_TIME, "{took:?}");
        assert!(server.faults().total() > 4, "it was tried again: {:?}", server.faults().requests());
    }
    server.faults().clear();
    site.walproof.push(&waiting).success();
    site.comes_back(&archived);
}

#[test]
fn r5_a_store_that_hangs_does_not_hang_the_archiver() {
    let server = S3Server::start();
    let site = site_on(&server);
    let (_, waiting) = archived_and_waiting(&site);
    for verb in [Verb::List, Verb::Get, Verb::Put] {
        server.faults().clear().add(Fault::hang().on(verb));
        let (push, took) = timed(|| site.walproof.push(&waiting));
        push.complains_with(4).hints("slow");
        assert!(took < IN_TIME, "{verb:?}: {took:?}");
    }
    server.faults().clear().add(Fault::hang().on(Verb::Put).times(1));
    // One request that is lost costs a try, not the push: PostgreSQL would call again anyway.
    site.walproof.push(&waiting).success();
}

#[test]
fn r5_a_store_that_hangs_does_not_hang_recovery() {
    let server = S3Server::start();
    let site = Site::with(Repo::s3(&server), |builder| builder.toml("[archive]\ntimeout = \"1s\""));
    let name = site.archive_all([1]).remove(0);
    for fault in [Fault::hang().on(Verb::Get).key(&name), Fault::half_body().on(Verb::List)] {
        server.faults().clear().add(fault);
        // Three times what a push may take: recovery has nobody who calls again.
        let (_, took) = timed(|| site.fetch_fails(&name, 204));
        assert!(took < Duration::from_secs(3 + 3), "{took:?}");
    }
    server.faults().clear();
    site.comes_back(&name);
}

#[test]
fn r1_a_put_that_is_never_confirmed_is_never_acknowledged() {
    let server = S3Server::start();
    let site = site_on(&server);
    let (_, waiting) = archived_and_waiting(&site);
    for fault in [Fault::commit_then_503(), Fault::commit_then_reset(), Fault::status(503), Fault::reset()] {
        server.faults().clear().add(fault.on(Verb::Put));
        let push = site.walproof.push(&waiting);
        assert!(push.code() == 4 || site.stored(&waiting).len() == 1, "{push}");
    }
    // What was put all the same is found, and is right.
    server.faults().clear();
    site.walproof.push(&waiting).success();
    assert_eq!(site.stored(&waiting).len(), 1);
    site.comes_back(&waiting);
}

#[test]
fn r25_a_lying_store_is_caught() {
    let server = S3Server::start();
    let site = site_on(&server);
    let name = site.archive_all([1]).remove(0);
    for key in ["identity", &name] {
        server.faults().clear().add(Fault::flip_bit().on(Verb::Get).key(key));
        site.fetch_fails(&name, 205);
    }
}

/// What a command may do when request `n` of it fails in some way: succeed, or fail cleanly with the code of a store
/// that fails; and then the same command succeeds.
fn fail_every_request(
    server: &S3Server,
    store_code: i32,
    prepare: impl Fn(),
    run: impl Fn() -> Output,
    check: impl Fn(),
) {
    let faults = server.faults();
    prepare();
    faults.clear().forget();
    run().success();
    let requests = faults.total() as u64;
    assert!(requests > 0);
    for fault in [Fault::status(403), Fault::status(503), Fault::commit_then_reset(), Fault::half_body()] {
        for number in 1..=requests {
            prepare();
            faults.clear().forget().add(fault.clone().nth(number));
            println!("request {number} of {requests}: {fault:?}");
            let output = run();
            assert_eq!(faults.struck(), 1);
            if output.code() != 0 {
                output.complains_with(store_code);
                assert!(
                    faults.requests().iter().any(|request| request.status == Some(403)),
                    "it passes: {output}"
                );
            }
            faults.clear();
            run().success();
            check();
        }
    }
}

#[test]
fn r27_init_survives_the_failure_of_every_request() {
    let server = S3Server::start();
    let repo = Repo::s3(&server);
    let site = Site::uninitialised(repo.clone(), |builder| builder.toml(TIMEOUT));
    let empty = || repo.keys("").iter().for_each(|key| repo.delete(key));
    let identity_only = || assert!(repo.keys("").len() <= 2, "{:?}", repo.objects());
    fail_every_request(&server, 4, empty, || site.walproof.run(["init"]), identity_only);
    site.archive_all([1]).iter().for_each(|name| site.comes_back(name));
}

#[test]
fn r27_wal_push_survives_the_failure_of_every_request() {
    let server = S3Server::start();
    let site = site_on(&server);
    let name = site.data.add_wal(&site.data.wal(1).random(1));
    let forget = || site.stored(&name).iter().for_each(|key| site.repo().delete(key));
    let there = || assert_eq!(site.stored(&name).len(), 1);
    fail_every_request(&server, 4, forget, || site.walproof.push(&name), there);
    site.comes_back(&name);
}

#[test]
fn r27_wal_fetch_survives_the_failure_of_every_request() {
    let server = S3Server::start();
    let mut site = site_on(&server);
    let name = site.archive_all([1]).remove(0);
    // A directory that others may write makes no spool: every fetch asks the store.
    let spool = Scratch::new();
    let user = rustix::fs::stat(site.data.path()).unwrap().st_uid;
    spool.file(&format!("walproof-spool-{user}"), "");
    site.walproof = site.walproof.with_env("CACHE_DIRECTORY", spool.path());
    let quiet = || site.walproof.run(["wal-fetch", "-q", &name, site.fetched(&name).to_str().unwrap()]);
    let gone = || drop(std::fs::remove_file(site.fetched(&name)));
    let right = || assert_eq!(std::fs::read(site.fetched(&name)).unwrap(), site.original(&name));
    fail_every_request(&server, 204, gone, quiet, right);
}

#[test]
fn r6_an_unmounted_repository_is_neither_empty_nor_filled() {
    let site = Site::new(Repo::local());
    let (archived, waiting) = archived_and_waiting(&site);
    let mount = site.repo().dir().unwrap().to_path_buf();
    let away = mount.with_extension("away");
    std::fs::rename(&mount, &away).unwrap();
    site.walproof.push(&waiting).complains_with(4).hints("mounted");
    site.fetch_fails(&archived, 204).hints("mounted");
    site.fetch_fails("00000002.history", 204);
    assert!(!mount.exists());

    crate::support::scratch::create_dirs_owned(&mount);
    site.walproof.push(&waiting).complains_with(4).hints("mounted");
    site.fetch_fails(&archived, 204).hints("mounted");
    site.fetch_fails("00000002.history", 204);
    site.walproof.run(["wal-list"]).fails_with(8).stderr_contains("mounted");
    assert!(crate::support::site::files_below(&mount).is_empty());

    std::fs::remove_dir_all(&mount).unwrap();
    std::fs::rename(&away, &mount).unwrap();
    site.walproof.push(&waiting).success();
    site.comes_back(&archived);
}

#[test]
fn missing_credentials_are_an_error_before_anything_is_asked() {
    let server = S3Server::start();
    let site = site_on(&server);
    let (archived, waiting) = archived_and_waiting(&site);
    site.unset("access_key_id_file");
    server.faults().forget();
    let (push, took) = timed(|| site.walproof.push(&waiting));
    push.complains_with(2).hints("AWS_ACCESS_KEY_ID");
    assert!(took < Duration::from_secs(2), "{took:?}");
    site.fetch_fails(&archived, 202);
    assert_eq!(server.faults().total(), 0);

    let location = server.location();
    let from_environment = site.walproof.with_env("AWS_ACCESS_KEY_ID", &location.access_key);
    from_environment.push(&waiting).success();
    let shelf = Scratch::new();
    shelf.file("access_key_id", &location.access_key);
    let from_systemd = site.walproof.with_env("CREDENTIALS_DIRECTORY", shelf.path());
    from_systemd.push(&waiting).success();
}

#[test]
fn r24_wrong_credentials_are_refused_and_never_shown() {
    let server = S3Server::start();
    let site = site_on(&server);
    let (archived, waiting) = archived_and_waiting(&site);
    site.walproof.scratch().file("secret_access_key", "wrong/secret+wrong");
    for args in [vec!["wal-push", "-vv"], vec!["wal-push"]] {
        let args = args.into_iter().map(str::to_owned).chain([format!("pg_wal/{waiting}")]);
        let output = site.walproof.run(args);
        output
            .fails_with(4)
            .stderr_contains("credentials")
            .says_nowhere("wrong/secret")
            .says_nowhere(&site.key());
    }
    site.fetch_fails(&archived, 204);
}

#[test]
fn plain_http_must_be_allowed() {
    let server = S3Server::start();
    let site = site_on(&server);
    let (archived, waiting) = archived_and_waiting(&site);
    site.unset("allow_http");
    server.faults().forget();
    site.walproof.push(&waiting).complains_with(2).hints("allow_http");
    site.fetch_fails(&archived, 202);
    assert_eq!(server.faults().total(), 0);
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    let mut server = S3Server::start();
    let site = site_on(&server);
    let (archived, waiting) = archived_and_waiting(&site);
    server.stop();
    let (push, took) = timed(|| site.walproof.push(&waiting));
    push.complains_with(4);
    assert!(took < IN_TIME, "{took:?}");
    server.restart();
    site.walproof.push(&waiting).success();
    site.comes_back(&archived);
}

#[test]
fn what_is_waited_for_is_said_within_seconds() {
    let mut server = S3Server::start();
    let site = site_on(&server);
    archived_and_waiting(&site);
    let target = site.out.join("restored");
    let commands: [&[&str]; 5] = [
        &["wal-list"],
        &["backup-list"],
        &["status"],
        &["restore", "--to", target.to_str().unwrap()],
        &["restore", "--dry-run", "--to", target.to_str().unwrap()],
    ];
    let soon = Duration::from_secs(8);
    server.faults().add(Fault::hang());
    let mut silent = site.walproof.spawn(["wal-list"]);
    silent.wait_for_stderr("no answer yet", soon);
    server.stop();
    for command in commands {
        let mut running = site.walproof.spawn(command.iter());
        running.wait_for_stderr("waiting for the store", soon);
        assert!(running.stderr().contains("refused"), "{}", running.stderr());
        assert_eq!(running.stderr().matches("waiting for the store").count(), 1);
    }
    let mut quiet = site.walproof.spawn(["wal-list", "-q"]);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!((quiet.ended(), quiet.stderr().as_str()), (None, ""));
}

#[test]
fn r1_what_s3_calls_400_and_means_to_pass_is_waited_out() {
    let server = S3Server::start();
    let site = site_on(&server);
    for (number, code) in ["RequestTimeout", "IncompleteBody"].into_iter().enumerate() {
        let name = site.data.add_wal(&site.data.wal(number as u64 + 1).random(7));
        server.faults().clear().forget().add(Fault::answer(400, code).on(Verb::Put).times(2));
        site.walproof.push(&name).success();
        assert_eq!(server.faults().struck(), 2);
    }
}

#[test]
fn r6_a_standby_is_not_held_up_by_a_store_that_hangs() {
    let server = S3Server::start();
    let site = Site::new(Repo::s3(&server));
    let name = site.archive_all([1]).remove(0);
    let target = site.fetched(&name);
    let fetch = || site.walproof.run(["wal-fetch", "--standby", &name, target.to_str().unwrap()]);
    let few_seconds = Duration::from_secs(8);
    for fault in [
        Fault::hang(),
        Fault::hang().on(Verb::List),
        Fault::hang().on(Verb::Get).key(&name),
        Fault::status(503),
        Fault::reset(),
    ] {
        println!("{fault:?}");
        server.faults().clear().add(fault);
        let (output, took) = timed(fetch);
        output.complains_with(4);
        assert!(took < few_seconds, "{took:?}");
    }
    // One that delivers, slowly, is waited for.
    server.faults().clear().add(Fault::delay(Duration::from_secs(2)));
    fetch().success();
}

#[test]
fn who_waits_for_a_backup_or_a_restore_is_told_why_and_not_kept_long() {
    let mut server = S3Server::start();
    let archived = crate::support::Archived::start(Repo::s3(&server));
    archived.backup();
    server.stop();
    let to = archived.target("restored");
    let restore = archived.walproof.spawn(["restore", "--to", to.to_str().unwrap()]);
    // Within the two minutes that the rig gives any command.
    let backup = archived.walproof.run(["backup-push"]);
    backup.fails_with(4).stderr_contains("waiting for the store").stderr_contains("gave up");
    let restore = restore.wait(Duration::from_mins(1));
    restore.fails_with(4).stderr_contains("waiting for the store").stderr_contains("gave up");
    server.restart();
    archived.backup();
}
