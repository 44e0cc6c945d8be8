//! What is logged of an outage: that it began, once a minute that it lasts, and that it is over. Not every try.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind};

/// Between two reminders.
const EVERY: Duration = Duration::from_mins(1);

/// One thing that can fail for a while because the store or the server is down.
#[derive(Debug)]
pub struct Outage {
    what: &'static str,
    down: Option<Down>,
}

#[derive(Debug)]
struct Down {
    since: Instant,
    last_said: Instant,
    failures: u64,
}

/// What is to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Say {
    Began,
    Lasts { down: Duration, failures: u64 },
    Over { down: Duration, failures: u64 },
}

impl Outage {
    /// Of `what`, said as it is while it lasts: "the server cannot be asked".
    pub const fn new(what: &'static str) -> Self {
        Self { what, down: None }
    }

    /// It failed at `now`.
    pub fn failed(&mut self, now: Instant, error: &Error) {
        let what = self.what;
        match self.note_failure(now) {
            Some(Say::Began) => {
                tracing::warn!(%error, hint = error.hint_text(), "{what}");
            }
            Some(Say::Lasts { down, failures }) => {
                let seconds = down.as_secs();
                tracing::warn!(%error, seconds, failures, "{what}, still");
            }
            Some(Say::Over { .. }) | None => tracing::debug!(%error, "{what}, again"),
        }
    }

    /// It worked at `now`.
    pub fn succeeded(&mut self, now: Instant) {
        if let Some(Say::Over { down, failures }) = self.note_success(now) {
            let seconds = down.as_secs();
            tracing::info!(seconds, failures, "over: {}", self.what);
        }
    }

    fn note_failure(&mut self, now: Instant) -> Option<Say> {
        let Some(down) = &mut self.down else {
            self.down = Some(Down { since: now, last_said: now, failures: 1 });
            return Some(Say::Began);
        };
        down.failures += 1;
        if now.saturating_duration_since(down.last_said) < EVERY {
            return None;
        }
        down.last_said = now;
        Some(Say::Lasts { down: now.saturating_duration_since(down.since), failures: down.failures })
    }

    fn note_success(&mut self, now: Instant) -> Option<Say> {
        let down = self.down.take()?;
        Some(Say::Over { down: now.saturating_duration_since(down.since), failures: down.failures })
    }
}

/// Who needs the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    Push,
    Tail,
    Survey,
}

/// An outage of the store: one, however many tasks meet it, and over when it is for all of them.
#[derive(Debug)]
pub(super) struct StoreOutage {
    outage: Outage,
    failing: BTreeSet<Task>,
}

impl StoreOutage {
    pub(super) const fn new() -> Self {
        Self { outage: Outage::new("the store cannot be used"), failing: BTreeSet::new() }
    }

    /// Whether it is the store's fault that `error` came to `task` at `now`; then it is told here.
    pub(super) fn failed(&mut self, task: Task, now: Instant, error: &Error) -> bool {
        let ours = matches!(error.kind(), Kind::Unreachable | Kind::Denied);
        if ours {
            self.failing.insert(task);
            self.outage.failed(now, error);
        }
        ours
    }

    /// The store did at `now` what `task` wanted.
    pub(super) fn succeeded(&mut self, task: Task, now: Instant) {
        if self.failing.remove(&task) && self.failing.is_empty() {
            self.outage.succeeded(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_when_it_begins_each_minute_and_when_it_ends() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut outage = Outage::new("the store");
        assert_eq!(outage.note_success(at(0)), None);
        // A try each 5 seconds for 2 minutes and a bit.
        let said: Vec<(u64, Say)> = (0..27)
            .map(|try_| 10 + try_ * 5)
            .filter_map(|second| Some((second, outage.note_failure(at(second))?)))
            .collect();
        let lasts = |seconds, failures| Say::Lasts { down: Duration::from_secs(seconds), failures };
        assert_eq!(said, [(10, Say::Began), (70, lasts(60, 13)), (130, lasts(120, 25))]);
        let over = Say::Over { down: Duration::from_secs(135), failures: 27 };
        assert_eq!(outage.note_success(at(145)), Some(over));
        assert_eq!(outage.note_success(at(150)), None);
        assert_eq!(outage.note_failure(at(155)), Some(Say::Began), "a second outage is a new one");
    }

    #[test]
    fn an_outage_of_the_store_is_one_for_all_tasks() {
        let (now, down) = (Instant::now(), Error::new(Kind::Unreachable, "down"));
        let mut store = StoreOutage::new();
        assert!(store.failed(Task::Push, now, &down) && store.failed(Task::Tail, now, &down));
        assert!(!store.failed(Task::Survey, now, &Error::corrupt("a frame is damaged")));
        store.succeeded(Task::Survey, now);
        store.succeeded(Task::Push, now);
        assert!(store.outage.down.is_some(), "the tail has not come through");
        store.succeeded(Task::Tail, now);
        assert!(store.outage.down.is_none());
    }

    #[test]
    fn tries_that_are_rare_are_all_told() {
        let start = Instant::now();
        let mut outage = Outage::new("the server");
        let said =
            [0, 300, 600].map(|seconds| outage.note_failure(start + Duration::from_secs(seconds)).is_some());
        assert_eq!(said, [true; 3]);
    }

    #[test]
    fn a_clock_that_goes_back_is_survived() {
        let (early, late) = (Instant::now(), Instant::now() + Duration::from_secs(5));
        let mut outage = Outage::new("the store");
        outage.failed(late, &Error::server("down"));
        outage.failed(early, &Error::server("down"));
        assert_eq!(outage.note_success(early), Some(Say::Over { down: Duration::ZERO, failures: 2 }));
    }
}
