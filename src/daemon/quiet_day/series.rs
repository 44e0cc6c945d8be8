//! Scrapes, as the input of `promtool test rules`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use super::START;

/// Between two scrapes, and two evaluations of the rules: scrape.yml's.
pub(super) const INTERVAL: i64 = 15;

/// Samples of a series from its first scrape on.
type Samples = (usize, Vec<String>);

/// What Prometheus stores of some targets.
#[derive(Default)]
pub(super) struct Series {
    /// The metrics that any rule names; others would only cost time.
    wanted: BTreeSet<String>,
    all: BTreeMap<String, Samples>,
    pub(super) scrapes: usize,
}

impl Series {
    pub(super) fn for_rules(rules: &str) -> Self {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let words = rules.split(|letter: char| !is_part(letter)).filter(|word| word.starts_with("walproof_"));
        Self { wanted: words.map(ToOwned::to_owned).collect(), ..Self::default() }
    }

    /// A scrape of a target; `None`: it does not answer.
    pub(super) fn scraped(&mut self, instance: &str, text: Option<&str>) {
        let target = format!("instance=\"{instance}\",job=\"walproof\"");
        let mut now = BTreeMap::from([(format!("up{{{target}}}"), i32::from(text.is_some()).to_string())]);
        for line in text.unwrap_or_default().lines().filter(|line| !line.starts_with('#')) {
            let (metric, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = metric.split_once('{').unwrap();
            if self.wanted.contains(name) {
                let value: f64 = value.parse().unwrap();
                // promtool's time begins at 0.
                #[expect(clippy::cast_precision_loss, reason = "seconds")]
                let value = if name.ends_with("_timestamp_seconds") { value - START as f64 } else { value };
                now.insert(format!("{name}{{{target},{labels}"), value.to_string());
            }
        }
        for (series, (first, samples)) in &mut self.all {
            if series.contains(&target) {
                let known = samples.last().is_some_and(|last| last != "_" && last != "stale");
                let gone = if known { "stale" } else { "_" };
                samples.resize(self.scrapes - *first, "_".into());
                samples.push(now.remove(series).unwrap_or_else(|| gone.into()));
            }
        }
        for (series, value) in now {
            self.all.insert(series, (self.scrapes, vec![value]));
        }
    }

    /// The values that series of this beginning ever had.
    pub(super) fn values(&self, of: &str) -> impl Iterator<Item = f64> {
        let all = self.all.iter().filter(move |(series, _)| series.starts_with(of));
        all.flat_map(|(_, (_, samples))| samples).filter_map(|sample| sample.parse().ok())
    }

    /// The problems that targets ever told of: instance and code.
    pub(super) fn problems(&self) -> BTreeSet<String> {
        let label = |series: &str, of: &str| -> Option<String> {
            let (_, value) = series.split_once(&format!("{of}=\""))?;
            Some(value.split_once('"')?.0.to_owned())
        };
        let told = self.all.keys().filter(|series| series.starts_with("walproof_problems{"));
        told.filter_map(|series| Some(format!("{} {}", label(series, "instance")?, label(series, "code")?)))
            .collect()
    }

    /// Run the rules over all that was scraped. Each expression has one value for each of these labels at the end, or none.
    pub(super) fn judge(&self, rules: &str, expected: &[(&str, &[&str])]) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("rules.yml"), rules).unwrap();
        let mut text = format!(
            "rule_files: [rules.yml]\nevaluation_interval: {INTERVAL}s\ntests:\n  - interval: {INTERVAL}s\n    input_series:\n"
        );
        for (series, (first, samples)) in &self.all {
            let _ =
                write!(text, "      - series: '{series}'\n        values: '{}'\n", notation(*first, samples));
        }
        let end = i64::try_from(self.scrapes).unwrap() * INTERVAL;
        text.push_str("    promql_expr_test:\n");
        for (expression, labels) in expected {
            let _ =
                write!(text, "      - expr: {expression}\n        eval_time: {end}s\n        exp_samples:");
            let _ = writeln!(text, "{}", if labels.is_empty() { " []" } else { "" });
            for labels in *labels {
                let _ = writeln!(text, "          - {{labels: '{labels}', value: 1}}");
            }
        }
        let file = folder.path().join("day.yml");
        std::fs::write(&file, text).unwrap();
        run(&file)
    }
}

fn run(file: &Path) -> Result<(), String> {
    let output = Command::new("promtool").args(["test", "rules"]).arg(file).output();
    let output = output.expect("promtool cannot be run: apt-get install prometheus (scripts/test does)");
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// As promtool reads it: `7x3` is 7 four times.
fn notation(first: usize, samples: &[String]) -> String {
    let mut text = if first == 0 { String::new() } else { format!("_x{first} ") };
    for run in samples.chunk_by(|one, next| one == next) {
        let _ = match (run.len(), run[0].as_str()) {
            (1, value) => write!(text, "{value} "),
            (times, "_") => write!(text, "_x{times} "),
            (times, value) => write!(text, "{value}x{} ", times - 1),
        };
    }
    text
}
