//! Evidence in words, for a terminal.

use std::fmt::Write;

use super::evidence::{Evidence, Proven};
use super::report::{CheckVerdict, Report, Verdict};
use crate::postgres::PgTime;
use crate::present::{seconds, size, span, utc};

/// The verdict in a word.
pub(super) const fn headline(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "PASS: the backup restores",
        Verdict::Fail => "FAIL: a restore would not have kept what was promised",
        Verdict::Inconclusive => "INCONCLUSIVE: it could not be verified, and does not count as a drill",
    }
}

pub(super) const fn word(verdict: CheckVerdict) -> &'static str {
    match verdict {
        CheckVerdict::Pass => "pass",
        CheckVerdict::Fail => "fail",
        CheckVerdict::CouldNotVerify => "could not verify",
        CheckVerdict::Skipped => "skipped",
    }
}

/// What a drill found, in a few lines.
pub fn summary(proven: &Proven, report: &Report) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let value: String = value.chars().filter(|letter| !letter.is_control()).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<18}{value}");
    };
    line("drill", format!("{} (report {})", report.id, proven.link.sequence));
    line("verdict", headline(report.verdict).to_owned());
    for reason in &report.reasons {
        line("  why", reason.clone());
    }
    line("target", format!("{} ({})", report.target, report.target_choice));
    if let Some(backup) = &report.backup {
        line("backup", backup.clone());
    }
    if let Some(lsn) = report.reached_lsn {
        let commit = report
            .reached_time
            .map_or_else(|| "no commit was replayed".to_owned(), |time| format!("last commit {}", utc(time)));
        line("reached", format!("{lsn}, {commit}"));
    }
    line("RTO", format!("{} of {}", seconds(report.rto_seconds), seconds(report.objectives.rto_seconds)));
    if let Some(rpo) = report.rpo_seconds {
        line("RPO", format!("{} of {}", seconds(rpo), seconds(report.objectives.rpo_seconds)));
    }
    let phases = report.phases.all().map(|(name, spent)| format!("{name} {spent:.1} s"));
    line("phases", phases.join(", "));
    line("restored", format!("{}, {} WAL segments", size(report.bytes), report.wal_segments));
    text
}

/// A whole report.
pub fn report(evidence: &Evidence, proven: &Proven, report: &Report) -> String {
    let mut text = summary(proven, report);
    let _ = writeln!(text, "\nchecks");
    for check in &report.checks {
        let _ = writeln!(
            text,
            "  {:<17}{}: {} ({:.1} s)",
            word(check.verdict),
            check.name,
            check.detail,
            check.seconds
        );
    }
    for note in evidence.notes(&report.id) {
        let _ = writeln!(text, "note of {} by {}: {}", utc(note.at), note.by, note.text);
    }
    let _ = writeln!(
        text,
        "\nrun by            {}, {} to {}",
        report.ran_by, report.started_at, report.finished_at
    );
    let _ = writeln!(text, "SHA-256           {}", proven.digest);
    for tampered in &evidence.tampered {
        let _ = writeln!(text, "TAMPERED          {tampered}");
    }
    text
}

/// All drills, and what is wrong with their evidence.
pub fn list(evidence: &Evidence, missed: &[(PgTime, PgTime)]) -> String {
    let mut text = String::new();
    for (proven, report) in evidence.drills() {
        let answered = evidence.notes(&report.id).count();
        let _ = writeln!(
            text,
            "{:>5}  {}  {:<12}  RTO {:<8}  {}{}",
            proven.link.sequence,
            report.id,
            report.verdict.as_str(),
            seconds(report.rto_seconds),
            report.target,
            if answered > 0 { format!("  ({answered} notes)") } else { String::new() }
        );
    }
    if evidence.entries.is_empty() {
        let _ = writeln!(text, "there has been no drill yet");
    }
    for (from, to) in missed {
        let gone = to.seconds_since(*from);
        let gone = span(std::time::Duration::from_secs_f64(gone.max(0.0).round()));
        let _ = writeln!(text, "MISSED: no drill for {gone} after {}", utc(*from));
    }
    for tampered in &evidence.tampered {
        let _ = writeln!(text, "TAMPERED: {tampered}");
    }
    if evidence.tampered.is_empty() && !evidence.entries.is_empty() {
        let _ = writeln!(
            text,
            "evidence: {} entries, numbers, chain and signatures hold",
            evidence.entries.len()
        );
    }
    text
}
