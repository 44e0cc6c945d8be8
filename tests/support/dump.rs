//! Whether two clusters hold the same: their dumps, line by line, and what amcheck says.

use super::account::Account;
use super::postgres::Cluster;
use super::process::{self, Output, TIMEOUT};
use super::server::Server;

/// Everything in the cluster as SQL but for the rows of unlogged tables, which no backup has.
#[track_caller]
pub fn dump_all(cluster: &Cluster) -> String {
    let dump = client(cluster, "pg_dumpall", &["--no-unlogged-table-data", "-l", "postgres"]);
    let text = dump.success().stdout();
    // The key of these two lines is random.
    let kept =
        text.lines().filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
    kept.flat_map(|line| [line, "\n"]).collect()
}

/// The dumps are equal, or the first line that is not is shown.
#[track_caller]
pub fn assert_same_dump(source: &str, restored: &str) {
    let differs = source.lines().zip(restored.lines()).enumerate().find(|(_, (left, right))| left != right);
    if let Some((number, (left, right))) = differs {
        panic!("line {} of the dumps\n  source:   {left}\n  restored: {right}", number + 1);
    }
    let lengths = (source.lines().count(), restored.lines().count());
    assert!(lengths.0 == lengths.1 && lengths.0 > 50, "dumps of {lengths:?} lines");
}

/// Every database checked by amcheck: indexes against their heaps and, where there is pg_amcheck (14 on), heaps. The cluster
/// must be open for writing.
#[track_caller]
pub fn amcheck(cluster: &Cluster) {
    if cluster.binaries().major() >= 14 {
        let args = ["--all", "--install-missing", "--heapallindexed", "--parent-check"];
        client(cluster, "pg_amcheck", &args).success();
        return;
    }
    for database in cluster.psql("select datname from pg_database where datallowconn").lines() {
        cluster.psql_in(
            database,
            "create extension if not exists amcheck;
             select bt_index_parent_check(class.oid, true) from pg_class class join pg_index on indexrelid = class.oid
             where relkind = 'i' and relam = (select oid from pg_am where amname = 'btree') and relpersistence <> 't'",
        );
    }
}

#[track_caller]
fn client(cluster: &Cluster, program: &str, args: &[&str]) -> Output {
    let mut command = cluster.binaries().command(program);
    command.arg("-h").arg(cluster.socket_dir()).args(["-p", &Server::PORT.to_string()]);
    command.args(["-U", Account::SUPERUSER]).args(args);
    process::run(command, b"", TIMEOUT)
}
