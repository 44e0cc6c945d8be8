//! Drills change nothing outside their directory, whatever the cluster brings with it; and what this host must have.

use crate::support::archived::PATIENCE;
use crate::support::drill::{Staging, assert_check};
use crate::support::postgres::Cluster;
use crate::support::small_disk::SmallDisk;
use crate::support::{Archived, Repo, process};

const QUIET: &str = "[archive]\nheartbeat_interval = \"0s\"\n";

/// Keys that are there now and were not before.
fn new_keys(archived: &Archived, before: &[String]) -> Vec<String> {
    archived.repo().keys("").into_iter().filter(|key| !before.contains(key)).collect()
}

/// Nothing but a report and its head.
#[track_caller]
fn assert_evidence_alone(archived: &Archived, before: &[String]) {
    let new = new_keys(archived, before);
    assert!(new.len() == 2 && new.iter().all(|key| key.contains("/watch/reports/")), "{new:?}");
}

#[test]
fn r20_an_archive_that_is_always_on_a_port_and_a_preloaded_library_have_no_part_in_a_drill() {
    let builder = Cluster::builder()
        .segment_size_mb(1)
        .setting("port", "7777")
        .setting("log_connections", "on")
        .setting("shared_preload_libraries", "auto_explain")
        .setting("auto_explain.log_min_duration", "0");
    let mut archived = Archived::start_as(builder, Repo::local());
    archived.cluster.override_setting("archive_mode", "always");
    archived.cluster.restart();
    archived.cluster.psql(
        "create table t (n int primary key);
         insert into t select generate_series(1, 1000);
         alter system set archive_timeout = '1s';
         alter system set archive_command = 'false'",
    );
    // In the backup; the server itself goes on as it was told.
    archived.backup();
    archived.cluster.psql("alter system reset archive_command; alter system reset archive_timeout");
    archived.archive_all();
    let before = archived.repo().keys("");
    let connected = archived.cluster.log().matches("connection received").count();
    let report = Staging::of(&archived).drill(0, ["--target-timeline", "1"]);
    assert_check(&report, "tables and indexes", "pass");
    assert_eq!(archived.cluster.log().matches("connection received").count(), connected);
    assert_evidence_alone(&archived, &before);
}

/// Superusers trip over them, everybody else passes.
const PLANTED: [(&str, &str, &str); 6] = [
    ("=", "oid", "oid"),
    ("=", "name", "name"),
    ("=", "name", "text"),
    ("<>", "int4", "int4"),
    ("~", "text", "text"),
    ("!~*", "text", "text"),
];

/// A cluster with a database in which the role "tenant" may make things, by this SQL.
#[track_caller]
fn trapped(sql: &str) -> Archived {
    let archived = Archived::start(Repo::local());
    archived.cluster.psql("create role tenant login");
    archived.cluster.psql("create database trapped");
    archived.cluster.psql_in("trapped", sql);
    archived
}

#[test]
fn r20_operators_that_a_tenant_planted_are_not_called_by_a_superuser() {
    let archived = trapped(
        "create schema tenant authorization tenant; create table tenant.t (n int primary key, name text);
         insert into tenant.t select n, n::text from generate_series(1, 100) n; create index on tenant.t (name)",
    );
    let cluster = &archived.cluster;
    for (number, (operator, left, right)) in PLANTED.iter().enumerate() {
        cluster.psql_in(
            "trapped",
            &format!(
                "set role tenant;
                 create function tenant.trap_{number}({left}, {right}) returns boolean language plpgsql as $$
                   begin
                     if pg_catalog.current_setting('is_superuser') operator(pg_catalog.=) 'on' then
                       raise 'an operator of a tenant ran as superuser: {operator}({left}, {right})';
                     end if;
                     return true;
                   end $$;
                 create operator tenant.{operator} (function = tenant.trap_{number}, leftarg = {left}, rightarg = {right})"
            ),
        );
    }
    cluster.psql("alter database trapped set search_path = tenant, pg_catalog");
    // They work: whoever comes without a guard is caught.
    let caught = process::run(psql(cluster, "postgres", "trapped", "select 1 <> 1"), b"", PATIENCE);
    caught.fails_with(1).stderr_contains("an operator of a tenant ran as superuser");
    archived.backup();
    archived.archive_all();
    let toml = format!(
        "{QUIET}[[drill.query]]\nname = \"own\"\ndatabase = \"trapped\"\nsql = \"select 1 <> 1 and count(*) > 0 from t\"\n"
    );
    let report = Staging::with(&archived, &toml).drill(0, ["--target-immediate"]);
    for name in ["databases and catalogs", "tables and indexes", "visibility maps", "query: own"] {
        assert_check(&report, name, "pass");
    }
}

/// Functions of the names that a drill calls, with an argument that fits what it passes better than PostgreSQL's own.
const OVERLOADS: [&str; 4] = [
    "pg_check_visible(oid) returns setof tid",
    "pg_check_frozen(oid) returns setof tid",
    "bt_index_parent_check(index oid, heapallindexed boolean, rootdescend boolean default false, \
       checkunique boolean default false) returns setof boolean",
    "verify_heapam(relation oid, on_error_stop boolean, check_toast boolean, skip text, startblock bigint default null, \
       endblock bigint default null, out blkno bigint, out offnum integer, out attnum integer, out msg text) \
       returns setof record",
];

#[test]
fn r20_functions_that_a_tenant_planted_beside_an_extensions_own_are_not_called_by_a_superuser() {
    let archived = trapped(
        "create schema shared authorization tenant; create table shared.t (n int primary key);
         insert into shared.t select generate_series(1, 100);
         create extension amcheck with schema shared; create extension pg_visibility with schema shared",
    );
    let cluster = &archived.cluster;
    for overload in OVERLOADS {
        cluster.psql_in(
            "trapped",
            &format!(
                "set role tenant;
                 create function shared.{overload} language plpgsql as $$
                   begin
                     if pg_catalog.current_setting('is_superuser') operator(pg_catalog.=) 'on' then
                       raise 'a function of a tenant ran as superuser';
                     end if;
                   end $$"
            ),
        );
    }
    // They work: whoever calls them without a guard is caught.
    for call in ["pg_check_visible(c.oid)", "bt_index_parent_check(index := c.oid, heapallindexed := true)"] {
        let sql = format!("select f.* from pg_class c, shared.{call} f where c.relname = 't'");
        let caught = process::run(psql(cluster, "postgres", "trapped", &sql), b"", PATIENCE);
        caught.fails_with(1).stderr_contains("a function of a tenant ran as superuser");
    }
    archived.backup();
    archived.archive_all();
    let mut staging = Staging::with(&archived, QUIET);
    // What names another server to libpq has no part in it either.
    staging.walproof = staging.walproof.with_env("PGHOSTADDR", "192.0.2.1");
    let report = staging.drill(0, ["--target-immediate"]);
    for name in ["databases and catalogs", "tables and indexes", "visibility maps"] {
        assert_check(&report, name, "pass");
    }
}

/// psql as another role.
fn psql(cluster: &Cluster, user: &str, database: &str, sql: &str) -> std::process::Command {
    let mut command = cluster.binaries().command("psql");
    let conninfo = cluster.conninfo_to(database).replace("user=postgres", &format!("user={user}"));
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &conninfo]);
    command.args(["-c", sql]);
    command
}

/// There are such triggers from 17 on. Before, the server refuses to make one, and this test shows that alone.
#[test]
fn r20_a_trigger_on_login_fires_in_no_drill_from_17_on() {
    let archived = Archived::start(Repo::local());
    let made = archived.cluster.try_psql(
        "create function trap() returns event_trigger language plpgsql as $$
           begin if current_setting('archive_mode') = 'off' then raise 'a trap'; end if; end $$;
         create event trigger trap on login execute function trap();
         alter event trigger trap enable always",
    );
    if archived.cluster.binaries().major() < 17 {
        let refused = made.unwrap_err();
        assert!(refused.contains("unrecognized event name \"login\""), "{refused}");
        return;
    }
    made.unwrap();
    archived.backup();
    let toml =
        format!("{QUIET}[[drill.query]]\nname = \"own\"\ndatabase = \"postgres\"\nsql = \"select true\"\n");
    let report = Staging::with(&archived, &toml).drill(0, ["--target-immediate"]);
    assert_check(&report, "query: own", "pass");
}

#[test]
fn a_superuser_of_any_name_is_known_from_the_backup() {
    let archived = Archived::start(Repo::local());
    let cluster = &archived.cluster;
    cluster.psql("create role helper superuser login");
    let rename = "alter role postgres rename to \"the böss's\"";
    process::run(psql(cluster, "helper", "postgres", rename), b"", PATIENCE).success();
    let conninfo = cluster.conninfo().replace("user=postgres", "user=helper");
    let production = archived.configured(&format!("{QUIET}[cluster]\nconninfo = \"{conninfo}\""));
    production.run(["backup-push"]).success();
    // The staging host has no conninfo that would name it.
    let report = Staging::of(&archived).drill(0, ["--target-immediate"]);
    assert_check(&report, "databases and catalogs", "pass");
}

#[track_caller]
fn small_disk(megabytes: u32) -> SmallDisk {
    SmallDisk::mount(megabytes).expect("this test mounts a tmpfs: run it as root (CAP_SYS_ADMIN)")
}

#[test]
fn a_drill_for_which_there_is_no_room_does_not_begin() {
    let archived = Archived::start(Repo::local());
    let backup = archived.backup();
    let size = backup["size_bytes"].as_u64().unwrap() >> 20;
    let disk = small_disk(u32::try_from(size).unwrap() + 6);
    let toml = format!("{QUIET}[drill]\ndirectory = \"{}\"", disk.path().join("staging").display());
    let staging = Staging::with(&archived, &toml);
    for n in 0..12 {
        archived.cluster.psql(&format!("create table t{n} (n int)"));
        archived.archive_all();
    }
    let before = archived.repo().keys("");
    let refused = staging.try_drill(["--target-timeline", "1"]);
    refused.fails_with(8).stderr_contains("a drill needs about").stderr_contains("of WAL");
    assert_eq!(new_keys(&archived, &before), [""; 0], "no report, and no lease is left");
    assert_eq!(std::fs::read_dir(disk.path().join("staging")).unwrap().count(), 1, "the lock");
    disk.grow(u32::try_from(size).unwrap() * 4);
    staging.drill(0, ["--target-timeline", "1"]);
}

/// A disk that another program fills meanwhile says nothing about the backup.
#[test]
fn a_disk_that_runs_full_is_inconclusive() {
    let archived = Archived::start(Repo::local());
    archived
        .cluster
        .psql("create table t (n int primary key); insert into t select generate_series(1, 10000)");
    let backup = archived.backup();
    let size = u32::try_from(backup["size_bytes"].as_u64().unwrap() >> 20).unwrap();
    let disk = small_disk(size * 2);
    let query = "[[drill.query]]\nname = \"spills\"\ndatabase = \"postgres\"\n\
        sql = \"select count(*) = 0 from (select md5(a.n::text || b.n::text) from t a, t b order by 1 offset 1) s\"";
    let toml = format!(
        "{QUIET}[drill]\namcheck = false\ndirectory = \"{}\"\n{query}",
        disk.path().join("staging").display()
    );
    let report = Staging::with(&archived, &toml).drill(10, ["--target-immediate"]);
    let told = assert_check(&report, "query: spills", "could_not_verify");
    assert!(told.contains("No space left on device"), "{told}");
}
