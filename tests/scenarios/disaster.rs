//! The disaster drill: the host vanishes under load at a random moment, and what a restore brings back is compared with
//! what clients were told was committed, and with what the RPO claimed just before.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::archived::{Archived, wait_open};
use crate::support::{Daemon, Random, Repo, Walproof};
use crate::support::{postgres::Cluster, s3::S3Server, scratch::write_owned};

const CLIENTS: u32 = 4;
const TAIL_INTERVAL: f64 = 1.0;
/// Disasters that one cluster lives through, one timeline each, and clusters.
const DISASTERS: u32 = 4;
const CLUSTERS: u32 = 5;

/// Each client counts its own commits in the table.
const SCRIPT: &str = "\\set n :n + 1\ninsert into commits values (:client_id + :first, :n);\n";

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// When each commit of each client was acknowledged, from pgbench's log: client, number, ..., seconds, microseconds.
fn acknowledged(directory: &Path) -> BTreeMap<u32, Vec<f64>> {
    let mut commits: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        for line in fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let [client, _, _, _, seconds, micros, ..] = fields.as_slice() else { panic!("{line}") };
            let at = seconds.parse::<f64>().unwrap() + micros.parse::<f64>().unwrap() / 1e6;
            commits.entry(client.parse().unwrap()).or_default().push(at);
        }
    }
    commits
}

struct Disaster {
    archived: Archived,
    random: Random,
    number: u32,
}

impl Disaster {
    /// Write, lose the host, restore, compare.
    fn strike(&mut self) {
        let cluster = &mut self.archived.cluster;
        let daemon = Daemon::start(&self.archived.walproof);
        daemon.wait_all_stored();
        let directory = self.archived.scratch.dir(&format!("logs{}", self.number));
        let script = self.archived.scratch.join("script.sql");
        write_owned(&script, SCRIPT.as_bytes(), 0o644);
        let first = self.number * CLIENTS;
        let (clients, first_text) = (CLIENTS.to_string(), format!("first={first}"));
        let prefix = directory.join("log");
        let bench = cluster.spawn_pgbench([
            "-n",
            "-f",
            script.to_str().unwrap(),
            "-c",
            &clients,
            "-j",
            "2",
            "-T",
            "60",
            "-R",
            "400",
            "-D",
            "n=0",
            "-D",
            &first_text,
            "-l",
            "--log-prefix",
            prefix.to_str().unwrap(),
        ]);
        sleep(Duration::from_millis(1500 + self.random.below(2500)));

        let asked_at = now();
        let claimed = daemon.metric("walproof_rpo_seconds").expect("a primary claims an RPO");
        // From here on nothing more gets out.
        let struck_at = now();
        daemon.kill9();
        cluster.destroy_data_dir();
        bench.wait(Duration::from_secs(30));

        let committed = acknowledged(&directory);
        let data_dir = cluster.data_dir().to_owned();
        self.archived.try_restore(&data_dir, [""; 0]).success();
        self.archived.cluster.start();
        wait_open(&self.archived.cluster);
        let gone_since = oldest_lost(&self.archived.cluster, first, &committed);
        let loss = gone_since.map_or(0.0, |at| struck_at - at);
        let total: usize = committed.values().map(Vec::len).sum();
        println!(
            "disaster {}: {total} commits, {loss:.3} s lost, {claimed:.3} s claimed {:.3} s before",
            self.number,
            struck_at - asked_at
        );
        assert!(total > 100, "the clients wrote only {total} commits");
        assert!(loss <= TAIL_INTERVAL + 1.0, "{loss} s of commits were lost");
        assert!(
            claimed + (struck_at - asked_at) >= loss,
            "the RPO claimed {claimed} s at {asked_at}; at {struck_at}, {loss} s were lost"
        );
        self.number += 1;
    }
}

/// When the oldest commit was acknowledged that the restored cluster does not have.
fn oldest_lost(restored: &Cluster, first: u32, committed: &BTreeMap<u32, Vec<f64>>) -> Option<f64> {
    let mut lost: Vec<f64> = Vec::new();
    for (client, times) in committed {
        let have = restored.psql(&format!("select count(*) from commits where client = {}", first + client));
        let have: usize = have.parse().unwrap();
        let whole = restored
            .psql(&format!("select coalesce(max(n), 0) from commits where client = {}", first + client));
        assert_eq!(have.to_string(), whole, "a commit is missing before one that is there");
        lost.extend(times.get(have));
    }
    lost.into_iter().min_by(f64::total_cmp)
}

#[test]
fn a_lost_host_costs_a_tail_interval_and_never_more_than_was_claimed() {
    let server = S3Server::start();
    for run in 0..CLUSTERS {
        let builder = Cluster::builder();
        let mut cluster = builder.create();
        let walproof = Walproof::builder(Repo::s3(&server))
            .name(&format!("c{run}"))
            .cluster(&cluster)
            .toml("[archive]\ntail_interval = \"1s\"\nheartbeat_interval = \"1s\"")
            .build();
        walproof.run(["init"]).success();
        cluster.configure_archiving(&walproof).start();
        cluster.psql("create table commits (client int, n int)");
        let archived = Archived { cluster, walproof, scratch: crate::support::Scratch::new() };
        archived.backup();
        let random = Random::from_seed(&format!("disaster {run}"));
        let mut disaster = Disaster { archived, random, number: 0 };
        for _ in 0..DISASTERS {
            disaster.strike();
        }
    }
}
