//! A report as one HTML page that asks the browser for nothing else, for a person who is not a DBA: the verdict first. It
//! prints on two pages.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::evidence::{Evidence, Proven};
use super::report::{CheckVerdict, Report, Verdict};
use super::text::word;
use crate::present::{self, seconds, size, utc};

const STYLE: &str = include_str!("report.css");
/// Drills in the trend.
const TREND: usize = 12;

/// The page.
pub fn page(evidence: &Evidence, proven: &Proven, report: &Report) -> String {
    let (class, sign, title) = verdict(report.verdict);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { "Restore drill of " (report.cluster) ": " (report.verdict.as_str()) }
                style { (PreEscaped(present::STYLE)) (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p class="name" { "Restore drill: " (report.cluster) }
                    p { (utc(report.started_at)) }
                    p { "report " (proven.link.sequence) }
                }
                main {
                    section class={ "verdict " (class) } {
                        h1 { span aria-hidden="true" { (sign) " " } (title) }
                        p { (meaning(report)) }
                        @if !report.reasons.is_empty() {
                            ul { @for reason in &report.reasons { li { (reason) } } }
                        }
                    }
                    @if !evidence.tampered.is_empty() {
                        section class="verdict fail" {
                            h2 { "The evidence was tampered with" }
                            ul { @for tampered in &evidence.tampered { li { (tampered) } } }
                        }
                    }
                    (promises(report))
                    (phases(report))
                    (checks(report))
                    (trend(evidence, report))
                    (follow_up(evidence, report))
                    (facts(proven, report))
                }
                footer {
                    p {
                        "Signed with Ed25519. Anybody who has the public key can check this report: "
                        code { "walproof drill-verify FILE --public-key KEY" }
                    }
                }
            }
        }
    };
    page.into_string()
}

const fn verdict(verdict: Verdict) -> (&'static str, &'static str, &'static str) {
    match verdict {
        Verdict::Pass => ("pass", "✓", "The backup restores"),
        Verdict::Fail => ("fail", "✕", "The restore failed its test"),
        Verdict::Inconclusive => ("unknown", "?", "Not proven"),
    }
}

fn meaning(report: &Report) -> String {
    let took = seconds(report.rto_seconds);
    match report.verdict {
        Verdict::Pass => format!(
            "The database was rebuilt from its backup in {took} on a separate server, brought to a chosen moment, and everything that was checked is in order."
        ),
        Verdict::Fail => "The database was to be rebuilt from its backup on a separate server. What is listed here did not hold: somebody has to look at it.".to_owned(),
        Verdict::Inconclusive => "Something kept the test from being completed. That says nothing about the backup, good or bad, and does not count as a test.".to_owned(),
    }
}

fn promises(report: &Report) -> Markup {
    html! {
        section {
            h2 { "What was promised, and what was measured" }
            (bar("Time to restore (RTO)", Some(report.rto_seconds), report.objectives.rto_seconds))
            (bar("Data that would be lost (RPO)", report.rpo_seconds, report.objectives.rpo_seconds))
            @if let Some(estimate) = report.estimate_seconds {
                p class="soft" { "Estimated beforehand: " (seconds(estimate)) }
            }
        }
    }
}

fn bar(title: &str, measured: Option<f64>, promised: f64) -> Markup {
    let share = measured.map(|value| if promised > 0.0 { value / promised } else { 2.0 });
    let width = share.map_or(0.0, |share| (share * 100.0).clamp(0.5, 100.0));
    let class = if share.is_some_and(|share| share > 1.0) { "fill over" } else { "fill" };
    html! {
        div class="promise" {
            div class="label" {
                b { (title) }
                span {
                    @match measured {
                        Some(value) => { (seconds(value)) " of " (seconds(promised)) },
                        None => { "not measured: the drill went to an earlier moment" },
                    }
                }
            }
            div class="bar" { div class=(class) style=(format!("width:{width:.1}%")) {} }
        }
    }
}

fn phases(report: &Report) -> Markup {
    let total = report.phases.total().max(0.001);
    let said = [
        ("lookup", "finding the backup"),
        ("fetch", "fetching the data"),
        ("replay", "replaying changes"),
        ("open", "opening"),
        ("checks", "checking"),
    ];
    html! {
        section {
            h2 { "Where the time went" }
            div class="line" aria-hidden="true" {
                @for (name, spent) in report.phases.all() {
                    div class={ "part " (name) } style=(format!("flex-grow:{:.4}", spent / total)) {}
                }
            }
            dl class="phases" {
                @for ((name, spent), (_, text)) in report.phases.all().iter().zip(said) {
                    div { dt { span class={ "dot " (name) } {} (text) } dd { (seconds(*spent)) } }
                }
            }
            p class="soft" { (size(report.bytes)) " of data, " (report.wal_segments) " files of changes" }
        }
    }
}

const fn class_of(verdict: CheckVerdict) -> &'static str {
    match verdict {
        CheckVerdict::Pass => "pass",
        CheckVerdict::Fail => "fail",
        CheckVerdict::CouldNotVerify => "unknown",
        CheckVerdict::Skipped => "skipped",
    }
}

fn checks(report: &Report) -> Markup {
    html! {
        section class="checked" {
            h2 { "What was checked" }
            ul class="list" {
                @for check in &report.checks {
                    li {
                        span class={ "tag " (class_of(check.verdict)) } { (word(check.verdict)) }
                        div { b { (check.name) } p { (check.detail) } }
                        span class="soft took" { @if check.seconds >= 0.05 { (seconds(check.seconds)) } }
                    }
                }
            }
        }
    }
}

fn trend(evidence: &Evidence, report: &Report) -> Markup {
    let until: Vec<&Report> =
        evidence.drills().map(|(_, one)| one).filter(|one| one.started_at <= report.started_at).collect();
    let last = &until[until.len().saturating_sub(TREND)..];
    let most = last.iter().map(|one| one.rto_seconds).fold(0.001, f64::max);
    html! {
        section {
            h2 { "The last drills" }
            div class="trend" {
                @for one in last {
                    div class="column" title=(format!("{}: {}, {}", utc(one.started_at), one.verdict.as_str(), seconds(one.rto_seconds))) {
                        span class="soft" { (seconds(one.rto_seconds)) }
                        div class={ "post " (verdict(one.verdict).0) } style=(format!("height:{:.1}%", (one.rto_seconds / most * 70.0).max(3.0))) {}
                        span { (one.started_at.timestamp().strftime("%d %b").to_string()) }
                    }
                }
            }
        }
    }
}

fn follow_up(evidence: &Evidence, report: &Report) -> Markup {
    let notes: Vec<_> = evidence.notes(&report.id).collect();
    let closed = evidence
        .drills()
        .map(|(_, one)| one)
        .find(|one| one.started_at > report.started_at && one.verdict == Verdict::Pass);
    html! {
        @if report.verdict != Verdict::Pass || !notes.is_empty() {
            section {
                h2 { "What was done about it" }
                @if notes.is_empty() { p class="soft" { "Nothing has been written down yet." } }
                @for note in notes { p { (note.text) " " span class="soft" { (utc(note.at)) ", " (note.by) } } }
                @if let Some(passed) = closed { p { "Closed by drill " code { (passed.id) } ", which passed." } }
            }
        }
    }
}

fn facts(proven: &Proven, report: &Report) -> Markup {
    let known = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
    html! {
        section class="apart" {
            h2 { "For the record" }
            dl class="facts" {
                dt { "Drill" } dd { code { (report.id) } }
                dt { "Run by" } dd { (report.ran_by) }
                dt { "From, to" } dd { (report.started_at) " to " (report.finished_at) }
                dt { "Cluster" } dd { (report.cluster) ", system identifier " (report.system_identifier) }
                dt { "Target" } dd { (report.target) " (" (report.target_choice) ")" }
                dt { "Backup" } dd { code { (known(report.backup.clone())) } }
                dt { "Timeline" } dd { (known(report.timeline.map(|one| one.to_string()))) }
                dt { "Reached" } dd {
                    (known(report.reached_lsn.map(|lsn| lsn.to_string()))) ", "
                    @if let Some(time) = report.reached_time { "last commit " (time) } @else { "no commit was replayed" }
                }
                dt { "Versions" } dd { "walproof " (report.versions.walproof) ", PostgreSQL " (report.versions.postgresql) " (the backup's: " (report.versions.backup_postgresql) ")" }
                dt { "SHA-256 of this report" } dd { code { (proven.digest) } }
                dt { "of the one before" } dd { code { (known(proven.link.previous_digest.clone())) } }
                dt { "of the backup's manifest" } dd { code { (known(report.backup_digest.clone())) } }
            }
            h2 { "How it was kept apart from production" }
            ul { @for one in &report.isolation { li { (one) } } }
        }
    }
}
