//! A running `walproof daemon`, asked as `wal-push`, Prometheus and operators ask it.

use super::http::{self, Answer};
use super::process::{Output, Running};
use super::{Walproof, holds_within};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const START: Duration = Duration::from_secs(30);

/// Dropped, it is killed.
#[derive(Debug)]
pub struct Daemon {
    walproof: Walproof,
    running: Running,
}

impl Daemon {
    /// Start it and wait until it serves.
    #[track_caller]
    pub fn start(walproof: &Walproof) -> Self {
        Self::start_with(walproof, [""; 0])
    }

    /// Start it with more arguments, such as "-vv".
    #[track_caller]
    pub fn start_with<'a>(walproof: &Walproof, args: impl IntoIterator<Item = &'a str>) -> Self {
        let mut running = walproof.spawn(std::iter::once("daemon").chain(args));
        running.wait_for_stderr("daemon started", START);
        Self { walproof: walproof.clone(), running }
    }

    /// Start it, and wait until it has looked at server and repository.
    #[track_caller]
    pub fn start_whole(walproof: &Walproof) -> Self {
        let daemon = Self::start(walproof);
        daemon.wait("it knows what is stored", |status| !status["stored"].is_null());
        daemon
    }

    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    pub fn log(&self) -> String {
        self.running.stderr()
    }

    /// What it knows, over its socket.
    #[track_caller]
    pub fn status(&self) -> Value {
        let ask = || {
            let mut stream = UnixStream::connect(self.walproof.socket())?;
            stream.write_all(b"walproof/1 status\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok::<_, std::io::Error>(text)
        };
        let text = ask().unwrap_or_else(|error| panic!("ask the daemon: {error}\n{}", self.log()));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Wait until `condition` holds of its status.
    #[track_caller]
    pub fn wait(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        self.wait_within(Duration::from_mins(1), what, condition)
    }

    #[track_caller]
    pub fn wait_within(&self, limit: Duration, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let held = holds_within(limit, || {
            last = self.status();
            condition(&last)
        });
        assert!(held, "waited {limit:?} in vain until {what}: {last:#}\n{}", self.log());
        last
    }

    /// Everything that the server flushed up to now is stored.
    #[track_caller]
    pub fn wait_all_stored(&self) -> Value {
        self.wait("all flushed WAL is stored", |status| status["rpo_seconds"] == 0.0)
    }

    /// GET a path of its HTTP server: (status, body).
    #[track_caller]
    pub fn get(&self, path: &str) -> (u16, String) {
        let answer = self.ask("GET", path);
        (answer.status, answer.body)
    }

    /// Any request to its HTTP server.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str) -> Answer {
        http::ask(&self.walproof.metrics_address(), &format!("{method} {path} HTTP/1.1"))
            .unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.log()))
    }

    /// The value of a metric: `name` with its labels but for `cluster`, as `walproof_x{kind="a"}`.
    #[track_caller]
    pub fn metric(&self, name: &str) -> Option<f64> {
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200, "{body}");
        value_of(&body, name)
    }

    #[track_caller]
    pub fn kill9(self) -> Output {
        self.running.kill9()
    }

    /// SIGTERM, and wait for its end.
    #[track_caller]
    pub fn terminate(self) -> Output {
        self.running.terminate(START)
    }
}

/// The value of a sample in the text of a scrape; the label `cluster` is left out of the comparison.
pub fn value_of(scrape: &str, name: &str) -> Option<f64> {
    let (wanted, labels) = name.split_once('{').unwrap_or((name, "}"));
    let labels: Vec<&str> =
        labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).collect();
    scrape.lines().find_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, found_labels) = series.split_once('{')?;
        let same = found == wanted && labels.iter().all(|label| found_labels.contains(label));
        same.then(|| value.parse().ok()).flatten()
    })
}
