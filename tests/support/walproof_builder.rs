//! How a test configures the program under test.

use super::Scratch;
use super::postgres::Cluster;
use super::process;
use super::program;
use super::repo::Repo;
use super::walproof::Walproof;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::{Table, Value};

/// Options of a [`Walproof`]. `Walproof::builder(Repo::local()).cluster(&cluster).build()`.
#[derive(Debug)]
pub struct WalproofBuilder {
    repo: Repo,
    name: String,
    data_dir: Option<PathBuf>,
    conninfo: Option<String>,
    key: Key,
    extra: Vec<Table>,
}

#[derive(Debug)]
enum Key {
    Generated,
    Of(PathBuf),
    None,
}

impl WalproofBuilder {
    pub(super) fn new(repo: Repo) -> Self {
        let key = Key::Generated;
        Self { repo, name: "roadwave".into(), data_dir: None, conninfo: None, key, extra: Vec::new() }
    }

    /// `cluster.name`
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// Data directory and connection of a live cluster.
    pub fn cluster(self, cluster: &Cluster) -> Self {
        self.data_dir(cluster.data_dir()).conninfo(&cluster.conninfo())
    }

    /// `cluster.data_dir`. Calls run in it, as PostgreSQL's do.
    pub fn data_dir(mut self, dir: &Path) -> Self {
        self.data_dir = Some(dir.into());
        self
    }

    /// `cluster.conninfo`
    pub fn conninfo(mut self, conninfo: &str) -> Self {
        self.conninfo = Some(conninfo.into());
        self
    }

    /// The same key as `other`: the staging host of a production host.
    pub fn key_of(mut self, other: &Walproof) -> Self {
        self.key = Key::Of(other.scratch.join("key"));
        self
    }

    /// `encryption.key_file`, instead of a new key from `walproof keygen`.
    pub fn key_file(mut self, path: &Path) -> Self {
        self.key = Key::Of(path.into());
        self
    }

    /// `encryption.mode = "none"`
    pub fn unencrypted(mut self) -> Self {
        self.key = Key::None;
        self
    }

    /// More configuration; it is merged into the rig's and wins: `.toml("[archive]\ntimeout = \"5s\"")`.
    #[track_caller]
    pub fn toml(mut self, text: &str) -> Self {
        self.extra.push(text.parse().unwrap_or_else(|error| panic!("test's TOML: {error}\n{text}")));
        self
    }

    /// Write the configuration (and the key, which runs the program) and give the program.
    #[track_caller]
    pub fn build(self) -> Walproof {
        let scratch = Arc::new(Scratch::new());
        scratch.dir("run");
        let metrics_port = free_port();
        let mut config = self.base(&scratch, metrics_port);
        for extra in &self.extra {
            merge(&mut config, extra.clone());
        }
        let text = toml::to_string(&config).expect("configuration as TOML");
        let config = scratch.file("walproof.toml", text);
        let Self { repo, name, data_dir, .. } = self;
        Walproof { scratch, config, name, repo, data_dir, metrics_port, env: Vec::new() }
    }

    #[track_caller]
    fn base(&self, scratch: &Scratch, metrics_port: u16) -> Table {
        let mut config = Table::new();
        let mut set = |section: &str, key: &str, value: Value| {
            let table = config.entry(section).or_insert_with(|| Value::Table(Table::new()));
            table.as_table_mut().expect("a section").insert(key.into(), value);
        };
        let text = |path: &Path| Value::from(path.to_str().expect("paths of the rig are text"));

        set("cluster", "name", self.name.as_str().into());
        if let Some(dir) = &self.data_dir {
            set("cluster", "data_dir", text(dir));
        }
        if let Some(conninfo) = &self.conninfo {
            set("cluster", "conninfo", conninfo.as_str().into());
        }
        set("repository", "url", self.repo.url().into());
        if let Some(location) = self.repo.location() {
            // Files, because PostgreSQL's environment, in which archive_command runs, has no keys.
            let access = scratch.file("access_key_id", &location.access_key);
            let secret = scratch.file("secret_access_key", &location.secret_key);
            set("repository", "region", location.region.as_str().into());
            set("repository", "endpoint", location.endpoint.as_str().into());
            set("repository", "allow_http", location.endpoint.starts_with("http://").into());
            set("repository", "access_key_id_file", text(&access));
            set("repository", "secret_access_key_file", text(&secret));
        }
        match &self.key {
            Key::None => set("encryption", "mode", "none".into()),
            Key::Of(path) => set("encryption", "key_file", text(path)),
            Key::Generated => set("encryption", "key_file", text(&scratch.file("key", keygen()))),
        }
        set("archive", "socket", text(&scratch.join("run/walproof.sock")));
        set("drill", "directory", text(&scratch.join("staging")));
        set("metrics", "listen", format!("127.0.0.1:{metrics_port}").into());
        config
    }
}

#[track_caller]
fn keygen() -> Vec<u8> {
    let mut command = process::command(program::walproof());
    command.arg("keygen");
    process::run(command, b"", process::TIMEOUT).success().stdout_bytes().to_vec()
}

/// Tables are merged, anything else replaces.
fn merge(base: &mut Table, extra: Table) {
    for (key, value) in extra {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(more)) => merge(below, more),
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

/// A port of 127.0.0.1 that nobody uses now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("find a free port");
    listener.local_addr().expect("its address").port()
}
