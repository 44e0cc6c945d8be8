//! What is wrong with the proof that a restore works, and with the time that it takes: a pure function of a snapshot.

use super::found::Found;
use crate::present::{seconds, span, utc};
use crate::problem::{Code, Severity};
use crate::snapshot::{DrillLine, Drills, Estimates, Snapshot};

/// A restore that takes a larger part of its objective than this is close to missing it.
pub const RTO_THREAT: f64 = 0.8;
/// A drill that is late by less is a timer's spread; so is an eighth of a short cadence.
const LATE_SECONDS: f64 = 6.0 * 3600.0;

pub(super) fn problems(snapshot: &Snapshot, found: &mut Found) {
    of_drills(&snapshot.drills, found);
    of_estimate(snapshot, found);
}

fn of_drills(drills: &Drills, found: &mut Found) {
    // An inconclusive one takes nothing back of what the one before it found.
    let counted = drills.drills.iter().rev().find(|drill| drill.verdict != "inconclusive");
    if let Some(failed) = counted.filter(|drill| drill.verdict == "fail") {
        found.critical(
            Code::DrillFailed,
            format!("the last drill failed ({}): {}", utc(failed.started_at), why(failed)),
            &format!(
                "`walproof drill-report {}` says what was checked; a restore today may fail the same way",
                failed.id
            ),
        );
    }
    if let Some(unknown) = drills.drills.last().filter(|drill| drill.verdict == "inconclusive") {
        found.warning(
            Code::DrillInconclusive,
            format!("the last drill proved nothing ({}): {}", utc(unknown.started_at), why(unknown)),
            &format!(
                "`walproof drill-report {}` says what prevented a proof; fix that on the staging host and run it again",
                unknown.id
            ),
        );
    }
    let every = drills.drill_every_seconds.unwrap_or_default();
    let late = drills.drill_overdue_seconds.filter(|late| *late > LATE_SECONDS.min(every / 8.0));
    if let Some(late) = late {
        let counted = drills.drill_counts.iter().filter(|(verdict, _)| verdict != "inconclusive");
        let first = if counted.map(|(_, count)| count).sum::<u64>() == 0 { "the first" } else { "a" };
        found.warning(
            Code::DrillOverdue,
            format!(
                "{first} drill is overdue by {}: one every {} was promised",
                seconds(late),
                seconds(every)
            ),
            "does walproof-drill.timer run on the staging host (systemctl list-timers)?",
        );
    }
}

fn why(drill: &DrillLine) -> &str {
    drill.reasons.first().map_or("its report says why", String::as_str)
}

fn of_estimate(snapshot: &Snapshot, found: &mut Found) {
    let objective = snapshot.promises.rto_objective;
    let Some(threat) = threat(&snapshot.estimates, objective.as_secs_f64()) else { return };
    let estimate = snapshot.estimates.rto_estimate_seconds.unwrap_or_default();
    let (severity, code) = match threat {
        Threat::Exceeded => (Severity::Critical, Code::RtoExceeded),
        Threat::Close => (Severity::Warning, Code::RtoThreatened),
    };
    let after = snapshot.estimates.rto_after_backup_seconds.unwrap_or(estimate);
    let hint = if after < objective.as_secs_f64() * RTO_THREAT {
        format!("take a backup now (`walproof backup-push`): then it would take about {}", seconds(after))
    } else {
        format!(
            "a new backup alone does not help: it would still take about {}; is the store slow, or did the data grow?",
            seconds(after)
        )
    };
    let text = format!("a restore would take about {}; {} were promised", seconds(estimate), span(objective));
    found.add(severity, code, text, Some(&hint));
}

/// How the estimate compares with what was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threat {
    /// It is close.
    Close,
    /// It is beyond it.
    Exceeded,
}

/// Whether the promise on the time of a restore is in danger; `None` also while nothing was measured.
pub(super) fn threat(estimates: &Estimates, objective_seconds: f64) -> Option<Threat> {
    let estimate = estimates.rto_estimate_seconds?;
    if estimate > objective_seconds {
        Some(Threat::Exceeded)
    } else {
        (estimate > objective_seconds * RTO_THREAT).then_some(Threat::Close)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::PgTime;
    use crate::status::samples;

    fn drill(verdict: &str) -> DrillLine {
        DrillLine {
            id: format!("id-{verdict}"),
            started_at: PgTime::from_unix_micros(1_760_000_000_000_000),
            verdict: verdict.to_owned(),
            target: "latest".to_owned(),
            rto_seconds: 100.0,
            rpo_seconds: None,
            phases: std::collections::BTreeMap::new(),
            estimate_seconds: None,
            reasons: if verdict == "pass" { Vec::new() } else { vec![format!("{verdict} because")] },
        }
    }

    fn codes(snapshot: Snapshot) -> Vec<(Code, Severity)> {
        snapshot
            .judged()
            .problems
            .iter()
            .filter(|problem| ["drill", "rto"].iter().any(|start| problem.code.as_str().starts_with(start)))
            .map(|problem| (problem.code, problem.severity))
            .collect()
    }

    #[test]
    fn a_failure_stands_until_a_drill_passes() {
        let failed = (Code::DrillFailed, Severity::Critical);
        let unknown = (Code::DrillInconclusive, Severity::Warning);
        for (verdicts, expected) in [
            (vec![], vec![]),
            (vec!["pass"], vec![]),
            (vec!["pass", "fail"], vec![failed]),
            (vec!["fail", "inconclusive"], vec![failed, unknown]),
            (vec!["pass", "inconclusive"], vec![unknown]),
            (vec!["fail", "inconclusive", "pass"], vec![]),
        ] {
            let mut snapshot = samples::busy();
            snapshot.estimates = Estimates::default();
            snapshot.drills.drills = verdicts.iter().map(|verdict| drill(verdict)).collect();
            assert_eq!(codes(snapshot), expected, "{verdicts:?}");
        }
    }

    #[test]
    fn a_drill_is_overdue_when_it_is_late_by_more_than_a_timers_spread() {
        for (every, late, overdue) in [
            (2_678_400.0, 6.0 * 3600.0 - 1.0, false),
            (2_678_400.0, 6.0 * 3600.0 + 1.0, true),
            (8000.0, 999.0, false),
            (8000.0, 1001.0, true),
        ] {
            let mut snapshot = samples::busy();
            snapshot.estimates = Estimates::default();
            (snapshot.drills.drill_every_seconds, snapshot.drills.drill_overdue_seconds) =
                (Some(every), Some(late));
            let expected = if overdue { vec![(Code::DrillOverdue, Severity::Warning)] } else { vec![] };
            assert_eq!(codes(snapshot), expected, "{every} {late}");
        }
    }

    #[test]
    fn an_estimate_is_compared_with_its_objective_and_the_hint_says_whether_a_backup_helps() {
        let of = |estimate, after| {
            let mut snapshot = samples::busy();
            snapshot.estimates.rto_estimate_seconds = estimate;
            snapshot.estimates.rto_after_backup_seconds = after;
            snapshot.judged()
        };
        assert_eq!(codes(of(None, None)), []);
        assert_eq!(codes(of(Some(2879.0), Some(60.0))), []);
        let threatened = of(Some(2881.0), Some(600.0));
        assert!(threatened.problems[0].hint.as_ref().unwrap().contains("take a backup now"));
        assert_eq!(codes(threatened), [(Code::RtoThreatened, Severity::Warning)]);
        let exceeded = of(Some(3601.0), Some(3500.0));
        assert!(exceeded.problems[0].hint.as_ref().unwrap().contains("does not help"));
        assert!(!exceeded.is_healthy());
        assert_eq!(codes(exceeded), [(Code::RtoExceeded, Severity::Critical)]);
    }
}
