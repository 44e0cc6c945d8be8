//! Verifications, shown: as metrics, in words, and as a problem.

use crate::postgres::PgTime;
use crate::present::{Page, Series, when};

use crate::snapshot::VerifyLine;

#[expect(clippy::cast_precision_loss, reason = "microseconds of centuries fit")]
fn unix(time: PgTime) -> f64 {
    time.unix_micros() as f64 / 1e6
}

pub(super) fn render(page: &mut Page, lines: &[VerifyLine]) {
    if lines.is_empty() {
        return;
    }
    let succeeded = lines.iter().filter_map(|line| Some((line, line.last_success_at?)));
    let series = succeeded
        .fold(Series::gauge(), |series, (line, at)| series.with([("level", line.level.as_str())], unix(at)));
    page.family(
        "verify_last_success_timestamp_seconds",
        "When the repository was last verified without a problem",
        series,
    );
    // What a listing finds, the content level finds, too.
    let problems = lines.iter().map(|line| line.problems).max();
    page.gauge("verify_problems", "Objects that the last verifications found missing or damaged", problems);
}

/// The last one of each level, in one line.
pub(super) fn last(lines: &[VerifyLine], now: PgTime) -> String {
    let words: Vec<String> = lines
        .iter()
        .map(|line| {
            let problems =
                if line.problems == 0 { String::new() } else { format!(", problems: {}", line.problems) };
            format!("{} {}{problems}", line.level, when(line.finished_at, now))
        })
        .collect();
    if words.is_empty() { "never".to_owned() } else { words.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn a_failed_verification_is_a_metric_a_line_and_a_problem() {
        let mut snapshot = samples::unknown();
        let at = snapshot.taken_at;
        let line = |level: &str, problems: u64| VerifyLine {
            level: level.to_owned(),
            finished_at: at,
            last_success_at: (problems == 0).then_some(at),
            problems,
            left: 0,
            first: (problems > 0).then(|| "packs/x/00000000 is missing".to_owned()),
            loses: None,
        };
        snapshot.verifications.verifications = vec![line("listing", 0), line("content", 3)];
        let text = super::super::metrics(&snapshot, super::super::Format::Classic);
        assert!(text.contains("walproof_verify_problems{cluster=\"main\"} 3\n"), "{text}");
        assert!(text.contains("level=\"listing\"") && !text.contains("level=\"content\""), "{text}");
        let judged = snapshot.clone().judged();
        assert!(judged.problems.iter().any(|problem| problem.code.as_str() == "verify_failed"));
        let line = last(&snapshot.verifications.verifications, at);
        assert!(line.starts_with("listing ") && line.ends_with(", problems: 3"), "{line}");
        snapshot.verifications.verifications.clear();
        assert!(!super::super::metrics(&snapshot, super::super::Format::Classic).contains("verify"));
    }
}
