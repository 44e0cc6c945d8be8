//! A primary is lost to a network that was cut, and what comes after.

use std::time::{Duration, Instant};

use super::LONG;
use super::docker::Host;
use super::site::{Claim, ROWS, Site, archives_timeline, replicas};
use super::support::wait_until;

/// How soon after a promotion the new primary has archived: what issue and README promise.
const ARCHIVES_WITHIN: Duration = Duration::from_secs(10);

/// The network of the primary is cut under load, a standby is promoted, the old primary's disk is thrown away, and then
/// the new primary is cut off under load, too: everything that a claim called safe is restored on a third host.
#[test]
fn a_failover_loses_nothing_that_was_claimed() {
    let site = Site::create();
    let primary = site.primary("one");
    let (second, third) = (site.standby("two", "one"), site.standby("three", "one"));
    let staging = site.staging("staging");
    primary.start_load();
    wait_until("both standbys stream", LONG, || replicas(&primary) == "2");
    wait_until("the primary's claim is good", LONG, || Claim::of(&primary).rpo.is_some_and(|rpo| rpo < 60.0));

    wait_until("there is something to claim", LONG, || {
        primary.sql("select count(*) > 50 from ledger where at < now() - interval '5 seconds'") == "t"
    });
    let before = Claim::of(&primary);
    primary.cut();
    staging.restore_beside("before", 5433);
    assert_safe_rows_came_back(&before, &primary, &staging, 5433);

    second.promote();
    let promoted = Instant::now();
    let at_promotion = second.sql("select count(*), max(id) from ledger");
    let (rows_at_promotion, last_at_promotion) = at_promotion.split_once('|').unwrap();
    second.start_load();
    // A segment that is finished now, not in a minute. Asked of the store, by another host.
    second.sql("select pg_switch_wal()");
    wait_until("timeline 2 is archived", ARCHIVES_WITHIN, || archives_timeline(&staging, 2));
    println!("archiving went on {:.1} s after the promotion", promoted.elapsed().as_secs_f64());
    third.follow("two");
    wait_until("the other standby follows the new primary", LONG, || replicas(&second) == "1");
    // Cut off and still written to: what it writes is nobody's, and its own claim must not call it safe.
    wait_until("the old primary does not claim to be safe", LONG, || {
        let claim = Claim::of(&primary);
        claim.critical || claim.rpo.is_none_or(|rpo| rpo > 5.0)
    });
    drop(primary);

    second.postgres("walproof backup-push");
    // What was committed since, too: a drill of the newest state asks how old that is.
    let backed_up = Instant::now();
    wait_until("the new primary claims what came after its backup", LONG, || {
        Claim::of(&second).rpo.is_some_and(|rpo| rpo + 3.0 < backed_up.elapsed().as_secs_f64())
    });
    // Each of them called something safe; it all has to be there.
    let claims: Vec<Claim> =
        (0..10).map(|_| Claim::of(&second)).filter(|claim| claim.rpo.is_some()).collect();
    assert!(!claims.is_empty());
    second.cut();

    let drill: serde_json::Value = serde_json::from_str(&staging.ask("walproof drill --json")).unwrap();
    assert_eq!(drill["verdict"], "pass", "{drill:#}");
    assert_eq!(drill["timeline"], 2, "{drill:#}");

    staging.restore();
    for claim in &claims {
        assert_safe_rows_came_back(claim, &second, &staging, 5432);
    }
    let lost = format!("select {rows_at_promotion} - count(*) from ledger where id <= {last_at_promotion}");
    assert_eq!(staging.sql(&lost), "0", "rows that were there at the promotion");
}

/// Every row that was committed before what the claim excepts, and no other in its place. A row is stamped before its commit
/// is flushed, and the daemon looks at the server once a second.
#[track_caller]
fn assert_safe_rows_came_back(claim: &Claim, from: &Host, restored: &Host, port: u16) {
    let rpo = claim.rpo.expect("a claim");
    println!("claimed: at most {rpo:.1} s lost at {}", claim.at);
    let query = format!(
        "select count(*), coalesce(max(id), 0), md5(string_agg(id || ' ' || at, ',' order by id)) from ledger \
         where at <= timestamptz '{}' - interval '{} seconds'",
        claim.at,
        rpo + 2.0
    );
    let safe = from.sql(&query);
    assert!(!safe.starts_with("0|"), "a claim about nothing shows nothing");
    assert_eq!(restored.sql_at(port, &query), safe, "claimed safe {rpo} s before {}", claim.at);
}

/// The old primary's network comes back and it writes on, to its own timeline: nothing is overwritten, both are told, and no
/// restore chooses in silence. Then it is rewound, follows the new primary, is backed up, and is promoted in its turn. What
/// another host restored it has again by a delta, whatever was done to it.
#[test]
fn an_old_primary_that_comes_back_is_told_and_rejoins_rewound() {
    let site = Site::create();
    let one = site.primary("one");
    let two = site.standby("two", "one");
    let staging = site.staging("staging");
    one.start_load();
    wait_until("the standby streams", LONG, || replicas(&one) == "1");
    wait_until("the primary's claim is good", LONG, || Claim::of(&one).rpo.is_some_and(|rpo| rpo < 60.0));
    one.cut();
    two.promote();
    two.start_load();
    wait_until("timeline 2 is archived", LONG, || {
        two.sql("select pg_switch_wal()");
        archives_timeline(&staging, 2)
    });
    // More than the other has: so there are commits on both that the other branch lacks.
    wait_until("the old primary has commits of its own", LONG, || {
        one.sql("select count(*) > 30 from ledger where at > now() - interval '10 seconds'") == "t"
    });

    one.mend();
    one.sql("select pg_switch_wal()");
    wait_until("the old primary is told that it is not the only one", LONG, || {
        let claim = Claim::of(&one);
        claim.critical && claim.rpo.is_none_or(|rpo| rpo > 5.0)
    });
    println!("on the old primary: {:?}", Claim::of(&one).problems);
    wait_until("the new primary says that the old one is alive", LONG, || {
        two.ask("walproof status --json").contains("another server still writes timeline 1")
    });
    // While the new one cannot write, the old one is the last writer, and the higher timeline is not its own.
    two.cut();
    wait_until("the old primary is the last writer", LONG, || {
        staging.ask("walproof restore --to /var/lib/walproof/nowhere --dry-run >/dev/null 2>&1 || echo $?")
            == "8"
    });
    let refused = staging.fails(8, "walproof restore --to /var/lib/walproof/nowhere --dry-run");
    let named = ["--target-timeline 1", "--target-timeline 2"];
    assert!(named.iter().all(|choice| refused.contains(choice)), "{refused}");
    staging.postgres("walproof restore --to /var/lib/walproof/nowhere --dry-run --target-timeline 2");
    two.mend();

    one.stop_load();
    one.stop_server();
    two.sql("checkpoint");
    one.rewind_to("two");
    wait_until("the old primary follows", LONG, || replicas(&two) == "1");
    two.postgres("walproof backup-push");
    wait_until("nothing is told any more", LONG, || {
        let claim = Claim::of(&two);
        !claim.critical && claim.rpo.is_some_and(|rpo| rpo < 30.0)
    });
    // It waits for the primary to finish a segment, which it does each minute under load.
    one.postgres("walproof backup-push");
    let backups = staging.ask("walproof backup-list --json");
    assert!(backups.contains("\"from_standby\": true"), "{backups}");
    two.stop_load();
    let expected = two.sql(ROWS);
    wait_until("the standby has all", LONG, || one.sql(ROWS) == expected);
    two.cut();
    one.promote();
    one.sql("insert into ledger (what) values ('after the second failover')");
    one.sql("select pg_switch_wal()");
    wait_until("timeline 3 is archived", LONG, || archives_timeline(&staging, 3));
    wait_until("its claim is good", LONG, || Claim::of(&one).rpo.is_some_and(|rpo| rpo < 30.0));
    let expected = one.sql(ROWS);
    one.all_stored();
    one.cut();
    staging.restore();
    assert_eq!(staging.sql(ROWS), expected);
    staging.sql("delete from ledger where id % 3 = 0; update ledger set at = now() where id % 3 = 1");
    assert_ne!(staging.sql(ROWS), expected);
    staging.stop_server();
    staging.restore_delta();
    assert_eq!(staging.sql(ROWS), expected);
}
