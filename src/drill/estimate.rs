//! What a restore of the newest state would take now, by the rates of the drills before.

use super::report::{Phases, Report, Verdict};

/// Drills that count.
const COUNTED: usize = 3;

/// Seconds that a restore of so much would take; `None` before a drill passed.
#[expect(clippy::cast_precision_loss, reason = "rates")]
pub fn estimate<'a>(
    newest_first: impl Iterator<Item = &'a Report>,
    bytes: u64,
    wal_segments: u64,
) -> Option<f64> {
    let measured: Vec<&Report> = newest_first
        .filter(|report| report.verdict == Verdict::Pass && report.bytes > 0)
        .take(COUNTED)
        .collect();
    if measured.is_empty() {
        return None;
    }
    let mean = |of: &dyn Fn(&Report) -> f64| {
        measured.iter().map(|report| of(report)).sum::<f64>() / measured.len() as f64
    };
    let total_bytes: f64 = measured.iter().map(|report| report.bytes as f64).sum();
    let fetch: f64 = measured.iter().map(|report| report.phases.fetch).sum();
    let segments: f64 = measured.iter().map(|report| report.wal_segments.max(1) as f64).sum();
    let replay: f64 = measured.iter().map(|report| report.phases.replay).sum();
    let checks: f64 = measured.iter().map(|report| report.phases.checks).sum();
    let phases = Phases {
        lookup: mean(&|report| report.phases.lookup),
        fetch: fetch / total_bytes * bytes as f64,
        replay: replay / segments * wal_segments.max(1) as f64,
        open: mean(&|report| report.phases.open),
        checks: checks / total_bytes * bytes as f64,
    };
    Some(phases.total())
}
