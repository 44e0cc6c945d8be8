//! A real Prometheus that scrapes a daemon, and Prometheus's own judgement of what is scraped.

use super::http;
use super::process::{self, Output, Running};
use super::walproof_builder::free_port;
use super::{Scratch, Walproof, holds_within};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;

const START: Duration = Duration::from_mins(1);

/// Scrapes one daemon every second, with the project's alert rules loaded. Dropped, it is killed.
#[derive(Debug)]
pub struct Prometheus {
    running: Running,
    address: String,
    _scratch: Scratch,
}

impl Prometheus {
    /// Start it and wait until it answers.
    #[track_caller]
    pub fn start(walproof: &Walproof) -> Self {
        must_be_installed("/usr/bin/prometheus");
        let scratch = Scratch::new();
        let rules =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("config/monitoring/prometheus/walproof-rules.yml");
        // Copied: the account may not reach the clone.
        let rules = scratch.file("rules.yml", fs::read(rules).expect("read the alert rules"));
        let config = scratch.file(
            "prometheus.yml",
            format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
                 rule_files: [\"{}\"]\n\
                 scrape_configs: [{{job_name: walproof, static_configs: [{{targets: [\"{}\"]}}]}}]\n",
                rules.display(),
                walproof.metrics_address()
            ),
        );
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = process::command("/usr/bin/prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", scratch.dir("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .current_dir(scratch.path());
        let mut running = Running::start(command, b"");
        let up = holds_within(START, || {
            let ready = http::ask(&address, "GET /-/ready HTTP/1.0").is_ok_and(|answer| answer.status == 200);
            ready || running.ended().is_some()
        });
        assert!(up && running.ended().is_none(), "Prometheus does not start\n{}", running.stderr());
        Self { running, address, _scratch: scratch }
    }

    /// `data` of the answer of its API, e.g. of "rules".
    #[track_caller]
    pub fn api(&self, path: &str) -> Value {
        let answer = http::ask(&self.address, &format!("GET /api/v1/{path} HTTP/1.0"));
        let answer = answer.unwrap_or_else(|error| panic!("{path}: {error}\n{}", self.running.stderr()));
        let json: Value = serde_json::from_str(&answer.body)
            .unwrap_or_else(|error| panic!("{path}: {error}: {}", answer.body));
        assert_eq!(json["status"], "success", "{path}: {json:#}");
        json["data"].clone()
    }

    /// The series that an expression gives now: their labels and values.
    #[track_caller]
    pub fn query(&self, expression: &str) -> Vec<(Value, f64)> {
        let encoded: String = url::form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        let data = self.api(&format!("query?query={encoded}"));
        let found = data["result"].as_array().unwrap_or_else(|| panic!("{expression}: {data}"));
        let value = |series: &Value| series["value"][1].as_str().and_then(|text| text.parse().ok());
        let series = |series: &Value| {
            (series["metric"].clone(), value(series).unwrap_or_else(|| panic!("{expression}: {series}")))
        };
        found.iter().map(series).collect()
    }

    /// The value of an expression that gives one series; `None` where it gives none.
    #[track_caller]
    pub fn value(&self, expression: &str) -> Option<f64> {
        let found = self.query(expression);
        assert!(found.len() <= 1, "{expression}: {found:?}");
        found.first().map(|(_, value)| *value)
    }

    /// The alert rules.
    #[track_caller]
    pub fn rules(&self) -> Vec<Value> {
        let groups = self.api("rules")["groups"].as_array().cloned().unwrap_or_default();
        groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect()
    }
}

/// `promtool check metrics` of a scrape: it warns on stderr where names or types are not as they should be.
#[track_caller]
pub fn check_metrics(scrape: &str) -> Output {
    must_be_installed("/usr/bin/promtool");
    let mut command = process::command("/usr/bin/promtool");
    command.args(["check", "metrics"]);
    process::run(command, scrape.as_bytes(), process::TIMEOUT)
}

#[track_caller]
fn must_be_installed(program: &str) {
    let there = Path::new(program).exists();
    assert!(there, "{program} is missing: apt-get install prometheus (scripts/test does)");
}
