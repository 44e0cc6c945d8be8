//! A primary, its standbys and a staging host, all configured for one repository.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;

use super::LONG;
use super::docker::{Host, Network};
use super::support::s3::{Faults, S3Server};
use super::support::{process, program, wait_until};

pub const DATA: &str = "/var/lib/postgresql/15/main";
/// What the ledger of a primary holds.
pub const ROWS: &str = "select count(*), md5(string_agg(id || ' ' || at, ',' order by id)) from ledger";
const BIN: &str = "/usr/lib/postgresql/15/bin";
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
    /// The codes of its problems.
    pub problems: Vec<String>,
}

impl Claim {
    pub fn of(host: &Host) -> Self {
        let status: Value = serde_json::from_str(&host.ask("walproof status --json")).unwrap_or_default();
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        let code = |problem: &Value| problem["code"].as_str().unwrap_or_default().to_owned();
        Self {
            problems: problems.iter().map(code).collect(),
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

    /// What the store may be told to do.
    pub fn faults(&self) -> &Faults {
        self.store.faults()
    }

    fn host(&self, name: &str, options: &[&str]) -> Host {
        let host = Host::start(name, &self.network, options);
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
        self.primary_with(name, &[])
    }

    #[track_caller]
    pub fn primary_with(&self, name: &str, options: &[&str]) -> Host {
        let host = self.host(name, options);
        host.root("chown postgres:postgres /var/lib/postgresql");
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
        self.standby_with(name, primary, &[])
    }

    #[track_caller]
    pub fn standby_with(&self, name: &str, primary: &str, options: &[&str]) -> Host {
        let host = self.host(name, options);
        host.root(&format!("pg_createcluster 15 main >/dev/null; rm -rf {DATA}"));
        configure(&host);
        host.postgres(&format!("pg_basebackup -h {primary} -U postgres -D {DATA} -R -c fast"));
        start(&host);
        host
    }

    /// Has the key and PostgreSQL's programs, and no cluster.
    #[track_caller]
    pub fn staging(&self, name: &str) -> Host {
        self.staging_with(name, &[])
    }

    #[track_caller]
    pub fn staging_with(&self, name: &str, options: &[&str]) -> Host {
        let host = self.host(name, options);
        host.root("chown postgres /etc/walproof /var/lib/walproof");
        host.postgres("walproof drill-keygen --to /etc/walproof/drill.key");
        host
    }
}

#[track_caller]
fn open(host: &Host, port: u16) {
    wait_until("the restored server is open", LONG, || {
        host.ask(&format!("psql -XAtq -p {port} -c 'select not pg_is_in_recovery()'")) == "t"
    });
}

/// What is done to a cluster.
impl Host {
    /// Wait until everything that is committed now is stored.
    #[track_caller]
    pub fn all_stored(&self) {
        let flushed = self.sql("select pg_current_wal_flush_lsn()");
        wait_until("all that was committed is stored", LONG, || {
            let status: Value = serde_json::from_str(&self.ask("walproof status --json")).unwrap_or_default();
            let (Some(end), Some(lag)) = (status["flushed_lsn"].as_str(), status["lag_bytes"].as_u64())
            else {
                return false;
            };
            self.ask(&format!("psql -XAtqc \"select '{end}'::pg_lsn - {lag} >= '{flushed}'\"")) == "t"
        });
    }

    /// Commits a row several times a second, until [`Self::stop_load`] or for as long as the host lives.
    #[track_caller]
    pub fn start_load(&self) {
        self.spawn(
            "load",
            "echo $$ >/tmp/load.pid
             while sleep 0.1; do psql -XAtqc \"insert into ledger (what) values (repeat('x', 500))\"; done",
        );
    }

    /// Restore the newest state here, start it, and wait until it is open.
    #[track_caller]
    pub fn restore(&self) {
        self.root(&format!("pg_createcluster 15 main >/dev/null; rm -rf {DATA}"));
        self.postgres(&format!("walproof restore --to {DATA} --archive-mode off"));
        self.root("pg_ctlcluster 15 main start");
        open(self, 5432);
    }

    /// The same once more, over the stopped cluster that is there: only what differs is fetched.
    #[track_caller]
    pub fn restore_delta(&self) {
        self.postgres(&format!("walproof restore --to {DATA} --archive-mode off --delta"));
        self.root("pg_ctlcluster 15 main start");
        open(self, 5432);
    }

    /// The same as [`Self::restore`] in a cluster `name` of its own, at another port.
    #[track_caller]
    pub fn restore_beside(&self, name: &str, port: u16) {
        let data = format!("/var/lib/postgresql/15/{name}");
        self.root(&format!("pg_createcluster -p {port} 15 {name} >/dev/null; rm -rf {data}"));
        self.postgres(&format!("walproof restore --to {data} --archive-mode off"));
        self.root(&format!("pg_ctlcluster 15 {name} start"));
        open(self, port);
    }

    #[track_caller]
    pub fn start_server(&self) {
        self.root("pg_ctlcluster 15 main start");
    }

    #[track_caller]
    pub fn stop_server(&self) {
        self.root("pg_ctlcluster 15 main stop -m fast");
    }

    /// Until it is done.
    #[track_caller]
    pub fn promote(&self) {
        self.postgres(&format!("{BIN}/pg_ctl promote -w -t 120 -D {DATA}"));
    }

    /// Stream from another primary.
    #[track_caller]
    pub fn follow(&self, primary: &str) {
        let conninfo = format!("host={primary} user=postgres");
        self.sql(&format!("alter system set primary_conninfo = '{conninfo}';\nselect pg_reload_conf()"));
    }

    /// Give up what only this stopped server has, and stream from `primary`.
    #[track_caller]
    pub fn rewind_to(&self, primary: &str) {
        let source = format!("--source-server='host={primary} user=postgres dbname=postgres'");
        let configuration = format!("--config-file={CONFIGURATION}/postgresql.conf");
        self.postgres(&format!("{BIN}/pg_rewind -D {DATA} {configuration} --restore-target-wal {source} -R"));
        self.start_server();
    }

    #[track_caller]
    pub fn stop_load(&self) {
        self.postgres("kill $(cat /tmp/load.pid)");
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
    // A clock that is set apart is so for the server, too, whose environment Debian's tools clear.
    host.root(&format!(
        "env | sed -n \"s/^\\(LD_PRELOAD\\|.*FAKE.*\\)=\\(.*\\)/\\1 = '\\2'/p\" >{CONFIGURATION}/environment"
    ));
    host.start_server();
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

/// How many standbys stream from this server.
pub fn replicas(host: &Host) -> String {
    host.ask("psql -XAtqc \"select count(*) from pg_stat_replication where state = 'streaming'\"")
}
