//! Problems in the log: once when one has lasted for a moment, and once when it is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::snapshot::Desk;
use crate::problem::{Code, Problem, Severity};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// A problem that lasts less than this, such as at a restart, is not reported.
const GRACE: Duration = Duration::from_secs(10);
/// Their errors are logged as they happen.
const LOGGED: [Code; 6] = [
    Code::ServerDown,
    Code::WrongServer,
    Code::StoreDown,
    Code::RepositoryUnreadable,
    Code::TailFailed,
    Code::ArchivingFailed,
];

/// Tell for ever.
pub(super) async fn run(desk: Arc<Desk>) {
    let mut known = Known::default();
    loop {
        let problems = desk.snapshot().problems;
        let (begun, over) = known.changes(&problems, Instant::now());
        for Problem { code, severity, text, hint } in begun {
            let (code, hint) = (code.as_str(), hint.as_deref());
            match severity {
                Severity::Critical => tracing::error!(code, hint, "{text}"),
                Severity::Warning => tracing::warn!(code, hint, "{text}"),
            }
        }
        for code in over {
            tracing::info!(code = code.as_str(), "a problem is over");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Since when each problem is there, and whether it was told.
#[derive(Debug, Default)]
struct Known(BTreeMap<Code, (Instant, bool)>);

impl Known {
    /// The problems to tell of at `now`, and those told of that are no more.
    fn changes<'a>(&mut self, problems: &'a [Problem], now: Instant) -> (Vec<&'a Problem>, Vec<Code>) {
        let is_here = |code: Code| problems.iter().any(|problem| problem.code == code);
        let over = self.0.iter().filter(|(code, (_, told))| *told && !is_here(**code)).map(|(code, _)| *code);
        let over = over.collect();
        self.0.retain(|code, _| is_here(*code));
        let mut begun = Vec::new();
        for problem in problems.iter().filter(|problem| !LOGGED.contains(&problem.code)) {
            let (since, told) = self.0.entry(problem.code).or_insert((now, false));
            // Of several with one code the first is enough: all of them are in `status`.
            if !*told && now.duration_since(*since) >= GRACE {
                *told = true;
                begun.push(problem);
            }
        }
        (begun, over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_once_when_it_lasts_and_once_when_it_is_over() {
        let problem = |code| Problem { code, severity: Severity::Critical, text: String::new(), hint: None };
        let gap = [problem(Code::WalGap), problem(Code::StoreDown)];
        let (start, mut known) = (Instant::now(), Known::default());
        let mut told = |second, problems: &[Problem]| {
            let (begun, over) = known.changes(problems, start + Duration::from_secs(second));
            (begun.iter().map(|problem| problem.code).collect(), over)
        };
        let nothing: (Vec<Code>, Vec<Code>) = (Vec::new(), Vec::new());
        assert_eq!((told(0, &gap), told(5, &gap)), (nothing.clone(), nothing.clone()));
        assert_eq!(told(10, &gap), (vec![Code::WalGap], Vec::new()));
        assert_eq!(told(15, &gap), nothing);
        assert_eq!(told(20, &gap[1..]), (Vec::new(), vec![Code::WalGap]));
        // A short one is not told at all.
        assert_eq!((told(25, &gap), told(30, &[])), (nothing.clone(), nothing));
    }
}
