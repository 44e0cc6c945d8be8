//! Which file is pushed next. Plain values: no clock, no tasks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind};
use crate::postgres::WalName;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What waits as long was tried three times.
const GIVEN_UP_PAUSE: Duration = Duration::from_secs(2);

/// Which file, beyond its name: another one under the same name is another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMark {
    /// Of its file system.
    pub device: u64,
    /// Of the file.
    pub inode: u64,
    pub(super) size: u64,
    pub(super) modified: (i64, i64),
}

/// A file that could not be pushed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Why.
    pub error: Error,
    /// When.
    pub at: Instant,
    pause: Duration,
}

/// Files that wait, are on their way, were stored, or failed.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeSet<WalName>,
    in_flight: BTreeSet<WalName>,
    stored: HashMap<WalName, FileMark>,
    failed: BTreeMap<WalName, Failure>,
}

impl Queue {
    /// Push `name` too, unless that is being done, or was done with this very file.
    pub(super) fn add(&mut self, name: WalName, mark: Option<FileMark>) -> bool {
        let done = mark.is_some() && self.stored.get(&name) == mark.as_ref();
        !done && !self.in_flight.contains(&name) && self.waiting.insert(name)
    }

    /// Try `name` again now, should it have failed a while ago.
    pub(super) fn hurry(&mut self, name: &WalName, now: Instant) {
        if self
            .failed
            .get(name)
            .is_some_and(|failure| now.saturating_duration_since(failure.at) > FIRST_PAUSE)
        {
            self.failed.remove(name);
        }
    }

    /// The next file to push, if there is one now. `.history` goes before the segments of its timeline (R4), else the
    /// oldest first, as PostgreSQL does.
    pub(super) fn next(&mut self, now: Instant) -> Option<WalName> {
        let due =
            |name: &&WalName| self.failed.get(*name).is_none_or(|failure| now >= failure.at + failure.pause);
        let held_back = |name: &&WalName| {
            let pending = self.waiting.iter().chain(&self.in_flight);
            let mut histories = pending.filter(|other| matches!(other, WalName::History(_)));
            !matches!(name, WalName::History(_))
                && histories.any(|history| {
                    history.timeline() == name.timeline() && !self.failed.contains_key(history)
                })
        };
        let name = *self.waiting.iter().filter(due).find(|name| !held_back(name))?;
        self.waiting.remove(&name);
        self.in_flight.insert(name);
        Some(name)
    }

    /// When [`Queue::next`] is worth asking again, should nothing else happen.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let waiting = self.failed.iter().filter(|(name, _)| self.waiting.contains(*name));
        waiting.map(|(_, failure)| failure.at + failure.pause).min()
    }

    /// `name` is durable.
    pub(super) fn stored(&mut self, name: WalName, mark: Option<FileMark>) {
        self.in_flight.remove(&name);
        self.failed.remove(&name);
        if let Some(mark) = mark {
            self.stored.insert(name, mark);
        }
    }

    /// `name` could not be pushed; it waits a while longer each time.
    pub(super) fn failed(&mut self, name: WalName, error: &Error, now: Instant) {
        self.in_flight.remove(&name);
        let pause =
            self.failed.get(&name).map_or(FIRST_PAUSE, |failure| (failure.pause * 2).min(LONGEST_PAUSE));
        self.failed.insert(name, Failure { error: error.clone(), at: now, pause });
        self.waiting.insert(name);
    }

    /// `name` is no longer there to be pushed.
    pub(super) fn gone(&mut self, name: &WalName) {
        self.in_flight.remove(name);
        self.waiting.remove(name);
        self.failed.remove(name);
    }

    /// Whether this very file is durable under `name`.
    pub(super) fn is_stored(&self, name: &WalName, mark: &FileMark) -> bool {
        self.stored.get(name) == Some(mark)
    }

    /// Why `name` failed the last time, if it waits for another try.
    pub(super) fn failure(&self, name: &WalName) -> Option<&Failure> {
        self.failed.get(name)
    }

    /// All that failed the last time.
    pub(super) fn failures(&self) -> impl Iterator<Item = (&WalName, &Failure)> {
        self.failed.iter()
    }

    /// What is refused, and was again when it was tried again: other bytes are stored under these names (R2).
    pub(super) fn refused(&self) -> Vec<WalName> {
        let refused =
            |failure: &Failure| failure.error.kind() == Kind::Conflict && failure.pause >= GIVEN_UP_PAUSE;
        self.failed.iter().filter(|(_, failure)| refused(failure)).map(|(name, _)| *name).collect()
    }

    /// Remember only what still waits to be acknowledged, so that the memory does not grow with the WAL.
    pub(super) fn keep_stored(&mut self, still: &BTreeSet<WalName>) {
        self.stored.retain(|name, _| still.contains(name));
    }

    /// The files that are remembered as stored.
    pub(super) fn stored_names(&self) -> Vec<WalName> {
        self.stored.keys().copied().collect()
    }

    /// How many are on their way.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> WalName {
        text.parse().unwrap()
    }

    fn mark(inode: u64) -> FileMark {
        FileMark { device: 1, inode, size: 1, modified: (1, 0) }
    }

    #[test]
    fn r4_histories_go_first_then_the_oldest() {
        let mut queue = Queue::default();
        let now = Instant::now();
        for text in ["000000020000000000000003", "000000010000000000000002", "00000002.history"] {
            assert!(queue.add(name(text), None));
        }
        assert!(!queue.add(name("00000002.history"), None), "waits already");
        let mut next = || queue.next(now).map(|name| name.to_string());
        assert_eq!(next().as_deref(), Some("00000002.history"));
        assert_eq!(next().as_deref(), Some("000000010000000000000002"), "of another timeline");
        assert_eq!(next(), None, "held back by the history that is on its way");
        queue.stored(name("00000002.history"), Some(mark(1)));
        assert_eq!(queue.next(now), Some(name("000000020000000000000003")));
        assert_eq!(queue.in_flight(), 2);
    }

    #[test]
    fn what_failed_waits_longer_each_time_and_others_go_on() {
        let mut queue = Queue::default();
        let (first, second) = (name("000000010000000000000001"), name("000000010000000000000002"));
        let begin = Instant::now();
        queue.add(first, None);
        queue.add(second, None);
        assert_eq!(queue.next(begin), Some(first));
        queue.failed(first, &Error::new(Kind::Unreachable, "x"), begin);
        assert_eq!(queue.next(begin), Some(second));
        assert_eq!(queue.next(begin), None);
        let due = queue.next_due().unwrap();
        assert_eq!(queue.next(due), Some(first));
        queue.failed(first, &Error::new(Kind::Unreachable, "x"), due);
        assert!(queue.next_due().unwrap() - due > due - begin);
        queue.hurry(&first, due + Duration::from_secs(1));
        assert_eq!(queue.next(due + Duration::from_millis(1)), Some(first), "a caller is not kept waiting");
    }

    #[test]
    fn what_is_refused_again_and_again_can_be_given_up() {
        let mut queue = Queue::default();
        let [refused, unreachable] = [name("000000010000000000000001"), name("000000010000000000000002")];
        for (tries, given_up) in [(1, false), (2, false), (3, true)] {
            queue.failed(refused, &Error::new(Kind::Conflict, "x"), Instant::now());
            queue.failed(unreachable, &Error::new(Kind::Unreachable, "x"), Instant::now());
            assert_eq!(queue.refused(), if given_up { vec![refused] } else { Vec::new() }, "{tries} tries");
        }
        queue.gone(&refused);
        assert_eq!(queue.refused(), []);
    }

    #[test]
    fn only_the_very_file_that_was_stored_counts_as_stored() {
        let mut queue = Queue::default();
        let first = name("000000010000000000000001");
        queue.add(first, Some(mark(1)));
        queue.next(Instant::now());
        queue.stored(first, Some(mark(1)));
        assert!(queue.is_stored(&first, &mark(1)) && !queue.is_stored(&first, &mark(2)));
        assert!(!queue.add(first, Some(mark(1))));
        assert!(queue.add(first, Some(mark(2))), "another file under the same name is pushed, and compared");
        queue.keep_stored(&BTreeSet::new());
        assert!(!queue.is_stored(&first, &mark(1)));
    }
}
