//! The RPO: 0 when all flushed WAL is stored, else the age of the oldest flushed byte that is not. Kept as a history of
//! when the server had flushed how far, so that the age belongs to a byte and not to a file. Where the moment is not
//! known the earlier one counts: what is claimed is never less than what would be lost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::postgres::Lsn;

/// Samples that are kept at most; beyond it every second one goes, which only makes claims more careful.
const MOST: usize = 4096;

/// The server had flushed up to `flushed` and no further when it was last asked at `last_seen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    flushed: Lsn,
    last_seen: Instant,
}

/// When the server had flushed how far.
#[derive(Debug)]
pub(super) struct FlushHistory {
    samples: VecDeque<Sample>,
    /// Everything that is not stored was flushed after this much before `begin`.
    begin: Instant,
    unknown: Duration,
}

impl FlushHistory {
    /// Begin at `now`; what is not stored by then may be as old as `unknown`.
    pub(super) fn new(now: Instant, unknown: Duration) -> Self {
        Self { samples: VecDeque::new(), begin: now, unknown }
    }

    /// What is not stored and was never seen may be as old as `unknown` at `now`.
    pub(super) fn set_unknown(&mut self, now: Instant, unknown: Duration) {
        (self.begin, self.unknown) = (now, unknown);
    }

    /// The server was asked at `asked_at`, and answered `flushed`.
    pub(super) fn saw(&mut self, asked_at: Instant, flushed: Lsn) {
        // After a crash or on another timeline WAL may end earlier than it did: those bytes are no more.
        while self.samples.back().is_some_and(|last| last.flushed > flushed) {
            self.samples.pop_back();
        }
        match self.samples.back_mut() {
            Some(last) if last.flushed == flushed => last.last_seen = last.last_seen.max(asked_at),
            _ => self.samples.push_back(Sample { flushed, last_seen: asked_at }),
        }
        if self.samples.len() > MOST {
            let mut number = 0;
            self.samples.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
    }

    /// Forget what is no longer needed now that everything before `stored` is stored.
    pub(super) fn prune(&mut self, stored: Lsn) {
        while self.samples.get(1).is_some_and(|second| second.flushed <= stored) {
            self.samples.pop_front();
        }
    }

    /// The last moment at which everything that was flushed is known to be stored now, as its age at `now`.
    pub(super) fn age(&self, now: Instant, stored: Lsn) -> Duration {
        let known = self.samples.iter().rev().find(|sample| sample.flushed <= stored);
        match known {
            Some(sample) => now.saturating_duration_since(sample.last_seen),
            None => now.saturating_duration_since(self.begin) + self.unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_age_is_that_of_the_oldest_byte_that_is_not_stored() {
        let begin = Instant::now();
        let mut history = FlushHistory::new(begin, 30 * SECOND);
        assert_eq!(history.age(begin + SECOND, Lsn::new(5)), 31 * SECOND, "nothing is known yet");
        for (second, flushed) in [(1, 10), (2, 10), (3, 20), (4, 30)] {
            history.saw(begin + SECOND * second, Lsn::new(flushed));
        }
        let age = |stored| history.age(begin + 5 * SECOND, Lsn::new(stored)).as_secs();
        assert_eq!(age(5), 35);
        // Byte 10 was flushed after the question at second 2 was asked.
        assert_eq!((age(10), age(19)), (3, 3));
        assert_eq!((age(20), age(29)), (2, 2));
        assert_eq!(age(30), 1);
    }

    #[test]
    fn idle_and_pruned_histories_stay_small_and_right() {
        let begin = Instant::now();
        let mut history = FlushHistory::new(begin, Duration::ZERO);
        for second in 0..100_000_u32 {
            history.saw(begin + SECOND * second, Lsn::new(u64::from(second / 10) * 8));
        }
        assert!(history.samples.len() <= MOST);
        let now = begin + SECOND * 100_000;
        let stored = Lsn::new(5000 * 8);
        // Byte 40 000 was flushed in second 50 010.
        assert!(history.age(now, stored) >= SECOND * (100_000 - 50_009));
        let before = history.age(now, stored);
        history.prune(stored);
        assert_eq!(history.age(now, stored), before);
    }

    #[test]
    fn wal_that_is_no_more_is_forgotten() {
        let begin = Instant::now();
        let mut history = FlushHistory::new(begin, Duration::ZERO);
        history.saw(begin, Lsn::new(10));
        history.saw(begin + SECOND, Lsn::new(30));
        history.saw(begin + 2 * SECOND, Lsn::new(20));
        assert_eq!(history.samples.len(), 2);
        assert_eq!(history.age(begin + 3 * SECOND, Lsn::new(20)), SECOND);
    }
}
