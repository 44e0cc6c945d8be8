//! What a network between hosts can do: failover, a store that is cut off, a disaster. Each host is a container with the
//! package installed; the store is in this process, reached over the hosts' network. Run by `scripts/test --containers`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]
#![allow(unreachable_pub, reason = "no API outside the tests")]

mod docker;
mod site;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use site::{Claim, Site};
use support::wait_until;

/// Generous: the machine may be busy. What was measured is printed.
const LONG: Duration = Duration::from_mins(3);

/// The network of the primary is cut under load, a standby is promoted, the old primary's disk is thrown away, and then
/// the new primary is cut off under load, too: everything that its last claim called safe is restored on a third host.
#[test]
fn a_failover_loses_nothing_that_was_claimed() {
    let site = Site::create();
    let primary = site.primary("one");
    let (second, third) = (site.standby("two", "one"), site.standby("three", "one"));
    let staging = site.staging("staging");
    site.start_load(&primary);
    wait_until("both standbys stream", LONG, || {
        primary.sql("select count(*) from pg_stat_replication where state = 'streaming'") == "2"
    });
    wait_until("the primary's claim is good", LONG, || Claim::of(&primary).rpo.is_some_and(|rpo| rpo < 60.0));

    primary.cut();
    let promoted = Instant::now();
    second.postgres("/usr/lib/postgresql/15/bin/pg_ctl promote -w -t 120 -D /var/lib/postgresql/15/main");
    let at_promotion = second.sql("select count(*), max(id) from ledger");
    let (rows_at_promotion, last_at_promotion) = at_promotion.split_once('|').unwrap();
    site.start_load(&second);
    // A segment that is finished now, not in a minute. Asked of the store, by another host.
    second.sql("select pg_switch_wal()");
    wait_until("timeline 2 is archived", LONG, || site::archives_timeline(&staging, 2));
    println!("archiving went on {:.1} s after the promotion began", promoted.elapsed().as_secs_f64());
    third.sql("alter system set primary_conninfo = 'host=two user=postgres';\nselect pg_reload_conf()");
    wait_until("the other standby follows the new primary", LONG, || {
        second.sql("select count(*) from pg_stat_replication where state = 'streaming'") == "1"
    });
    // Cut off and still written to: what it writes is nobody's, and its own claim must not call it safe.
    wait_until("the old primary does not claim to be safe", LONG, || {
        let claim = Claim::of(&primary);
        claim.critical || claim.rpo.is_none_or(|rpo| rpo > 5.0)
    });
    drop(primary);

    second.postgres("walproof backup-push");
    wait_until("the new primary's claim is good", LONG, || {
        Claim::of(&second).rpo.is_some_and(|rpo| rpo < 30.0)
    });
    let last = Claim::of(&second);
    second.cut();
    let rpo = last.rpo.expect("a claim");
    println!("the last claim before the disaster: at most {rpo:.1} s lost");

    let drill: serde_json::Value = serde_json::from_str(&staging.ask("walproof drill --json")).unwrap();
    assert_eq!(drill["verdict"], "pass", "{drill:#}");
    assert_eq!(drill["timeline"], 2, "{drill:#}");

    site.restore(&staging);
    // A row is stamped before its commit is flushed, and the daemon looks at the server once a second.
    let safe = format!("at <= timestamptz '{}' - interval '{} seconds'", last.at, rpo + 2.0);
    let claimed = second.sql(&format!("select count(*), coalesce(max(id), 0) from ledger where {safe}"));
    let restored = staging.sql(&format!("select count(*), coalesce(max(id), 0) from ledger where {safe}"));
    assert_eq!(restored, claimed, "claimed safe {rpo} s before {}", last.at);
    let lost = format!("select {rows_at_promotion} - count(*) from ledger where id <= {last_at_promotion}");
    assert_eq!(staging.sql(&lost), "0", "rows that were there at the promotion");
}

/// The store vanishes, then loses packets, then is whole: the claim says so, and nothing is left behind.
#[test]
fn a_store_that_is_cut_off_is_not_claimed_to_be_there() {
    let site = Site::create();
    let primary = site.primary("one");
    site.start_load(&primary);
    wait_until("the claim is good", LONG, || Claim::of(&primary).rpo.is_some_and(|rpo| rpo < 60.0));

    primary.cut_from(site.store());
    wait_until("the claim grows", LONG, || Claim::of(&primary).rpo.is_none_or(|rpo| rpo > 20.0));
    let before = primary.sql("select count(*) from ledger");
    wait_until("the server goes on without the store", LONG, || {
        primary.sql("select count(*) from ledger") != before
    });
    primary.sql("select pg_switch_wal()");

    primary.mend();
    primary.lose_one_in(10);
    primary.sql("select pg_switch_wal()");
    wait_until("all is stored over a lossy network", LONG, || {
        Claim::of(&primary).rpo.is_some_and(|rpo| rpo < 15.0) && site::archived_without_gap(&primary)
    });
    primary.mend();
}
