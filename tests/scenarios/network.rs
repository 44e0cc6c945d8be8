//! What lies between the program and its store: distance, thin lines, intermediaries that cut, redirect or remember.

use crate::support::archived::wait_open;
use crate::support::s3::{Fault, S3Server, Verb};
use crate::support::site::Site;
use crate::support::{Archived, Repo, process};
use std::time::Duration;

fn site_on(server: &S3Server) -> Site {
    Site::with(Repo::s3(server), |builder| builder.toml("[archive]\ntimeout = \"5s\""))
}

#[test]
fn r5_a_far_store_is_slower_and_nothing_else() {
    let server = S3Server::start();
    let archived = Archived::start(Repo::s3(&server));
    archived.cluster.psql("create table t as select generate_series(1, 1000) as n");
    for milliseconds in [20, 100] {
        server.faults().latency(Duration::from_millis(milliseconds));
        archived.walproof.run(["check"]).success();
        archived.backup();
        archived.cluster.psql("insert into t select generate_series(1, 1000)");
        archived.archive_all();
        let restored = archived.restore_newest(&format!("after {milliseconds} ms"));
        wait_open(&restored);
        assert_eq!(restored.psql("select count(*) from t"), archived.cluster.psql("select count(*) from t"));
    }
}

#[test]
fn r5_a_thin_line_that_delivers_is_waited_for() {
    let server = S3Server::start();
    let site = site_on(&server);
    let name = site.archive(&site.data.wal(1).random(1));
    // 1 MB of noise in about two seconds.
    server.faults().add(Fault::trickle(500_000).on(Verb::Get).key(&name));
    site.comes_back(&name);
    assert_eq!(server.faults().struck(), 1);
    // One that would take longer than a fetch may is given up, in time, and is not absence.
    server.faults().clear().add(Fault::trickle(1_000).on(Verb::Get).key(&name));
    site.fetch_fails(&name, 204);
}

#[test]
fn r6_r25_a_body_that_was_cut_is_neither_delivered_nor_absent() {
    let server = S3Server::start();
    let site = site_on(&server);
    let names = site.archive_all([1, 2]);
    server.faults().add(Fault::cut_body().on(Verb::Get).key(&names[0]));
    let output = site.fetch(&names[0]);
    assert!([204, 205].contains(&output.code()), "{output}");
    site.nothing_fetched();
    server.faults().clear().add(Fault::cut_body().on(Verb::List));
    let output = site.fetch(&names[1]);
    assert!([204, 205].contains(&output.code()), "half a listing proves nothing: {output}");
    site.nothing_fetched();
    let listed = site.walproof.run(["wal-list"]);
    assert!([4, 5].contains(&listed.code()), "{listed}");
    server.faults().clear();
    for name in &names {
        site.comes_back(name);
    }
}

/// No store that is used should answer so; but if one does, nothing is lost, and it is told later.
#[test]
fn r2_a_listing_that_is_stale_costs_no_bytes() {
    let server = S3Server::start();
    let site = site_on(&server);
    let name = site.archive(&site.data.wal(1).random(1));
    server.faults().add(Fault::stale("000000010000000000000001"));
    // The same bytes have the same key.
    site.walproof.push(&name).success();
    assert_eq!(site.stored(&name).len(), 1);
    // Others get a second key beside the first.
    site.data.add_wal(&site.data.wal(1).random(2));
    site.walproof.push(&name);
    assert!(server.faults().struck() >= 2);
    server.faults().clear();
    assert_eq!(site.stored(&name).len(), 2);
    site.fetch_fails(&name, 203);
    site.walproof.push(&name).complains_with(3);
}

#[test]
fn redirects_are_not_followed_to_strangers() {
    let server = S3Server::start();
    let elsewhere = S3Server::start();
    let site = site_on(&server);
    let name = site.archive(&site.data.wal(1).random(1));
    let waiting = site.data.add_wal(&site.data.wal(2).random(2));
    server.faults().add(Fault::redirect(&format!("{}/walproof-test/pg/x", elsewhere.location().endpoint)));
    site.walproof.push(&waiting).complains_with(4);
    site.fetch_fails(&name, 204);
    assert!(elsewhere.faults().requests().iter().all(|request| request.status != Some(200)));
    server.faults().clear();
    site.walproof.push(&waiting).success();
    site.comes_back(&name);
}

#[test]
fn expired_credentials_are_named_at_once() {
    let server = S3Server::start();
    let site = site_on(&server);
    let name = site.archive(&site.data.wal(1).random(1));
    let waiting = site.data.add_wal(&site.data.wal(2).random(2));
    for (status, code) in [(400, "ExpiredToken"), (403, "InvalidAccessKeyId"), (403, "SignatureDoesNotMatch")]
    {
        println!("{code}");
        server.faults().clear().add(Fault::answer(status, code));
        site.walproof.push(&waiting).complains_with(4).stderr_contains(code).hints("credentials");
        site.fetch_fails(&name, 204);
    }
}

#[test]
fn a_store_without_tls_needs_no_certificates_and_one_with_tls_says_so() {
    let server = S3Server::start();
    let site = site_on(&server);
    let without_authorities = |endpoint: &str| {
        let config = site.walproof.config();
        let text = std::fs::read_to_string(config).unwrap();
        std::fs::write(config, text.replace("endpoint = \"http", &format!("endpoint = \"{endpoint}")))
            .unwrap();
        let mut command = site.walproof.command(["wal-list"]);
        command.env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent");
        process::run(command, b"", process::TIMEOUT)
    };
    without_authorities("http").success();
    without_authorities("https").fails_with(2).hints("ca-certificates");
}
