//! The files of `config/monitoring`, against one another and against the program: nothing that an alert, a dashboard or a
//! runbook names may be missing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The metrics that the daemon is to serve; histograms by their base name.
const METRICS: &str = "
    build_info cluster_info rpo_seconds rpo_objective_seconds rto_objective_seconds rto_estimate_seconds
    wal_flushed_lsn_bytes wal_archived_lsn_bytes wal_lag_bytes wal_disk_free_bytes wal_ready_segments
    wal_oldest_ready_timestamp_seconds wal_gap_segments wal_pushed_segments_total wal_pushed_bytes_total
    wal_push_duration_seconds tail_uploads_total wal_last_push_timestamp_seconds backups
    backup_last_success_timestamp_seconds backup_last_failure_timestamp_seconds backup_last_duration_seconds
    backup_last_size_bytes backup_page_errors recovery_window_start_timestamp_seconds
    recovery_window_end_timestamp_seconds retention_window_seconds retention_last_success_timestamp_seconds
    retention_deleted_objects_total repository_bytes verify_last_success_timestamp_seconds verify_problems
    verify_oldest_timestamp_seconds
    drill_last_run_timestamp_seconds drill_last_success_timestamp_seconds drill_success drill_rto_seconds
    drill_phase_seconds drill_rpo_seconds drills_total drill_verdict drill_overdue_seconds drill_estimate_error_ratio
    problems store_up store_requests_total store_request_duration_seconds";
/// The values of labels that expressions select by: metric, label, values that the daemon gives it.
const LABELS: [(&str, &str, &[&str]); 11] = [
    ("wal_pushed_segments_total", "result", &["pushed", "already_there", "failed"]),
    ("wal_pushed_bytes_total", "stage", &["raw", "stored"]),
    ("tail_uploads_total", "result", &["ok", "failed"]),
    ("backup_last_size_bytes", "kind", &["logical", "stored", "new"]),
    ("repository_bytes", "kind", &["pack", "wal", "tail", "other", "deleted"]),
    ("verify_last_success_timestamp_seconds", "level", &["listing", "content"]),
    ("drill_verdict", "verdict", &["pass", "fail", "inconclusive"]),
    ("drills_total", "result", &["pass", "fail", "inconclusive"]),
    ("store_requests_total", "result", &["ok", "failed"]),
    ("problems", "severity", &["critical", "warning"]),
    ("cluster_info", "role", &["primary", "standby", "down"]),
];
/// Incidents that have a runbook and are not a problem's code.
const INCIDENTS: [&str; 3] = ["restore-now", "failover-went-wrong", "host-stolen"];
/// The parts of a runbook, in their order.
const PARTS: [&str; 7] = ["Symptom", "At stake", "First look", "Decide", "Act", "Verify", "Prevent"];

fn path(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn monitoring(of: &str) -> PathBuf {
    path("config/monitoring").join(of)
}

fn read(of: &Path) -> String {
    fs::read_to_string(of).unwrap_or_else(|cause| panic!("{}: {cause}", of.display()))
}

fn run(program: &str, package: &str, arguments: &[&str]) -> (bool, String) {
    let output =
        Command::new(program).args(arguments).current_dir(monitoring("")).output().unwrap_or_else(|cause| {
            panic!("{program} cannot be run: {cause}: apt-get install {package} (scripts/test does)")
        });
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.success(), said.concat())
}

/// The table of problems in the README, which another test compares with the codes.
fn codes() -> BTreeSet<String> {
    let readme = read(&path("README.md"));
    let (_, table) = readme.split_once("| code of a problem |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(code, _)| code.to_owned()).collect()
}

fn known_metrics() -> BTreeSet<String> {
    METRICS.split_whitespace().map(|name| format!("walproof_{name}")).collect()
}

/// Names of metrics in a text, without what the classic format appends for histograms.
fn metrics(text: &str) -> BTreeSet<String> {
    let known = known_metrics();
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let words = text.split(|letter: char| !is_part(letter)).filter(|word| word.starts_with("walproof_"));
    let base = |word: &str| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
        base.filter(|base| known.contains(*base)).unwrap_or(word).to_owned()
    };
    words.map(base).collect()
}

/// The lines of the rules that are no comment.
fn rules() -> String {
    let text = read(&monitoring("prometheus/walproof-rules.yml"));
    text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// Each alerting rule's text, by its name.
fn alerts() -> Vec<(String, String)> {
    let text = rules();
    let all = text.split("- alert: ").skip(1).map(|rule| rule.split("\n  - name:").next().unwrap());
    all.map(|rule| (rule.lines().next().unwrap().trim().to_owned(), rule.to_owned())).collect()
}

fn runbooks() -> Vec<(String, String)> {
    let files = fs::read_dir(monitoring("runbooks")).unwrap().map(|entry| entry.unwrap().path());
    files.map(|file| (file.file_stem().unwrap().to_str().unwrap().to_owned(), read(&file))).collect()
}

fn dashboards() -> Vec<(String, Value)> {
    let files = fs::read_dir(monitoring("grafana/dashboards")).unwrap().map(|entry| entry.unwrap().path());
    files.map(|file| (file.display().to_string(), serde_json::from_str(&read(&file)).unwrap())).collect()
}

fn panels(dashboard: &Value) -> &Vec<Value> {
    dashboard["panels"].as_array().unwrap()
}

#[test]
fn promtool_accepts_the_rules_and_each_fires_when_it_should() {
    for rules in ["prometheus/walproof-rules.yml", "prometheus/postgres-host-rules.yml"] {
        let (good, said) = run("promtool", "prometheus", &["check", "rules", rules]);
        assert!(good, "{said}");
    }
    for tests in ["prometheus/walproof-rules-test.yml", "prometheus/postgres-host-rules-test.yml"] {
        let (good, said) = run("promtool", "prometheus", &["test", "rules", tests]);
        assert!(good, "{said}");
    }
}

#[test]
fn each_rule_is_tested_firing() {
    let tests = read(&monitoring("prometheus/walproof-rules-test.yml"));
    for (name, _) in alerts() {
        let fires = tests.contains(&format!("alertname=\"{name}\""))
            || tests.contains(&format!("alertname: {name}\n"));
        assert!(fires, "{name} fires in no test");
    }
}

#[test]
fn each_rule_says_what_a_message_needs() {
    for (name, rule) in alerts() {
        let aliased = rule.contains("annotations: *");
        for word in ["summary:", "description:", "runbook_url:", "dashboard_url:"] {
            assert!(aliased || rule.contains(word), "{name}: {word}");
        }
        assert!(rule.contains("severity: "), "{name}");
    }
}

#[test]
fn each_code_has_a_rule() {
    let all = alerts();
    let others: Vec<_> = all.iter().filter(|(name, _)| name == "WalproofProblem").collect();
    assert_eq!(others.len(), 2, "one for each severity");
    for (_, rule) in others {
        let (_, left_out) = rule.split_once("code!~\"").unwrap();
        let (left_out, _) = left_out.split_once('"').unwrap();
        for code in left_out.split('|') {
            let names = |(_, rule): &&(String, String)| rule.contains(&format!("/{code}.md\""));
            assert!(all.iter().any(|alert| names(&alert)), "{code} is left out, and has no alert of its own");
            assert!(codes().contains(code), "{code} is no code");
        }
    }
}

#[test]
fn each_metric_is_alerted_on_or_drawn_and_none_is_made_up() {
    let drawn: String = dashboards().iter().map(|(_, dashboard)| dashboard.to_string()).collect();
    let (alerted, drawn) = (metrics(&rules()), metrics(&drawn));
    let known = known_metrics();
    let used: BTreeSet<String> = alerted.union(&drawn).cloned().collect();
    let unknown: Vec<_> = used.difference(&known).filter(|name| !name.contains(':')).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let unused: Vec<_> = known.difference(&used).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

/// A selector of a value that a label never has matches nothing, and its alert never fires.
#[test]
fn what_expressions_select_by_are_values_that_labels_have() {
    let drawn: String = dashboards().iter().map(|(_, dashboard)| dashboard.to_string()).collect();
    let text =
        (rules() + &drawn + &read(&monitoring("prometheus/walproof-rules-test.yml"))).replace("\\\"", "\"");
    let mut selected = 0;
    let mut unknown = BTreeSet::new();
    for (metric, label, values) in LABELS {
        let name = format!("walproof_{metric}{{");
        for (at, _) in text.match_indices(&name) {
            let selector = &text[at + name.len()..];
            let selector = &selector[..selector.find('}').unwrap()];
            let chosen = selector.split(',').filter_map(|part| part.trim().strip_prefix(label));
            for chosen in chosen.map(|part| part.trim_start_matches(['=', '~', '!']).trim_matches('"')) {
                let wrong = |value: &&str| !values.contains(value) && !value.starts_with('$');
                selected += 1;
                unknown
                    .extend(chosen.split('|').filter(wrong).map(|value| format!("{metric} {label}={value}")));
            }
        }
    }
    assert!(selected > 20, "only {selected} selectors were read");
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn each_alert_leads_to_a_runbook_and_each_code_has_one() {
    let known: BTreeSet<String> = runbooks().into_iter().map(|(name, _)| name).collect();
    for (name, rule) in alerts() {
        if let Some((_, rest)) = rule.split_once("runbook_url: \"https://runbooks.example/") {
            let (runbook, _) = rest.split_once(".md\"").unwrap();
            assert!(runbook == "{{ $labels.code }}" || known.contains(runbook), "{name}: {runbook}");
        }
    }
    let wanted: BTreeSet<String> = codes().into_iter().chain(INCIDENTS.map(str::to_owned)).collect();
    assert_eq!(known, wanted);
}

#[test]
fn runbooks_have_their_parts_in_order() {
    for (name, text) in runbooks() {
        let parts: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(parts, PARTS, "{name}");
        assert!(text.starts_with(&format!("# {name}: ")), "{name}");
        let prose = text.split("```").step_by(2).flat_map(str::lines);
        let long: Vec<&str> = prose.filter(|line| line.len() > 200).collect();
        assert!(long.is_empty(), "{name}: {long:?}");
    }
}

/// What runs walproof: `walproof COMMAND` in a line of code.
#[test]
fn runbooks_name_only_commands_that_the_program_has() {
    let help = Command::new(env!("CARGO_BIN_EXE_walproof")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let known: BTreeSet<&str> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(known.contains("restore"), "{known:?}");
    let mut named = 0;
    let rules = vec![("walproof-rules.yml".to_owned(), rules())];
    for (name, text) in runbooks().into_iter().chain(rules) {
        for line in text.lines().map(|line| line.replace(['`', '"', ';', ')', '\''], " ; ")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            for at in 1..words.len().saturating_sub(1) {
                let (before, word) = (words[at - 1], words[at + 1]);
                let runs =
                    words[at] == "walproof" && matches!(before, ";" | "$" | "postgres" | "&&" | "command:");
                let is_command = word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && word.len() > 2;
                if runs && is_command {
                    named += 1;
                    assert!(known.contains(word), "{name}: walproof {word}: {line}");
                }
            }
        }
    }
    assert!(named > 50, "{named}");
}

#[test]
fn explain_prints_what_is_shipped() {
    for (name, text) in runbooks() {
        let output = Command::new(env!("CARGO_BIN_EXE_walproof")).args(["explain", &name]).output().unwrap();
        assert!(output.status.success(), "{name}");
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end(), text.trim_end(), "{name}");
    }
    let list = Command::new(env!("CARGO_BIN_EXE_walproof")).arg("explain").output().unwrap();
    assert_eq!(String::from_utf8(list.stdout).unwrap().lines().count(), runbooks().len());
    let unknown = Command::new(env!("CARGO_BIN_EXE_walproof")).args(["explain", "x"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
}

#[test]
fn dashboards_provision_as_they_are() {
    let mut titles = BTreeSet::new();
    for (file, dashboard) in dashboards() {
        assert!(titles.insert(dashboard["uid"].as_str().unwrap().to_owned()), "{file}");
        assert!(dashboard.get("id").is_none() && dashboard["schemaVersion"].as_u64() >= Some(36), "{file}");
        let ids: BTreeSet<u64> =
            panels(&dashboard).iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels(&dashboard).len(), "{file}");
        for panel in panels(&dashboard).iter().filter(|panel| panel["type"] != "row") {
            let title = panel["title"].as_str().unwrap();
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(place("x") + place("w") <= 24 && place("h") > 2, "{file}: {title}");
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{file}: {title}");
            for target in targets {
                let uid = target["datasource"]["uid"].as_str().unwrap();
                assert!(matches!(uid, "${datasource}" | "${loki}"), "{file}: {title}: {uid}");
                assert!(!target["expr"].as_str().unwrap().is_empty(), "{file}: {title}");
            }
        }
    }
    assert_eq!(titles, BTreeSet::from(["walproof-cluster".to_owned(), "walproof-overview".to_owned()]));
    let rules = rules();
    for link in rules.split("https://grafana.example/d/").skip(1) {
        let uid: String = link.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
        assert!(titles.contains(&uid), "{uid}");
    }
}

/// Alertmanager looks for its templates where they are installed; here they are beside the file.
#[test]
fn alertmanager_accepts_the_routes_and_they_lead_where_they_should() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(monitoring("alertmanager/walproof.tmpl"), folder.path().join("walproof.tmpl")).unwrap();
    let text = read(&monitoring("alertmanager/alertmanager.yml"));
    let file = folder.path().join("alertmanager.yml");
    fs::write(&file, text.replace("/etc/prometheus/walproof.tmpl", "walproof.tmpl")).unwrap();
    let file = file.to_str().unwrap();
    let (good, said) = run("amtool", "prometheus-alertmanager", &["check-config", file]);
    assert!(good && said.contains("1 templates"), "{said}");
    for (severity, name, receivers) in [
        ("none", "Watchdog", "watchdog"),
        ("critical", "WalproofRpoExceeded", "chat,mail"),
        ("critical", "WalproofProblem", "chat,mail"),
        ("warning", "WalproofBackupOld", "mail"),
        ("page", "SomethingElse", "mail"),
    ] {
        let labels = [format!("severity={severity}"), format!("alertname={name}"), "cluster=main".to_owned()];
        let verify = format!("--verify.receivers={receivers}");
        let mut arguments = vec!["config", "routes", "test", "--config.file", file, &verify];
        arguments.extend(labels.iter().map(String::as_str));
        let (good, said) = run("amtool", "prometheus-alertmanager", &arguments);
        assert!(good, "{name}: {said}");
    }
}
