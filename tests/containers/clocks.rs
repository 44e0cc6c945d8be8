//! Hosts whose clocks are minutes apart.

use super::LONG;
use super::site::{Claim, ROWS, Site, archives_timeline, replicas};
use super::support::wait_until;

/// `docker run` options of a host whose clock is off by `offset`, such as "+4m".
fn clock(offset: &str) -> [String; 8] {
    let library = "LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    [
        "-e",
        library,
        "-e",
        &format!("FAKETIME={offset}"),
        "-e",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        "-e",
        "NO_FAKE_STAT=1",
    ]
    .map(str::to_owned)
}

/// Failover to a host whose clock is ahead, and from there to one whose clock is right: commits of the third timeline are
/// older than those of the second that came before them. The newest state is still the newest, and drills pass on a host
/// whose clock is behind.
#[test]
fn clocks_minutes_apart_do_not_change_what_is_newest() {
    let site = Site::create();
    let one = site.primary("one");
    let (ahead, behind) = (clock("+4m"), clock("-3m"));
    let two = site.standby_with("two", "one", &ahead.each_ref().map(String::as_str));
    let three = site.standby("three", "one");
    let staging = site.staging_with("staging", &behind.each_ref().map(String::as_str));
    let apart: f64 = two.sql("select extract(epoch from clock_timestamp())").parse::<f64>().unwrap()
        - one.sql("select extract(epoch from clock_timestamp())").parse::<f64>().unwrap();
    assert!(apart > 200.0, "the clocks are only {apart} s apart");
    one.start_load();
    wait_until("both standbys stream", LONG, || replicas(&one) == "2");
    wait_until("the primary's claim is good", LONG, || Claim::of(&one).rpo.is_some_and(|rpo| rpo < 60.0));

    one.cut();
    two.promote();
    two.start_load();
    three.follow("two");
    wait_until("the other standby follows", LONG, || replicas(&two) == "1");
    two.sql("select pg_switch_wal()");
    wait_until("timeline 2 is archived", LONG, || archives_timeline(&staging, 2));
    wait_until("a claim of a clock that is ahead", LONG, || {
        let claim = Claim::of(&two);
        claim.rpo.is_some_and(|rpo| (0.0..30.0).contains(&rpo)) && !claim.critical
    });
    two.postgres("walproof backup-push");
    two.postgres("walproof expire");
    two.stop_load();
    let expected = two.sql(ROWS);
    wait_until("the other standby has all", LONG, || three.sql(ROWS) == expected);

    two.cut();
    three.promote();
    three.sql("insert into ledger (what) values ('older than what came before it')");
    let older = "select (select at from ledger order by id desc limit 1) < max(at) from ledger";
    assert_eq!(three.sql(older), "t");
    three.sql("select pg_switch_wal()");
    wait_until("timeline 3 is archived", LONG, || archives_timeline(&staging, 3));
    let expected = three.sql(ROWS);
    three.all_stored();
    wait_until("its claim is good", LONG, || {
        let claim = Claim::of(&three);
        claim.rpo.is_some_and(|rpo| (0.0..30.0).contains(&rpo)) && !claim.critical
    });
    three.postgres("walproof backup-push");
    three.cut();

    let drill: serde_json::Value = serde_json::from_str(&staging.ask("walproof drill --json")).unwrap();
    assert_eq!(drill["verdict"], "pass", "{drill:#}");
    assert_eq!(drill["timeline"], 3, "{drill:#}");
    staging.restore();
    assert_eq!(staging.sql(ROWS), expected);
}
