//! A primary, its standbys and a staging host, all configured for one repository.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;

use super::docker::{Host, Network};
use super::support::s3::S3Server;
use super::support::{process, program, wait_until};

const DATA: &str = "/var/lib/postgresql/15/main";
const CONFIGURATION: &str = "/etc/postgresql/15/main";

/// Hosts are dropped before it.
pub struct Site {
    store: S3Server,
    key: String,
    // Last: a network goes when nothing is on it.
    network: Network,
}

/// What `status` says on a host.
#[derive(Debug)]
pub struct Claim {
    /// When it was true, by that host's clock.
    pub at: String,
    /// Seconds; `None` where it is unknown.
    pub rpo: Option<f64>,
    pub critical: bool,
}

impl Claim {
    pub fn of(host: &Host) -> Self {
        let status: Value = serde_json::from_str(&host.ask("walproof status --json")).unwrap_or_default();
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        Self {
            at: status["taken_at"].as_str().unwrap_or_default().to_owned(),
            rpo: status["rpo_seconds"].as_f64(),
            critical: problems.iter().any(|problem| problem["severity"] == "critical"),
        }
    }
}

impl Site {
    #[track_caller]
    pub fn create() -> Self {
        let network = Network::create();
        let store = S3Server::start_on(network.gateway());
        let mut keygen = process::command(program::walproof());
        keygen.arg("keygen");
        let key = process::run(keygen, b"", Duration::from_secs(30)).success().stdout();
        Self { store, key, network }
    }

    /// Where the hosts reach the store.
    pub fn store(&self) -> Ipv4Addr {
        self.network.gateway()
    }

    fn host(&self, name: &str) -> Host {
        let host = Host::start(name, &self.network);
        let location = self.store.location();
        host.write("/etc/walproof/key", &self.key);
        host.write("/etc/walproof/access_key_id", &location.access_key);
        host.write("/etc/walproof/secret_access_key", &location.secret_key);
        host.write(
            "/etc/walproof/walproof.toml",
            &format!(
                r#"[cluster]
name = "ledger"
data_dir = "{DATA}"
conninfo = "host=/var/run/postgresql user=postgres dbname=postgres"
[repository]
url = "{}"
region = "{}"
endpoint = "{}"
allow_http = true
access_key_id_file = "/etc/walproof/access_key_id"
secret_access_key_file = "/etc/walproof/secret_access_key"
[encryption]
key_file = "/etc/walproof/key"
[archive]
tail_interval = "1s"
heartbeat_interval = "2s"
[drill]
directory = "/var/lib/walproof/staging"
target = "latest"
signing_key_file = "/etc/walproof/drill.key"
"#,
                location.url(),
                location.region,
                location.endpoint
            ),
        );
        host.root("install -d -m 750 -o postgres -g postgres /run/walproof");
        host
    }

    /// A cluster that archives, with a daemon and a backup.
    #[track_caller]
    pub fn primary(&self, name: &str) -> Host {
        let host = self.host(name);
        host.root("pg_createcluster 15 main -- --data-checksums >/dev/null");
        configure(&host);
        host.postgres("walproof init");
        start(&host);
        host.sql(
            "create table ledger (id bigint generated always as identity primary key,
                  at timestamptz not null default clock_timestamp(), what text not null)",
        );
        host.postgres("walproof backup-push");
        host
    }

    /// Streams from `primary`, and fetches what is not streamed.
    #[track_caller]
    pub fn standby(&self, name: &str, primary: &str) -> Host {
        let host = self.host(name);
        host.root(&format!("pg_createcluster 15 main >/dev/null; rm -rf {DATA}"));
        configure(&host);
        host.postgres(&format!("pg_basebackup -h {primary} -U postgres -D {DATA} -R -c fast"));
        start(&host);
        host
    }

    /// Has the key and PostgreSQL's programs, and no cluster.
    #[track_caller]
    pub fn staging(&self, name: &str) -> Host {
        let host = self.host(name);
        host.root("chown postgres /etc/walproof");
        host.postgres("walproof drill-keygen --to /etc/walproof/drill.key");
        host
    }

    /// Commits a row several times a second, for as long as the host lives.
    #[track_caller]
    pub fn start_load(&self, host: &Host) {
        host.spawn(
            "load",
            "while sleep 0.1; do psql -XAtqc \"insert into ledger (what) values (repeat('x', 500))\"; done",
        );
    }

    /// Restore the newest state here, start it, and wait until it is open.
    #[track_caller]
    pub fn restore(&self, host: &Host) {
        host.root(&format!("pg_createcluster 15 main >/dev/null; rm -rf {DATA}"));
        host.postgres(&format!("walproof restore --to {DATA} --archive-mode off"));
        host.root("pg_ctlcluster 15 main start");
        wait_until("the restored server is open", Duration::from_mins(3), || {
            host.ask("psql -XAtqc 'select not pg_is_in_recovery()'") == "t"
        });
    }
}

fn configure(host: &Host) {
    host.write(
        &format!("{CONFIGURATION}/conf.d/walproof.conf"),
        "listen_addresses = '*'\nwal_level = replica\narchive_mode = on\narchive_timeout = 60s\n\
         archive_command = '/usr/bin/walproof wal-push %p'\n\
         restore_command = '/usr/bin/walproof wal-fetch --standby %f %p'\n",
    );
    host.write(&format!("{CONFIGURATION}/pg_hba.conf"),
        "local all all trust\nlocal replication all trust\nhost all all all trust\nhost replication all all trust\n");
}

fn start(host: &Host) {
    host.root("pg_ctlcluster 15 main start");
    host.spawn("daemon", "exec walproof daemon");
}

/// Whether the repository holds a finished segment of this timeline.
pub fn archives_timeline(host: &Host, timeline: u64) -> bool {
    let list: Value = serde_json::from_str(&host.ask("walproof wal-list --json")).unwrap_or_default();
    let timelines = list["timelines"].as_array().cloned().unwrap_or_default();
    timelines.iter().any(|each| {
        each["timeline"].as_u64() == Some(timeline)
            && each["runs"].as_array().is_some_and(|runs| !runs.is_empty())
    })
}

/// Whether the repository holds all segments that the server has finished.
pub fn archived_without_gap(host: &Host) -> bool {
    let list: Value = serde_json::from_str(&host.ask("walproof wal-list --json")).unwrap_or_default();
    list["gaps"].as_array().is_some_and(Vec::is_empty)
        && host.ask(&format!("ls {DATA}/pg_wal/archive_status | grep -c ready$ || true")) == "0"
}
