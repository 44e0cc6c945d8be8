//! Drills, shown: as metrics, in words, and on the page.

use maud::{Markup, html};

use crate::postgres::PgTime;
use crate::present::{Format, Page, Series, age, seconds, utc, when};
use crate::snapshot::{DrillLine, Drills};

/// Drills on the page.
const SHOWN: usize = 6;
/// Drills in a terminal.
const IN_TEXT: usize = 3;

/// The metrics of drills alone, for node_exporter's textfile collector on a host without a daemon.
pub fn textfile(cluster: &str, drills: &Drills) -> String {
    let mut page = Page::new(cluster, Format::Classic);
    render(&mut page, drills);
    page.text()
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of centuries fit")]
fn unix(time: PgTime) -> f64 {
    time.unix_micros() as f64 / 1e6
}

pub(super) fn render(page: &mut Page, drills: &Drills) {
    // Where there never was a drill, one can be overdue all the same.
    let counts = drills.drill_counts.iter().fold(Series::counter(), |series, (verdict, count)| {
        series.with([("result", verdict.as_str())], *count)
    });
    page.family("drills_total", "Drills whose reports are stored, by outcome", counts);
    page.gauge(
        "drill_overdue_seconds",
        "How long a drill has been overdue, 0 when none is; inconclusive ones do not count",
        drills.drill_overdue_seconds,
    );
    if let Some(last) = drills.drills.last() {
        last_drill(page, drills, last);
    }
}

fn last_drill(page: &mut Page, drills: &Drills, last: &DrillLine) {
    page.gauge("drill_last_run_timestamp_seconds", "When the last drill began", Some(unix(last.started_at)));
    page.gauge(
        "drill_last_success_timestamp_seconds",
        "When the last drill that passed began",
        drills.drill_passed_at.map(unix),
    );
    page.gauge("drill_success", "Whether the last drill passed", Some(u64::from(last.verdict == "pass")));
    let verdicts = ["pass", "fail", "inconclusive"].iter().fold(Series::gauge(), |series, verdict| {
        series.with([("verdict", *verdict)], u64::from(last.verdict == *verdict))
    });
    page.family("drill_verdict", "1 for the verdict of the last drill", verdicts);
    page.gauge(
        "drill_rto_seconds",
        "How long the last drill took from its start to the end of the last check",
        Some(last.rto_seconds),
    );
    let phases = last
        .phases
        .iter()
        .fold(Series::gauge(), |series, (phase, seconds)| series.with([("phase", phase.as_str())], *seconds));
    page.family("drill_phase_seconds", "The same by phase", phases);
    let rpo = drills.drills.iter().rev().find_map(|drill| drill.rpo_seconds);
    page.gauge("drill_rpo_seconds", "Age of the last commit when a drill of the newest state began", rpo);
    page.gauge(
        "drill_estimate_error_ratio",
        "By how much the last drill took longer than estimated, as a fraction of the estimate",
        error_ratio(last),
    );
}

fn error_ratio(drill: &DrillLine) -> Option<f64> {
    let estimate = drill.estimate_seconds.filter(|seconds| *seconds > 0.0)?;
    Some(drill.rto_seconds / estimate - 1.0)
}

/// The last drills in words, newest first.
pub(super) fn lines(drills: &Drills, now: PgTime) -> Vec<String> {
    let line = |drill: &DrillLine| {
        format!("{}, {}, RTO {}", drill.verdict, when(drill.started_at, now), seconds(drill.rto_seconds))
    };
    let told: Vec<String> = drills.drills.iter().rev().take(IN_TEXT).map(line).collect();
    if told.is_empty() { vec!["none yet: that a restore works is not proven".to_owned()] } else { told }
}

/// The last drills on the page.
pub(super) fn section(drills: &Drills, now: PgTime) -> Markup {
    html! {
        section {
            h2 { "Last drills" }
            @if drills.drills.is_empty() {
                p class="empty" { "None yet: that a restore works is not proven." }
            } @else {
                div class="scroll" tabindex="0" role="region" aria-label="Last drills" {
                    table {
                        thead { tr { th scope="col" { "Drill" } th scope="col" { "Began" } th scope="col" { "Verdict" } th scope="col" class="number" { "RTO" } th scope="col" { "Target" } } }
                        tbody {
                            @for drill in drills.drills.iter().rev().take(SHOWN) {
                                tr {
                                    th scope="row" { (drill.id) }
                                    td title=(utc(drill.started_at)) { (age(drill.started_at, now)) }
                                    td class=(if drill.verdict == "pass" { "" } else { "bad" }) { (drill.verdict) }
                                    td class="number" { (seconds(drill.rto_seconds)) }
                                    td { (drill.target) }
                                }
                                @if let Some(reason) = drill.reasons.first() {
                                    tr class="why" { td colspan="5" { span { (reason) } } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_was_never_drilled_is_overdue_in_the_metrics_too() {
        let counts = ["pass", "fail", "inconclusive"].map(|verdict| (verdict.to_owned(), 0));
        let late = Drills {
            drill_counts: counts.to_vec(),
            drill_overdue_seconds: Some(90.0),
            drill_every_seconds: Some(60.0),
            ..Drills::default()
        };
        let text = textfile("main", &late);
        for line in [
            "walproof_drill_overdue_seconds{cluster=\"main\"} 90.0\n",
            "walproof_drills_total{cluster=\"main\",result=\"pass\"} 0\n",
        ] {
            assert!(text.contains(line), "{line:?} is missing in {text}");
        }
        assert!(!text.contains("drill_success") && !text.contains("drill_verdict"), "{text}");
        // Before the reports were listed nothing is known.
        assert_eq!(textfile("main", &Drills::default()), "");
    }
}
