//! A store that vanishes, loses packets or is slow; a disk that is full.

use super::LONG;
use super::site::{Claim, DATA, ROWS, Site, archived_without_gap};
use super::support::wait_until;
use std::time::Duration;

/// The store vanishes, then loses packets, then is slow, then is whole: the claim says so, and nothing is left behind.
#[test]
fn a_store_that_is_cut_off_lossy_or_slow_is_not_claimed_to_be_well() {
    let site = Site::create();
    let primary = site.primary("one");
    let staging = site.staging("staging");
    primary.start_load();
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
        Claim::of(&primary).rpo.is_some_and(|rpo| rpo < 15.0) && archived_without_gap(&primary)
    });
    primary.mend();

    site.faults().latency(Duration::from_secs(2));
    primary.sql("select pg_switch_wal()");
    wait_until("all is stored in a slow store, and that is bounded", LONG, || {
        let claim = Claim::of(&primary);
        claim.rpo.is_some_and(|rpo| rpo < 30.0) && !claim.critical && archived_without_gap(&primary)
    });
    primary.stop_load();
    let expected = primary.sql(ROWS);
    primary.all_stored();
    site.faults().clear();
    primary.cut();
    staging.restore();
    assert_eq!(staging.sql(ROWS), expected);
}

/// The store is away for so long that WAL fills the disk and the server stops. When the store is back the daemon ships what
/// the server left; with more room the server goes on, and archiving with it. No row is lost whose commit was answered.
#[test]
fn a_disk_that_wal_fills_loses_no_committed_row() {
    let site = Site::create();
    let small = ["--tmpfs", "/var/lib/postgresql:rw,exec,size=300m,mode=755"];
    let primary = site.primary_with("one", &small);
    let (first, second) = (site.staging("staging"), site.staging("later"));
    wait_until("the claim is good", LONG, || Claim::of(&primary).rpo.is_some_and(|rpo| rpo < 60.0));

    primary.cut_from(site.store());
    // WAL that leaves the tables as small as they are.
    primary.spawn(
        "load",
        "touch /tmp/answered; while [ -e /tmp/answered ]; do psql -XAtqc \"with filled as materialized \
           (select pg_logical_emit_message(true, 'filler', repeat('x', 2000000))) \
         insert into ledger (what) select 'filled' from filled returning id\" >>/tmp/answered || sleep 0.2; done",
    );
    wait_until("the disk is full and the server has ended", LONG, || {
        primary.ask(&format!("[ -e {DATA}/postmaster.pid ] || echo ended")) == "ended"
    });
    primary.postgres("mv /tmp/answered /tmp/answers");
    let answered: u64 = primary.postgres("tail -n 1 /tmp/answers").parse().unwrap();
    let claim = Claim::of(&primary);
    assert!(claim.critical, "{claim:?}");
    println!("the disk was full after {answered} rows: {:?}", claim.problems);

    // The host is lost just after its network was mended, with no server running.
    primary.mend();
    wait_until("what the server left is stored", LONG, || Claim::of(&primary).rpo == Some(0.0));
    first.restore();
    let rows = "select count(*) from ledger";
    let kept: u64 = first.sql(rows).parse().unwrap();
    assert!(kept >= answered, "{answered} commits were answered, {kept} came back");

    primary.resize("/var/lib/postgresql", 600);
    primary.start_server();
    assert_eq!(primary.sql(&format!("{rows} where id <= {answered}")), answered.to_string());
    primary.sql("insert into ledger (what) values ('after the disk was full')");
    primary.sql("select pg_switch_wal()");
    wait_until("archiving goes on", LONG, || archived_without_gap(&primary));
    let expected = primary.sql(rows);
    primary.all_stored();
    primary.cut();
    assert!(primary.ask(&format!("ls {DATA}")).contains("pg_wal"));
    second.restore();
    assert_eq!(second.sql(rows), expected);
}

/// A staging host without room: a drill does not begin, or is inconclusive, and leaves nothing. Never a verdict about backups.
#[test]
fn a_staging_host_without_room_says_so() {
    let site = Site::create();
    let primary = site.primary("one");
    let small = ["--tmpfs", "/var/lib/walproof:rw,exec,size=24m,mode=755"];
    let staging = site.staging_with("staging", &small);
    primary.sql("select pg_switch_wal()");
    let said = staging.fails(8, "walproof drill");
    assert!(said.contains("free"), "{said}");
    let left =
        staging.root("ls -A /var/lib/walproof/staging 2>/dev/null | grep -vE '^(last|lock|[.])' || true");
    assert_eq!(left, "", "left behind");
}
