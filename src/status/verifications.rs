//! Verifications, shown: as metrics, in words, and as a problem.

use crate::postgres::PgTime;
use crate::present::{Page, Series, utc, when};

use crate::snapshot::{Snapshot, VerifyLine};

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
    let oldest = lines.iter().filter_map(|line| line.oldest).min();
    page.gauge(
        "verify_oldest_timestamp_seconds",
        "The earliest time at which anything stored and sound was last opened, or put",
        oldest.map(unix),
    );
    // What a listing finds, the content level finds, too.
    let problems = lines.iter().map(|line| line.problems).max();
    page.gauge("verify_problems", "Objects that the last verifications found missing or damaged", problems);
}

/// Shorter windows are for trials, and a run a day is enough.
const SHORTEST: f64 = 86_400.0;

/// Since when something that is stored has not been opened, if that is longer than the window: then
/// not everything within the window is known to be readable. Where nothing ever was opened, since
/// the oldest backup.
pub(super) fn overdue(snapshot: &Snapshot) -> Option<PgTime> {
    let known = &snapshot.verifications;
    if !known.verifications_read || snapshot.store.repository_bytes.is_none() {
        return None;
    }
    let content = known.verifications.iter().find(|line| line.level == "content");
    let since = match content {
        Some(line) => line.oldest.unwrap_or(line.finished_at),
        None => snapshot.backups.finished.first()?.finished_at,
    };
    let limit = snapshot.promises.retention_window.as_secs_f64().max(SHORTEST);
    Some(since).filter(|since| snapshot.taken_at.seconds_since(*since) > limit)
}

/// The last one of each level, in one line.
pub(super) fn last(lines: &[VerifyLine], now: PgTime) -> String {
    let words: Vec<String> = lines
        .iter()
        .map(|line| {
            let problems =
                if line.problems == 0 { String::new() } else { format!(", problems: {}", line.problems) };
            let oldest = line.oldest.map_or_else(String::new, |at| {
                format!(", everything sound opened or put at {} or later", utc(at))
            });
            format!("{} {}{oldest}{problems}", line.level, when(line.finished_at, now))
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
            oldest: (level == "content").then_some(at),
            covered: Vec::new(),
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
        assert!(
            text.contains("walproof_verify_oldest_timestamp_seconds{cluster=\"main\"} 1760000000"),
            "{text}"
        );
        snapshot.verifications.verifications.clear();
        assert!(!super::super::metrics(&snapshot, super::super::Format::Classic).contains("verify"));
    }

    #[test]
    fn what_was_not_opened_within_the_window_is_a_problem() {
        let mut snapshot = samples::filled();
        let now = snapshot.taken_at;
        let ago = |days: i64| PgTime::from_unix_micros(now.unix_micros() - days * 86_400_000_000);
        let says = |snapshot: &Snapshot| {
            let judged = snapshot.clone().judged();
            judged.problems.iter().any(|problem| problem.code.as_str() == "verify_overdue")
        };
        let content = |oldest: PgTime| VerifyLine {
            level: "content".to_owned(),
            finished_at: now,
            last_success_at: Some(now),
            problems: 0,
            left: 3,
            oldest: Some(oldest),
            covered: Vec::new(),
            first: None,
            loses: None,
        };
        snapshot.backups.finished[0].finished_at = ago(8);
        assert!(!says(&snapshot), "whether there was one is not known");
        snapshot.verifications.verifications_read = true;
        assert!(says(&snapshot), "there was none, and the oldest backup is older than the window");
        snapshot.backups.finished[0].finished_at = ago(6);
        assert!(!says(&snapshot));
        snapshot.verifications.verifications = vec![content(ago(8))];
        assert!(says(&snapshot), "a run that ended today has left something for too long");
        snapshot.verifications.verifications = vec![content(ago(6))];
        assert!(!says(&snapshot));
    }
}
